package vsock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxPath is what sun_path of linux/un.h has room for, with its final zero.
	maxPath = 108 - 1
	// backlog is how many connections wait for an accept. A multiplexer blocks
	// when there are more, and its guest with it.
	backlog = 128
	// maxAnswer bounds the line that a multiplexer answers with.
	maxAnswer = 32
)

// MuxPath returns where a multiplexer at socketPath connects to when the guest
// connects to a port of the host.
func MuxPath(socketPath string, port uint32) string {
	return socketPath + "_" + strconv.FormatUint(uint64(port), 10)
}

// CheckMuxPath is an error wrapping ErrPathTooLong when a socket for the port
// would not fit, or ErrNotAbsolute.
func CheckMuxPath(socketPath string, port uint32) error {
	return checkPath(MuxPath(socketPath, port))
}

func checkPath(path string) error {
	if !strings.HasPrefix(path, "/") {
		return fmt.Errorf("%w: %s", ErrNotAbsolute, path)
	}
	if len(path) > maxPath {
		return fmt.Errorf("%w: %s has %d bytes, and %d are the most", ErrPathTooLong, path, len(path), maxPath)
	}
	return nil
}

// ListenMux listens where a multiplexer at socketPath connects to for the port.
// The socket is its owner's alone and is removed by Close. One that a process
// left behind is replaced. It has to listen before the guest boots: to a guest,
// a port where nobody listens is refused, and it does not try again.
func ListenMux(socketPath string, port uint32) (net.Listener, error) {
	path := MuxPath(socketPath, port)
	l, err := listenUnix(path)
	if err != nil {
		return nil, fmt.Errorf("listening for port %d of the guest: %w", port, err)
	}
	return l, nil
}

func listenUnix(path string) (net.Listener, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	file := os.NewFile(uintptr(fd), path)
	defer file.Close() // the listener has a copy of its own
	// The mode of the socket itself becomes that of the file: there is no moment
	// in which others could connect.
	if err := unix.Fchmod(fd, 0o600); err != nil {
		return nil, os.NewSyscallError("fchmod", err)
	}
	if err := bindUnix(fd, path); err != nil {
		return nil, err
	}
	l, err := startListening(fd, file)
	if err != nil {
		os.Remove(path)
		return nil, err
	}
	return l, nil
}

func startListening(fd int, file *os.File) (net.Listener, error) {
	if err := unix.Listen(fd, backlog); err != nil {
		return nil, os.NewSyscallError("listen", err)
	}
	l, err := net.FileListener(file)
	if err != nil {
		return nil, fmt.Errorf("making a listener of a socket: %w", err)
	}
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(true)
	}
	return l, nil
}

// bindUnix gives a socket its path, once more after one that was left behind is
// removed.
func bindUnix(fd int, path string) error {
	address := &unix.SockaddrUnix{Name: path}
	err := unix.Bind(fd, address)
	if errors.Is(err, unix.EADDRINUSE) {
		if err := removeLeftBehind(path); err != nil {
			return err
		}
		err = unix.Bind(fd, address)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, os.NewSyscallError("bind", err))
	}
	return nil
}

func removeLeftBehind(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s: %w", path, fs.ErrExist)
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%s: %w", path, ErrInUse)
	}
	return os.Remove(path)
}

// DialMux connects to a port of the guest through the multiplexer at socketPath.
// The connection is that of the guest's program from its first byte on. The error
// wraps ErrRefused when nothing in the guest listens there. A guest that has not
// come to its driver yet does not answer at all, so ctx had better end.
func DialMux(ctx context.Context, socketPath string, port uint32) (net.Conn, error) {
	c, err := dialMux(ctx, socketPath, port)
	if err != nil {
		return nil, fmt.Errorf("connecting to port %d of the guest: %w", port, err)
	}
	return c, nil
}

func dialMux(ctx context.Context, socketPath string, port uint32) (net.Conn, error) {
	if err := checkPath(socketPath); err != nil {
		return nil, err
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socketPath)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	err = askMux(c, port)
	if !stop() && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// askMux asks for a port in one write: a multiplexer that gets the line in two
// pieces may give up after the first, and one that never gets its end may hang.
func askMux(c net.Conn, port uint32) error {
	if _, err := fmt.Fprintf(c, "CONNECT %d\n", port); err != nil {
		return refusal(err)
	}
	line, err := readLine(c)
	if err != nil {
		return err
	}
	// The number is the port of the host's end, which nobody needs.
	number, ok := strings.CutPrefix(line, "OK ")
	if _, err := strconv.ParseUint(number, 10, 32); !ok || err != nil {
		return fmt.Errorf("%w: %q", ErrProtocol, line)
	}
	return nil
}

// readLine reads a line and not one byte more: what follows may be the guest's
// first words.
func readLine(c net.Conn) (string, error) {
	var line []byte
	one := make([]byte, 1)
	for len(line) < maxAnswer {
		if _, err := io.ReadFull(c, one); err != nil {
			return "", refusal(err)
		}
		if one[0] == '\n' {
			return string(line), nil
		}
		line = append(line, one[0])
	}
	return "", fmt.Errorf("%w: %q", ErrProtocol, line)
}

// refusal recognizes how a multiplexer says no: it hangs up.
func refusal(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return ErrRefused
	}
	return err
}
