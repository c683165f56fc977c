package run

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ampoule-vm/ampoule/internal/console"
	"github.com/ampoule-vm/ampoule/internal/credential"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/host"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/preflight"
	"github.com/ampoule-vm/ampoule/internal/process"
	"github.com/ampoule-vm/ampoule/internal/state"
)

const (
	// startTimeout is how long a hypervisor may take until it answers on its
	// control descriptor. It has read its files by then.
	startTimeout = 60 * time.Second
	// commandTimeout bounds one command to a running hypervisor.
	commandTimeout = 10 * time.Second
	// pressAgain is the time between two presses of the power button: a press
	// in a guest that is still booting is lost.
	pressAgain = 5 * time.Second
	// quitTimeout is how long a hypervisor may take to end when told to.
	quitTimeout = 5 * time.Second
	// settleTime is how long the guest's last words may take from the
	// hypervisor to us.
	settleTime = 100 * time.Millisecond
	// consoleTimeout is how long the operator may take for the last lines.
	consoleTimeout = 2 * time.Second
)

// guest is a hypervisor that is being started or runs.
type guest struct {
	*runner
	cmd     *commandLine
	proc    *process.Process
	links   *links
	screen  *screen
	ran     bool // the guest's processors were started
	stopped bool // a stop was asked for
	readyc  chan struct{}
	// haltc: the guest has powered off, and its hypervisor does not know it.
	haltc chan struct{}
	// asking: a question for a sign of life is on its way.
	asking  atomic.Bool
	escapec chan struct{}
	// spoke: something came over the console since the last reset.
	spoke atomic.Bool
	// trouble is an order that the guest cannot go on without.
	trouble  chan error
	troubles troubles
	// exitStatus is what the guest wants its end to be taken for; nil if it did
	// not say.
	exitStatus *int
}

// control is the hypervisor.
func (g *guest) control() hypervisor { return g.links.control }

// boot starts the hypervisor and stays with it.
func (g *guest) boot(ctx context.Context, s start, khz func() (int, error)) Outcome {
	var err error
	if g.links, err = g.open(); err != nil {
		return failed("%v", err)
	}
	defer g.links.close()
	g.cmd, err = g.assemble(s, khz)
	if err != nil {
		return failed("%v", err)
	}
	defer g.cmd.closeSecrets()
	g.leak(s.creds)
	if unlocked := g.cmd.unlocked || g.links.agent != nil && !g.links.agent.key.Locked(); unlocked && g.Host.MaySwap() {
		g.warn("the memory of the credentials could not be locked (RLIMIT_MEMLOCK): until the guest runs, they could be written to swap")
	}
	if err := g.start(s.Binary); err != nil {
		return failed("%v", err)
	}
	g.links.started()
	defer g.end()
	g.attach(g.links.serial)
	g.prime(s)
	if out, ok := g.handshake(ctx); !ok {
		return out
	}
	g.links.handedOver()
	g.ran = true
	if g.Running != nil {
		g.Running()
	}
	// The hypervisor has read the credentials: our copies go.
	g.cmd.closeSecrets()
	credential.Wipe(s.creds)
	g.record.HypervisorPid = g.proc.Pid()
	g.takeOrders()
	g.report.started(g.record)
	if g.Plan.VM.Readiness.Mode == "started" {
		g.report.phase(state.Started)
	}
	return g.watch(ctx)
}

// prime hands an API what it asks for, and what it must not say.
func (g *guest) prime(s start) {
	if c, ok := g.control().(*apiControl); ok {
		c.requests = g.cmd.requests
		c.mask = func(words string) string { return masked(words, s.creds) }
		c.listen()
	}
}

