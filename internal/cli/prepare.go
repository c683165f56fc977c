package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/privileged"
	"github.com/ampoule-vm/ampoule/internal/run"
	"github.com/ampoule-vm/ampoule/internal/spec"
	"github.com/ampoule-vm/ampoule/internal/state"
)

// prepareCommand is for a line ExecStartPre=+ of a unit. What is wrong is for the
// main process to say: a service whose ExecStartPre= fails is tried again at once,
// whatever RestartPreventExitStatus= says.
func prepareCommand(s Streams) *cobra.Command {
	var planFile, digest string
	var refuses bool
	cmd := &cobra.Command{
		Use:   "prepare",
		Short: "Do what root does for a VM before it starts",
		Args:  argumentsOf("prepare takes no arguments", 0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := readPlan(s, planFile, digest)
			if err != nil && !refuses {
				return nil // ampoule run cannot read it either, and says so
			}
			if err != nil {
				return err
			}
			files, problems := prepare(cmd, p)
			defer func() {
				for _, f := range files {
					f.Close()
				}
			}()
			if problems.HasErrors() && !refuses {
				f, err := privileged.ProblemsFile(problems)
				if err != nil {
					return err
				}
				files = append(files, f)
			} else {
				printProblems(s, problems)
			}
			if problems.HasErrors() && refuses {
				return exitError(run.ExitBadInput)
			}
			socket := os.Getenv("NOTIFY_SOCKET")
			if len(files) == 0 && socket == "" {
				return nil
			}
			return privileged.Store(socket, files)
		},
	}
	cmd.Flags().StringVar(&planFile, "plan", "", "the plan's `FILE`")
	cmd.Flags().StringVar(&digest, "digest", "", "the plan's `DIGEST`")
	cmd.Flags().BoolVar(&refuses, "refuse", false, "say what is wrong, and end with exit code 2")
	return cmd
}

// hostNetwork is where the interfaces of services are: with PrivateNetwork= even
// what root does for a service is in the service's own.
const hostNetwork = "/proc/1/ns/net"

// nobody is the user of everything that has none.
const nobody = 65534

// prepare has it done for the service in which this is carried out.
func prepare(cmd *cobra.Command, p *plan.Plan) ([]*os.File, diag.List) {
	whole := func(format string, args ...any) diag.List {
		return diag.List{{Origin: p.Origin(plan.Whole), What: fmt.Sprintf(format, args...)}}
	}
	invocation := os.Getenv("INVOCATION_ID")
	if invocation == "" {
		return nil, whole("this is for ExecStartPre= of a unit")
	}
	if by, ok := state.Look(filepath.Join("/", state.ByHand, p.VM.Name)); ok && by.Running {
		return nil, whole("%s is running already (see %s)", p.VM.Name, by.Dir)
	}
	// systemd has made it for the VM's user, who cannot give it to another.
	dir := state.FindDirectories(p.VM.Name, os.Getenv).Runtime
	info, err := os.Stat(dir)
	if err != nil {
		return nil, whole("looking for the VM's user by its runtime directory: %v", err)
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, whole("looking for the VM's user: the owner of %s is not known on this system", dir)
	}
	// It is, too, as whom systemd shows the owner of a directory that it maps, if it
	// maps it for us.
	if owner.Uid == nobody {
		return nil, whole("the VM's user is nobody (uid %d), and what is opened for it would be open to all who run as that", nobody)
	}
	return privileged.Prepare(cmd.Context(), privileged.Request{Plan: p, User: int(owner.Uid), Group: int(owner.Gid), Owner: invocation, Network: hostNetwork})
}

// undoCommand is for a line ExecStopPost=-+ of a unit.
func undoCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "undo NAME",
		Short: "Undo what root did for a VM before it started",
		Args:  argumentsOf("undo takes the NAME of a VM", 1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := spec.CheckName(args[0]); err != nil {
				return err
			}
			done, err := privileged.Release(privileged.Request{Plan: &plan.Plan{VM: plan.VM{Name: args[0]}}, Owner: os.Getenv("INVOCATION_ID"), Network: hostNetwork})
			if err != nil {
				return fmt.Errorf("removing what was made for the VM: %w", err)
			}
			// Between a crash and the next start nothing of the VM is to be there.
			if socket := os.Getenv("NOTIFY_SOCKET"); socket != "" && len(done.Names) > 0 {
				return privileged.Unstore(socket, done.Names)
			}
			return nil
		},
	}
}
