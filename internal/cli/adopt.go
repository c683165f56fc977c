package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/ampoule-vm/ampoule/internal/adopt"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/driver/all"
	"github.com/ampoule-vm/ampoule/internal/emit"
	"github.com/ampoule-vm/ampoule/internal/microvmnix"
	"github.com/ampoule-vm/ampoule/internal/nixstore"
	"github.com/ampoule-vm/ampoule/internal/pipeline"
	"github.com/ampoule-vm/ampoule/internal/run"
	"github.com/ampoule-vm/ampoule/internal/source"
)

// adopted is the JSON of adopt, which is documented.
type adopted struct {
	VM         string      `json:"vm"`
	Hypervisor string      `json:"hypervisor"`
	File       string      `json:"file"`
	Check      []adopt.Row `json:"check"`
	Problems   diag.List   `json:"problems"`
}

const adoptLong = `Reads a runner of microvm.nix, such as /var/lib/microvms/NAME/current, and writes a .microvm file that starts the same VM with the same devices. ` +
	`Runners of qemu, cloud-hypervisor and firecracker are read; nothing of them is run. Each line of the file has the words of the script above it that it comes from.

The file is checked before it is written: the plan that it comes to is compared with the command line of the script, setting by setting. ` +
	`What differs by intent is named with the reason (all of it with --all). Whatever else no line of the file says is an error that names the script's line, and nothing is written: ` +
	`nothing is left out in silence. --without leaves a setting out, by the key that the error names, or commands of the script, by their lines.

By default Ampoule makes the VM's interfaces, serves its shares and takes its devices from their drivers. With --external the units of microvm.nix go on doing that (microvm-tap-interfaces@NAME and so on), ` +
	`for a VM that Ampoule starts in their stead of bin/microvm-run, in microvm@NAME.

Credentials that the script reads from $CREDENTIALS_DIRECTORY get their sources from the service that loads them (--unit, once for each of its files) or from --credential. ` +
	`A value that stands in the script in clear is refused, unless the credential is given a source, or is no secret (--public).

With --json: an object with vm, hypervisor, file (the text; empty where there are errors), check (rows with key, verdict, which is equal, differs, added, left out or lost, script, plan, reason, file, line and words) and problems.

Exit codes: 0; 2 where something of the runner cannot be taken over, or bad usage.`

type adoptFlags struct {
	options adopt.Options
	units   []string
	root    string
	output  string
	all     bool
	asJSON  bool
}

func adoptCommand(s Streams) *cobra.Command {
	var f adoptFlags
	cmd := &cobra.Command{
		Use:   "adopt RUNNER_DIR",
		Short: "Make a .microvm file of a VM of microvm.nix",
		Long:  adoptLong,
		Example: "  ampoule adopt /var/lib/microvms/test-vm/current -o /etc/ampoule/test-vm.microvm\n" +
			"  ampoule adopt ./result --name web --credential API_KEY:/run/secrets/api-key --without balloon.size",
		Args: argumentsOf("adopt takes one RUNNER_DIR", 1, 1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
		RunE: func(_ *cobra.Command, args []string) error { return f.adopt(s, args[0]) },
	}
	flags := cmd.Flags()
	flags.StringVarP(&f.output, "output", "o", "", "write to this `FILE`, NAME.microvm, which must not be there yet")
	flags.StringVar(&f.options.Name, "name", "", "call the VM `NAME`")
	flags.StringVar(&f.options.StateDir, "state-dir", "", "relative paths of the script lie in `DIR`; by default where the runner is current, or in /var/lib/microvms/NAME")
	flags.StringArrayVar(&f.options.Credentials, "credential", nil, "where a credential comes from, `NAME:SOURCE`, as LoadCredential= has it; can be repeated")
	flags.StringArrayVar(&f.units, "unit", nil, "take the credentials of this unit `FILE`, or drop-in; can be repeated, in the order that systemd has them")
	flags.StringArrayVar(&f.options.Public, "public", nil, "the value of the credential `NAME` that stands in the script is no secret; can be repeated")
	flags.StringArrayVar(&f.options.Without, "without", nil, "leave out the setting `KEY`, or the commands at line N or lines N-M; can be repeated")
	flags.StringVar(&f.options.Machine, "machine", "", "take this machine `TYPE`")
	flags.BoolVar(&f.options.External, "external", false, "have the units of microvm.nix go on making interfaces, serving shares and binding devices")
	flags.StringVar(&f.root, "root", "", "RUNNER_DIR is a path of the host that lies below `DIR`")
	flags.BoolVar(&f.all, "all", false, "show all settings of the check, and not only what differs")
	flags.BoolVar(&f.asJSON, "json", false, "print file and check as JSON")
	_ = cmd.MarkFlagFilename("unit")
	_ = cmd.MarkFlagFilename("output", strings.TrimPrefix(source.Suffix, "."))
	_ = cmd.MarkFlagDirname("state-dir")
	_ = cmd.MarkFlagDirname("root")
	return cmd
}

func (f *adoptFlags) adopt(s Streams, dir string) error {
	if err := f.verify(); err != nil {
		return err
	}
	if f.root != "" && !path.IsAbs(dir) {
		return fmt.Errorf("with --root RUNNER_DIR is an absolute path of that host, and %s is not", dir)
	}
	absolute, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("looking for the path of %s: %w", dir, err)
	}
	tree, err := nixstore.NewTree(f.root)
	if err != nil {
		return fmt.Errorf("--root: %w", err)
	}
	runner, found := microvmnix.ReadRunner(tree.FS(), absolute)
	problems := diag.List(found)
	out := adopted{Check: []adopt.Row{}}
	if runner != nil {
		draft, wrong := adopt.Adopt(runner, f.options)
		problems = append(draft.Settle(problems), wrong...)
		out.VM, out.Hypervisor = draft.Name, draft.Hypervisor
		if len(draft.Text) > 0 {
			rows, more := checkAdopted(draft)
			out.Check, problems = append(out.Check, rows...), append(problems, more...)
			out.File = string(draft.Text)
		}
	}
	problems.Sort()
	if problems.HasErrors() {
		out.File = ""
	}
	out.Problems = append(diag.List{}, problems...)
	return f.print(s, out)
}

