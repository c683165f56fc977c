package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/ampoule-vm/ampoule/internal/apply"
	"github.com/ampoule-vm/ampoule/internal/clean"
	"github.com/ampoule-vm/ampoule/internal/emit"
	"github.com/ampoule-vm/ampoule/internal/inventory"
	"github.com/ampoule-vm/ampoule/internal/systemd"
)

// The exit codes of apply, beside those of diff.
const (
	exitLeft        = 20  // files have mistakes, or another file provides the unit
	exitJobFailed   = 21  // systemd did not do what it was asked for
	exitInterrupted = 130 // as a shell has it for SIGINT
)

// atOnce is how many VMs are stopped or started at a time: enough to hide how
// long one takes, and few enough that their boots do not starve each other.
const atOnce = 4

const applyLong = `Shows what ampoule diff shows, and then makes what runs what is declared, in this order: VMs that are not to run are stopped, systemd reads the files (systemctl daemon-reload), and VMs are started and restarted, at most four at once.

` + diffActions + `

Nothing is restarted but for a change of its own. Comments, the order of files, Description=, [Install] and a new version of Ampoule restart nothing. RestartIfChanged=no in [MicroVM] has a VM run on until somebody restarts it.

A daemon-reload is for all VMs and all of systemd. With NAMEs, the others are not started, restarted or stopped.

Disks are never removed. What a VM has left that is not declared any more is named; ampoule clean removes it.

Apply has no state of its own: interrupted at any point and run again it goes on, and a second time it does nothing. Ctrl-C ends the waiting; what systemd was asked for goes on. How long a stop or start may take is for the unit to say (TimeoutStopSec=, TimeoutStartSec=).

It has to be run by root; --dry-run need not be.

` + diffJSON + `

Exit codes:
  0    everything is as it is declared, or what is not was left on purpose (RestartIfChanged=no, by hand)
  1    with --dry-run: something is not as it is declared
  2    bad input, or no VM has that name; nothing was done
  20   all was done, and a VM was left alone since its files have mistakes or another file provides its unit
  21   a VM could not be started, restarted or stopped, or systemd could not reload; the others were
  130  interrupted; what was not begun is not done`

