package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/state"
)

// ErrNotRunning: there is nothing to be stopped.
var ErrNotRunning = errors.New("the VM is not running")

// Stop ends a run that was started by hand, and returns when it is over: by the
// power button, for as long as that takes, or, with kill, at once and without
// asking the guest. It is for a VM whose directory belongs to whoever started
// it (state.Instance.Service is false). slow, which may be nil, is called if it
// takes longer than a second.
//
// A signal reaches none but the process that holds the VM's lock.
func Stop(ctx context.Context, i state.Instance, kill bool, slow func()) error {
	if !i.Running {
		return ErrNotRunning
	}
	runner, err := openHolder(i)
	if err != nil {
		return err
	}
	defer runner.Close()
	signal, hypervisor := unix.SIGTERM, (*os.File)(nil)
	if kill {
		signal = unix.SIGKILL
		// The kernel kills it with its parent. To see it end, it is held on to
		// while its parent, who alone could let its number go, lives.
		if i.Record != nil && i.Record.HypervisorPid > 0 {
			if fd, err := unix.PidfdOpen(i.Record.HypervisorPid, 0); err == nil {
				hypervisor = os.NewFile(uintptr(fd), "hypervisor")
				defer hypervisor.Close()
			}
		}
	}
	if err := unix.PidfdSendSignal(int(runner.Fd()), signal, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("sending %s to process %d: %w", unix.SignalName(signal), i.Pid, err)
	}
	if err := awaitEnd(ctx, runner, slow); err != nil {
		return err
	}
	if !kill {
		return nil
	}
	if hypervisor != nil {
		ctx, cancel := context.WithTimeout(ctx, killTime)
		defer cancel()
		if err := awaitEnd(ctx, hypervisor, nil); err != nil {
			return fmt.Errorf("the hypervisor (process %d) does not end: %w", i.Record.HypervisorPid, err)
		}
	}
	// Nobody else clears away what a killed run leaves.
	if c, err := state.Take(state.Directories{Runtime: i.Dir}); err == nil {
		c.Release()
	}
	return nil
}

// openHolder returns a descriptor of the process that holds a VM's lock. It is
// asked for twice: had the number gone to another process in between, then
// that would not hold the lock.
func openHolder(i state.Instance) (*os.File, error) {
	if i.Pid == 0 {
		return nil, errors.New("the VM runs in another container; stop it there")
	}
	fd, err := unix.PidfdOpen(i.Pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil, ErrNotRunning
	}
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	now, ok := state.Look(i.Dir)
	if !ok || !now.Running || now.Pid != i.Pid {
		unix.Close(fd)
		return nil, ErrNotRunning
	}
	return os.NewFile(uintptr(fd), "run"), nil
}

// awaitEnd waits until a process, of which it has a descriptor, has ended.
func awaitEnd(ctx context.Context, process *os.File, slow func()) error {
	began := time.Now()
	for {
		fds := []unix.PollFd{{Fd: int32(process.Fd()), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 100)
		switch {
		case err != nil && !errors.Is(err, unix.EINTR):
			return os.NewSyscallError("poll", err)
		case n > 0:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		}
		if slow != nil && time.Since(began) > time.Second {
			slow()
			slow = nil
		}
	}
}