// assemble answers the questions of the hypervisor's command line, and of its
// requests. What the credentials travel with is needed no longer then.
func (g *guest) assemble(s start, khz func() (int, error)) (*commandLine, error) {
	creds, given, err := withGiven(g.Plan, s.creds, moment{notify: g.links.notify, sshKey: g.links.agent.authorized()})
	if err != nil {
		return nil, err
	}
	defer wipeGiven(creds, given)
	a := answers{
		accelerator: s.Accelerator, channel: s.channel, credentials: creds, sockets: g.links.theirs, khz: khz,
		notify: g.links.notify, landlock: g.Host.Landlock() >= host.LandlockFiles,
	}
	if s.channel != nil && s.channel.Encoding == plan.CPIO {
		o, err := openOverlay(g.Host, g.Plan.VM.Initrd, s.Images)
		if err != nil {
			return nil, err
		}
		defer o.close()
		a.overlay = o
	}
	if g.Plan.VM.Asks(plan.AskKernel) {
		f, _, err := host.OpenImage(g.Plan.VM.Kernel)
		if err != nil {
			return nil, fmt.Errorf("opening the kernel %s: %w", g.Plan.VM.Kernel, err)
		}
		g.links.closers = append(g.links.closers, f)
		a.kernel = f
	}
	return assemble(g.Plan, a)
}

// start starts the hypervisor with nothing of our environment and no
// descriptor but those of its command line.
func (g *guest) start(binary string) error {
	dir := "/"
	for _, d := range g.Plan.VM.Disks {
		if preflight.DiskPath(d, g.dirs.State) != d.Path {
			dir = g.dirs.State
		}
	}
	spec := process.Spec{
		Path: binary, Args: append([]string{binary}, g.cmd.argv...), Env: []string{}, Dir: dir, Extra: g.cmd.files,
		// Whoever sends SIGTERM to all processes of a unit (one that lost its
		// KillMode=, by a mask say) means the guest to power off.
		Blocked: []syscall.Signal{syscall.SIGTERM},
	}
	if g.Plan.VM.Asks(plan.AskStdio) {
		spec.Stdin, spec.Stdout = g.links.theirs.console, g.links.theirs.console
	}
	proc, err := process.Start(spec)
	if err != nil {
		return err
	}
	g.proc = proc
	return nil
}

// end makes sure that nothing of the hypervisor is left.
func (g *guest) end() {
	select {
	case <-g.proc.Done():
	default:
		_ = g.proc.Kill()
		<-g.proc.Done()
	}
	g.unshare()
	g.screen.close()
}

// screen is the guest's console while it is connected with the operator.
type screen struct {
	*console.Watch
	cancel context.CancelFunc
	done   chan struct{}
}

// attach connects the guest's console with the operator.
func (g *guest) attach(serial io.ReadWriter) {
	patterns := []console.Pattern{{Regexp: regexp.MustCompile(`.`), Found: func(string) { g.spoke.Store(true) }}}
	if g.Plan.VM.Readiness.Mode == "console" {
		// The pattern was compiled when the plan was made; a plan of somebody
		// else's making is no reason to panic.
		if re, err := regexp.Compile(g.Plan.VM.Readiness.Pattern); err == nil {
			patterns = append(patterns, console.Pattern{Regexp: re, Found: func(string) { nonblocking(g.readyc) }})
		}
	}
	if api := g.Plan.VM.API; api != nil && api.Halted != "" {
		if re, err := regexp.Compile(api.Halted); err == nil {
			patterns = append(patterns, console.Pattern{Regexp: re, Found: func(string) { nonblocking(g.haltc) }})
		}
	}
	patterns = append(patterns, g.troubles.patterns(func(what string) { g.warn("%s: %s", g.Plan.VM.Name, what) })...)
	watch := console.NewWatch(nil, patterns...)
	ctx, cancel := context.WithCancel(context.Background())
	g.screen = &screen{Watch: watch, cancel: cancel, done: make(chan struct{})}
	share := g.share()
	go func() {
		defer close(g.screen.done)
		err := console.Attach(ctx, serial, console.Options{
			In: g.Stdin, Out: g.Stdout, Watch: watch, Messages: g.Messages, Share: share,
			OnEscape: func() { nonblocking(g.escapec) }, OwnSignals: g.stopSignals,
		})
		if err != nil && ctx.Err() == nil {
			g.warn("the console: %v", err)
		}
	}()
}

