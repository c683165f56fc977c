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

// TestLoopback goes through the kernel where it has vsock_loopback.
func TestLoopback(t *testing.T) {
	const loopback = 1 // VMADDR_CID_LOCAL
	l, err := ListenKernel(loopback, 0)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if cid, err := localCID(); err != nil || cid != loopback {
		t.Skipf("no loopback alone: local context identifier %d, %v", cid, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	c, err := DialKernel(ctx, loopback, l.Port())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// It comes from no port of root, so nobody accepts it.
	if err := l.SetDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if _, err := DialKernel(ctx, loopback, l.Port()-1); !errors.Is(err, ErrRefused) {
		t.Errorf("got %v", err)
	}
}

// localCID asks the kernel for its own, so that a test that runs in a guest does
// not knock at its host's door.
func localCID() (int, error) {
	file, err := os.Open("/dev/vsock")
	if err != nil {
		return 0, err
	}
	defer file.Close()
	const getLocalCID = 7<<8 | 0xb9 // IOCTL_VM_SOCKETS_GET_LOCAL_CID of linux/vm_sockets.h
	return unix.IoctlGetInt(int(file.Fd()), getLocalCID)
}
