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
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/ampoule-vm/ampoule/internal/console"
	"github.com/ampoule-vm/ampoule/internal/credential"
	"github.com/ampoule-vm/ampoule/internal/credential/rule"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/host"
	"github.com/ampoule-vm/ampoule/internal/inspect"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/preflight"
	"github.com/ampoule-vm/ampoule/internal/secret"
	"github.com/ampoule-vm/ampoule/internal/spec"
	"github.com/ampoule-vm/ampoule/internal/state"
	"github.com/ampoule-vm/ampoule/internal/tsc"
)

// Options are what a run needs beside the plan.
type Options struct {
	Plan *plan.Plan
	// Frozen are the digests of the plan that was asked for, where Plan was made
	// of it and of an image at start; zero: it is Plan.
	Frozen plan.Digest
	Driver driver.Driver
	Host   host.Host
	Getenv func(string) string
	// Stdin and Stdout are the operator's; Messages gets Ampoule's own words,
	// one write a line.
	Stdin, Stdout *os.File
	Messages      *console.Messages
	// Control is the number of the inherited descriptor on which a boot from
	// within a Runner= reports to the run above it; empty for a run of its own.
	Control string
	// Handed are the open files that a service manager has handed over, by their
	// names. They are closed.
	Handed []*os.File
	// Running is called when the guest runs for the first time; it may be nil.
	Running func()
	Leak    LeakForTest
}

// LeakForTest makes a deliberately leaking build, by which the leak scan is
// tested. The zero value leaks nothing; no command sets it.
type LeakForTest struct{ Argv, File bool }

// runner is one run.
type runner struct {
	Options
	dirs        state.Directories
	stopSignals []os.Signal
	signals     chan os.Signal
	voice       *voice
	report      reporter
	record      state.Record
	claim       *state.Claim
	// watchdog is how often the service manager is to get a sign of life; 0:
	// it wants none.
	watchdog time.Duration
	// checking: nothing is to be started, and nothing written.
	checking bool
}

// Run carries out the plan and returns how it ended. It returns early only
// with what stopped it.
func Run(ctx context.Context, o Options) Outcome {
	r := &runner{Options: o, signals: make(chan os.Signal, 8)}
	if o.Control == "" {
		r.watchdog = watchdogInterval(o.Getenv, os.Getpid())
	}
	r.stopSignals = stopSignals(r.watchdog > 0)
	// From here on a signal is an orderly stop, also before there is a guest.
	signal.Notify(r.signals, r.stopSignals...)
	defer signal.Stop(r.signals)
	r.voice = newVoice(o.Messages)
	defer r.voice.close()
	if err := secret.Harden(false); err != nil {
		return failed("protecting the process: %v", err)
	}
	r.dirs = state.FindDirectories(o.Plan.VM.Name, o.Getenv)
	r.inOthersUnit()
	r.report = local{r}
	if o.Control != "" {
		above, err := connect(o.Control)
		if err != nil {
			return failed("%v", err)
		}
		defer above.close()
		r.report = above
		if len(o.Plan.VM.Needs()) > 0 {
			if r.Handed, err = above.files(); err != nil {
				return failed("%v", err)
			}
		}
	}
	defer func() { r.closeHanded() }()
	out := r.run(ctx)
	r.report.ended(out)
	return out
}

// stopSignals are those that mean: power off. One that whoever started us had
// us ignore (nohup, a job in the background) stays ignored.
// With a watchdog, SIGABRT is its bite.
func stopSignals(watchdog bool) []os.Signal {
	signals := []os.Signal{syscall.SIGTERM}
	if watchdog {
		signals = append(signals, syscall.SIGABRT)
	}
	for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGHUP} {
		if !signal.Ignored(s) {
			signals = append(signals, s)
		}
	}
	return signals
}

// start is what a plan needs to be started, all questions of the host and the
// moment answered.
type start struct {
	preflight.Answers
	creds []credential.Credential
	// service are those that [Service] alone loads, for a Runner= to which no
	// service manager gives them.
	service []credential.Credential
	// channel carries the credentials, why says why this one; nil without any.
	channel *plan.Channel
	why     string
}

