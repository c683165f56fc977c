package vsock

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The family makes no difference to what is around the system calls: sockets of
// the file system stand in for those of guests, which few hosts can have in a
// test.

func unixSocket(t *testing.T) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func listenHere(t *testing.T, admit func(unix.Sockaddr) (net.Addr, bool)) (*Listener, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := listenAt(unixSocket(t), &unix.SockaddrUnix{Name: path}, admit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, path
}

func TestAcceptAndConnect(t *testing.T) {
	peer := Addr{CID: 7, Port: 1023}
	l, path := listenHere(t, func(unix.Sockaddr) (net.Addr, bool) { return peer, true })
	c, err := connect(t.Context(), unixSocket(t), &unix.SockaddrUnix{Name: path}, Addr{CID: 9, Port: 22})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.RemoteAddr() != peer || c.RemoteAddr().String() != "vsock:9:22" || s.RemoteAddr().Network() != "vsock" {
		t.Errorf("%v, %v", s.RemoteAddr(), c.RemoteAddr())
	}
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := c.(*conn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(s); err != nil || string(text) != "hello" {
		t.Errorf("%q, %v", text, err)
	}
	if err := c.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if _, ok := s.(syscall.Conn); !ok {
		t.Error("the connection hides its socket")
	}
}

func TestAcceptEnds(t *testing.T) {
	l, _ := listenHere(t, func(unix.Sockaddr) (net.Addr, bool) { return nil, true })
	if err := l.SetDeadline(time.Now().Add(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("at the deadline: %v", err)
	}
	if err := l.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(5*time.Millisecond, func() { l.Close() })
	for range 2 {
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("closed: %v", err)
		}
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestOthersAreNotAdmitted(t *testing.T) {
	refused := 2
	l, path := listenHere(t, func(unix.Sockaddr) (net.Addr, bool) {
		refused--
		return Addr{}, refused < 0
	})
	var conns []net.Conn
	for range 3 {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
	}
	if _, err := io.WriteString(conns[2], "third"); err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 10)
	if n, err := c.Read(buf); err != nil || string(buf[:n]) != "third" {
		t.Errorf("%q, %v", buf[:n], err)
	}
	if _, err := conns[0].Read(buf); err != io.EOF {
		t.Errorf("the first one still stands: %v", err)
	}
}

func TestOnlyRootOfTheGuest(t *testing.T) {
	admit := onlyRootOf(7)
	for _, c := range []struct {
		from unix.Sockaddr
		want bool
	}{
		{&unix.SockaddrVM{CID: 7, Port: 1023}, true},
		{&unix.SockaddrVM{CID: 7, Port: 1}, true},
		{&unix.SockaddrVM{CID: 7, Port: 1024}, false}, // anybody in the guest
		{&unix.SockaddrVM{CID: 8, Port: 1023}, false}, // another guest
		{&unix.SockaddrVM{CID: 2, Port: 1023}, false}, // a host of this host
		{&unix.SockaddrVM{CID: 1, Port: 1023}, false}, // a process here
		{&unix.SockaddrUnix{Name: "x"}, false},
		{nil, false},
	} {
		if _, got := admit(c.from); got != c.want {
			t.Errorf("%+v: %v", c.from, got)
		}
	}
}

func TestConnectRefused(t *testing.T) {
	l, path := listenHere(t, nil)
	l.Close() // and leave the path
	if _, err := connect(t.Context(), unixSocket(t), &unix.SockaddrUnix{Name: path}, nil); !errors.Is(err, ErrRefused) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := connect(ctx, unixSocket(t), &unix.SockaddrUnix{Name: path}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestListenKernel needs AF_VSOCK in this kernel, but no guest.
func TestListenKernel(t *testing.T) {
	one, err := ListenKernel(7, 0)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	if p := one.Port(); p < privilegedPorts || p == anyID {
		t.Errorf("port %d", p)
	}
	if got := one.Addr().(Addr); got.CID != HostCID {
		t.Errorf("at %v", got)
	}
	if _, err := ListenKernel(7, one.Port()); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("twice: %v", err)
	}
	two, err := ListenKernel(8, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer two.Close()
	if one.Port() == two.Port() {
		t.Errorf("both at port %d", one.Port())
	}
}

// TestLoopback goes through the kernel where it has vsock_loopback. Without it
// the local context identifier belongs to the host of this host, if it has one.
func TestLoopback(t *testing.T) {
	const loopback = 1 // VMADDR_CID_LOCAL
	if _, err := os.Stat("/sys/module/vsock_loopback"); err != nil {
		t.Skip(err)
	}
	l, err := ListenKernel(loopback, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := DialKernel(ctx, loopback, l.Port()-1); !errors.Is(err, ErrRefused) {
		t.Errorf("where nobody listens: %v", err)
	}
	stranger, err := DialKernel(ctx, loopback, l.Port())
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	root, err := connect(ctx, privilegedSocket(t), &unix.SockaddrVM{CID: loopback, Port: l.Port()}, Addr{loopback, l.Port()})
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if _, err := io.WriteString(root, "READY=1"); err != nil {
		t.Fatal(err)
	}
	if err := root.(*conn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := l.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if a, ok := c.RemoteAddr().(Addr); !ok || a.CID != loopback || a.Port != root.LocalAddr().(Addr).Port || !a.Privileged() {
		t.Errorf("from %v, and it is %v", c.RemoteAddr(), root.LocalAddr())
	}
	if text, err := io.ReadAll(c); err != nil || string(text) != "READY=1" {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := stranger.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the stranger: %v", err)
	}
}

// privilegedSocket is bound to a port of root.
func privilegedSocket(t *testing.T) int {
	t.Helper()
	fd, err := openSocket()
	if err != nil {
		t.Fatal(err)
	}
	for port := uint32(privilegedPorts - 1); port > 0; port-- {
		err = unix.Bind(fd, &unix.SockaddrVM{CID: anyID, Port: port})
		if !errors.Is(err, unix.EADDRINUSE) {
			break
		}
	}
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		unix.Close(fd)
		t.Skip("this is for root")
	}
	if err != nil {
		t.Fatal(err)
	}
	return fd
}
