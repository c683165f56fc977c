// Package process starts one child process and supervises it so that it never
// outlives the program, not even one that is killed with SIGKILL.
//
// What is guaranteed, and how:
//
//   - The kernel kills the child when the thread that created it ends
//     (PR_SET_PDEATHSIG). The Go runtime ends and reuses threads as it likes,
//     so each child is created by a thread of its own that does nothing but
//     wait for that child.
//   - The child leads a session of its own: it has no controlling terminal,
//     neither Ctrl-C nor a hang-up reaches it, and it cannot type into the
//     operator's terminal. How it ends is decided by whoever holds the
//     [Process]. What is left of its process group when it ends is killed.
//   - It gets exactly the environment, the arguments and the descriptors of
//     its [Spec]; nothing is inherited by accident.
//   - It is signalled through a pidfd, so a reused process id is never hit.
//
// The kernel drops the parent-death signal when the child executes a set-uid
// or otherwise privileged binary, and does not hand it on to grandchildren:
// for those, systemd's control group is the safety net.
//
// What does not belong here: which program to run and why, control protocols,
// the policy for stopping a guest.
package process

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Spec says what to start. Path and Args are required.
type Spec struct {
	// Path is the absolute path of the binary. No search takes place.
	Path string
	// Args are the arguments, Args[0] (the program's name) included.
	Args []string
	// Env is the whole environment, NAME=VALUE each. Nil is an empty
	// environment, not ours.
	Env []string
	// Dir is the working directory; empty means ours.
	Dir string

	// Stdin, Stdout and Stderr become descriptors 0, 1 and 2. Nil means
	// /dev/null, but for Stderr it means: captured, see Process.StderrTail.
	Stdin, Stdout, Stderr *os.File
	// Extra become the descriptors 3, 4, … in this order. Start does not close
	// them: the caller closes its copies afterwards, or it will not see the end
	// of a socket whose other end the child holds.
	Extra []*os.File

	// StderrLine, if not nil, gets each line of a captured standard error
	// without its newline, in order, an unfinished last one included. Lines
	// over 4 KiB come in pieces. It must return soon: while it blocks, a child
	// that writes much has to wait.
	StderrLine func(line string)

	// Blocked are signals that the child has blocked from its first moment. A
	// program that does not unblock them never gets them.
	Blocked []syscall.Signal

	// MountNamespace, if not nil, is called in a new mount namespace that the
	// child will live in, before the child exists. Mounts made by it are seen
	// by the child and by nobody else, and are gone when the child is. It runs
	// on a thread of its own and must do its work there: a goroutine that it
	// starts is outside the namespace. Needs CAP_SYS_ADMIN.
	MountNamespace func() error
}

// drainTime is how long a standard error that somebody else still holds open
// can delay the news of the child's end.
const drainTime = time.Second

// Process is a started child.
type Process struct {
	pid    int
	stderr *stderrReader // nil when not captured
	done   chan struct{}

	// Set before done is closed, read after.
	exit    Exit
	waitErr error

	mu    sync.Mutex
	pidfd int // -1 once the child is reaped
}

// Exit says how a process ended.
type Exit struct {
	// Code is the exit status, or -1 after a signal.
	Code int
	// Signal is the signal that ended the process, or 0.
	Signal syscall.Signal
}

// String returns for instance "exit code 1" or "killed by SIGKILL".
func (e Exit) String() string {
	if e.Signal != 0 {
		if name := unix.SignalName(e.Signal); name != "" {
			return "killed by " + name
		}
		return fmt.Sprintf("killed by signal %d", int(e.Signal))
	}
	return fmt.Sprintf("exit code %d", e.Code)
}

// Start starts the child. As a side effect every descriptor of this process
// above 2 is marked close-on-exec: one that was inherited without the mark, from
// a careless shell for instance, must not travel on. The error names the binary
// and never repeats an argument.
func Start(spec Spec) (*Process, error) {
	if err := spec.check(); err != nil {
		return nil, fmt.Errorf("starting %q: %w", spec.Path, err)
	}
	files, stderr, err := spec.standardFiles()
	if err != nil {
		return nil, fmt.Errorf("starting %q: %w", spec.Path, err)
	}
	p := &Process{done: make(chan struct{}), pidfd: -1}
	if stderr != nil {
		p.stderr = newStderrReader(stderr, spec.StderrLine)
	}

	started := make(chan error)
	go p.superviseOnOwnThread(spec, files.given, started)
	err = <-started
	files.closeOwned()
	if err != nil {
		if stderr != nil {
			stderr.Close()
		}
		return nil, fmt.Errorf("starting %q: %w", spec.Path, err)
	}
	if p.stderr != nil {
		go p.stderr.run()
	}
	return p, nil
}

