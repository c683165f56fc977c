package secret

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Harden closes the ways by which a process that handles secrets leaks them
// unasked. It needs no privilege. All steps are tried; the error joins those
// that did not succeed. It must be called before the first secret is read.
//
// undumpable is for a process that nobody needs to inspect, see [Undumpable].
func Harden(undumpable bool) error {
	errs := []error{NoCoreDumps(), CloseOnExec(3)}
	if undumpable {
		// Last: it takes the process's own /proc files away from it.
		errs = append(errs, Undumpable())
	}
	return errors.Join(errs...)
}

// NoCoreDumps makes this process and all it starts leave no core file
// (RLIMIT_CORE 0, which the kernel ignores where cores go to a program), and
// makes the core that such a program receives empty (coredump_filter 0).
// Children keep both over exec.
func NoCoreDumps() error {
	limitErr := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	if limitErr != nil {
		limitErr = fmt.Errorf("setting RLIMIT_CORE to 0: %w", limitErr)
	}
	return errors.Join(limitErr, noMemoryInCores("/proc/self/coredump_filter"))
}

func noMemoryInCores(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("keeping memory out of core dumps: %w", err)
	}
	if _, err := f.WriteString("0"); err != nil {
		_ = f.Close()
		return fmt.Errorf("keeping memory out of core dumps: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("keeping memory out of core dumps: %w", err)
	}
	return nil
}

// Undumpable keeps processes of the same user from attaching to this one, from
// reading its memory and from opening its descriptors, and stops core dumps of
// it altogether. It ends at exec, so that a child is not covered. The price:
// most of the process's own /proc/self belongs to root from then on, and
// /proc/self/fd/N handed to a child by name must be the child's.
func Undumpable() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("making the process undumpable: %w", err)
	}
	return nil
}

// CloseOnExec marks every open descriptor from first on close-on-exec, so that
// what this process inherited by somebody's mistake goes no further. Those that
// a child shall have are passed to it by name.
func CloseOnExec(first int) error {
	err := unix.CloseRange(uint(first), math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	if err == nil {
		return nil
	}
	// Before Linux 5.11, or a sandbox that does not know the call.
	return closeOnExecEach("/proc/self/fd", first)
}

func closeOnExecEach(dir string, first int) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("marking inherited descriptors close-on-exec: %w", err)
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd < first {
			continue
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err == nil {
			_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFD, flags|unix.FD_CLOEXEC)
		}
		// The descriptor of the listing itself is closed by now.
		if err != nil && !errors.Is(err, unix.EBADF) {
			return fmt.Errorf("marking descriptor %d close-on-exec: %w", fd, err)
		}
	}
	return nil
}
