package privileged

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/diag"
)

// ProblemsName is the name of a file that holds, in the place of all others, why
// the host could not be prepared for the VM.
const ProblemsName = "ampoule.problems"

// Store has the service manager keep open files until the service has stopped,
// and hand them to its main process at each start (sd_notify(3), FDSTORE=1). It
// replaces those of the same names, and why an earlier start could not be prepared,
// and returns when the manager has them.
// Socket is $NOTIFY_SOCKET.
func Store(socket string, files []*os.File) error {
	s, err := openNotify(socket)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.remove(append([]string{ProblemsName}, fileNames(files)...)); err != nil {
		return err
	}
	for _, f := range files {
		// Without FDPOLL=0 it would drop one whose other end is closed.
		if err := s.send("FDSTORE=1\nFDPOLL=0\nFDNAME="+f.Name(), f); err != nil {
			return err
		}
	}
	return s.barrier()
}

// Unstore has it give up those of these names.
func Unstore(socket string, names []string) error {
	s, err := openNotify(socket)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.remove(names); err != nil {
		return err
	}
	return s.barrier()
}

func fileNames(files []*os.File) []string {
	names := make([]string, len(files))
	for i, f := range files {
		names[i] = f.Name()
	}
	return names
}

// notifySocket is the one on which the service manager hears its services.
type notifySocket struct {
	fd      int
	address *unix.SockaddrUnix
}

func openNotify(path string) (*notifySocket, error) {
	if path == "" {
		return nil, errors.New("no service manager hears this: $NOTIFY_SOCKET is not set")
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	return &notifySocket{fd, &unix.SockaddrUnix{Name: path}}, nil // an @ in front is the kernel's NUL
}

// remove has the manager give up files, each name once.
func (s *notifySocket) remove(names []string) error {
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			continue
		}
		if err := s.send("FDSTOREREMOVE=1\nFDNAME=" + name); err != nil {
			return err
		}
	}
	return nil
}

func (s *notifySocket) close() { unix.Close(s.fd) }

func (s *notifySocket) send(message string, files ...*os.File) error {
	var rights []byte
	for _, f := range files {
		rights = append(rights, unix.UnixRights(int(f.Fd()))...)
	}
	for {
		err := unix.Sendmsg(s.fd, []byte(message), rights, s.address, 0)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("telling the service manager: %w", os.NewSyscallError("sendmsg", err))
		}
	}
}

// barrierTime is how long a busy service manager may take.
const barrierTime = 30 * time.Second

// barrier returns when everything that was sent has been read: the manager then
// closes the pipe that it is given (sd_notify_barrier(3)).
func (s *notifySocket) barrier() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	err = s.send("BARRIER=1", w)
	w.Close()
	if err != nil {
		return err
	}
	if err := r.SetReadDeadline(time.Now().Add(barrierTime)); err != nil {
		return err
	}
	if _, err := r.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("the service manager has not taken the files of the VM in %s", barrierTime)
	}
	return nil
}

// ProblemsFile holds what keeps the VM from starting, for the process that is to
// say so.
func ProblemsFile(problems diag.List) (*os.File, error) {
	fd, err := unix.MemfdCreate(ProblemsName, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), ProblemsName)
	text, err := json.Marshal(problems)
	if err == nil {
		_, err = f.WriteAt(text, 0)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
