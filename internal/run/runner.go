package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/ampoule-vm/ampoule/internal/credential"
	"github.com/ampoule-vm/ampoule/internal/process"
	"github.com/ampoule-vm/ampoule/internal/secret"
	"github.com/ampoule-vm/ampoule/internal/spec"
	"github.com/ampoule-vm/ampoule/internal/state"
)

// child is a Runner= and what its ampoule boot reports.
type child struct {
	*runner
	proc     *process.Process
	conn     *net.UnixConn
	messages chan message
	over     chan struct{} // nobody takes messages any more
	// booted: an ampoule boot said hello.
	booted  bool
	outcome *Outcome
	// credentials are those received for the next record.
	credentials []state.DeliveredMetadata
}

// startRunner starts the user's program with plan and credentials, and stays
// with it.
func (r *runner) startRunner(ctx context.Context, creds []credential.Credential) Outcome {
	ours, theirs, err := controlPair()
	if err != nil {
		return failed("%v", err)
	}
	defer ours.Close()
	defer theirs.Close()
	planFile, err := planMemfd(r.Plan.JSON())
	if err != nil {
		return failed("%v", err)
	}
	defer planFile.Close()
	env := []string{PlanVariable + "=/proc/self/fd/3", ControlVariable + "=4"}
	program := process.Spec{
		Path: r.Plan.VM.Runner, Args: []string{r.Plan.VM.Runner}, Dir: "/",
		Stdin: r.Stdin, Stdout: r.Stdout, Stderr: os.Stderr, Extra: []*os.File{planFile, theirs},
	}
	if r.givesCredentials() {
		dir := r.credentialsDirectory()
		if err := mountPoint(dir); err != nil {
			return failed("making %s: %v", dir, err)
		}
		// Ours to remove as long as nothing is in it or on it.
		defer os.Remove(dir)
		env = append(env, "CREDENTIALS_DIRECTORY="+dir)
		program.MountNamespace = func() error { return mountCredentials(dir, creds) }
	}
	program.Env = childEnvironment(os.Environ(), env)
	defer keepTerminal(r.Stdin)()
	proc, err := process.Start(program)
	credential.Wipe(creds)
	if err != nil {
		return failed("%v", err)
	}
	// Our copy of its end, or its end would not be noticed.
	theirs.Close()
	c := &child{runner: r, proc: proc, conn: ours, messages: make(chan message), over: make(chan struct{})}
	defer close(c.over)
	go c.read()
	local{r}.started(r.record)
	if r.Plan.VM.Readiness.Mode == "started" {
		local{r}.phase(state.Started)
	}
	return c.watch(ctx)
}

// credentialsDirectory is where the runner finds the credentials, by hand as
// under systemd.
func (r *runner) credentialsDirectory() string {
	return spec.Identity{Name: r.Plan.VM.Name, Paths: spec.SystemPaths}.CredentialsDirectory()
}

// keepTerminal returns what gives the terminal its present mode back: an ampoule
// boot that makes it raw may be killed with its runner.
func keepTerminal(f *os.File) (restore func()) {
	if f == nil {
		return func() {}
	}
	state, err := term.GetState(int(f.Fd()))
	if err != nil {
		return func() {} // it is no terminal
	}
	return func() { _ = term.Restore(int(f.Fd()), state) }
}

// childEnvironment is ours with the variables set that belong to the child.
// What is no variable at all is left out.
func childEnvironment(env, set []string) []string {
	var out []string
	for _, e := range env {
		name, _, ok := strings.Cut(e, "=")
		// The runner is no service of its own: readiness is ours to report.
		keep := ok && name != "NOTIFY_SOCKET" && name != ""
		for _, s := range set {
			keep = keep && !strings.HasPrefix(s, name+"=")
		}
		if keep {
			out = append(out, e)
		}
	}
	return append(out, set...)
}

func controlPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a socket pair: %w", err)
	}
	ours, err := unixConn(os.NewFile(uintptr(fds[0]), "control"))
	if err != nil {
		unix.Close(fds[1])
		return nil, nil, fmt.Errorf("making a socket pair: %w", err)
	}
	return ours, os.NewFile(uintptr(fds[1]), "control"), nil
}

