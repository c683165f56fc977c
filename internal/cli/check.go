package cli

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/driver/all"
	"github.com/ampoule-vm/ampoule/internal/host"
	"github.com/ampoule-vm/ampoule/internal/run"
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
			"Exit codes: 0 where no VM has an error, else 2. Warnings and notes do not count.",
		Example:           "  ampoule check /etc/ampoule/*.microvm\n  ampoule check web --json",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeVM,
		RunE: func(cmd *cobra.Command, args []string) error {
			results := make([]checked, 0, len(args))
			code := 0
			for _, argument := range args {
				res := sel.load(argument)
				c := checked{Argument: argument, VM: res.Source.Name, Problems: res.Problems}
				if res.Plan != nil {
					d := driver.Find(all.Drivers(), res.Plan.VM.Hypervisor)
					c.Problems = append(c.Problems, run.Check(cmd.Context(), run.Options{Plan: res.Plan, Driver: d, Host: host.Local(), Getenv: os.Getenv})...)
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

func printChecked(s Streams, results []checked, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(s.Out)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		return enc.Encode(results)
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
