package cli

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/ampoule-vm/ampoule/internal/emit"
	"github.com/ampoule-vm/ampoule/internal/hostfiles"
	"github.com/ampoule-vm/ampoule/internal/pipeline"
	"github.com/ampoule-vm/ampoule/internal/run"
)

func planCommand(s Streams) *cobra.Command {
	var sel selection
	var asJSON, asUnit bool
	cmd := &cobra.Command{
		Use:   "plan NAME|FILE",
		Short: "Show what a VM's files come to, without starting it",
		Long: "Prints the plan of a VM: what is decided, what is answered only at start, and the hypervisor's command line. " +
			"The plan depends on the files, the architecture and Ampoule's version alone; no file that it names is opened, and no secret is in it.\n\n" +
			"With --json it is the canonical form, one line, the same bytes for the same files; ampoule run --plan takes it.\n\n" +
			"With --unit it is a service for systemd that runs this plan, frozen, in a sandbox that is closed but for what the plan needs. " +
			"The lines of [Unit], [Service] and [Install] are in it. Its credentials are loaded by systemd; save it under a name of your own.",
		Example:           "  ampoule plan web\n  ampoule plan ./web.microvm --json\n  ampoule plan web --unit > /etc/systemd/system/web.service",
		Args:              argumentsOf("plan takes one NAME or FILE", 1, 1),
		ValidArgsFunction: completeVM,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := sel.verify(cmd, args...); err != nil {
				return err
			}
			res := sel.load(args[0])
			printProblems(s, res.Problems)
			if res.Plan == nil {
				return exitError(run.ExitBadInput)
			}
			switch {
			case asUnit:
				return printUnit(s, res)
			case asJSON:
				_, err := s.Out.Write(append(res.Plan.JSON(), '\n'))
				return err
			}
			return emit.Plan(s.Out, res.Plan)
		},
	}
	sel.addFlags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the plan as canonical JSON")
	cmd.Flags().BoolVar(&asUnit, "unit", false, "print a service that runs the plan")
	cmd.MarkFlagsMutuallyExclusive("json", "unit")
	return cmd
}

// printUnit prints the service of a VM as it would be on this host.
func printUnit(s Streams, res pipeline.Result) error {
	text, err := unitText(res)
	if err != nil {
		return err
	}
	_, err = s.Out.Write(text)
	return err
}

// unitText is the service of a VM as it would be on this host, also of one whose
// files have mistakes.
func unitText(res pipeline.Result) ([]byte, error) {
	program, err := ownPath()
	if err != nil {
		return nil, err
	}
	source := emit.UnitSource{Plan: res.Draft, Resolved: res.Resolved, Main: res.Source.Fragment, Program: program}
	for _, file := range res.Files() {
		path, err := filepath.Abs(file)
		if err != nil {
			return nil, fmt.Errorf("looking for the path of %s: %w", file, err)
		}
		source.Files = append(source.Files, path)
	}
	if hostfiles.Root("").HasGroup("kvm") {
		source.KVMGroup = "kvm"
	}
	return emit.Unit(source)
}