// planMemfd holds the plan, which is not secret, where it cannot change.
func planMemfd(data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("ampoule-plan", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("holding the plan in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "plan")
	if _, err := f.Write(data); err != nil {
		f.Close()
		return nil, fmt.Errorf("holding the plan in memory: %w", err)
	}
	if err := secret.Seal(int(f.Fd())); err != nil {
		f.Close()
		return nil, fmt.Errorf("sealing the plan: %w", err)
	}
	return f, nil
}

// mountPoint makes the directory for the runner's credentials, unless a killed
// predecessor left it.
func mountPoint(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); !os.IsExist(err) {
		return err
	}
	info, err := os.Lstat(dir)
	if err == nil && !info.IsDir() {
		err = errors.New("this is not a directory")
	}
	return err
}

// mountCredentials puts the credentials into a ramfs, which is never swapped,
// that only this mount namespace sees. It runs in that namespace.
func mountCredentials(dir string, creds []credential.Credential) error {
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("ramfs", dir, "ramfs", flags, "mode=0700"); err != nil {
		return fmt.Errorf("mounting a ramfs on %s: %w", dir, err)
	}
	for _, c := range creds {
		if err := writeCredential(filepath.Join(dir, c.Host), c); err != nil {
			return fmt.Errorf("writing the credential %s: %w", c.Host, err)
		}
	}
	if err := unix.Mount("", dir, "", flags|unix.MS_REMOUNT|unix.MS_RDONLY, "mode=0700"); err != nil {
		return fmt.Errorf("making %s read-only: %w", dir, err)
	}
	return nil
}

func writeCredential(path string, c credential.Credential) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
	if os.IsExist(err) {
		return nil // one credential of the host under two names in the guest
	}
	if err != nil {
		return err
	}
	_, err = c.Value.WriteTo(f)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

// read receives what ampoule boot reports, until the runner's side is closed.
func (c *child) read() {
	defer close(c.messages)
	buf := make([]byte, maxMessage)
	for {
		n, err := receive(c.conn, buf)
		if err != nil || n == 0 {
			return
		}
		var m message
		if json.Unmarshal(buf[:n], &m) != nil {
			continue
		}
		select {
		case c.messages <- m:
		case <-c.over:
			return
		}
	}
}

// watch stays with the runner until its end.
func (c *child) watch(ctx context.Context) Outcome {
	var kill <-chan time.Time
	stopping := false
	calls, _, silence := local{c.runner}.calls()
	defer silence()
	stop := func(why string) {
		if !stopping {
			local{c.runner}.phase(state.PoweringOff)
			kill = c.killAfter()
		}
		stopping = true
		c.stop(why)
	}
	for {
		select {
		case s := <-c.signals:
			if s == syscall.SIGABRT {
				_ = c.proc.Kill()
				<-c.proc.Done()
				return failed("%s, and the runner was killed", bitten)
			}
			stop(signalName(s))
		case <-calls:
			c.call()
		case <-ctx.Done():
			stop(cancelled)
			ctx = context.WithoutCancel(ctx)
		case <-kill:
			_ = c.proc.Kill()
			<-c.proc.Done()
			return Outcome{Code: ExitKilled, Text: fmt.Sprintf("the runner did not end within %s and was killed",
				time.Duration(c.Plan.VM.StopTimeout)*time.Millisecond)}
		case m, ok := <-c.messages:
			if !ok {
				c.messages = nil
				continue
			}
			c.receive(m)
		case <-c.proc.Done():
			return c.ended()
		}
	}
}

// killAfter is when a runner that was asked to stop is killed. An ampoule boot
// kills its guest itself and gets the time to say so.
func (c *child) killAfter() <-chan time.Time {
	ms := c.Plan.VM.StopTimeout
	if ms == 0 {
		return nil
	}
	limit := time.Duration(ms) * time.Millisecond
	if c.booting() {
		limit += quitTimeout
	}
	return time.After(limit)
}

// booting reports whether an ampoule boot is at work.
func (c *child) booting() bool { return c.booted && c.outcome == nil && c.messages != nil }

// stop passes the wish on: to ampoule boot while it is at work, else to the
// runner itself.
func (c *child) stop(why string) {
	if c.booting() {
		send(c.conn, message{Stop: why})
		return
	}
	_ = c.proc.Signal(syscall.SIGTERM)
}

func (c *child) receive(m message) {
	switch {
	case m.Hello:
		c.booted, c.outcome, c.credentials = true, nil, nil
		if err := sendFiles(c.conn, c.Handed); err != nil {
			c.warn("%s: handing over to ampoule boot what was opened for it: %v", c.Plan.VM.Name, err)
		}
	case m.Credentials != nil:
		c.credentials = append(c.credentials, m.Credentials...)
	case m.Started != nil:
		// Of the guest's delivery boot knows, of the service we do.
		c.record.Delivery, c.record.Reboots, c.record.Console = m.Started.Delivery, m.Started.Reboots, m.Started.Console
		c.record.VSock, c.record.VSockCID, c.record.SSHAgent = m.Started.VSock, m.Started.VSockCID, m.Started.SSHAgent
		c.record.Credentials, c.credentials = append([]state.DeliveredMetadata{}, c.credentials...), nil
		c.writeRecord(c.record)
	case m.Phase != "":
		local{c.runner}.phase(m.Phase)
	case m.Says != "":
		local{c.runner}.says(m.Says)
	case m.Alive:
		local{c.runner}.alive()
	case m.Ended != nil:
		c.outcome = &Outcome{Code: m.Ended.Code, Text: m.Ended.Text}
	}
}

// call asks for a sign of life. Without an ampoule boot at work there is no
// hypervisor of ours, and the runner takes the time that it takes.
func (c *child) call() {
	if c.booting() {
		send(c.conn, message{Call: true})
		return
	}
	local{c.runner}.alive()
}

// drain takes what was reported before the end. A stray process may hold the
// socket open, so it does not wait for long.
func (c *child) drain() {
	limit := time.After(time.Second)
	for c.messages != nil {
		select {
		case m, ok := <-c.messages:
			if !ok {
				return
			}
			c.receive(m)
		case <-limit:
			return
		}
	}
}

// ended explains the runner's end: by what its ampoule boot reported, or by its
// own exit code where there was none.
func (c *child) ended() Outcome {
	c.drain()
	exit, _ := c.proc.Wait()
	switch {
	case c.outcome != nil:
		return *c.outcome
	case c.booted:
		// Its exit code may be 0 all the same: "ampoule boot & exit".
		return failed("the runner %s ended before its guest did (%s)", c.Plan.VM.Runner, exit)
	case exit.Signal == 0 && exit.Code == 0:
		c.warn("%s: the runner %s ended without ampoule boot; what it did with the credentials is its own affair", c.Plan.VM.Name, c.Plan.VM.Runner)
		return Outcome{Code: ExitPoweredOff, Text: "the runner ended"}
	}
	return failed("the runner %s ended early (%s)", c.Plan.VM.Runner, exit)
}