// verify refuses flags that do not go together, and reads the units.
func (f *adoptFlags) verify() error {
	if f.output != "" {
		name, ok := strings.CutSuffix(filepath.Base(f.output), source.Suffix)
		switch {
		case !ok:
			return fmt.Errorf("-o %s: the file of a VM is called NAME%s", f.output, source.Suffix)
		case f.options.Name != "" && f.options.Name != name:
			return fmt.Errorf("-o %s is the file of a VM %s, and --name says %s", f.output, name, f.options.Name)
		}
		f.options.Name = name
		if _, err := os.Lstat(f.output); err == nil {
			return fmt.Errorf("%s is there already; remove it first, or give another name", f.output)
		}
	}
	if f.options.StateDir != "" && !path.IsAbs(f.options.StateDir) {
		return errors.New("--state-dir takes an absolute path")
	}
	for _, file := range f.units {
		data, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("reading a unit: %w", err)
		}
		f.options.Units = append(f.options.Units, adopt.Unit{File: file, Text: data})
	}
	return nil
}

// checkAdopted sends the file through the chain, and compares the plan with the
// script.
func checkAdopted(draft *adopt.Draft) ([]adopt.Row, diag.List) {
	file := draft.FileName()
	res := pipeline.Load(pipeline.Input{
		Source:  &source.Set{Name: draft.Name, Main: file, Fragment: "/etc/ampoule/" + file, Files: []source.File{{Path: file, Layer: "main", Data: draft.Text}}},
		Drivers: all.Drivers(),
	})
	problems, broken := draft.Blame(res.Problems, file)
	if res.Draft == nil {
		return nil, problems
	}
	rows, lost := draft.Check(res.Draft, broken)
	return rows, append(problems, lost...)
}

// print writes the file, and what the check found, each to its place.
func (f *adoptFlags) print(s Streams, out adopted) error {
	bad := out.Problems.HasErrors()
	if f.asJSON {
		if err := printJSON(s.Out, out); err != nil {
			return err
		}
	} else {
		printProblems(s, out.Problems)
	}
	if bad {
		return exitError(run.ExitBadInput)
	}
	table := io.Writer(s.Err)
	switch {
	case f.output != "":
		if err := writeNew(f.output, out.File); err != nil {
			return err
		}
		table = s.Out
	case !f.asJSON:
		if _, err := io.WriteString(s.Out, out.File); err != nil {
			return err
		}
	}
	if f.asJSON {
		return nil
	}
	return f.table(table, out)
}

// table prints what differs, or all.
func (f *adoptFlags) table(w io.Writer, out adopted) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	counts := map[adopt.Verdict]int{}
	fmt.Fprintln(t, "SETTING\tLINE\tSCRIPT\tAMPOULE\tVERDICT\tWHY")
	for _, r := range out.Check {
		counts[r.Verdict]++
		if r.Verdict == adopt.Equal && !f.all {
			continue
		}
		at := ""
		if r.Line > 0 {
			at = fmt.Sprint(r.Line)
		}
		row(t, r.Key, at, brief(r.Script), brief(r.Plan), string(r.Verdict), r.Reason)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "%s: %d settings are equal, %d differ by intent, %d only Ampoule has, %d were left out; none is lost\n",
		emit.Visible(out.VM), counts[adopt.Equal], counts[adopt.Differs], counts[adopt.Added], counts[adopt.LeftOut])
	return err
}

// brief makes a value fit for a column.
func brief(value string) string { return diag.Printable(value, 40) }

// writeNew writes a file that is not there yet, whole or not at all.
func writeNew(file, text string) error {
	tmp, err := os.CreateTemp(filepath.Dir(file), ".ampoule-adopt-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, err = tmp.WriteString(text)
	if err == nil {
		err = tmp.Chmod(0o644)
	}
	if closed := tmp.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Link(tmp.Name(), file) // unlike a rename, not over another
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	return nil
}
