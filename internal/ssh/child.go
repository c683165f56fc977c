package ssh

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
)

// Failed is the client's exit code for whatever kept it from the guest's command.
const Failed = 255

// Run is Exec for who wants to know how it ended: the client is a child that has our
// streams and our terminal, and nothing is between it and them. The code is the
// client's, or 128 and the signal that killed it.
func (c Client) Run(environ []string) (code int, err error) {
	path, err := exec.LookPath("ssh")
	if errors.Is(err, exec.ErrNotFound) {
		return 0, ErrNoClient
	}
	if err != nil {
		return 0, err
	}
	// What the terminal says to both is for the client to act upon; what is said to us
	// alone is handed on.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	// The client ends with this thread, should it be killed.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p, err := os.StartProcess(path, append([]string{"ssh"}, c.Arguments()...), &os.ProcAttr{
		Env: withShell(environ), Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}, Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM},
	})
	if err != nil {
		return 0, fmt.Errorf("executing %s: %w", path, err)
	}
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case s := <-signals:
				if s == syscall.SIGTERM || s == syscall.SIGHUP {
					_ = p.Signal(s)
				}
			case <-done:
				return
			}
		}
	}()
	return wait(p.Pid)
}

// wait waits for the client's end. Where it stops itself, by ~^Z, we stop too: it is
// us for whom the shell waits, which continues both.
func wait(pid int) (code int, err error) {
	for {
		var status syscall.WaitStatus
		_, err := syscall.Wait4(pid, &status, syscall.WUNTRACED, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 0, os.NewSyscallError("wait4", err)
		case status.Stopped():
			_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		case status.Signaled():
			return 128 + int(status.Signal()), nil
		case status.Exited():
			return status.ExitStatus(), nil
		}
	}
}
