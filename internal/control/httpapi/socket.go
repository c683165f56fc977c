package httpapi

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// MaxConnections is how many the server accepts.
const MaxConnections = 10

// ErrPeer: another process than the hypervisor listens on the path of its API.
var ErrPeer = errors.New("not the hypervisor's socket")

// socketPrefix begins the names of sockets that exist for a moment only.
const socketPrefix = ".api-"

// retry is how long DialPath waits for a socket before it looks again.
const retry = 5 * time.Millisecond

// Listen returns a listening socket for the hypervisor to inherit, and our ends
// of connections that already wait in it to be accepted. Its name is gone when
// Listen returns, so that nobody can ever make another.
//
// The directory has to be the caller's and closed to others. What a crash has
// left there of an earlier Listen is removed: the directory is for one caller
// at a time. The caller closes theirs once the hypervisor is started, or its
// end will not be noticed.
func Listen(dir string, connections int) (ours []net.Conn, theirs *os.File, err error) {
	if connections < 1 || connections > MaxConnections {
		return nil, nil, fmt.Errorf("a socket for the hypervisor's API with %d connections", connections)
	}
	d, err := openPrivate(dir)
	if err != nil {
		return nil, nil, err
	}
	defer d.Close()
	if err := removeLeftovers(d); err != nil {
		return nil, nil, err
	}
	name := socketPrefix + rand.Text()
	theirs, err = listenAt(d, name, connections)
	if err != nil {
		return nil, nil, fmt.Errorf("a socket for the hypervisor's API in %s: %w", dir, err)
	}
	ours, err = connectAll(d, name, connections)
	err = errors.Join(err, remove(d, name))
	if err != nil {
		theirs.Close()
		closeAll(ours)
		return nil, nil, fmt.Errorf("a connection to the hypervisor's API in %s: %w", dir, err)
	}
	return ours, theirs, nil
}

// openPrivate opens a directory in which nobody else can look up a name.
func openPrivate(dir string) (*os.File, error) {
	d, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(d.Fd()), &st); err != nil {
		d.Close()
		return nil, &os.PathError{Op: "fstat", Path: dir, Err: err}
	}
	if st.Mode&0o077 != 0 || st.Uid != uint32(os.Geteuid()) {
		d.Close()
		return nil, fmt.Errorf("%s is not private: mode %#o, owner %d", dir, st.Mode&0o777, st.Uid)
	}
	return d, nil
}

func removeLeftovers(d *os.File) error {
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasPrefix(name, socketPrefix) {
			if err := remove(d, name); err != nil {
				return fmt.Errorf("a socket left in %s: %w", d.Name(), err)
			}
		}
	}
	return nil
}

func remove(d *os.File, name string) error {
	if err := unix.Unlinkat(int(d.Fd()), name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return os.NewSyscallError("unlinkat", err)
	}
	return nil
}

// within names what is in an open directory. The address of a socket has room
// for 107 bytes, and the path of a directory can be longer.
func within(d *os.File, name string) string {
	return "/proc/self/fd/" + strconv.Itoa(int(d.Fd())) + "/" + name
}

// listenAt makes a listening socket. It blocks, as one does that the server has
// made itself.
func listenAt(d *os.File, name string, backlog int) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "api-hypervisor")
	// The file gets the mode of the socket, whatever the umask.
	if err = unix.Fchmod(fd, 0o600); err != nil {
		err = os.NewSyscallError("fchmod", err)
	} else if err = unix.Bind(fd, &unix.SockaddrUnix{Name: within(d, name)}); err != nil {
		err = os.NewSyscallError("bind", err)
	} else if err = unix.Listen(fd, backlog); err != nil {
		err = errors.Join(os.NewSyscallError("listen", err), remove(d, name))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func connectAll(d *os.File, name string, n int) ([]net.Conn, error) {
	var conns []net.Conn
	for range n {
		conn, err := net.Dial("unix", within(d, name))
		if err != nil {
			return conns, describe(err)
		}
		conns = append(conns, conn)
	}
	return conns, nil
}

func closeAll(conns []net.Conn) {
	for _, conn := range conns {
		conn.Close()
	}
}

// DialPath connects to a socket that a hypervisor makes itself, as soon as it
// has, and removes its name: for a server that cannot inherit one. Where pid is
// not 0, the process that listens has to be that one, or the error is
// [ErrPeer].
//
// A socket that an earlier hypervisor has left looks like one that is about to
// listen: the caller removes it before the start. Nor does DialPath notice that
// the hypervisor has ended; then the caller ends ctx.
func DialPath(ctx context.Context, name string, pid int) (net.Conn, error) {
	conn, err := dialPath(ctx, name, pid)
	if err != nil {
		return nil, fmt.Errorf("the hypervisor's API at %s: %w", name, err)
	}
	return conn, nil
}

func dialPath(ctx context.Context, name string, pid int) (net.Conn, error) {
	d, err := os.OpenFile(path.Dir(name), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	conn, err := dialRetry(ctx, within(d, path.Base(name)))
	if err != nil {
		return nil, err
	}
	if err = checkPeer(conn, pid); err == nil {
		err = remove(d, path.Base(name))
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// dialRetry connects when the socket is there and listens.
func dialRetry(ctx context.Context, address string) (net.Conn, error) {
	tick := time.NewTicker(retry)
	defer tick.Stop()
	for {
		var dialer net.Dialer
		conn, err := dialer.DialContext(ctx, "unix", address)
		switch {
		case err == nil:
			return conn, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.EAGAIN):
			return nil, describe(err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// checkPeer looks at who began to listen on the socket that conn leads to.
func checkPeer(conn net.Conn, pid int) error {
	if pid == 0 {
		return nil
	}
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return ErrPeer
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		peer, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, credErr); err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	if int(peer.Pid) != pid {
		return fmt.Errorf("%w: process %d listens, not %d", ErrPeer, peer.Pid, pid)
	}
	return nil
}
