package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/ampoule-vm/ampoule/internal/apply"
	"github.com/ampoule-vm/ampoule/internal/compare"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/emit"
	"github.com/ampoule-vm/ampoule/internal/generator"
	"github.com/ampoule-vm/ampoule/internal/inventory"
	"github.com/ampoule-vm/ampoule/internal/source"
)

// exitDiffers is that of diff, as of diff(1); an error is another.
const exitDiffers = 1

// differences is the JSON of diff and of apply, which is documented.
type differences struct {
	VMs   []apply.Step `json:"vms"`
	Notes diag.List    `json:"notes"`
}

const diffActions = `What is done about a VM:
  nothing  what runs is what is declared; or it does not run, and nothing that is active wants it
  reload   systemctl daemon-reload is all that it takes
  start    it is wanted by a unit that is active (WantedBy= and so on in [Install]), and was not started since the host booted, or failed. One that was stopped stays so
  restart  what runs was made with a plan, or with lines of [Service], that are not those of the files any more
  stop     nothing declares it any more, or it is masked: a mask means that it is not to run
  leave    there is a difference that is not touched: its files have mistakes, another file provides its unit, it runs by hand or in a unit of somebody else's, or RestartIfChanged=no`

const diffJSON = `With --json: an object with vms and notes. A VM has name, unit, action (as above), kind (why a VM is left: mistakes, hidden, by-hand, other-unit, restart-off), why, ` +
	`reload (a daemon-reload changes something of it), new, gone, changes, problems, and, where it is stopped by apply, left. ` +
	`A change has where (the path of a field of the plan, as ampoule explain --plan takes it, or "[Section] KEY" of the unit), key (KEY of [MicroVM], or SECTION.KEY), from, to, ` +
	`origin_before and origin_after (file, line, layer), needs (nothing, daemon-reload or restart) and follows (another change brings it about; the table leaves it out). What is not there, or not known, is null.`

func diffCommand(s Streams) *cobra.Command {
	var root string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "diff [NAME…]",
		Short: "Show what is declared against what runs, key by key",
		Long: "Compares what the files of each VM come to now with what it runs with, or, where it does not run, with what systemd has loaded; with where each key was written then and is written now. Then it says what ampoule apply would do about it. Nothing is changed. " +
			"Which plan a service runs with is for root to see; for anybody else a digest tells whether it is another.\n\n" + diffActions + "\n\n" + diffJSON + "\n\n" +
			"Exit codes:\n  0  everything is as it is declared\n  1  something is not\n  2  bad input, or no VM has that name",
		Example:           "  ampoule diff\n  ampoule diff web\n  ampoule diff --json | jq '.vms[] | select(.action == \"restart\") | .name'",
		ValidArgsFunction: completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			host, err := lookForApply(cmd, "diff", root, args)
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(s.Out, jsonOfSteps(host))
			} else {
				printProblems(s, host.Notes)
				err = printSteps(s.Out, host, len(args) > 0)
			}
			return errors.Join(err, codeOfSteps(host.Steps))
		},
	}
	cmd.Flags().StringVar(&root, "root", "", "compare with what is loaded below this `DIR` instead of /, without asking systemd")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the same as JSON")
	_ = cmd.MarkFlagDirname("root")
	return cmd
}

// completeNames offers the names of the search path, and no files.
func completeNames(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	names, _ := completeVM(cmd, args, word)
	return names, cobra.ShellCompDirectiveNoFileComp
}

// vmNames takes NAME and microvm@NAME.service.
func vmNames(command string, args []string) ([]string, error) {
	names := make([]string, 0, len(args))
	for _, arg := range args {
		name := strings.TrimPrefix(strings.TrimSuffix(arg, ".service"), "microvm@")
		if source.IsFile(name) {
			return nil, fmt.Errorf("%s takes the NAME of a VM; %s is a FILE, and ampoule check looks at it", command, arg)
		}
		names = append(names, name)
	}
	return names, nil
}