func applyCommand(s Streams) *cobra.Command {
	var dryRun, asJSON bool
	cmd := &cobra.Command{
		Use:               "apply [NAME…]",
		Short:             "Reload, start, restart and stop what it takes for VMs to run as they are declared",
		Long:              applyLong,
		Example:           "  ampoule apply --dry-run\n  ampoule apply\n  ampoule apply web",
		ValidArgsFunction: completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			if asJSON && !dryRun {
				return errors.New("--json goes with --dry-run")
			}
			if !dryRun && os.Geteuid() != 0 {
				return errors.New("apply has systemd reload, start and stop, which is for root; --dry-run shows what it would do")
			}
			host, err := lookForApply(cmd, "apply", "", args)
			if err != nil {
				return err
			}
			if !dryRun && !host.Managed {
				return fmt.Errorf("applying: %w", systemd.ErrAbsent)
			}
			if asJSON {
				return errors.Join(printJSON(s.Out, jsonOfSteps(host)), codeOfSteps(host.Steps))
			}
			printProblems(s, host.Notes)
			if err := printSteps(s.Out, host, len(args) > 0); err != nil {
				return err
			}
			if dryRun {
				return codeOfSteps(host.Steps)
			}
			return carryOutSteps(cmd.Context(), s, host.Steps)
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show what would be done, and do nothing")
	cmd.Flags().BoolVar(&asJSON, "json", false, "with --dry-run: print it as JSON")
	return cmd
}

// carryOutSteps does it, and says what came of it.
func carryOutSteps(ctx context.Context, s Streams, steps []apply.Step) error {
	if !slices.ContainsFunc(steps, func(s apply.Step) bool { return s.Effects() }) {
		_, err := fmt.Fprintln(s.Out, "nothing to do")
		return errors.Join(err, codeOfLeft(steps))
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	manager, err := systemd.Manage(ctx)
	if err != nil && ctx.Err() == nil {
		return err
	}
	if err != nil {
		return interrupted(s)
	}
	defer manager.Close()
	show := newProgress(s.Err)
	outcomes := apply.Do(ctx, steps, apply.Options{
		Systemd: manager, Parallel: atOnce, Began: show.began,
		Ended: func(o apply.Outcome) {
			show.ended(o.Name)
			fmt.Fprint(s.Out, wordsOf(ctx, o))
		},
	})
	show.close()
	switch {
	case ctx.Err() != nil:
		return interrupted(s)
	case slices.ContainsFunc(outcomes, apply.Outcome.Failed):
		return exitError(exitJobFailed)
	}
	return codeOfLeft(steps)
}

func interrupted(s Streams) error {
	fmt.Fprintln(s.Err, "ampoule: interrupted; what systemd was asked for goes on, and ampoule apply does the rest")
	return exitError(exitInterrupted)
}

func codeOfLeft(steps []apply.Step) error {
	for _, s := range steps {
		if s.Kind == apply.Mistakes || s.Kind == apply.Hidden {
			return exitError(exitLeft)
		}
	}
	return nil
}

// wordsOf says what came of a step; of one that failed, in the words of its unit.
func wordsOf(ctx context.Context, o apply.Outcome) string {
	if o.Action == apply.Reload {
		if o.Err != nil {
			return fmt.Sprintf("daemon-reload: failed: %v; nothing was started or restarted\n", o.Err)
		}
		return "daemon-reload: done\n"
	}
	name := emit.Visible(o.Name)
	done := map[apply.Action]string{apply.Start: "started", apply.Restart: "restarted", apply.Stop: "stopped"}[o.Action]
	switch {
	case errors.Is(o.Err, apply.ErrInterrupted):
		return fmt.Sprintf("%s: %s: not begun\n", name, o.Action)
	case o.Err != nil && ctx.Err() != nil:
		return fmt.Sprintf("%s: %s: goes on without being waited for\n", name, o.Action)
	case o.Err != nil:
		return fmt.Sprintf("%s: %s failed: %v\n", name, o.Action, o.Err)
	case o.Failed():
		return fmt.Sprintf("%s: %s failed: %s; journalctl -u %s tells more\n", name, o.Action, lastWords(ctx, o), o.Unit)
	}
	text := name + ": " + done + "\n"
	if o.Action == apply.Stop {
		text += leftBy(o.Name)
	}
	return text
}

// lastWords are those of a unit that did not do what it was to do.
func lastWords(ctx context.Context, o apply.Outcome) string {
	words := []string{o.Result}
	if client, err := systemd.Connect(ctx); err == nil {
		defer client.Close()
		if u, err := client.Unit(o.Unit); err == nil {
			if ended := inventory.Ending(&u); ended != "" {
				words[0] = ended
			}
			if u.StatusText != "" {
				words = append(words, fmt.Sprintf("%q", emit.Visible(u.StatusText)))
			}
		}
	}
	return strings.Join(words, ", ")
}

// leftBy names what a VM has left that was stopped for good.
func leftBy(name string) string {
	left, _ := clean.Find("", func(other string) bool { return other != name })
	var b strings.Builder
	for _, item := range left[name] {
		if item.Kind == clean.State && !item.Link {
			fmt.Fprintf(&b, "  its state is left: %s, %s; ampoule clean %s shows all\n", item.Path, binarySize(item.Bytes), name)
		}
	}
	return b.String()
}

// progress says on a terminal what takes longer than a second.
type progress struct {
	w     io.Writer
	mu    sync.Mutex
	since map[string]time.Time
	what  map[string]apply.Action
	stop  chan struct{}
	done  chan struct{}
}

func newProgress(w *os.File) *progress {
	p := &progress{since: map[string]time.Time{}, what: map[string]apply.Action{}, stop: make(chan struct{}), done: make(chan struct{})}
	if !term.IsTerminal(int(w.Fd())) {
		close(p.done)
		return p
	}
	p.w = w
	go p.run()
	return p
}

func (p *progress) run() {
	defer close(p.done)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-p.stop:
			return
		case now := <-tick.C:
			p.say(now)
		}
	}
}

// say names what is under way, after one second and then every ten.
func (p *progress) say(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, since := range p.since {
		if n := int(now.Sub(since).Seconds()); n == 1 || n > 0 && n%10 == 0 {
			what := string(p.what[name])
			if p.what[name] == apply.Reload {
				what = "daemon-reload"
			}
			if name != "" {
				what = emit.Visible(name) + ": " + what
			}
			fmt.Fprintf(p.w, "ampoule: %s: %d s\n", what, n)
		}
	}
}

func (p *progress) began(name string, action apply.Action) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.since[name], p.what[name] = time.Now(), action
}

func (p *progress) ended(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.since, name)
}

func (p *progress) close() {
	close(p.stop)
	<-p.done
}
