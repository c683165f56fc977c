package cli

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/driver/all"
	"github.com/ampoule-vm/ampoule/internal/generator"
	"github.com/ampoule-vm/ampoule/internal/run"
	"github.com/ampoule-vm/ampoule/internal/source"
)

// generated is a unit in generate's JSON, which is documented.
type generated struct {
	VM    string          `json:"vm"`
	Unit  string          `json:"unit"`
	State generator.State `json:"state"`
	Text  string          `json:"text,omitempty"`
	// Links have their paths beside the unit, with what they point to.
	Links    []generator.Link `json:"links"`
	Problems diag.List        `json:"problems"`
	// Shares are the units of what serves the VM's shares.
	Shares []generatedShare `json:"shares,omitempty"`
}

type generatedShare struct {
	Unit string `json:"unit"`
	Text string `json:"text"`
}

func generateCommand(s Streams) *cobra.Command {
	var root string
	var dryRun, asJSON bool
	cmd := &cobra.Command{
		Use:   "generate --dry-run [NAME…]",
		Short: "Show the units that the generator makes",
		Long: "Prints the units and links that ampoule-generator would write now, all of them or those of the VMs that are named, and on standard error every mistake. " +
			"Nothing is written. systemd runs the generator itself, at boot and at systemctl daemon-reload.\n\n" +
			"What happens to a VM (\"state\" in JSON): made; failing, a unit that says at its start what is wrong with the files; kept, the last good unit of a running VM whose files have mistakes now; " +
			"gone, that of a running VM which is not declared any more; masked; hidden, another file provides a unit of that name. " +
			"Only root can read the last good units: for anybody else such a VM is shown as failing.\n\n" +
			"Exit codes: 0 where no file has a mistake, else 2.",
		Example:           "  ampoule generate --dry-run\n  ampoule generate --dry-run web\n  ampoule generate --dry-run --json | jq '.[].state'",
		ValidArgsFunction: completeVM,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !dryRun {
				return errors.New("systemd runs the generator, at boot and at systemctl daemon-reload; --dry-run shows what it makes")
			}
			sel := selection{root: root}
			if err := sel.verify(cmd, args...); err != nil {
				return err
			}
			units, notes, err := generateAll(root, args)
			if err != nil {
				return err
			}
			printProblems(s, notes)
			code := 0
			for _, u := range units {
				printProblems(s, u.Problems)
				if u.Problems.HasErrors() {
					code = run.ExitBadInput
				}
			}
			if err := printUnits(s, units, asJSON); err != nil {
				return err
			}
			if code != 0 {
				return exitError(code)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show the units and write nothing")
	cmd.Flags().StringVar(&root, "root", "", "look for the host's files below this `DIR` instead of /")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the units as JSON")
	_ = cmd.MarkFlagDirname("root")
	return cmd
}

// newGenerator looks at this host, or at one below root, with the eyes of
// ampoule-generator.
func newGenerator(root string) (*generator.Generator, error) {
	program, err := ownPath()
	if err != nil {
		return nil, err
	}
	return generator.New(generator.Input{
		Root: root, Dirs: source.SearchPath(), Drivers: all.Drivers(), Program: program,
		Running: generator.Running(root), Last: generator.LastGood(root),
	}), nil
}

// ownPath is the path of this program, as the generator has it.
func ownPath() (string, error) {
	program, err := generator.OwnPath()
	if err != nil {
		return "", fmt.Errorf("looking for the path of this program: %w", err)
	}
	return program, nil
}

// generateAll makes the units of the named VMs, or of all.
func generateAll(root string, names []string) ([]generator.Unit, diag.List, error) {
	g, err := newGenerator(root)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		if source.IsFile(name) {
			return nil, nil, fmt.Errorf("the generator reads the search path alone; %s is a file (ampoule plan --unit takes one)", name)
		}
	}
	vms, notes := g.VMs(), g.Notes()
	if len(names) > 0 {
		// A name that there is not is a mistake too, in the words of the search.
		vms, notes = names, nil
		slices.Sort(vms)
		vms = slices.Compact(vms)
	}
	units := make([]generator.Unit, len(vms))
	g.Each(vms, nil, func(i int, u generator.Unit) {
		u.Text = bytes.Clone(u.Text)
		units[i] = u
	})
	return units, notes, nil
}

func printUnits(s Streams, units []generator.Unit, asJSON bool) error {
	if asJSON {
		out := make([]generated, 0, len(units))
		for _, u := range units {
			g := generated{VM: u.VM, Unit: u.Name, State: u.State, Text: string(u.Text), Links: append([]generator.Link{}, u.Symlinks()...), Problems: u.Problems}
			for _, share := range u.Shares {
				g.Shares = append(g.Shares, generatedShare{share.Name, string(share.Text)})
			}
			if g.Problems == nil {
				g.Problems = diag.List{}
			}
			out = append(out, g)
		}
		return printJSON(s.Out, out)
	}
	for i, u := range units {
		if u.State == generator.Hidden {
			continue
		}
		if i > 0 {
			fmt.Fprintln(s.Out)
		}
		if _, err := fmt.Fprintf(s.Out, "# %s/%s (%s)\n%s", generator.Directory, u.Name, u.State, u.Text); err != nil {
			return err
		}
		for _, share := range u.Shares {
			if _, err := fmt.Fprintf(s.Out, "\n# %s/%s (%s)\n%s", generator.Directory, share.Name, u.State, share.Text); err != nil {
				return err
			}
		}
		for _, l := range u.Symlinks() {
			if _, err := fmt.Fprintf(s.Out, "# %s/%s -> %s\n", generator.Directory, l.Path, l.Target); err != nil {
				return err
			}
		}
	}
	return nil
}
