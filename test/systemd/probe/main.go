// Command probe is run in the place of a VM, in its sandbox, and says what it may
// do there: a line for each thing, its name and "yes" or the error.
package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

func main() {
	for _, try := range []struct {
		name string
		do   func() error
	}{
		{"pty", pty},
		{"seccomp", seccomp},
		{"landlock", landlock},
		{"vsock", vsock},
		{"vhost-vsock", func() error { return open("/dev/vhost-vsock") }},
		{"set_mempolicy", func() error { return call(unix.SYS_SET_MEMPOLICY, 0, 0, 0) }},
	} {
		said := "yes"
		if err := try.do(); err != nil {
			said = err.Error()
		}
		fmt.Println(try.name, said)
	}
}

// pty makes the console of a hypervisor that has it on its standard input.
func pty() error {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer master.Close()
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		return err
	}
	// It must not become the terminal of this session: that ends with it.
	slave, _, errno := unix.Syscall(unix.SYS_IOCTL, master.Fd(), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY)
	if errno != 0 {
		return errno
	}
	defer unix.Close(int(slave))
	// Some open it again, by its name.
	return open(fmt.Sprintf("/proc/self/fd/%d", slave))
}

func open(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

func call(number, a, b, c uintptr) error {
	if _, _, errno := unix.Syscall(number, a, b, c); errno != 0 {
		return errno
	}
	return nil
}

// seccomp gives no pointer to a filter: where the call is allowed, the kernel says
// so with EFAULT.
func seccomp() error {
	const setModeFilter = 1
	err := call(unix.SYS_SECCOMP, setModeFilter, 0, 0)
	if errors.Is(err, unix.EFAULT) {
		return nil
	}
	return err
}

// landlock asks for the version, which a kernel without it does not have.
func landlock() error {
	const version = 1
	err := call(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, version)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return nil
	}
	return err
}

func vsock() error {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}