func (r *runner) run(ctx context.Context) Outcome {
	supervised := r.Control != ""
	if !supervised {
		// First, since some sources give a credential only once, and a VM that
		// is running may still be at it.
		var err error
		if r.claim, err = state.Take(r.dirs); errors.Is(err, state.ErrRunning) {
			if wrong := r.refused(); wrong.HasErrors() {
				return badInput(wrong) // and not one to be tried again
			}
			return failed("%s is running already (see %s)", r.Plan.VM.Name, r.dirs.Holder())
		} else if err != nil {
			return r.unclaimed(ctx, err)
		}
		defer r.claim.Release()
		tellManager("STATUS=" + string(state.Booting))
	}
	early := r.beginEarly(ctx)
	defer early.end()
	s, problems := r.prepare(early)
	defer s.wipe()
	problems = append(problems, r.refused()...)
	if problems.HasErrors() {
		if why := early.end(); why != "" {
			return stoppedEarly(why)
		}
		return badInput(problems)
	}
	r.say(problems)
	undo, problems := r.takePrivileged(early)
	defer undo()
	if problems.HasErrors() {
		return badInput(problems)
	}
	r.say(problems)
	r.record = state.Record{
		Schema: plan.Schema, Name: r.Plan.VM.Name, Pid: os.Getpid(), Invocation: r.Getenv("INVOCATION_ID"), ByHand: r.byHand(),
		File: r.Plan.Origin(plan.Whole).File, PlanDigest: r.Plan.Digest.VM, UnitDigest: r.Plan.Digest.Unit, Delivery: describe(s.creds),
		Phase: state.Booting, Started: wholeSecond(), Files: identify(&r.Plan.VM, s.Binary),
	}
	if r.Frozen.VM != "" && r.Frozen != r.Plan.Digest {
		r.record.PlanDigest, r.record.UnitDigest, r.record.Merged = r.Frozen.VM, r.Frozen.Unit, r.Plan.Digest.VM
	}
	r.keepPlan()
	if r.Plan.VM.Runner != "" && !supervised {
		if why := early.end(); why != "" {
			return stoppedEarly(why)
		}
		return r.startRunner(ctx, slices.Concat(s.creds, s.service))
	}
	return r.startGuest(ctx, early, s)
}

// byHand reports whether no service manager is there to stop this run. The
// variable alone does not tell: a shell within a service hands it on.
func (r *runner) byHand() bool {
	direct := r.Getenv("SYSTEMD_EXEC_PID") == strconv.Itoa(os.Getpid())
	return r.Getenv("INVOCATION_ID") == "" || !r.dirs.Given && !direct
}

// startGuest makes the disks that are missing and boots. A start that fails
// before the guest ran leaves none of them.
func (r *runner) startGuest(ctx context.Context, early *early, s start) Outcome {
	if s.Emulated != "" {
		r.warn("%s: KVM is not usable (%s); the processor is emulated, which is slow", r.Plan.VM.Name, s.Emulated)
	}
	if r.Host.MaySwap() {
		r.warn("%s: this host has swap, and the guest's memory, its secrets included, can be written there; "+
			"MemorySwapMax=0 in [Service] prevents that under systemd", r.Plan.VM.Name)
	}
	// The measurement takes 10 ms, in which disks can be made.
	khz := sync.OnceValues(tsc.KHz)
	if needsRate(s.Accelerator) {
		go func() { _, _ = khz() }()
	}
	made, err := createDisks(early, r.Plan, r.dirs.State, r.Host)
	if why := early.end(); why != "" {
		removeAll(made)
		return stoppedEarly(why)
	}
	if err != nil {
		return failed("%v", err)
	}
	locks, refused := lockDisks(r.Plan, r.dirs.State)
	defer closeAll(locks)
	if refused.HasErrors() {
		removeAll(made)
		return badInput(refused)
	}
	if s.channel != nil {
		r.record.Channel, r.record.ChannelWhy = s.channel.Name, s.why
	}
	r.record.Hypervisor, r.record.Accelerator = s.Binary, s.Accelerator.Name
	g := &guest{
		runner: r, readyc: make(chan struct{}, 1), haltc: make(chan struct{}, 1), escapec: make(chan struct{}, 1), trouble: make(chan error, 1),
	}
	out := g.boot(ctx, s, khz)
	if !g.ran {
		removeAll(made)
	}
	return out
}