func (s *Spec) check() error {
	switch {
	case !filepath.IsAbs(s.Path):
		return errors.New("the path of the binary is not absolute")
	case len(s.Args) == 0:
		return errors.New("no arguments, not even the program's name")
	}
	for i, a := range s.Args {
		if strings.IndexByte(a, 0) >= 0 {
			return fmt.Errorf("argument %d contains a NUL byte", i)
		}
	}
	for i, e := range s.Env {
		if strings.IndexByte(e, 0) >= 0 || strings.IndexByte(e, '=') < 1 {
			return fmt.Errorf("entry %d of the environment is not NAME=VALUE", i)
		}
	}
	for i, f := range s.Extra {
		if f == nil {
			return fmt.Errorf("descriptor %d is not given", i+3)
		}
	}
	return nil
}

// childFiles are the files that become the child's descriptors.
type childFiles struct {
	given []*os.File // index = descriptor in the child
	owned []*os.File // those among them that Start opened itself
}

func (c *childFiles) closeOwned() {
	for _, f := range c.owned {
		f.Close()
	}
}

// standardFiles fills in what the Spec leaves open. The second result is our
// end of a captured standard error, or nil.
func (s *Spec) standardFiles() (*childFiles, *os.File, error) {
	c := &childFiles{given: append([]*os.File{s.Stdin, s.Stdout, s.Stderr}, s.Extra...)}
	var stderr *os.File
	if s.Stderr == nil {
		r, w, err := stderrPipe()
		if err != nil {
			return nil, nil, err
		}
		stderr, c.given[2], c.owned = r, w, append(c.owned, w)
	}
	for i := range 2 {
		if c.given[i] != nil {
			continue
		}
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			c.closeOwned()
			if stderr != nil {
				stderr.Close()
			}
			return nil, nil, err
		}
		c.given[i], c.owned = null, append(c.owned, null)
	}
	return c, stderr, nil
}

// superviseOnOwnThread creates the child and stays until it is gone. The answer
// to Start goes to started.
func (p *Process) superviseOnOwnThread(spec Spec, files []*os.File, started chan<- error) {
	if lockThread(func() { p.superviseOnOwnThread(spec, files, started) }) {
		return
	}
	if spec.MountNamespace == nil {
		defer runtime.UnlockOSThread()
	} // else the thread ends with this goroutine, and the namespace with it

	err := blocked(spec.Blocked, func() error { return p.fork(spec, files) })
	started <- err
	if err != nil {
		return
	}
	p.supervise()
}

// lockThread ties the calling goroutine to its thread. The main thread will
// not do, because the runtime never ends it and the rest of the system takes
// its namespaces for those of the whole process: when the goroutine is on it,
// retry runs on another one instead, and lockThread returns true.
func lockThread(retry func()) bool {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		return false
	}
	other := make(chan struct{})
	go func() {
		// The main thread is held until here, so this is a different one.
		runtime.LockOSThread()
		close(other)
		runtime.UnlockOSThread()
		retry()
	}()
	<-other
	runtime.UnlockOSThread()
	return true
}

// blocked calls do with signals blocked on the calling thread; a child that is
// made meanwhile has them blocked too.
func blocked(signals []syscall.Signal, do func() error) error {
	if len(signals) == 0 {
		return do()
	}
	var set, old unix.Sigset_t
	for _, s := range signals {
		set.Val[(s-1)/64] |= 1 << ((s - 1) % 64)
	}
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &set, &old); err != nil {
		return fmt.Errorf("blocking signals: %w", err)
	}
	err := do()
	if restoreErr := unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil); err == nil && restoreErr != nil {
		return fmt.Errorf("unblocking signals: %w", restoreErr)
	}
	return err
}

