package run

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/console"
	"github.com/ampoule-vm/ampoule/internal/state"
)

// listenAt makes a socket in a VM's runtime directory, in the place of one that a
// killed predecessor left. Only its owner can connect, from the first moment on.
func listenAt(dir, name string) (*net.UnixListener, error) {
	parent, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(parent)
	if err := unix.Unlinkat(parent, name, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, os.NewSyscallError("unlinkat", err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close() // FileListener has a copy of its own
	// Linux gives the name the mode that the socket has when it is bound.
	if err := unix.Fchmod(fd, 0o600); err != nil {
		return nil, os.NewSyscallError("fchmod", err)
	}
	// An address holds 107 bytes, and a path of ours can be longer.
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", parent, name)}); err != nil {
		return nil, os.NewSyscallError("bind", err)
	}
	if err := unix.Listen(fd, 16); err != nil {
		return nil, os.NewSyscallError("listen", err)
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	return l.(*net.UnixListener), nil
}

// share makes the socket by which others take part in the console. A guest can
// do without; nil then.
func (g *guest) share() *net.UnixListener {
	if !g.Plan.VM.Console || g.dirs.Runtime == "" {
		return nil
	}
	l, err := listenAt(g.dirs.Runtime, state.ConsoleName)
	if err != nil {
		g.warn("%s: ampoule console cannot connect: making its socket in %s: %v", g.Plan.VM.Name, g.dirs.Runtime, err)
		return nil
	}
	g.record.Console = filepath.Join(g.dirs.Runtime, state.ConsoleName)
	return l
}

// unshare removes the socket. Whoever is connected stays so until the guest's
// end.
func (g *guest) unshare() {
	if g.record.Console != "" {
		_ = os.Remove(g.record.Console)
	}
}

// DialConsole connects with the console of a VM that runs. Neither a link nor a
// process of another user than the socket's takes its place: what an operator
// types into a console is for it alone.
func DialConsole(i state.Instance) (*net.UnixConn, error) { return dialOwn(i, state.ConsoleName) }

// dialOwn connects with a socket in a VM's runtime directory that its run serves.
func dialOwn(i state.Instance, name string) (*net.UnixConn, error) {
	s, err := holdSocket(i, name)
	if err != nil {
		return nil, err
	}
	defer s.close()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: s.name(), Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("connecting with %s: %w", s.path, errors.Unwrap(err))
	}
	if err := s.checkPeer(conn); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// heldSocket is a socket in a VM's runtime directory that stays the one that was
// looked at, whatever becomes of its name.
type heldSocket struct {
	path  string
	fd    int
	owner uint32
	// pid is the process that runs the VM, by the kernel's word; 0: not known.
	pid int
}

// holdSocket opens a socket in a VM's runtime directory, and no link in its place.
func holdSocket(i state.Instance, name string) (*heldSocket, error) {
	path := filepath.Join(i.Dir, name)
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		unix.Close(fd)
		return nil, &os.PathError{Op: "open", Path: path, Err: errors.New("this is not a socket")}
	}
	return &heldSocket{path, fd, st.Uid, i.Pid}, nil
}

// name is short, whatever the path is: an address has room for 107 bytes.
func (s *heldSocket) name() string { return fmt.Sprintf("/proc/self/fd/%d", s.fd) }

func (s *heldSocket) close() { unix.Close(s.fd) }

// mappedOwner is whom the files of a directory belong to, seen from outside, that
// systemd maps to the user of a service with DynamicUser= (systemd.exec(5), from 254
// on, where kernel and file system can).
const mappedOwner = 65534

// checkPeer refuses a server that is of another user than the socket, or than the
// process that runs the VM where systemd maps the owner.
func (s *heldSocket) checkPeer(conn net.Conn) error {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return errors.ErrUnsupported
	}
	owner := int(s.owner)
	if owner == mappedOwner && s.pid != 0 {
		var err error
		if owner, err = userOf(s.pid); err != nil {
			return &os.PathError{Op: "open", Path: s.path, Err: err}
		}
	}
	if uid, err := console.PeerUID(u); err != nil || uid != owner {
		return &os.PathError{Op: "open", Path: s.path, Err: errors.New("it is served by another user than its owner")}
	}
	return nil
}

// userOf returns the effective user of a process. The owner of its directory in
// /proc would be root where it may not be dumped.
func userOf(pid int) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if ids, ok := strings.CutPrefix(line, "Uid:"); ok {
			if all := strings.Fields(ids); len(all) == 4 {
				return strconv.Atoi(all[1])
			}
		}
	}
	return 0, fmt.Errorf("the kernel does not say whose process %d is", pid)
}
