package vsock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Listener accepts connections of the family AF_VSOCK.
type Listener struct {
	socket *socket
	addr   Addr
	admit  func(unix.Sockaddr) (net.Addr, bool)
}

// ListenKernel listens at a port of this host for one guest, by its context
// identifier, and for that guest's root alone: everybody in every guest can
// connect to any port of the host, and everybody on the host too, while the
// guest's PID 1 sends from a port that only root has. Port 0 takes one that is
// free; Addr tells which.
func ListenKernel(guest, port uint32) (*Listener, error) {
	if port == 0 {
		port = anyID
	}
	fd, err := openSocket()
	if err != nil {
		return nil, fmt.Errorf("listening for guest %d: %w", guest, err)
	}
	l, err := listenAt(fd, &unix.SockaddrVM{CID: anyID, Port: port}, onlyRootOf(guest))
	if err != nil {
		return nil, fmt.Errorf("listening for guest %d: %w", guest, err)
	}
	return l, nil
}

func openSocket() (int, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	return fd, os.NewSyscallError("socket", err)
}

// onlyRootOf lets the privileged ports of one guest in.
func onlyRootOf(guest uint32) func(unix.Sockaddr) (net.Addr, bool) {
	return func(from unix.Sockaddr) (net.Addr, bool) {
		vm, ok := from.(*unix.SockaddrVM)
		if !ok {
			return nil, false
		}
		addr := Addr{CID: vm.CID, Port: vm.Port}
		return addr, addr.CID == guest && addr.Privileged()
	}
}

// listenAt makes a listener of a socket, which is closed when it fails.
func listenAt(fd int, address unix.Sockaddr, admit func(unix.Sockaddr) (net.Addr, bool)) (*Listener, error) {
	s := newSocket(fd)
	if err := unix.Bind(fd, address); err != nil {
		_ = s.Close()
		return nil, os.NewSyscallError("bind", err)
	}
	if err := unix.Listen(fd, backlog); err != nil {
		_ = s.Close()
		return nil, os.NewSyscallError("listen", err)
	}
	l := &Listener{socket: s, admit: admit}
	if name, err := unix.Getsockname(fd); err == nil {
		if vm, ok := name.(*unix.SockaddrVM); ok {
			l.addr = Addr{CID: HostCID, Port: vm.Port}
		}
	}
	return l, nil
}

// Addr returns where a guest has to connect to.
func (l *Listener) Addr() net.Addr { return l.addr }

// Port returns the port of Addr.
func (l *Listener) Port() uint32 { return l.addr.Port }

// SetDeadline sets the time after which Accept gives up.
func (l *Listener) SetDeadline(t time.Time) error { return l.socket.SetDeadline(t) }

// SyscallConn returns the socket itself, for those who wait in their own way.
func (l *Listener) SyscallConn() (syscall.RawConn, error) { return l.socket.SyscallConn() }

// Close ends Accept.
func (l *Listener) Close() error { return l.socket.Close() }

// Accept waits for the next connection of the guest. Those of others are closed.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		fd, from, err := l.acceptOne()
		if err != nil {
			return nil, fmt.Errorf("accepting a connection: %w", err)
		}
		peer, ok := l.admit(from)
		if !ok {
			unix.Close(fd)
			continue
		}
		return &conn{socket: newSocket(fd), local: l.addr, remote: peer}, nil
	}
}

func (l *Listener) acceptOne() (fd int, from unix.Sockaddr, err error) {
	waitErr := l.socket.wait(syscall.RawConn.Read, func(s int) bool {
		fd, from, err = unix.Accept4(s, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		return !again(err)
	})
	if waitErr != nil {
		return -1, nil, waitErr
	}
	return fd, from, os.NewSyscallError("accept4", err)
}

// DialKernel connects to a port of a guest. The error wraps ErrRefused when
// nothing in the guest listens there.
func DialKernel(ctx context.Context, cid, port uint32) (net.Conn, error) {
	c, err := dialKernel(ctx, cid, port)
	if err != nil {
		return nil, fmt.Errorf("connecting to port %d of guest %d: %w", port, cid, err)
	}
	return c, nil
}

func dialKernel(ctx context.Context, cid, port uint32) (net.Conn, error) {
	fd, err := openSocket()
	if err != nil {
		return nil, err
	}
	return connect(ctx, fd, &unix.SockaddrVM{CID: cid, Port: port}, Addr{CID: cid, Port: port})
}

// connect connects a socket, which is closed when it fails.
func connect(ctx context.Context, fd int, address unix.Sockaddr, remote net.Addr) (net.Conn, error) {
	s := newSocket(fd)
	stop := context.AfterFunc(ctx, func() { _ = s.SetDeadline(time.Unix(1, 0)) })
	err := s.connect(address)
	if !stop() && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = s.Close()
		return nil, err
	}
	c := &conn{socket: s, remote: remote}
	if name, err := unix.Getsockname(fd); err == nil {
		if vm, ok := name.(*unix.SockaddrVM); ok {
			c.local = Addr{CID: vm.CID, Port: vm.Port}
		}
	}
	return c, nil
}

// socket is a non-blocking socket of whatever family in the runtime's poller.
// Package net has none for AF_VSOCK.
type socket struct {
	*os.File

	once   sync.Once
	closed chan struct{}
	err    error
}

func newSocket(fd int) *socket {
	return &socket{File: os.NewFile(uintptr(fd), "vsock"), closed: make(chan struct{})}
}

// Close ends wait with net.ErrClosed, and may be called more than once.
func (s *socket) Close() error {
	s.once.Do(func() {
		close(s.closed)
		s.err = s.File.Close()
	})
	return s.err
}

// wait calls f, and again when the socket may have changed, until it is true.
func (s *socket) wait(how func(syscall.RawConn, func(uintptr) bool) error, f func(fd int) bool) error {
	raw, err := s.SyscallConn()
	if err == nil {
		err = how(raw, func(fd uintptr) bool { return f(int(fd)) })
	}
	if err != nil {
		select {
		case <-s.closed:
			return net.ErrClosed
		default:
		}
	}
	return err
}

func (s *socket) connect(address unix.Sockaddr) error {
	begun := false
	var err error
	waitErr := s.wait(syscall.RawConn.Write, func(fd int) bool {
		if !begun {
			begun = true
			err = os.NewSyscallError("connect", unix.Connect(fd, address))
			return !errors.Is(err, unix.EINPROGRESS) && !again(err)
		}
		err = connected(fd)
		// The poller may call before anything has happened.
		return !errors.Is(err, unix.ENOTCONN)
	})
	if waitErr != nil {
		return waitErr
	}
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ECONNRESET) {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return err
}

// connected tells what became of an attempt to connect; ENOTCONN is not yet.
func connected(fd int) error {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	if code != 0 {
		return os.NewSyscallError("connect", syscall.Errno(code))
	}
	_, err = unix.Getpeername(fd)
	return os.NewSyscallError("getpeername", err)
}

// again reports whether a system call is to be tried once more.
func again(err error) bool {
	return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) || errors.Is(err, unix.ECONNABORTED)
}

// conn is a connection; reading and writing is the file's.
type conn struct {
	*socket

	local, remote net.Addr
}

// LocalAddr returns the address of this end, nil where it is not known.
func (c *conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the address of the other end.
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// CloseWrite tells the other end that nothing more comes.
func (c *conn) CloseWrite() error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var shutErr error
	if err := raw.Control(func(fd uintptr) { shutErr = unix.Shutdown(int(fd), unix.SHUT_WR) }); err != nil {
		return err
	}
	return os.NewSyscallError("shutdown", shutErr)
}
