package cli

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/run"
	"github.com/ampoule-vm/ampoule/internal/spec"
	"github.com/ampoule-vm/ampoule/internal/state"
)

const (
	// memoryPoll is how often it is looked what the guest has done, and
	// memoryPatience how long it may do nothing at all.
	memoryPoll     = 200 * time.Millisecond
	memoryPatience = 15 * time.Second
	// memoryNews is the least time between two words of how far it has come.
	memoryNews = time.Second
)

func memoryCommand(s Streams) *cobra.Command {
	var asJSON, noWait bool
	cmd := &cobra.Command{
		Use:   "memory NAME [SIZE]",
		Short: "Show or change how much memory a running VM has",
		Long: "Without SIZE, shows what the VM was declared with, what can be added, what its guest was last asked to have, and what it has.\n\n" +
			"With SIZE, asks the guest to have so much in all. More than Memory= is added, for which the VM needs MemoryHotplug=SIZE in [MicroVM]; " +
			"less is taken by a balloon, for which it needs Balloon=yes. The command waits until the guest has done it, and says how far it has come; " +
			"a guest that does nothing for " + memoryPatience.String() + " makes it end with exit code 1, and may still do it later.\n\n" +
			"The amount stays until another is asked for: over a reboot of the guest too, but not over a start of the VM, which has Memory= again.\n\n" +
			"The memory of a service is open to root and to the service's own user.",
		Example: "  ampoule memory web\n  ampoule memory web 4G\n  ampoule memory web 512M --no-wait",
		Args:    argumentsOf("memory takes a NAME, and behind it the SIZE that it is to have", 1, 2),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return completeRunning(cmd, args, word)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			var bytes int64
			if len(args) > 1 {
				var err error
				if bytes, err = spec.ParseSize(args[1]); err != nil || bytes == 0 {
					return fmt.Errorf("%s: not a size; accepted: a size to the base 1024 such as 512M or 2G", args[1])
				}
			} else if noWait {
				return errors.New("--no-wait goes with a SIZE")
			}
			i, err := findRunning(args[0])
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			if ctx == nil {
				ctx = context.Background()
			}
			m, err := run.AskMemory(ctx, i, bytes)
			switch {
			case errors.Is(err, run.ErrMemoryFixed) && bytes == 0:
				m, err = fixedMemory(i)
			case err == nil && bytes != 0 && !noWait:
				m, err = awaitMemory(ctx, s, i, m)
			}
			if err != nil && m == (run.Memory{}) {
				return fmt.Errorf("%s: %w", i.Name, err)
			}
			return errors.Join(printMemory(s, m, asJSON), err)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "do not wait until the guest has done it")
	return cmd
}

// fixedMemory is what there is to say of a VM whose memory nobody can change, by
// the plan that it runs with.
func fixedMemory(i state.Instance) (run.Memory, error) {
	text, err := state.ReadPlan(i.Dir, plan.MaxBytes)
	if err != nil {
		return run.Memory{}, err
	}
	p, err := plan.Parse(text)
	if err != nil {
		return run.Memory{}, err
	}
	m := p.VM.Memory
	return run.Memory{Configured: m, Asked: m, Now: m}, nil
}

// awaitMemory waits until the guest has what it was asked to have.
func awaitMemory(ctx context.Context, s Streams, i state.Instance, m run.Memory) (run.Memory, error) {
	changed, told := time.Now(), time.Now()
	for said := m.Now; m.Now != m.Asked; {
		select {
		case <-ctx.Done():
			return m, ctx.Err()
		case <-time.After(memoryPoll):
		}
		next, err := run.AskMemory(ctx, i, 0)
		if err != nil {
			return run.Memory{}, err
		}
		if next.Now != m.Now {
			changed = time.Now()
		}
		m = next
		if time.Since(changed) > memoryPatience {
			fmt.Fprintf(s.Err, "ampoule: %s: the guest has %s and not the %s that it was asked to have: it needs what it has, or has no driver for the device; it may still do it\n",
				i.Name, spec.FormatSize(m.Now), spec.FormatSize(m.Asked))
			return m, exitError(1)
		}
		if m.Now != said && m.Now != m.Asked && time.Since(told) > memoryNews {
			fmt.Fprintf(s.Err, "ampoule: %s: %s of %s\n", i.Name, binarySize(m.Now), binarySize(m.Asked))
			said, told = m.Now, time.Now()
		}
	}
	return m, nil
}

func printMemory(s Streams, m run.Memory, asJSON bool) error {
	if asJSON {
		return printJSON(s.Out, m)
	}
	addable, taken := "nothing (MemoryHotplug=SIZE in [MicroVM])", "nothing (Balloon=yes in [MicroVM])"
	if m.Addable > 0 {
		addable = spec.FormatSize(m.Addable)
	}
	if m.Balloon {
		taken = "by a balloon"
	}
	t := tabwriter.NewWriter(s.Out, 0, 8, 2, ' ', 0)
	for _, row := range [][2]string{
		{"Configured", spec.FormatSize(m.Configured)}, {"Can be added", addable}, {"Can be taken", taken},
		{"Asked", spec.FormatSize(m.Asked)}, {"The guest has", spec.FormatSize(m.Now)},
	} {
		fmt.Fprintf(t, "%s\t%s\n", row[0], row[1])
	}
	return t.Flush()
}
