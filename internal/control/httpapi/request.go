package httpapi

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxPath keeps a request's first line far below the 1024 bytes that the server
// has for a line.
const maxPath = 512

// request is one that is ready to be sent.
type request struct {
	head   []byte // all up to the body
	body   Body   // or nil
	length int    // of the body, as the head says it
	// files go with the head, through passer.
	files  []*os.File
	passer passer
}

// passer is what a socket of AF_UNIX can beside writing.
type passer interface {
	WriteMsgUnix(b, oob []byte, addr *net.UnixAddr) (n, oobn int, err error)
}

// MaxFiles is how many descriptors the kernel passes on with one write
// (SCM_MAX_FD), and the server takes with one read.
const MaxFiles = 253

// newRequest refuses what the server would not understand.
func newRequest(method, path string, body Body) (request, error) {
	switch method {
	case "GET", "PUT", "PATCH", "DELETE": // the methods that the server knows
	default:
		return request{}, errors.New("not a method of the API")
	}
	odd := func(c rune) bool { return c <= ' ' || c > '~' }
	if len(path) > maxPath || !strings.HasPrefix(path, "/") || strings.ContainsFunc(path, odd) {
		return request{}, errors.New("not a path of the API")
	}
	r := request{body: body}
	fields := ""
	switch {
	case body != nil:
		if r.length = body.Len(); r.length <= 0 {
			return request{}, errors.New("the body is empty")
		}
		fields = "Content-Type: application/json\r\nContent-Length: " + strconv.Itoa(r.length) + "\r\n"
	case method == "PUT" || method == "PATCH":
		fields = "Content-Length: 0\r\n"
	}
	r.head = []byte(method + " " + path + " " + version + "\r\nHost: localhost\r\nAccept: application/json\r\n" + fields + "\r\n")
	return r, nil
}

// take adds descriptors to the request.
func (r *request) take(conn net.Conn, files []*os.File) error {
	if len(files) == 0 {
		return nil
	}
	socket, ok := conn.(passer)
	switch {
	case !ok:
		return errors.New("this connection passes no descriptors on")
	case len(files) > MaxFiles:
		return fmt.Errorf("%d descriptors, and at most %d go with a request", len(files), MaxFiles)
	}
	r.files, r.passer = files, socket
	return nil
}

// sendHead writes all up to the body. Descriptors go with its first byte: the server
// keeps them for the request of which it has just read something.
func (r request) sendHead(w io.Writer) error {
	head := r.head
	if len(r.files) > 0 {
		fds := make([]int, len(r.files))
		for i, f := range r.files {
			fds[i] = int(f.Fd())
		}
		n, _, err := r.passer.WriteMsgUnix(head, unix.UnixRights(fds...), nil)
		if err != nil {
			return err
		}
		head = head[n:]
	}
	if len(head) == 0 {
		return nil
	}
	_, err := w.Write(head)
	return err
}

// bodyError is that of a body which did not write what it promised. The peer
// has part of a request then.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return "writing the body: " + e.err.Error() }
func (e *bodyError) Unwrap() error { return e.err }

// send writes the request. The body is not put behind the head in memory: that
// would be a copy of a secret.
func (r request) send(w io.Writer) error {
	if err := r.sendHead(w); err != nil || r.body == nil {
		return err
	}
	out := &exactWriter{w: w, left: r.length}
	_, err := r.body.WriteTo(out)
	switch {
	case out.err != nil:
		return out.err
	case err != nil:
		return &bodyError{err}
	case out.left > 0:
		return &bodyError{errLength}
	}
	return nil
}

// errLength: a body has another length than it said.
var errLength = errors.New("its length is not what it said")

// exactWriter passes on what it is given, without a copy, and never more than
// was promised to the peer.
type exactWriter struct {
	w    io.Writer
	left int
	err  error // of w
}

func (e *exactWriter) Write(p []byte) (int, error) {
	if len(p) > e.left {
		return 0, errLength
	}
	n, err := e.w.Write(p)
	e.left -= n
	e.err = err
	return n, err
}

// quiet returns an error when the peer has gone, or has sent something, while
// no request was on its way: what came could be taken for the reply to the next.
func quiet(conn net.Conn) error {
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return nil // no socket; then the reply's end has to do
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var n int
	var one [1]byte
	var peek error
	err = raw.Control(func(fd uintptr) {
		n, _, peek = unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	})
	switch {
	case err != nil:
		return err
	case errors.Is(peek, unix.EAGAIN) || errors.Is(peek, unix.EINTR):
		return nil
	case peek != nil:
		return peek
	case n == 0:
		return io.EOF
	}
	return fmt.Errorf("%w: nothing was asked", ErrProtocol)
}

// peerGone reports whether err is how a socket says that its peer has closed.
func peerGone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrClosedPipe) ||
		errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET)
}

// describe gives an error of the connection its meaning.
func describe(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err // the addresses in front of it tell nobody anything
	}
	switch {
	case errors.Is(err, ErrProtocol), errors.Is(err, ErrPeerGone):
		return err
	case peerGone(err):
		return fmt.Errorf("%w: %w", ErrPeerGone, err)
	}
	return fmt.Errorf("the connection to the hypervisor's API: %w", err)
}
