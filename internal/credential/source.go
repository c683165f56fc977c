package credential

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/credential/rule"
	"github.com/ampoule-vm/ampoule/internal/secret"
)

// source is an opened file, FIFO, socket or directory. It is opened without
// any effect first (O_PATH), so that what is looked at is what is read.
type source struct {
	path string
	fd   int
	stat unix.Stat_t
}

// openSource opens a path, following symbolic links.
func openSource(path string) (*source, error) { return openSourceAt(unix.AT_FDCWD, path, path, 0) }

func openSourceAt(dir int, name, path string, flags int) (*source, error) {
	fail := func(err error) error { return &fs.PathError{Op: "open", Path: path, Err: err} }
	fd, err := retry(func() (int, error) {
		return unix.Openat(dir, name, unix.O_PATH|unix.O_CLOEXEC|flags, 0)
	})
	if err != nil {
		return nil, fail(err)
	}
	s := &source{path: path, fd: fd}
	if err := unix.Fstat(fd, &s.stat); err != nil {
		s.close()
		return nil, fail(err)
	}
	return s, nil
}

// retry repeats a system call that a signal interrupted.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

func (s *source) close() { _ = unix.Close(s.fd) }

func (s *source) format() uint32  { return s.stat.Mode & unix.S_IFMT }
func (s *source) regular() bool   { return s.format() == unix.S_IFREG }
func (s *source) directory() bool { return s.format() == unix.S_IFDIR }

// othersRead reports whether group or others may read the file.
func (s *source) othersRead() bool { return s.regular() && s.stat.Mode&0o044 != 0 }

// kind returns what the source is, with its article.
func (s *source) kind() string {
	switch s.format() {
	case unix.S_IFREG:
		return "a file"
	case unix.S_IFDIR:
		return "a directory"
	case unix.S_IFIFO:
		return "a FIFO"
	case unix.S_IFSOCK:
		return "a socket"
	case unix.S_IFLNK:
		return "a symbolic link"
	default:
		return "a device"
	}
}

// String returns kind and path: "file /x".
func (s *source) String() string {
	return strings.TrimPrefix(s.kind(), "a ") + " " + s.path
}

// wrongKindError is for a source of a kind that cannot be read there.
type wrongKindError struct{ is, accepted string }

func (e *wrongKindError) Error() string { return "it is " + e.is }

func (s *source) wrongKind(accepted string) error { return &wrongKindError{s.kind(), accepted} }

// self names the opened file itself, whatever its path leads to by now.
func (s *source) self() string { return "/proc/self/fd/" + strconv.Itoa(s.fd) }

// read reads the source to its end. unit and id are what a socket is told.
func (s *source) read(ctx context.Context, timeout time.Duration, limit int, unit, id string) (*secret.Value, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var v *secret.Value
	var err error
	switch s.format() {
	case unix.S_IFREG:
		return s.readFile(limit)
	case unix.S_IFIFO:
		v, err = s.readFIFO(ctx, limit)
	case unix.S_IFSOCK:
		v, err = s.readSocket(ctx, limit, unit, id)
	default:
		err = s.wrongKind("a source is a file, a directory, a FIFO or an AF_UNIX stream socket")
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%s gave no end of data within %s", s, timeout)
	}
	return v, err
}

func (s *source) readFile(limit int) (*secret.Value, error) {
	f, err := os.OpenFile(s.self(), os.O_RDONLY, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: s.path, Err: cause(err)}
	}
	defer f.Close()
	return secret.ReadFrom(f, limit)
}

// readFIFO waits for a writer and for its end.
func (s *source) readFIFO(ctx context.Context, limit int) (*secret.Value, error) {
	fd, err := retry(func() (int, error) {
		return unix.Open(s.self(), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: s.path, Err: err}
	}
	defer unix.Close(fd)
	return readPolled(ctx, fd, limit)
}

// maxPeerName is what a socket address holds of an abstract name.
const maxPeerName = 107

// readSocket connects and reads what it is sent. As systemd does, it first
// binds an abstract name by which the other side learns who is asking for
// what: RANDOM/unit/UNIT/ID.
func (s *source) readSocket(ctx context.Context, limit int, unit, id string) (*secret.Value, error) {
	fail := func(op string, err error) error { return &fs.PathError{Op: op, Path: s.path, Err: err} }
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fail("socket", err)
	}
	defer unix.Close(fd)
	if unit != "" {
		var random [8]byte
		_, _ = rand.Read(random[:]) // never fails
		name := hex.EncodeToString(random[:]) + "/unit/" + unit + "/" + id
		if len(name) > maxPeerName {
			return nil, fmt.Errorf("%s cannot be told who is asking: %q with a random part has %d bytes, a socket's name has at most %d",
				s, "/unit/"+unit+"/"+id, len(name), maxPeerName)
		}
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: "@" + name}); err != nil {
			return nil, fail("bind", err)
		}
	}
	if err := connect(ctx, fd, s.self()); err != nil {
		return nil, fail("connect", err)
	}
	if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
		return nil, fail("shutdown", err)
	}
	return readPolled(ctx, fd, limit)
}

