package cli

import (
	"github.com/spf13/cobra"

	"github.com/ampoule-vm/ampoule/internal/emit"
	"github.com/ampoule-vm/ampoule/internal/run"
)

func planCommand(s Streams) *cobra.Command {
	var sel selection
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "plan NAME|FILE",
		Short: "Show what a VM's files come to, without starting it",
		Long: "Prints the plan of a VM: what is decided, what is answered only at start, and the hypervisor's command line. " +
			"The plan depends on the files, the architecture and Ampoule's version alone; no file that it names is opened, and no secret is in it.\n\n" +
			"With --json it is the canonical form, one line, the same bytes for the same files; ampoule run --plan takes it.",
		Example:           "  ampoule plan web\n  ampoule plan ./web.microvm --json",
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
			if asJSON {
				_, err := s.Out.Write(append(res.Plan.JSON(), '\n'))
				return err
			}
			return emit.Plan(s.Out, res.Plan)
		},
	}
	sel.addFlags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the plan as canonical JSON")
	return cmd
}
