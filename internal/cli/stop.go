package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ampoule-vm/ampoule/internal/run"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

func stopCommand(s Streams) *cobra.Command {
	var kill bool
	cmd := &cobra.Command{
		Use:   "stop NAME",
		Short: "Stop a VM that was started by hand",
		Long: "Presses the power button of a VM that ampoule run has started by hand, and waits until it has ended. " +
			"A guest that has not powered off after the stop timeout is killed, as ever.\n\n" +
			"A VM that is a service is stopped by systemctl stop.",
		Args:              argumentsOf("stop takes one NAME", 1, 1),
		ValidArgsFunction: completeRunning,
		RunE: func(cmd *cobra.Command, args []string) error {
			i, err := findRunning(args[0])
			if err != nil {
				return err
			}
			if i.Service {
				how := "systemctl stop "
				if kill {
					how = "systemctl kill --signal=KILL "
				}
				return fmt.Errorf("%s is a service; stop it with: %s%s", i.Name, how, spec.UnitName(i.Name))
			}
			ctx := cmd.Context()
			if ctx == nil {
				ctx = context.Background()
			}
			err = run.Stop(ctx, i, kill, func() { fmt.Fprintf(s.Err, "ampoule: %s: waiting until it has powered off\n", i.Name) })
			if errors.Is(err, run.ErrNotRunning) {
				return fmt.Errorf("%s is not running", i.Name)
			}
			if err != nil {
				return fmt.Errorf("stopping %s: %w", i.Name, err)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&kill, "kill", false, "kill hypervisor and run at once, without asking the guest")
	return cmd
}
