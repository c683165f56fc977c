package apply

import (
	"context"
	"errors"
	"sync"
)

// Systemd does what is to be done. The results of jobs are systemd's words.
type Systemd interface {
	Reload(ctx context.Context) error
	Start(ctx context.Context, unit string) (result string, err error)
	Restart(ctx context.Context, unit string) (result string, err error)
	Stop(ctx context.Context, unit string) (result string, err error)
}

// Options are what Do needs beside the steps. The functions may be nil, and are
// called by one goroutine at a time.
type Options struct {
	Systemd Systemd
	// Parallel is how many jobs are under way at once.
	Parallel int
	// Began is called before each job, and Ended behind it.
	Began func(name string, action Action)
	Ended func(Outcome)
	// Between is called behind every effect.
	Between func()
}

// Outcome is what came of a step. That of the daemon-reload has no name.
type Outcome struct {
	Name   string
	Unit   string
	Action Action
	// Result is systemd's word for the end of the job; empty where Err is not nil.
	Result string
	Err    error
}

// Failed reports whether what was to be done is not done.
func (o Outcome) Failed() bool { return o.Err != nil || o.Result != "done" }

// ErrInterrupted is the Err of what was not begun any more.
var ErrInterrupted = errors.New("interrupted before it was begun")

// Do stops what is not to run, reloads, and starts and restarts what is to run
// otherwise, in that order: a VM that is not declared any more is stopped by the
// unit that it was started with. One that fails keeps no other from its turn.
// The end of the context ends the waiting, not the jobs.
func Do(ctx context.Context, steps []Step, o Options) []Outcome {
	d := &doing{Options: o}
	d.jobs(ctx, steps, map[Action]func(context.Context, string) (string, error){Stop: o.Systemd.Stop})
	if d.reload(ctx, steps) {
		d.jobs(ctx, steps, map[Action]func(context.Context, string) (string, error){Start: o.Systemd.Start, Restart: o.Systemd.Restart})
	}
	return d.outcomes
}

type doing struct {
	Options
	mu       sync.Mutex
	outcomes []Outcome
}

// reload reports whether to go on.
func (d *doing) reload(ctx context.Context, steps []Step) bool {
	due := false
	for i := range steps {
		due = due || steps[i].Reload
	}
	if !due {
		return true
	}
	out := Outcome{Action: Reload, Result: "done"}
	if ctx.Err() != nil {
		out.Err = ErrInterrupted
	} else {
		d.began("", Reload)
		out.Err = d.Systemd.Reload(ctx)
	}
	d.ended(out)
	return out.Err == nil
}

// jobs does what is to be done to several VMs, some at a time.
func (d *doing) jobs(ctx context.Context, steps []Step, how map[Action]func(context.Context, string) (string, error)) {
	room := make(chan struct{}, max(1, d.Parallel))
	var wg sync.WaitGroup
	for i := range steps {
		s := &steps[i]
		do := how[s.Action]
		if do == nil {
			continue
		}
		room <- struct{}{}
		wg.Go(func() {
			defer func() { <-room }()
			out := Outcome{Name: s.Name, Unit: s.Unit, Action: s.Action}
			if ctx.Err() != nil {
				out.Err = ErrInterrupted
			} else {
				d.began(s.Name, s.Action)
				out.Result, out.Err = do(ctx, s.Unit)
			}
			d.ended(out)
		})
	}
	wg.Wait()
}

func (d *doing) began(name string, action Action) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.Began != nil {
		d.Began(name, action)
	}
}

func (d *doing) ended(out Outcome) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.outcomes = append(d.outcomes, out)
	if d.Ended != nil {
		d.Ended(out)
	}
	if d.Between != nil && !errors.Is(out.Err, ErrInterrupted) {
		d.Between()
	}
}