// close waits until the operator has seen what the guest said last.
func (s *screen) close() {
	select {
	case <-s.done:
	case <-time.After(consoleTimeout):
	}
	s.cancel()
	<-s.done
}

func nonblocking(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// handshake waits until the hypervisor answers, and lets the guest run.
func (g *guest) handshake(ctx context.Context) (Outcome, bool) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	type result struct{ err error }
	done := make(chan result, 1)
	go func() {
		var err error
		g.record.Version, err = g.control().launch(ctx)
		done <- result{err}
	}()
	var why string
	launched := func(res result) (Outcome, bool) {
		if res.err != nil {
			return g.died(res.err), false
		}
		return Outcome{}, true
	}
	select {
	case res := <-done:
		return launched(res)
	case <-g.proc.Done():
		// A guest can be at its end before the answer that it runs is read; but
		// a hypervisor that has not made its socket is waited for in vain.
		time.AfterFunc(settleTime, cancel)
		return launched(<-done)
	case s := <-g.signals:
		why = signalName(s)
	case why = <-g.report.stops():
	case <-g.escapec:
		why = escaped
	}
	cancel()
	<-done
	return stoppedEarly(why), false
}

// escaped is the reason of a stop that the operator typed.
const escaped = "Ctrl-] three times"

// died explains a hypervisor that ended, or refused, before the guest ran. Words
// of it that name an argument become an error at the line behind that argument.
func (g *guest) died(cause error) Outcome {
	var refused *refusedError
	if errors.As(cause, &refused) {
		_ = g.proc.Kill() // it waits for another request
		<-g.proc.Done()
		return g.refused(refused)
	}
	select {
	case <-g.proc.Done():
	case <-time.After(time.Second):
		_ = g.proc.Kill()
		<-g.proc.Done()
		return failed("the hypervisor did not start: %v%s", cause, g.words())
	}
	exit, _ := g.proc.Wait()
	words := strings.TrimSpace(g.proc.StderrTail())
	ending := g.Driver.Ended(exit.Code, words)
	if from, ok := g.cmd.blame(ending.Argument); ok {
		var problems diag.List
		problems.Errorf(g.Plan.Origin(from), plan.KeyOf(from), diag.Elided, "", "the hypervisor refuses it: %s", oneLine(words))
		return badInput(problems)
	}
	return failed("the hypervisor did not start (%s)%s", explained(exit, ending), g.words())
}

// explained is an exit with what it means.
func explained(exit process.Exit, ending driver.Ending) string {
	if ending.What == "" {
		return exit.String()
	}
	return exit.String() + ": " + ending.What
}

// refused is an error at the line behind the part of a request that was refused,
// where one is known to be.
func (g *guest) refused(e *refusedError) Outcome {
	from := ""
	if e.index >= 0 && e.index < len(g.Plan.VM.API.Start) {
		from = blameRequest(g.Plan.VM.API.Start, e)
	}
	if from == "" {
		return failed("%v", e)
	}
	var problems diag.List
	problems.Errorf(g.Plan.Origin(from), plan.KeyOf(from), diag.Elided, "", "%v", e)
	return badInput(problems)
}

// words are the hypervisor's own, to be put behind a message.
func (g *guest) words() string {
	words := strings.TrimSpace(g.proc.StderrTail())
	if words == "" {
		return ""
	}
	return ": " + oneLine(words)
}

func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

