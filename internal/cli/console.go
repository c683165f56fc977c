package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ampoule-vm/ampoule/internal/console"
	"github.com/ampoule-vm/ampoule/internal/run"
	"github.com/ampoule-vm/ampoule/internal/spec"
	"github.com/ampoule-vm/ampoule/internal/state"
)

func consoleCommand(s Streams) *cobra.Command {
	return &cobra.Command{
		Use:   "console NAME",
		Short: "Take part in the console of a running VM",
		Long: "Shows the last 64 KiB that the guest wrote to its serial console, then all that it writes, and passes on what is typed. " +
			"Several can take part at once. One that does not keep up with the guest is disconnected.\n\n" +
			"On a terminal, Ctrl-] typed three times within a second detaches, and the VM runs on. Otherwise standard input goes to the guest " +
			"and the guest's bytes go to standard output, unchanged, until the guest ends.\n\n" +
			"The console of a service is open to root and to the service's own user.",
		Example:           "  ampoule console web\n  ampoule console web < /dev/null | grep --line-buffered login",
		Args:              argumentsOf("console takes one NAME", 1, 1),
		ValidArgsFunction: completeRunning,
		RunE: func(cmd *cobra.Command, args []string) error {
			i, err := findRunning(args[0])
			if err != nil {
				return err
			}
			return attach(cmd.Context(), s, i)
		},
	}
}

func attach(ctx context.Context, s Streams, i state.Instance) error {
	conn, err := run.DialConsole(i)
	switch {
	case errors.Is(err, fs.ErrNotExist) && i.Record == nil:
		return fmt.Errorf("%s has not started its guest yet", i.Name)
	case errors.Is(err, fs.ErrNotExist) && i.Record.Console == "":
		return fmt.Errorf("%s has no console that one can take part in (Console=none, or see what was said when it started)", i.Name)
	case err != nil:
		return fmt.Errorf("%s: %w", i.Name, err)
	}
	defer conn.Close()
	messages := console.NewMessages(s.Err)
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, detach := context.WithCancel(ctx)
	defer detach()
	interactive := console.Interactive(s.In, s.Out)
	if interactive {
		older := ""
		if i.Service {
			older = "; what is older is in journalctl -u " + strings.TrimSuffix(spec.UnitName(i.Name), ".service")
		}
		fmt.Fprintf(messages, "ampoule: %s: attached; Ctrl-] three times detaches%s\n", i.Name, older)
	}
	err = console.Attach(ctx, conn, console.Options{
		In: s.In, Out: s.Out, ForwardInput: true, Raw: true, OnEscape: detach, Messages: messages,
	})
	switch {
	case errors.Is(err, context.Canceled):
		fmt.Fprintf(messages, "ampoule: %s: detached\n", i.Name)
		return nil
	case err == nil && interactive:
		fmt.Fprintf(messages, "ampoule: %s: the console has ended\n", i.Name)
	}
	return err
}

// findRunning returns a VM that runs: one of our user's, or one of the system's.
func findRunning(name string) (state.Instance, error) {
	if err := spec.CheckName(name); err != nil {
		return state.Instance{}, err
	}
	var refused error
	for _, dir := range []string{state.ByHandDirectories(name, os.Getenv).Runtime, "/" + state.Root + "/" + name, "/" + state.ByHand + "/" + name} {
		if dir == "" {
			continue
		}
		i, ok := state.Look(dir)
		switch {
		case ok && i.Running:
			return i, nil
		case ok && errors.Is(i.Problem, fs.ErrPermission):
			refused = fmt.Errorf("%s is another user's VM, and this needs that user or root: %w", name, i.Problem)
		case ok && i.Problem != nil:
			refused = fmt.Errorf("%s: %w", name, i.Problem)
		}
	}
	if refused != nil {
		return state.Instance{}, refused
	}
	return state.Instance{}, fmt.Errorf("%s is not running", name)
}

// completeRunning offers the VMs that run.
func completeRunning(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	all, err := state.List("")
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []string
	for _, i := range all {
		if i.Running {
			out = append(out, i.Name)
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}