// fork creates the child; the calling thread becomes the one it depends on.
func (p *Process) fork(spec Spec, files []*os.File) error {
	if spec.MountNamespace != nil {
		if err := enterMountNamespace(spec.MountNamespace); err != nil {
			return err
		}
	}
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("marking descriptors close-on-exec: %w", err)
	}
	fds := make([]uintptr, len(files))
	for i, f := range files {
		if fds[i] = f.Fd(); fds[i] == ^uintptr(0) {
			return fmt.Errorf("descriptor %d: %w", i, os.ErrClosed)
		}
	}
	pidfd := -1
	pid, err := syscall.ForkExec(spec.Path, spec.Args, &syscall.ProcAttr{
		Dir:   spec.Dir,
		Env:   spec.Env,
		Files: fds,
		Sys: &syscall.SysProcAttr{
			Setsid:    true,
			Pdeathsig: syscall.SIGKILL,
			PidFD:     &pidfd,
		},
	})
	runtime.KeepAlive(files)
	if err != nil {
		return explainStart(spec, err)
	}
	if pidfd < 0 {
		// The child is ours and not reaped yet, so its id cannot be another's.
		if pidfd, err = unix.PidfdOpen(pid, 0); err != nil {
			_ = unix.Kill(pid, unix.SIGKILL)
			_, _ = unix.Wait4(pid, nil, 0, nil)
			return fmt.Errorf("opening a pidfd: %w", err)
		}
	}
	p.pid, p.pidfd = pid, pidfd
	return nil
}

// explainStart says what an error number of fork, chdir or exec is about.
func explainStart(spec Spec, err error) error {
	if spec.Dir != "" {
		if info, statErr := os.Stat(spec.Dir); statErr != nil {
			return fmt.Errorf("entering the working directory: %w", statErr)
		} else if !info.IsDir() {
			return fmt.Errorf("entering the working directory %q: %w", spec.Dir, syscall.ENOTDIR)
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		if _, statErr := os.Stat(spec.Path); statErr == nil {
			return fmt.Errorf("the file exists, but its interpreter or dynamic loader does not: %w", err)
		}
	}
	return err
}

// supervise waits for the child and reaps it. It blocks the thread on purpose:
// the child lives as long as this thread does.
func (p *Process) supervise() {
	waitErr := ignoringEINTR(func() error {
		return unix.Waitid(unix.P_PIDFD, p.pidfd, nil, unix.WEXITED|unix.WNOWAIT, nil)
	})
	// Until the child is reaped, its process id names its group and no other.
	// The group may be empty or beyond our rights: nothing to do about either.
	if waitErr == nil {
		_ = unix.Kill(-p.pid, unix.SIGKILL)
	}
	var status unix.WaitStatus
	if waitErr == nil {
		waitErr = ignoringEINTR(func() error {
			_, err := unix.Wait4(p.pid, &status, 0, nil)
			return err
		})
	}
	p.mu.Lock()
	unix.Close(p.pidfd)
	p.pidfd = -1
	p.mu.Unlock()

	if waitErr != nil {
		p.exit, p.waitErr = Exit{Code: -1}, fmt.Errorf("waiting for process %d: %w", p.pid, waitErr)
	} else {
		p.exit = exitOf(status)
	}
	if p.stderr != nil {
		p.stderr.finish(drainTime)
	}
	close(p.done)
}

func exitOf(status unix.WaitStatus) Exit {
	if status.Signaled() {
		return Exit{Code: -1, Signal: status.Signal()}
	}
	return Exit{Code: status.ExitStatus()}
}

func ignoringEINTR(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// Pid returns the child's process id, for display.
func (p *Process) Pid() int { return p.pid }

// Done is closed when the child is gone, reaped, and its captured standard
// error has been read.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait blocks until Done and says how the child ended. Any number of
// goroutines may call it, any number of times. The error is not about the
// child: it means that its end could not be learnt.
func (p *Process) Wait() (Exit, error) {
	<-p.done
	return p.exit, p.waitErr
}

// Signal sends a signal. It returns os.ErrProcessDone when the child is gone.
func (p *Process) Signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd < 0 {
		return os.ErrProcessDone
	}
	err := unix.PidfdSendSignal(p.pidfd, sig, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return os.ErrProcessDone
	}
	if err != nil {
		return fmt.Errorf("sending %s to process %d: %w", unix.SignalName(sig), p.pid, err)
	}
	return nil
}

// Kill ends the child with SIGKILL, and with it what is left of its process
// group. It does not wait. A child that is gone already is no error.
func (p *Process) Kill() error {
	if err := p.Signal(syscall.SIGKILL); !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// StderrTail returns the last 8 KiB of a captured standard error, beginning
// with a whole line where that is possible. It may be called at any time; after
// Done it is complete.
func (p *Process) StderrTail() string {
	if p.stderr == nil {
		return ""
	}
	return p.stderr.tailText()
}
