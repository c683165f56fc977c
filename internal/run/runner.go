package run

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/credential"
	"github.com/ampoule-vm/ampoule/internal/process"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// child is a Runner= and what its ampoule boot reports.
type child struct {
	*runner
	proc     *process.Process
	conn     *net.UnixConn
	messages chan message
	// booted: an ampoule boot said hello.
	booted  bool
	outcome *Outcome
}

// startRunner starts the user's program with plan and credentials, and stays
// with it.
func (r *runner) startRunner(ctx context.Context, creds []credential.Credential) Outcome {
	ours, theirs, err := controlPair()
	if err != nil {
		return failed("%v", err)
	}
	defer ours.Close()
	planFile, err := planMemfd(r.Plan.JSON())
	if err != nil {
		theirs.Close()
		return failed("%v", err)
	}
	env := []string{PlanVariable + "=/proc/self/fd/3", ControlVariable + "=4"}
	start := process.Spec{
		Path: r.Plan.VM.Runner, Args: []string{r.Plan.VM.Runner}, Dir: "/",
		Stdin: r.Stdin, Stdout: r.Stdout, Stderr: os.Stderr, Extra: []*os.File{planFile, theirs},
	}
	if r.Getenv("CREDENTIALS_DIRECTORY") == "" {
		dir := spec.Identity{Name: r.Plan.VM.Name, Paths: spec.SystemPaths}.CredentialsDirectory()
		made, err := mountPoint(dir)
		if err != nil {
			return failed("making %s: %v", dir, err)
		}
		if made {
			defer os.Remove(dir)
		}
		env = append(env, "CREDENTIALS_DIRECTORY="+dir)
		start.MountNamespace = func() error { return mountCredentials(dir, creds) }
	}
	start.Env = childEnvironment(os.Environ(), env)
	proc, err := process.Start(start)
	theirs.Close()
	planFile.Close()
	credential.Wipe(creds)
	if err != nil {
		return failed("%v", err)
	}
	c := &child{runner: r, proc: proc, conn: ours, messages: make(chan message)}
	go c.read()
	local{r}.started(r.record)
	if r.Plan.VM.Readiness.Mode == "started" {
		r.record.Ready = true
		local{r}.ready(r.record)
	}
	return c.watch(ctx)
}

// childEnvironment is ours with the variables set that belong to the child.
func childEnvironment(env, set []string) []string {
	var out []string
	for _, e := range env {
		name, _, _ := strings.Cut(e, "=")
		// The runner is no service of its own: readiness is ours to report.
		keep := name != "NOTIFY_SOCKET" && name != ""
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
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL); err != nil {
		f.Close()
		return nil, fmt.Errorf("sealing the plan: %w", err)
	}
	return f, nil
}

// mountPoint makes the directory for the runner's credentials.
func mountPoint(dir string) (made bool, err error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return false, err
	}
	err = os.Mkdir(dir, 0o700)
	if os.IsExist(err) {
		return false, nil
	}
	return err == nil, err
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
		n, err := c.conn.Read(buf)
		if err != nil || n == 0 {
			return
		}
		var m message
		if json.Unmarshal(buf[:n], &m) == nil {
			c.messages <- m
		}
	}
}

// watch stays with the runner until its end.
func (c *child) watch(ctx context.Context) Outcome {
	var kill <-chan time.Time
	stopping := false
	stop := func(why string) {
		if ms := c.Plan.VM.StopTimeout; ms > 0 && !stopping {
			kill = time.After(time.Duration(ms) * time.Millisecond)
		}
		if !stopping {
			notify("STOPPING=1")
		}
		stopping = true
		c.stop(why)
	}
	for {
		select {
		case s := <-c.signals:
			stop(signalName(s))
		case <-ctx.Done():
			stop("cancelled")
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

// stop passes the wish on: to ampoule boot if the runner has come that far,
// else to the runner itself.
func (c *child) stop(why string) {
	if c.booted {
		(&remote{conn: c.conn}).send(message{Stop: why})
		return
	}
	_ = c.proc.Signal(syscall.SIGTERM)
}

func (c *child) receive(m message) {
	switch {
	case m.Hello:
		c.booted = true
	case m.Started != nil:
		m.Started.Pid, m.Started.Ready = c.record.Pid, c.record.Ready || m.Started.Ready
		c.record = *m.Started
		c.writeRecord(c.record)
	case m.Ready != nil && !c.record.Ready:
		c.record.Ready = true
		local{c.runner}.ready(c.record)
	case m.Ended != nil:
		c.outcome = m.Ended
	}
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
	case exit.Signal == 0 && exit.Code == 0:
		if !c.booted {
			c.warn("%s: the runner %s ended without ampoule boot; what it did with the credentials is its own affair", c.Plan.VM.Name, c.Plan.VM.Runner)
		}
		return Outcome{Code: ExitPoweredOff, Text: "the runner ended"}
	}
	return failed("the runner %s ended early (%s)", c.Plan.VM.Runner, exit)
}
