package httpapi

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// connOf makes a connection of a descriptor, which it closes.
func connOf(fd int) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	return net.FileConn(f)
}

// private returns a directory that is closed to others.
func private(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func listen(t *testing.T, connections int) ([]net.Conn, *os.File) {
	t.Helper()
	ours, theirs, err := Listen(private(t), connections)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAll(ours); theirs.Close() })
	return ours, theirs
}

func TestListen(t *testing.T) {
	// Longer than the address of a socket may be.
	dir := filepath.Join(private(t), strings.Repeat("d", 120))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(dir, socketPrefix+"of-a-crash")
	other := filepath.Join(dir, "other")
	for _, path := range []string{left, other} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ours, theirs, err := Listen(dir, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(ours)
	defer theirs.Close()
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 || names[0].Name() != "other" {
		t.Errorf("the directory has %v, %v", names, err)
	}
	flags, err := unix.FcntlInt(theirs.Fd(), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("every child would inherit the socket: %#x, %v", flags, err)
	}
	if flags, err = unix.FcntlInt(theirs.Fd(), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK != 0 {
		t.Errorf("the socket does not block: %#x, %v", flags, err)
	}
	// All connections are there, in order, before anybody accepts.
	for i, conn := range ours {
		if _, err := conn.Write([]byte{byte(i)}); err != nil {
			t.Error(err)
		}
	}
	for i := range ours {
		fd, _, err := unix.Accept4(int(theirs.Fd()), unix.SOCK_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		var b [2]byte
		if n, err := unix.Read(fd, b[:]); n != 1 || int(b[0]) != i || err != nil {
			t.Errorf("connection %d: %v, %v", i, b[:n], err)
		}
		unix.Close(fd)
	}
}

// A hypervisor that ends before it has accepted is noticed, once nobody has the
// socket any more.
func TestListenerEnds(t *testing.T) {
	ours, theirs := listen(t, 1)
	c := New(ours[0])
	defer c.Close()
	theirs.Close()
	if _, err := c.Do(testContext(t), "GET", "/", nil); !errors.Is(err, ErrPeerGone) {
		t.Error(err)
	}
}

func TestListenRefuses(t *testing.T) {
	open := private(t)
	if err := os.Chmod(open, 0o710); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(private(t), "link")
	if err := os.Symlink(private(t), link); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		dir string
		n   int
	}{{open, 1}, {link, 1}, {filepath.Join(link, "missing"), 1}, {private(t), 0}, {private(t), MaxConnections + 1}} {
		if _, _, err := Listen(tt.dir, tt.n); err == nil {
			t.Errorf("accepted %v", tt)
		}
	}
	if os.Geteuid() == 0 {
		foreign := private(t)
		if err := os.Chown(foreign, 65534, 65534); err != nil {
			t.Fatal(err)
		}
		if _, _, err := Listen(foreign, 1); err == nil {
			t.Error("accepted somebody else's directory")
		}
	}
}

func TestDialPath(t *testing.T) {
	dir := filepath.Join(private(t), strings.Repeat("d", 120))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "api.sock")
	accepted := make(chan error, 1)
	go func() {
		time.Sleep(20 * time.Millisecond) // it is not there at first
		accepted <- listenAndAccept(dir, "api.sock")
	}()
	conn, err := DialPath(testContext(t), path, os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := <-accepted; err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket has still a name: %v", err)
	}
}

// listenAndAccept makes a socket, then listens, as a hypervisor does.
func listenAndAccept(dir, name string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: within(d, name)}); err != nil {
		return err
	}
	time.Sleep(20 * time.Millisecond) // for a moment it refuses
	if err := unix.Listen(fd, 1); err != nil {
		return err
	}
	conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
	if err != nil {
		return err
	}
	return unix.Close(conn)
}

func TestDialPathRefuses(t *testing.T) {
	dir := private(t)
	path := filepath.Join(dir, "api.sock")
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	if _, err := DialPath(ctx, path, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no socket: %v", err)
	}
	if _, err := DialPath(testContext(t), filepath.Join(dir, "missing", "api.sock"), 0); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := DialPath(testContext(t), path, os.Getpid()+1); !errors.Is(err, ErrPeer) {
		t.Errorf("somebody else: %v", err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("somebody else's socket was removed: %v", err)
	}
}