// watch stays with the guest until it ends, and says how it ended.
func (g *guest) watch(ctx context.Context) Outcome {
	var kill <-chan time.Time
	again := time.NewTicker(pressAgain)
	defer again.Stop()
	calls, within, silence := g.report.calls()
	defer silence()
	stop := func(why string) {
		if !g.stopped {
			if api := g.Plan.VM.API; api != nil && api.Power == nil {
				g.tell("%s: %s has no power button here, and gets its time to end by itself", why, g.Plan.VM.Name)
			} else {
				g.tell("%s: pressing the power button of %s", why, g.Plan.VM.Name)
			}
			g.report.phase(state.PoweringOff)
			if ms := g.Plan.VM.StopTimeout; ms > 0 {
				kill = time.After(time.Duration(ms) * time.Millisecond)
			}
		}
		g.stopped = true
		g.pressPowerButton()
	}
	for {
		select {
		case s := <-g.signals:
			if s == syscall.SIGABRT {
				return g.abandon(bitten)
			}
			stop(signalName(s))
		case <-calls:
			g.prove(within)
		case why := <-g.report.stops():
			if why == orphaned {
				return g.abandon(orphaned)
			}
			stop(why)
		case <-g.escapec:
			stop(escaped)
		case <-ctx.Done():
			stop(cancelled)
			ctx = context.WithoutCancel(ctx)
		case <-again.C:
			if g.stopped {
				g.pressPowerButton()
			}
		case <-kill:
			_ = g.proc.Kill()
			<-g.proc.Done()
			return Outcome{Code: ExitKilled, Text: fmt.Sprintf("the guest did not power off within %s and was killed",
				time.Duration(g.Plan.VM.StopTimeout)*time.Millisecond)}
		case <-g.readyc:
			g.report.phase(state.Ready)
		case <-g.hears():
			g.listen()
		case <-g.haltc:
			return g.poweredOff("the guest powered off")
		case err := <-g.trouble:
			return g.stuck(err)
		case e, ok := <-g.control().events():
			if !ok {
				return g.vanished()
			}
			if out, ended := g.handle(e); ended {
				return out
			}
		case <-g.proc.Done():
			return g.lastWords()
		}
	}
}

// stuck ends a guest that waits for an order which the hypervisor did not take.
// Where it did not because it is gone, that is what there is to say.
func (g *guest) stuck(err error) Outcome {
	select {
	case <-g.proc.Done():
		return g.lastWords()
	case <-time.After(time.Second):
	}
	_ = g.proc.Kill()
	<-g.proc.Done()
	return failed("the hypervisor did not start the guest again after its reboot and was killed: %v%s", err, g.words())
}

// abandon ends a guest that cannot be waited for: nobody watches over it any
// more, or it hangs.
func (g *guest) abandon(why string) Outcome {
	_ = g.proc.Kill()
	<-g.proc.Done()
	return failed("%s, and the guest was killed", why)
}

// lastWords looks for an event that explains the hypervisor's end before it is
// called a death.
func (g *guest) lastWords() Outcome {
	limit := time.After(time.Second)
	for g.control().events() != nil {
		select {
		case e, ok := <-g.control().events():
			if !ok {
				return g.vanished()
			}
			if out, ended := g.handle(e); ended {
				return out
			}
		case <-limit:
			return g.vanished()
		}
	}
	return g.vanished()
}

func signalName(s os.Signal) string {
	switch s {
	case syscall.SIGTERM:
		return "SIGTERM"
	case syscall.SIGINT:
		return "SIGINT"
	case syscall.SIGHUP:
		return "SIGHUP"
	}
	return s.String()
}

// order gives the hypervisor an order in the background: one that hangs must not
// keep us from the time-out that kills it. otherwise, where it is not nil, gets the
// reason why it was not carried out.
func (g *guest) order(otherwise chan<- error, what order) {
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
		defer cancel()
		if err := g.control().order(ctx, what); err != nil {
			select {
			case otherwise <- err:
			default:
			}
		}
	}()
}

func (g *guest) pressPowerButton() { g.order(nil, pressButton) }

