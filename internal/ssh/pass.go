package ssh

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrNoTaker: nobody is there to take a connection.
var ErrNoTaker = errors.New("standard output is no socket; this is for ssh, as its ProxyCommand with ProxyUseFdpass=yes")

// Pass gives a connection to the client at the other end of a socket. Ours may be
// closed then.
func Pass(to, connection syscall.Conn) error {
	target, err := to.SyscallConn()
	if err != nil {
		return err
	}
	source, err := connection.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	err = source.Control(func(fd uintptr) {
		if e := target.Control(func(socket uintptr) { sendErr = send(int(socket), int(fd)) }); e != nil {
			sendErr = e
		}
	})
	if err == nil {
		err = sendErr
	}
	switch {
	case errors.Is(err, unix.ENOTSOCK), errors.Is(err, unix.EOPNOTSUPP):
		return ErrNoTaker
	case err != nil:
		return fmt.Errorf("handing the connection to ssh: %w", err)
	}
	return nil
}

// send sends a descriptor. It travels with one byte, whatever that is.
func send(socket, fd int) error {
	for {
		err := unix.Sendmsg(socket, []byte{0}, unix.UnixRights(fd), nil, unix.MSG_NOSIGNAL)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
