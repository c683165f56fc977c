package notify

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// MaxMessage bounds the bytes of a message: what systemd reads of one on its own
// socket (NOTIFY_BUFFER_MAX), so that no sender has more to say.
const MaxMessage = 4096

var (
	errTooLong = errors.New("the message is too long")
	errPieces  = errors.New("the message comes in too many pieces")
	// errQuiet: the sender has said all.
	errQuiet = errors.New("nothing more comes")
)

// limits are what one connection may take. They are variable for tests alone.
type limits struct {
	// first is the time until the first byte. A guest sends as soon as it is
	// connected, but under emulation it may be slow to.
	first time.Duration
	// quiet is the silence after which a message is over although its sender has
	// not closed.
	quiet time.Duration
	// patience is that silence where the text cannot be all of it, and whole the
	// time from the first byte after which there is no more patience.
	patience, whole time.Duration
	// pieces is the most reads. What it bounds is the work, and with the silence
	// the time too.
	pieces int
}

// defaultLimits explains itself by how a message travels. The guest's kernel
// puts one send of up to 64 KiB into one packet, and a hypervisor writes one
// packet with one call; so what can be read is the message, and 200 µs is four
// times what there could be between two calls of a sender that does cut. It is
// also what each message of a guest costs under a hypervisor that does not hand
// on the half-close (firecracker, and cloud-hypervisor before 53), for the
// guest's PID 1 does nothing until we close.
func defaultLimits() limits {
	return limits{
		first:    10 * time.Second,
		quiet:    200 * time.Microsecond,
		patience: 50 * time.Millisecond,
		whole:    250 * time.Millisecond,
		pieces:   32,
	}
}

// read returns the one message of a connection. It ends with the sender's
// half-close, or with silence after its text.
func (l limits) read(c net.Conn) ([]byte, error) {
	buf := make([]byte, MaxMessage+1)
	if err := c.SetReadDeadline(time.Now().Add(l.first)); err != nil {
		return nil, err
	}
	n, err := c.Read(buf)
	switch {
	case n == 0 && errors.Is(err, io.EOF):
		return nil, nil
	case n == 0:
		return nil, err
	}
	end := time.Now().Add(l.whole)
	for pieces := 1; ; pieces++ {
		switch {
		case n > MaxMessage:
			return nil, errTooLong
		case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
			// Reset: the sender has gone, and the text came before that.
			return buf[:n], nil
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			return nil, err
		case pieces > l.pieces:
			return nil, errPieces
		}
		var more int
		if err == nil && unfinished(buf[:n]) {
			more, err = l.readPatiently(c, buf[n:], end)
		} else {
			more, err = l.readSoon(c, buf[n:])
		}
		if errors.Is(err, errQuiet) {
			return buf[:n], nil
		}
		n += more
	}
}

// readPatiently reads what comes. It does not hold a thread meanwhile, and is
// interrupted by closing the connection.
func (l limits) readPatiently(c net.Conn, buf []byte, end time.Time) (int, error) {
	soon := time.Now().Add(l.patience)
	if soon.After(end) {
		soon = end
	}
	if err := c.SetReadDeadline(soon); err != nil {
		return 0, err
	}
	return c.Read(buf)
}

// readSoon reads what comes at once, and is errQuiet when nothing does. On a busy
// host a deadline can pass while there is something to read, and reading would
// not tell: so nothing counts as silence but what the kernel calls so.
func (l limits) readSoon(c net.Conn, buf []byte) (int, error) {
	ready, err := readable(c, l.quiet)
	switch {
	case err != nil:
		return 0, err
	case !ready:
		return 0, errQuiet
	}
	if err := c.SetReadDeadline(time.Now().Add(l.first)); err != nil {
		return 0, err
	}
	return c.Read(buf)
}

// readable waits for a connection to have something to read, its end included,
// or for a listener to have a connection. It asks the kernel itself, since a
// deadline of the runtime's is a whole millisecond late: that is the resolution
// of the clock by which it waits for sockets.
func readable(socket any, wait time.Duration) (bool, error) {
	sc, ok := socket.(syscall.Conn)
	if !ok {
		return false, os.ErrInvalid
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false, err
	}
	var ready bool
	var pollErr error
	if err := raw.Control(func(fd uintptr) { ready, pollErr = poll(int32(fd), wait) }); err != nil {
		return false, err
	}
	return ready, pollErr
}

func poll(fd int32, wait time.Duration) (bool, error) {
	end := time.Now().Add(wait)
	for {
		left := unix.NsecToTimespec(int64(max(0, time.Until(end))))
		fds := []unix.PollFd{{Fd: fd, Events: unix.POLLIN | unix.POLLRDHUP}}
		n, err := unix.Ppoll(fds, &left, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		return n > 0, os.NewSyscallError("ppoll", err)
	}
}
