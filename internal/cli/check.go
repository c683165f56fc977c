package cli

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/ampoule-vm/ampoule/internal/console"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/driver/all"
	"github.com/ampoule-vm/ampoule/internal/generator"
	"github.com/ampoule-vm/ampoule/internal/host"
	"github.com/ampoule-vm/ampoule/internal/pipeline"
	"github.com/ampoule-vm/ampoule/internal/run"
	"github.com/ampoule-vm/ampoule/internal/source"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// checked is what check says of one argument; its JSON is documented.
type checked struct {
	// Argument is as the user gave it.
	Argument string    `json:"argument"`
	VM       string    `json:"vm"`
	OK       bool      `json:"ok"`
	Problems diag.List `json:"problems"`
}

func checkCommand(s Streams) *cobra.Command {
	var sel selection
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check NAME|FILE…",
		Short: "Report every mistake of every file at once",
		Long: "Reads the files of each VM and looks at what they name on this host: kernel, initrd, disks, credentials, memory, the hypervisor. " +
			"Nothing is started and nothing is written. Credentials are read, except from sockets and FIFOs, to see whether they fit their channel, and forgotten.\n\n" +
			"Each VM is also compared with all others of this host and with the other arguments, whether they run or not: a disk that one of them writes, " +
			"a number on the host's vsock, an interface, a MAC address, a published port and a device are for one VM alone. A clash is an error at the line of each.\n\n" +
			"Exit codes: 0 where no VM has an error, else 2. Warnings and notes do not count.",
		Example:           "  ampoule check /etc/ampoule/*.microvm\n  ampoule check web --json",
		Args:              argumentsOf("check takes one or more of NAME and FILE", 1, -1),
		ValidArgsFunction: completeVM,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := sel.verify(cmd, args...); err != nil {
				return err
			}
			results := make([]checked, 0, len(args))
			code := 0
			loaded := make([]pipeline.Result, 0, len(args))
			for _, argument := range args {
				loaded = append(loaded, sel.load(argument))
			}
			neighbours := sel.neighbours(loaded)
			for i, argument := range args {
				res := loaded[i]
				c := checked{Argument: argument, VM: res.Source.Name, Problems: judge(cmd.Context(), s, res)}
				if len(res.Source.Files) > 0 && !source.IsFile(argument) {
					// A FILE is run by hand; a NAME has a unit.
					c.Problems = append(c.Problems, generator.CheckUnit(sel.root, res)...)
					c.Problems.Sort()
				}
				if both := clashes(res, neighbours); len(both) > 0 {
					c.Problems = append(c.Problems, both...)
					c.Problems.Sort()
				}
				if c.Problems == nil {
					c.Problems = diag.List{}
				}
				if c.OK = !c.Problems.HasErrors(); !c.OK {
					code = run.ExitBadInput
				}
				results = append(results, c)
			}
			if err := printChecked(s, results, asJSON); err != nil {
				return err
			}
			if code != 0 {
				return exitError(code)
			}
			return nil
		},
	}
	sel.addFlags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the findings as JSON")
	return cmd
}

// judge adds what this host has to say to the mistakes of the files. Where the
// files have some, the rest of them is judged all the same.
func judge(ctx context.Context, s Streams, res pipeline.Result) diag.List {
	problems := res.Problems
	if res.Plan != nil {
		// What would be read at the start is looked at as it is now.
		p, wrong := pipeline.AtStart(res.Plan, all.Drivers())
		if problems = append(problems, wrong...); p != nil {
			res.Draft = p
		} else {
			res.Draft = nil
		}
	}
	if res.Draft != nil {
		d := driver.Find(all.Drivers(), res.Draft.VM.Hypervisor)
		problems = append(problems, run.Check(ctx, run.Options{Plan: res.Draft, Driver: d, Host: host.Local(), Getenv: os.Getenv, Messages: console.NewMessages(s.Err)})...)
	}
	if res.Resolved != nil {
		// A host without systemd can run a VM all the same.
		if version, err := host.Local().SystemdVersion(ctx); err == nil {
			problems = append(problems, spec.CheckHostVersion(res.Resolved, version)...)
		}
	}
	problems.Sort()
	return problems
}

func printChecked(s Streams, results []checked, asJSON bool) error {
	if asJSON {
		return printJSON(s.Out, results)
	}
	for _, c := range results {
		printProblems(s, c.Problems)
		if c.OK {
			if _, err := fmt.Fprintf(s.Out, "%s: ok\n", c.Argument); err != nil {
				return err
			}
		}
	}
	return nil
}
