// Package cli is the command line: one file per subcommand, each of which
// parses, calls and prints. It decides nothing and builds no command line of a
// hypervisor.
//
// What goes where: results to standard output; problems of files to standard
// error as "FILE:LINE: KEY=VALUE: what; accepted", everything else of ours
// with "ampoule: " before it, in lower case and without a full stop. Nothing
// is coloured, but for the beginnings of diagnose's findings on a terminal.
package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/driver/all"
	"github.com/ampoule-vm/ampoule/internal/pipeline"
	"github.com/ampoule-vm/ampoule/internal/run"
	"github.com/ampoule-vm/ampoule/internal/source"
	"github.com/ampoule-vm/ampoule/internal/spec"
	"github.com/ampoule-vm/ampoule/internal/version"
)

// Streams are the operator's.
type Streams struct{ In, Out, Err *os.File }

// exitError carries an exit code through cobra; what there was to say has been
// said.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// Main runs the program and returns its exit code.
func Main(args []string, s Streams) int {
	root := New(s)
	root.SetArgs(args)
	err := root.Execute()
	var code exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	}
	fmt.Fprintf(s.Err, "ampoule: %v\n", err)
	return run.ExitBadInput
}

// New builds the tree of commands.
func New(s Streams) *cobra.Command {
	root := &cobra.Command{
		Use:   "ampoule",
		Short: "Declarative microVMs whose secrets arrive at boot and are found nowhere else",
		Long: "Ampoule runs microVMs that are declared in NAME.microvm files, unit files as systemd has them. " +
			"Credentials reach the guest's systemd at boot, and nothing else on the host.",
		SilenceErrors:     true,
		SilenceUsage:      true,
		Version:           version.Version,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		// Without a subcommand: the help, and an error.
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			_ = cmd.Help()
			return errors.New("a command is missing")
		},
	}
	root.SetIn(s.In)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	root.SetVersionTemplate("ampoule {{.Version}}\n")
	root.AddCommand(runCommand(s), consoleCommand(s), sshCommand(s), memoryCommand(s), stopCommand(s), bootCommand(s), planCommand(s), checkCommand(s), explainCommand(s), verifyCommand(s), diffCommand(s), applyCommand(s), cleanCommand(s), adoptCommand(s), generateCommand(s), unitCommand(s), listCommand(s), statusCommand(s), diagnoseCommand(s))
	root.SetHelpCommand(&cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Show the help of a command",
		RunE: func(cmd *cobra.Command, args []string) error {
			topic, rest, err := cmd.Root().Find(args)
			if err != nil {
				return err
			}
			if len(rest) > 0 {
				return unknownCommand(cmd.Root(), strings.Join(args, " "))
			}
			topic.InitDefaultHelpFlag()
			topic.InitDefaultVersionFlag()
			return topic.Help()
		},
	})
	return root
}

func unknownCommand(root *cobra.Command, name string) error {
	var names []string
	for _, c := range root.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	if near := diag.Nearest(name, names); near != "" {
		return fmt.Errorf("unknown command %q; did you mean %s?", name, near)
	}
	return fmt.Errorf("unknown command %q; accepted: %s", name, strings.Join(names, ", "))
}

// selection are the flags by which a command finds its VM.
type selection struct {
	root string
	set  []string
}

func (sel *selection) addFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&sel.root, "root", "", "look for NAME below this `DIR` instead of /")
	cmd.Flags().StringArrayVar(&sel.set, "set", nil, "set a key of [MicroVM] above all files; `KEY=VALUE`, can be repeated")
	_ = cmd.MarkFlagDirname("root")
	_ = cmd.RegisterFlagCompletionFunc("set", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		var out []string
		for _, row := range spec.Table() {
			out = append(out, row.Name+"=")
			words := row.Words
			if row.Name == "Hypervisor" {
				words = driver.Names(all.Drivers())
			}
			for _, w := range words {
				out = append(out, row.Name+"="+w)
			}
		}
		return out, cobra.ShellCompDirectiveNoSpace
	})
}

// verify refuses flags that would be without effect.
func (sel *selection) verify(cmd *cobra.Command, args ...string) error {
	if !cmd.Flags().Changed("root") {
		return nil
	}
	if sel.root == "" {
		return errors.New("--root is empty")
	}
	for _, argument := range args {
		if source.IsFile(argument) {
			return fmt.Errorf("--root goes with a NAME; %s is a FILE, which stands for itself", argument)
		}
	}
	return nil
}

// argumentsOf demands a number of arguments; most < 0 sets no limit.
func argumentsOf(what string, least, most int) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < least || most >= 0 && len(args) > most {
			return errors.New(what)
		}
		return nil
	}
}

func (sel *selection) load(argument string) pipeline.Result {
	return pipeline.Load(pipeline.Input{
		Argument: argument, Root: sel.root, Dirs: source.SearchPath(), Set: sel.set, Drivers: all.Drivers(),
	})
}

// completeVM offers the names of the search path, and files.
func completeVM(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return source.Names("", source.SearchPath()), cobra.ShellCompDirectiveDefault
}

// printProblems writes one line each.
func printProblems(s Streams, problems diag.List) {
	for _, p := range problems {
		fmt.Fprintln(s.Err, p.Error())
	}
}

// printJSON writes the form that every --json has.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
