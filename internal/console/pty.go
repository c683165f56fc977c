package console

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// NewPTY makes a terminal for a hypervisor that gives its guest a console on its
// standard input and output, and listens there only if it is one. It passes every
// byte as it is. Whoever holds theirs ends it by closing it.
func NewPTY() (ours io.ReadWriteCloser, theirs *os.File, err error) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a terminal for the guest's console: %w", err)
	}
	theirs, err = openSlave(master)
	if err != nil {
		master.Close()
		return nil, nil, fmt.Errorf("making a terminal for the guest's console: %w", err)
	}
	return ptyMaster{master}, theirs, nil
}

func openSlave(master *os.File) (*os.File, error) {
	raw, err := master.SyscallConn()
	if err != nil {
		return nil, err
	}
	var number int
	var ioctlErr error
	err = raw.Control(func(fd uintptr) {
		if ioctlErr = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); ioctlErr == nil {
			number, ioctlErr = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})
	if err = errors.Join(err, ioctlErr); err != nil {
		return nil, os.NewSyscallError("ioctl", err)
	}
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	// Before a word is said, or the terminal would answer it.
	if _, err := term.MakeRaw(int(slave.Fd())); err != nil {
		slave.Close()
		return nil, err
	}
	return slave, nil
}

// ptyMaster is our end. The kernel says EIO where a socket has its end.
type ptyMaster struct{ *os.File }

func (m ptyMaster) Read(p []byte) (int, error) {
	n, err := m.File.Read(p)
	if errors.Is(err, unix.EIO) {
		err = io.EOF
	}
	return n, err
}
