package console

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// ScrollBack is how much of the guest's output a new client gets first, in
	// bytes.
	ScrollBack = 64 << 10
	// clientLimit is how many bytes wait for a client that does not keep up,
	// beside what the kernel holds for it.
	clientLimit = 256 << 10
	// maxClients is how many there are at once: each may cost clientLimit.
	maxClients = 32
)

// share lets clients of a socket take part in a console: each gets the guest's
// latest output and then all of it, and what each says goes to the guest. No
// client holds up the guest, the operator, or another client: one that does
// not keep up is sent away.
//
// Without clients the output is only kept: nothing wakes up for it.
type share struct {
	listener *net.UnixListener
	guest    io.Writer
	group    sync.WaitGroup

	mu      sync.Mutex
	ring    ring
	clients map[*client]bool
	closed  bool
}

// newShare serves the clients that connect to listener until close.
func newShare(listener *net.UnixListener, guest io.Writer) *share {
	s := &share{listener: listener, guest: guest, clients: map[*client]bool{}}
	s.group.Go(s.accept)
	return s
}

func (s *share) accept() {
	for {
		conn, err := s.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of descriptors, most likely: the console itself goes on.
			time.Sleep(time.Second)
			continue
		}
		if !allowed(conn) || !s.admit(conn) {
			conn.Close()
		}
	}
}

// allowed reports whether the client is root's or of our own user. The socket's
// mode says the same, and can be changed by whoever owns it.
func allowed(conn *net.UnixConn) bool {
	uid, err := PeerUID(conn)
	return err == nil && (uid == 0 || uid == os.Geteuid())
}

// PeerUID returns the user of the process at the other end, as it was when that
// connected or began to listen.
func PeerUID(conn *net.UnixConn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return -1, err
	}
	if credErr != nil {
		return -1, os.NewSyscallError("getsockopt", credErr)
	}
	return int(cred.Uid), nil
}

// admit adds a client: what it gets first and what it gets then join without a
// gap.
func (s *share) admit(conn *net.UnixConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.clients {
		if c.gone() {
			delete(s.clients, c)
		}
	}
	if s.closed || len(s.clients) >= maxClients {
		return false
	}
	c := &client{conn: conn, wake: make(chan struct{}, 1)}
	c.push(s.ring.bytes())
	s.clients[c] = true
	s.group.Go(c.write)
	s.group.Go(func() { c.read(s.guest) })
	return true
}

// take is the guest's output.
func (s *share) take(p []byte) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ring.write(p)
	for c := range s.clients {
		if !c.push(p) {
			delete(s.clients, c)
		}
	}
}

// close ends the service. Clients that keep up get what is left. Only where the
// guest's side does not hold up those who write to it, they are waited for.
func (s *share) close(wait bool) {
	if s == nil {
		return
	}
	_ = s.listener.Close()
	s.mu.Lock()
	s.closed = true
	for c := range s.clients {
		c.finish()
	}
	s.ring.wipe()
	s.mu.Unlock()
	if wait {
		s.group.Wait()
	}
}

// client is one of a share.
type client struct {
	conn *net.UnixConn
	wake chan struct{} // room for one

	mu      sync.Mutex
	pending []byte
	over    bool // nothing is added to pending
}

// push queues a copy of p; false when the client is gone or is sent away now.
func (c *client) push(p []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return false
	}
	if len(c.pending)+len(p) > clientLimit {
		c.end()
		c.pending = nil
		c.conn.Close()
		return false
	}
	c.pending = append(c.pending, p...)
	c.signal()
	return true
}

// end is for whoever holds mu.
func (c *client) end() {
	c.over = true
	c.signal()
}

func (c *client) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// finish lets the client have what is pending, if it takes it soon, and then
// ends it.
func (c *client) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.conn.SetWriteDeadline(time.Now().Add(drainTime))
	c.end()
}

// drop ends a client at once.
func (c *client) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end()
	c.pending = nil
	c.conn.Close()
}

// gone reports whether the client has ended, and ends it here too: one that
// listens in silence is not heard when it goes.
func (c *client) gone() bool {
	c.mu.Lock()
	over := c.over
	c.mu.Unlock()
	if over || hungUp(c.conn) {
		c.drop()
		return true
	}
	return false
}

// hungUp reports whether the other side has closed the connection, and not only
// said that it has nothing more to say.
func hungUp(conn *net.UnixConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return true
	}
	hup := true
	_ = raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd)}}
		_, err := unix.Poll(fds, 0)
		hup = err == nil && fds[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
	})
	return hup
}

// read passes on to the guest what the client says, at the guest's pace. A guest
// that takes nothing more has perhaps something left to say.
func (c *client) read(guest io.Writer) {
	buf := make([]byte, inputChunk)
	deaf := false
	for {
		n, err := c.conn.Read(buf)
		if n > 0 && !deaf {
			_, writeErr := guest.Write(buf[:n])
			deaf = writeErr != nil
		}
		if err == nil {
			continue
		}
		if !errors.Is(err, io.EOF) || hungUp(c.conn) {
			c.drop()
		}
		return
	}
}

// write passes what is pending on, until there will be nothing more.
func (c *client) write() {
	defer c.drop()
	for range c.wake {
		c.mu.Lock()
		p, over := c.pending, c.over
		c.pending = nil
		c.mu.Unlock()
		if len(p) > 0 {
			if _, err := c.conn.Write(p); err != nil {
				return
			}
		}
		if over {
			return
		}
	}
}

// ring holds the latest bytes, at most ScrollBack. It takes no more memory than
// it was given to hold.
type ring struct {
	buf   []byte
	start int // of the oldest byte, once buf is full
}

func (r *ring) write(p []byte) {
	if len(p) > ScrollBack {
		p = p[len(p)-ScrollBack:]
	}
	if room := ScrollBack - len(r.buf); room > 0 {
		n := min(room, len(p))
		r.buf = append(r.buf, p[:n]...)
		p = p[n:]
	}
	for len(p) > 0 {
		n := copy(r.buf[r.start:], p)
		r.start = (r.start + n) % ScrollBack
		p = p[n:]
	}
}

// bytes returns a copy, the oldest first.
func (r *ring) bytes() []byte {
	return append(append(make([]byte, 0, len(r.buf)), r.buf[r.start:]...), r.buf[:r.start]...)
}

// wipe forgets all: a guest may have said what is nobody else's business.
func (r *ring) wipe() {
	clear(r.buf)
	*r = ring{}
}