// declaredAt is what a command needs that compares what is declared: the place, the
// eyes of the generator, and the names of its arguments.
func declaredAt(cmd *cobra.Command, command, root string, args []string) (inventory.Place, *generator.Generator, []string, error) {
	place, err := placeOf(cmd, root)
	if err != nil {
		return place, nil, nil, err
	}
	names, err := vmNames(command, args)
	if err != nil {
		return place, nil, nil, err
	}
	g, err := newGenerator(root)
	return place, g, names, err
}

// lookForApply looks at the host with the eyes of the generator and of systemd.
func lookForApply(cmd *cobra.Command, command, root string, args []string) (*apply.Host, error) {
	place, g, names, err := declaredAt(cmd, command, root, args)
	if err != nil {
		return nil, err
	}
	return apply.Look(cmd.Context(), place, g, names)
}

func jsonOfSteps(host *apply.Host) differences {
	return differences{VMs: append([]apply.Step{}, host.Steps...), Notes: append(diag.List{}, host.Notes...)}
}

func codeOfSteps(steps []apply.Step) error {
	for i := range steps {
		if steps[i].Differs() {
			return exitError(exitDiffers)
		}
	}
	return nil
}

// printSteps writes the VMs of which something differs, or, of those that are
// named, all.
func printSteps(w io.Writer, host *apply.Host, all bool) error {
	var b strings.Builder
	same := 0
	for i := range host.Steps {
		step := &host.Steps[i]
		if !all && !step.Differs() {
			same++
			continue
		}
		fmt.Fprintf(&b, "%s: %s\n", emit.Visible(step.Name), verdictOf(step))
		for _, p := range step.Problems {
			fmt.Fprintf(&b, "  %s\n", emit.Visible(p.Error()))
		}
		printChanges(&b, step)
	}
	switch n := len(host.Steps); {
	case n == 0:
		b.WriteString("no VM is declared, and none runs\n")
	case same == n && n == 1:
		b.WriteString("1 VM, and it is as it is declared\n")
	case same == n:
		fmt.Fprintf(&b, "%d VMs, and all are as they are declared\n", n)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// verdictOf is a step in one line.
func verdictOf(s *apply.Step) string {
	words := map[apply.Action]string{
		apply.Nothing: "as it is declared", apply.Reload: "daemon-reload", apply.Start: "start", apply.Restart: "restart", apply.Stop: "stop", apply.Leave: "left as it is",
	}[s.Action]
	if s.New && s.Action == apply.Reload {
		words = "new, daemon-reload"
	}
	if s.Why != "" {
		words += " (" + emit.Visible(s.Why) + ")"
	}
	if s.Reload && s.Action == apply.Reload && !s.New && !s.Gone && len(s.Changes) == 0 && s.Why == "" {
		words += " (the unit is written otherwise, or the files were written to; the VM is the same)"
	}
	return words
}

func printChanges(b *strings.Builder, s *apply.Step) {
	t := tabwriter.NewWriter(b, 0, 8, 2, ' ', 0)
	for _, c := range s.Changes {
		if c.Follows || c.Needs == compare.Nothing {
			continue
		}
		row(t, "  "+c.Where, keyOf(c.Key), valueOf(c.From)+" -> "+valueOf(c.To), writtenAt(c), string(c.Needs))
	}
	_ = t.Flush()
}

// keyOf is a key as it stands in a file.
func keyOf(key string) string {
	if key == "" {
		return "-"
	}
	if section, name, dotted := strings.Cut(key, "."); dotted {
		return "[" + section + "] " + name + "="
	}
	return key + "="
}

func valueOf(v *string) string {
	switch {
	case v == nil:
		return "none"
	case *v == "":
		return `""`
	}
	const most = 60
	text := []rune(emit.Visible(*v))
	if len(text) > most {
		return string(text[:most]) + diag.Elided
	}
	return string(text)
}

// writtenAt says where a key was written and is written now.
func writtenAt(c compare.Change) string {
	place := func(o *diag.Origin) string {
		if o == nil {
			return "default"
		}
		return o.String()
	}
	switch {
	case c.Before != nil && c.After != nil && *c.Before == *c.After, c.From == nil && c.After != nil:
		return place(c.After)
	case c.To == nil && c.Before != nil && c.After == nil:
		return place(c.Before)
	case c.Before == nil && c.After == nil:
		return "-"
	}
	return place(c.Before) + " -> " + place(c.After)
}