// prepare judges the plan on this host, brings the credentials together and
// chooses the channel for them. All problems are found, and nothing has had an
// effect. On error there are no credentials.
func (r *runner) prepare(ctx context.Context) (start, diag.List) {
	answers, problems := preflight.Judge(ctx, r.Plan, r.Host, r.places())
	r.judgeRunner(&problems)
	r.judgeState(&problems)
	r.judgeRuntime(&problems)
	r.judgePrivileged(&problems)
	r.judgePorts(&problems)
	r.judgeShares(ctx, &problems)
	r.judgeExternal(&problems)
	s := start{Answers: answers}
	if refused := r.refuseEarly(answers); refused.HasErrors() {
		return s, append(problems, refused...)
	}
	creds, wrong := r.gather(ctx)
	problems = append(problems, wrong...)
	if !wrong.HasErrors() {
		s.creds = creds
		problems = append(problems, refuseImported(r.Plan, creds)...)
		travelling, given, err := withGiven(r.Plan, creds, room())
		if err != nil {
			problems.Add(diag.Problem{Origin: r.Plan.Origin(""), What: err.Error()})
			return s, problems
		}
		defer wipeGiven(travelling, given)
		s.channel, s.why, wrong = choose(r.Plan, travelling, func(c *plan.Channel) *refusal { return r.refuseImages(s.Answers, c, travelling) })
		problems = append(problems, wrong...)
		if s.channel != nil && s.channel.Encoding == plan.CPIO {
			problems = append(problems, noteInit(r.Plan, s.Images)...)
		}
	}
	if r.givesCredentials() {
		service, wrong := r.gatherService(ctx)
		s.service, problems = service, append(problems, wrong...)
	}
	if problems.HasErrors() {
		s.wipe()
		s.creds, s.service = nil, nil
	}
	return s, problems
}

func (s start) wipe() {
	credential.Wipe(s.creds)
	credential.Wipe(s.service)
}

// givesCredentials reports whether a Runner= gets its $CREDENTIALS_DIRECTORY
// from us, and not from a service manager.
func (r *runner) givesCredentials() bool {
	return r.Plan.VM.Runner != "" && r.Control == "" && r.Getenv("CREDENTIALS_DIRECTORY") == ""
}

// gatherService brings together what [Service] loads beyond the VM's own: a
// source that gives its credential only once is not asked twice.
func (r *runner) gatherService(ctx context.Context) ([]credential.Credential, diag.List) {
	list := slices.DeleteFunc(slices.Clone(r.Plan.Unit.Credentials), func(c plan.Credential) bool {
		return slices.ContainsFunc(r.Plan.VM.Credentials, func(own plan.Credential) bool { return own.ID == c.ID })
	})
	return credential.Gather(ctx, preflight.Requests(r.Plan, list), credential.HostEnv(spec.UnitName(r.Plan.VM.Name), ""))
}

// places are where this VM's things lie.
func (r *runner) places() preflight.Places {
	return preflight.Places{
		State: r.dirs.State, Running: r.checking && r.dirs.Runs(), Seen: inspect.Memory{Dir: r.dirs.Cache, ReadOnly: r.checking},
		Slow: func(path string) { r.tell("%s: looking into %s, which takes a moment", r.Plan.VM.Name, path) },
	}
}