// connect waits while the listener's queue is full.
func connect(ctx context.Context, fd int, path string) error {
	for {
		_, err := retry(func() (int, error) { return 0, unix.Connect(fd, &unix.SockaddrUnix{Name: path}) })
		if !errors.Is(err, unix.EAGAIN) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// walk calls f for each file and socket below a directory, in the order of the
// names, with the ID that its path gives: prefix_SUB_FILE. As in systemd,
// hidden entries, symbolic links and everything else are passed over. f
// returns false to end the walk.
func (s *source) walk(prefix string, f func(id string, s *source) bool) error {
	_, err := s.walkBelow(prefix, f)
	return err
}

func (s *source) walkBelow(prefix string, f func(string, *source) bool) (more bool, err error) {
	dir, err := os.OpenFile(s.self(), os.O_RDONLY, 0)
	if err != nil {
		return false, &fs.PathError{Op: "open", Path: s.path, Err: cause(err)}
	}
	names, err := dir.Readdirnames(-1)
	_ = dir.Close()
	if err != nil {
		return false, &fs.PathError{Op: "list", Path: s.path, Err: cause(err)}
	}
	slices.Sort(names)
	for _, name := range names {
		if strings.HasPrefix(name, ".") {
			continue
		}
		more, err := s.visit(name, prefix+"_"+name, f)
		if err != nil || !more {
			return false, err
		}
	}
	return true, nil
}

func (s *source) visit(name, id string, f func(string, *source) bool) (more bool, err error) {
	child, err := openSourceAt(s.fd, name, filepath.Join(s.path, name), unix.O_NOFOLLOW)
	if errors.Is(err, os.ErrNotExist) {
		return true, nil // gone since it was listed
	}
	if err != nil {
		return false, err
	}
	defer child.close()
	switch child.format() {
	case unix.S_IFREG, unix.S_IFSOCK:
		return f(id, child), nil
	case unix.S_IFDIR:
		if len(id) > rule.MaxName {
			return false, fmt.Errorf("%s is too deep: its files would get names of more than %d bytes", child, rule.MaxName)
		}
		return child.walkBelow(id, f)
	default:
		return true, nil
	}
}

// cause returns what is below the path of an error.
func cause(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}

// describe puts the error of opening or reading a source into words: what is
// wrong, and what helps.
func describe(err error, path string) (what, accepted string) {
	if wrong, ok := errors.AsType[*wrongKindError](err); ok {
		return path + " is " + wrong.is, wrong.accepted
	}
	at := path
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		at, err = p.Path, p.Err
	}
	number, isErrno := errors.AsType[unix.Errno](err)
	switch {
	case !isErrno:
		return err.Error(), ""
	case number == unix.ENOENT:
		return at + " does not exist", "create it before the start"
	case number == unix.EACCES || number == unix.EPERM:
		mode := ""
		if st, err := os.Stat(at); err == nil {
			if sys, ok := st.Sys().(*syscall.Stat_t); ok {
				mode = fmt.Sprintf(" (mode %#o, owner uid %d)", sys.Mode&0o7777, sys.Uid)
			}
		}
		return fmt.Sprintf("uid %d may not open %s%s: %s (%s)", os.Geteuid(), at, mode, number.Error(), unix.ErrnoName(number)),
			"run as root, or start the unit with systemctl, so that systemd reads it as root"
	case number == unix.ECONNREFUSED:
		return "nobody listens on socket " + at, "start the service behind it first"
	case number == unix.EPROTOTYPE:
		return at + " is no stream socket", "a source is a file, a directory, a FIFO or an AF_UNIX stream socket"
	default:
		return fmt.Sprintf("%s cannot be read: %s (%s)", at, number.Error(), unix.ErrnoName(number)), ""
	}
}
