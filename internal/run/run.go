// Package run carries out a plan: it answers the plan's questions, brings the
// credentials together, starts the hypervisor, and stays with it until its
// end. It knows no key of a file and builds no option of a hypervisor; both
// are in the plan.
//
// The order is: every check, then every answer, then the first effect. What a
// failed start made is gone when Run returns.
package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/ampoule-vm/ampoule/internal/console"
	"github.com/ampoule-vm/ampoule/internal/credential"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/host"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/preflight"
	"github.com/ampoule-vm/ampoule/internal/secret"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// Options are what a run needs beside the plan.
type Options struct {
	Plan   *plan.Plan
	Driver driver.Driver
	Host   host.Host
	Getenv func(string) string
	// Stdin and Stdout are the operator's; Messages gets Ampoule's own words,
	// one write a line.
	Stdin, Stdout *os.File
	Messages      *console.Messages
	Leak          LeakForTest
}

// LeakForTest makes a deliberately leaking build, by which the leak scan is
// tested. The zero value leaks nothing; no command sets it.
type LeakForTest struct{ Argv, File bool }

// runner is one run.
type runner struct {
	Options
	dirs    Directories
	signals chan os.Signal
	report  reporter
	record  Record
	claim   *recorder
}

// Run carries out the plan and returns how it ended. It returns early only
// with what stopped it.
func Run(ctx context.Context, o Options) Outcome {
	r := &runner{Options: o, signals: make(chan os.Signal, 8)}
	// From here on a signal is an orderly stop, also before there is a guest.
	signal.Notify(r.signals, stopSignals()...)
	defer signal.Stop(r.signals)
	if err := secret.Harden(false); err != nil {
		return failed("protecting the process: %v", err)
	}
	r.dirs = FindDirectories(o.Plan.VM.Name, o.Getenv)
	supervised := o.Getenv(ControlVariable) != ""
	if supervised {
		report, err := connect(o.Getenv(ControlVariable))
		if err != nil {
			return failed("%v", err)
		}
		r.report = report
	} else {
		r.report = local{r}
	}
	out := r.run(ctx, supervised)
	r.report.ended(out)
	return out
}

// stopSignals are those that mean: power off.
func stopSignals() []os.Signal {
	return []os.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP}
}

func (r *runner) run(ctx context.Context, supervised bool) Outcome {
	answers, problems := preflight.Judge(r.Plan, r.Host, r.dirs.State)
	byHand := r.Getenv("CREDENTIALS_DIRECTORY") == ""
	if r.Plan.VM.Runner != "" && !supervised && byHand && os.Geteuid() != 0 {
		problems.Add(diag.Problem{
			Origin: r.Plan.Origin("Runner"), Key: "Runner", Value: r.Plan.VM.Runner,
			What:     "run by hand, only root can give a runner a private $CREDENTIALS_DIRECTORY",
			Accepted: "run it as root, or under systemd",
		})
	}
	creds, wrong := r.gather(ctx)
	defer credential.Wipe(creds)
	problems = append(problems, wrong...)
	var channel *plan.Channel
	var why string
	if !problems.HasErrors() {
		channel, why, wrong = choose(r.Plan, creds)
		problems = append(problems, wrong...)
	}
	if problems.HasErrors() {
		return badInput(problems)
	}
	r.say(problems)
	if !supervised {
		claim, err := claim(r.dirs.Runtime)
		switch {
		case errors.Is(err, errRunning):
			return failed("%s is running already (see %s)", r.Plan.VM.Name, r.dirs.Runtime)
		case err != nil:
			return failed("%v", err)
		}
		r.claim = claim
		defer claim.release()
	}
	r.record = Record{
		Schema: plan.Schema, Name: r.Plan.VM.Name, Pid: os.Getpid(), Invocation: r.Getenv("INVOCATION_ID"),
		PlanDigest: r.Plan.Digest.VM, UnitDigest: r.Plan.Digest.Unit, Delivery: describe(creds),
	}
	if r.Plan.VM.Runner != "" && !supervised {
		return r.startRunner(ctx, creds)
	}
	if answers.Emulated != "" {
		r.warn("%s: KVM is not usable (%s); the processor is emulated, which is slow", r.Plan.VM.Name, answers.Emulated)
	}
	if err := createDisks(r.Plan, r.dirs.State, r.Host); err != nil {
		return failed("%v", err)
	}
	if channel != nil {
		r.record.Channel, r.record.ChannelWhy = channel.Name, why
	}
	r.record.Hypervisor, r.record.Accelerator = answers.Binary, answers.Accelerator.Name
	return r.boot(ctx, answers, channel, creds)
}

func describe(creds []credential.Credential) Delivery {
	d := Delivery{Credentials: []DeliveredMetadata{}}
	for _, c := range creds {
		d.Credentials = append(d.Credentials, DeliveredMetadata{Name: c.Guest, Bytes: c.Value.Len(), Source: c.Source})
	}
	return d
}

// gather brings the credentials together.
func (r *runner) gather(ctx context.Context) ([]credential.Credential, diag.List) {
	env := credential.HostEnv(spec.UnitName(r.Plan.VM.Name), r.Getenv("CREDENTIALS_DIRECTORY"))
	env.Service = requests(r.Plan, r.Plan.Unit.Credentials)
	return credential.Gather(ctx, requests(r.Plan, r.Plan.VM.Credentials), env)
}

// requests turns the plan's credentials into requests. What is shown in
// messages holds no value.
func requests(p *plan.Plan, creds []plan.Credential) []credential.Request {
	var out []credential.Request
	for _, c := range creds {
		key, _, _ := strings.Cut(c.From, "[")
		key = strings.TrimPrefix(key, "Service.")
		r := credential.Request{
			Kind: credential.Kind(c.Kind), ID: c.ID, Guest: c.Guest, Path: c.Path, Value: c.Value,
			Origin: p.Origin(c.From), Key: key, Shown: c.ID,
		}
		switch r.Kind {
		case credential.Load, credential.LoadEncrypted:
			if c.Path != c.ID {
				r.Shown += ":" + c.Path
			}
		case credential.Set, credential.SetEncrypted:
			r.Shown += ":" + diag.Elided
		case credential.Pass:
			if c.Guest != c.ID {
				r.Shown = c.Guest + ":" + c.ID
			}
		case credential.Import:
			if c.Guest != "" {
				r.Shown += ":" + c.Guest
			}
		}
		out = append(out, r)
	}
	return out
}

// say writes problems that stop nothing.
func (r *runner) say(problems diag.List) {
	for _, p := range problems {
		fmt.Fprintf(r.Messages, "%s\n", p.Error())
	}
}

func (r *runner) warn(format string, args ...any) {
	fmt.Fprintf(r.Messages, "ampoule: warning: "+format+"\n", args...)
}

func (r *runner) tell(format string, args ...any) {
	fmt.Fprintf(r.Messages, "ampoule: "+format+"\n", args...)
}

// notify tells the service manager, where there is one.
func notify(state string) {
	// Without $NOTIFY_SOCKET it does nothing; a manager that went away is not
	// the guest's problem.
	_, _ = daemon.SdNotify(false, state)
}