// judgeRunner refuses a Runner= that could not be given its credentials.
func (r *runner) judgeRunner(problems *diag.List) {
	if r.givesCredentials() && os.Geteuid() != 0 {
		problems.Add(diag.Problem{
			Origin: r.Plan.Origin("Runner"), Key: "Runner", Value: r.Plan.VM.Runner,
			What:     "run by hand, only root can give a runner a private $CREDENTIALS_DIRECTORY",
			Accepted: "run it as root, or under systemd",
		})
	}
}

// judgeState refuses relative disks where they belong to another user, for root:
// the user of the VM's service, say. What that user has put there may lead
// anywhere, and here no sandbox is in its way.
func (r *runner) judgeState(problems *diag.List) {
	if os.Geteuid() != 0 || r.Getenv("STATE_DIRECTORY") != "" {
		return
	}
	info, err := os.Stat(r.dirs.State)
	if err != nil {
		return
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || owner.Uid == 0 {
		return
	}
	severity := diag.Error
	if r.checking {
		severity = diag.Note // nothing is wrong with the service
	}
	for _, d := range r.Plan.VM.Disks {
		if !filepath.IsAbs(d.Path) {
			problems.Add(diag.Problem{
				Origin: r.Plan.Origin(d.From), Severity: severity, Key: "Disk", Value: d.Path,
				What:     fmt.Sprintf("not run by hand: it lies in %s, which belongs to uid %d, the user of the VM's service, and root opens nothing there", r.dirs.State, owner.Uid),
				Accepted: "systemctl start " + spec.UnitName(r.Plan.VM.Name) + ", or, to have it run by root's hand for good, give the directory and what is in it to root",
			})
		}
	}
}

// unclaimed is the end of a run that could not take the VM's lock: mistakes of
// the input come first, as ever. No credential is read.
func (r *runner) unclaimed(ctx context.Context, err error) Outcome {
	_, problems := preflight.Judge(ctx, r.Plan, r.Host, r.places())
	r.judgeRunner(&problems)
	if problems.HasErrors() {
		return badInput(problems)
	}
	return failed("%v", err)
}

func describe(creds []credential.Credential) state.Delivery {
	d := state.Delivery{Credentials: []state.DeliveredMetadata{}}
	for _, c := range creds {
		d.Credentials = append(d.Credentials, state.DeliveredMetadata{Name: c.Guest, Bytes: c.Value.Len(), Source: c.Source})
	}
	return d
}

// gather brings the credentials together.
func (r *runner) gather(ctx context.Context) ([]credential.Credential, diag.List) {
	env := credential.HostEnv(spec.UnitName(r.Plan.VM.Name), r.Getenv("CREDENTIALS_DIRECTORY"))
	env.Service = preflight.Requests(r.Plan, r.Plan.Unit.Credentials)
	if env.Directory != "" {
		env.Marker = rule.MissingMarker
	}
	return credential.Gather(ctx, preflight.Requests(r.Plan, r.Plan.VM.Credentials), env)
}

// say writes problems that stop nothing.
func (r *runner) say(problems diag.List) {
	for _, p := range problems {
		r.voice.say(p.Error())
	}
}

func (r *runner) warn(format string, args ...any) {
	r.voice.say(fmt.Sprintf("ampoule: warning: "+format, args...))
}

func (r *runner) tell(format string, args ...any) {
	r.voice.say(fmt.Sprintf("ampoule: "+format, args...))
}

// tellManager tells the service manager, where there is one.
func tellManager(state string) {
	// Without $NOTIFY_SOCKET it does nothing; a manager that went away is not
	// the guest's problem.
	_, _ = daemon.SdNotify(false, state)
}

// notifyStopping tells it that the guest was asked to power off, and asks for
// a little longer than the guest has: the service manager counts the same
// time, and it is ampoule that is to kill and to say so.
func notifyStopping(limit plan.Milliseconds) {
	tellManager("STOPPING=1\nSTATUS=" + string(state.PoweringOff))
	if limit > 0 {
		wait := time.Duration(limit)*time.Millisecond + killTime
		tellManager(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", wait.Microseconds()))
	}
}

// killTime is how long a hypervisor and its console may take from the kill to
// the end of ampoule.
const killTime = 15 * time.Second