// handle acts on an event; ended means that the guest is at its end.
func (g *guest) handle(e event) (out Outcome, over bool) {
	switch e.what {
	case resumed:
		if g.Plan.VM.Readiness.Mode == "started" {
			g.report.phase(state.Started) // again, after a reboot
		}
	case waits, reboots:
		return g.reboot(e.what == waits)
	case unfed:
		g.warn("%s: the guest's watchdog has run out, and resets it", g.Plan.VM.Name)
	case panicked:
		return g.panicked()
	case poweredOff:
		return g.poweredOff("the guest powered off"), true
	case ended:
		return g.quit(failed("the hypervisor was ended from outside (%s)", e.reason))
	}
	return Outcome{}, false
}

// reboot acts on a guest that starts anew. Where it waits it has to be told to.
func (g *guest) reboot(waits bool) (Outcome, bool) {
	// What the guest said last is on its way on another descriptor.
	time.Sleep(settleTime)
	if reason, last := g.screen.LastPanic(); last {
		return g.quit(Outcome{Code: ExitPanic, Text: "the guest's kernel panicked: " + reason + g.troubles.text()})
	}
	if g.stopped {
		return g.quit(g.ended("the guest rebooted when it was to power off, and was not started again"))
	}
	select { // what the boot that ended has said belongs to it
	case <-g.readyc:
		g.report.phase(state.Ready)
	default:
	}
	// After a reset SeaBIOS finds its own copy in memory on q35 and resets
	// once more: no reboot of the guest's, which has not come to speak.
	if g.spoke.Swap(false) || g.record.Reboots == 0 || !g.Plan.VM.Console {
		g.record.Reboots++
		g.tell("%s reboots", g.Plan.VM.Name)
		g.report.started(g.record)
		g.report.phase(state.Rebooting)
	}
	g.screen.Reset()
	g.troubles.reset()
	g.forget()
	if waits {
		g.order(g.trouble, goOn)
	}
	return Outcome{}, false
}

// poweredOff ends a guest that is at its end, in the words of whoever noticed.
func (g *guest) poweredOff(how string) Outcome {
	if g.stopped {
		how = "the guest powered off"
	}
	out, _ := g.quit(g.ended(how))
	return out
}

// gone is for a hypervisor that has ended as it does after its guest. A kernel that
// panicked may have brought that about.
func (g *guest) gone(ending driver.Ending) Outcome {
	time.Sleep(settleTime)
	if reason, last := g.screen.LastPanic(); last {
		return Outcome{Code: ExitPanic, Text: "the guest's kernel panicked: " + reason + g.troubles.text()}
	}
	return g.poweredOff(cmp.Or(ending.What, "the guest powered off"))
}

// panicked is for a panic that a device in the guest reported.
func (g *guest) panicked() (Outcome, bool) {
	time.Sleep(settleTime)
	text := "the guest's kernel panicked"
	if reason, _ := g.screen.LastPanic(); reason != "" {
		text += ": " + reason
	}
	return g.quit(Outcome{Code: ExitPanic, Text: text + g.troubles.text()})
}

// quit ends a hypervisor whose guest has ended.
func (g *guest) quit(out Outcome) (Outcome, bool) {
	cannot := make(chan error, 1)
	g.order(cannot, end)
	select {
	case <-g.proc.Done():
		return out, true
	case err := <-cannot:
		_ = err // whatever it was, it is killed
	case <-time.After(quitTimeout):
	}
	_ = g.proc.Kill()
	return out, true
}

// vanished explains a hypervisor that ended without a word on its control
// descriptor.
func (g *guest) vanished() Outcome {
	select {
	case <-g.proc.Done():
	case <-time.After(quitTimeout):
		_ = g.proc.Kill()
		<-g.proc.Done()
		return failed("the control connection with the hypervisor ended, and it was killed: %v%s", g.control().err(), g.words())
	}
	exit, _ := g.proc.Wait()
	ending := g.Driver.Ended(exit.Code, strings.TrimSpace(g.proc.StderrTail()))
	if ending.PoweredOff {
		return g.gone(ending)
	}
	return failed("the hypervisor died (%s)%s", explained(exit, ending), g.words())
}
