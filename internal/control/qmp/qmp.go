// Package qmp speaks QEMU's machine protocol: JSON messages, one a line, over a
// connected socket whose other end the hypervisor has inherited.
//
// A [Client] may be used by any number of goroutines at once. It reads all the
// time, so that neither a slow consumer of events nor a command nobody waits
// for any more holds up the hypervisor. Events are never lost silently: they
// queue up to [MaxQueuedEvents], and a consumer that is further behind finds
// the connection failed with [ErrTooManyEvents].
//
// What does not belong here: which commands stop a machine and in which order,
// what an event means for the unit, starting QEMU. No secret may be a command's
// argument: QEMU repeats arguments in its error texts.
package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// MaxMessage is the longest message accepted, in bytes. QEMU's longest answer,
// that to query-qmp-schema, has about 300 KiB.
const MaxMessage = 4 << 20

// MaxQueuedEvents and MaxQueuedBytes bound the events that nobody has read yet.
const (
	MaxQueuedEvents = 1 << 16
	MaxQueuedBytes  = 32 << 20
)

// Errors for which a caller may want to test with errors.Is.
var (
	// ErrClosed: Close was called.
	ErrClosed = errors.New("the QMP connection is closed")
	// ErrPeerGone: the hypervisor has closed its end, usually by ending.
	ErrPeerGone = errors.New("the hypervisor has closed the QMP connection")
	// ErrTooManyEvents: nobody reads Events.
	ErrTooManyEvents = errors.New("too many QMP events that nobody reads")
	// ErrProtocol: the peer sent what is not QMP.
	ErrProtocol = errors.New("malformed QMP message")
)

// Error is a command that the hypervisor refused.
type Error struct {
	Command string
	Class   string // "GenericError", "CommandNotFound", "DeviceNotFound", …
	Desc    string // QEMU's own words
}

// Error returns the command with QEMU's own words.
func (e *Error) Error() string {
	return fmt.Sprintf("QMP command %s: %s", e.Command, e.Desc)
}

// Version is that of the hypervisor, from its greeting.
type Version struct {
	Major, Minor, Micro int
	// Package is the distributor's addition, such as " (Debian 1:7.2+dfsg-7)".
	Package string
}

// String returns MAJOR.MINOR.MICRO.
func (v Version) String() string {
	return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Micro)
}

// AtLeast reports whether the version is major.minor or newer.
func (v Version) AtLeast(major, minor int) bool {
	return v.Major > major || v.Major == major && v.Minor >= minor
}

// Client is one connection after the handshake.
type Client struct {
	conn    net.Conn
	version Version
	out     chan *call // to the writer
	events  *eventQueue

	stop       chan struct{} // closed when the connection is being given up
	stopOnce   sync.Once
	done       chan struct{} // closed when the reader has ended, after stop
	writerDone chan struct{}

	mu      sync.Mutex
	lastID  uint64
	pending map[uint64]*call // sent or about to be, answer outstanding
	err     error            // why the connection ended; the first reason counts
}

// call is a command on its way. Nobody may wait for it any more: its place in
// pending is kept all the same, because the answer will come.
type call struct {
	id      uint64
	command string
	line    []byte
	reply   chan reply // room for one
}

// answer never blocks; only the first answer counts.
func (c *call) answer(r reply) {
	select {
	case c.reply <- r:
	default:
	}
}

type reply struct {
	result json.RawMessage
	err    error
}

// New performs the handshake: it reads the greeting and negotiates without any
// optional capability. It owns conn from now on, and has closed it when it
// returns an error. Call Close in the end in any case.
func New(ctx context.Context, conn net.Conn) (*Client, error) {
	c := &Client{
		conn:       conn,
		out:        make(chan *call),
		events:     newEventQueue(),
		stop:       make(chan struct{}),
		done:       make(chan struct{}),
		writerDone: make(chan struct{}),
		pending:    make(map[uint64]*call),
	}
	greeting := make(chan Version, 1)
	go c.read(greeting)
	go c.write()
	if err := c.negotiate(ctx, greeting); err != nil {
		c.Close()
		return nil, fmt.Errorf("QMP handshake: %w", err)
	}
	return c, nil
}

func (c *Client) negotiate(ctx context.Context, greeting <-chan Version) error {
	select {
	case c.version = <-greeting:
	case <-c.done:
		return c.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
	return c.Execute(ctx, "qmp_capabilities", nil, nil)
}

// Version returns the hypervisor's version.
func (c *Client) Version() Version { return c.version }

// Done is closed when the connection has ended, however that came about; Err
// then says why. Events that were received before can still be read.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err returns nil while the connection stands, and then the first reason why
// it does not: ErrClosed, ErrPeerGone, ErrTooManyEvents, ErrProtocol or an
// error of the socket, wrapped.
func (c *Client) Err() error {
	select {
	case <-c.done:
	default:
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Events returns the channel of all events in the order of their arrival. It
// is closed after the last one when the connection has ended.
func (c *Client) Events() <-chan Event { return c.events.out }

// Close ends the connection and drops events that were not read. It waits until
// nothing of the client runs any more. It may be called more than once.
func (c *Client) Close() error {
	c.fail(ErrClosed)
	<-c.done
	<-c.writerDone
	c.events.abandon()
	return nil
}

// fail gives the connection up. The reader notices and clears away.
func (c *Client) fail(err error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	c.mu.Unlock()
	c.stopOnce.Do(func() {
		close(c.stop)
		c.conn.Close()
	})
}

// Execute runs a command and waits for its answer. Args becomes the arguments
// object and may be nil; the answer is decoded into result unless that is nil.
//
// A refusal is an *Error. When ctx ends first, its error is returned and the
// hypervisor may or may not carry out the command. When the connection ends
// first, the error is that of Err.
func (c *Client) Execute(ctx context.Context, command string, args, result any) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("QMP command %s: %w", command, err)
	}
	call, err := c.newCall(command, args)
	if err != nil {
		return err
	}
	select {
	case c.out <- call:
	case <-c.stop:
		<-c.done
		return c.gone(call)
	case <-ctx.Done():
		// Not even handed to the writer: no answer will come.
		c.forget(call)
		return fmt.Errorf("QMP command %s: %w", command, ctx.Err())
	}
	select {
	case r := <-call.reply:
		return decodeReply(command, r, result)
	case <-c.done:
	case <-ctx.Done():
	}
	// An answer that came at the same moment counts: "quit" is answered right
	// before the connection ends.
	select {
	case r := <-call.reply:
		return decodeReply(command, r, result)
	default:
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("QMP command %s: %w", command, err)
	}
	return c.gone(call)
}

func (c *Client) gone(call *call) error {
	return fmt.Errorf("QMP command %s: %w", call.command, c.Err())
}

func decodeReply(command string, r reply, result any) error {
	if r.err != nil {
		return r.err
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(r.result, result); err != nil {
		return fmt.Errorf("QMP command %s: decoding the answer: %w", command, err)
	}
	return nil
}

// newCall encodes a command and registers it, so that its answer is expected
// before it can possibly arrive.
func (c *Client) newCall(command string, args any) (*call, error) {
	c.mu.Lock()
	c.lastID++
	call := &call{id: c.lastID, command: command, reply: make(chan reply, 1)}
	c.pending[call.id] = call
	c.mu.Unlock()

	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        uint64 `json:"id"`
	}{command, args, call.id})
	if err != nil {
		c.forget(call)
		return nil, fmt.Errorf("QMP command %s: encoding the arguments: %w", command, err)
	}
	call.line = append(line, '\n')
	return call, nil
}

func (c *Client) forget(call *call) {
	c.mu.Lock()
	delete(c.pending, call.id)
	c.mu.Unlock()
}

// write sends commands one after the other. Each is sent whole even when its
// caller has lost patience: half a message would be the end of the connection.
func (c *Client) write() {
	defer close(c.writerDone)
	for {
		select {
		case call := <-c.out:
			_, err := c.conn.Write(call.line)
			switch {
			case err == nil:
			case peerGone(err):
				// What the peer sent before it went, its last event above all,
				// is still to be read: ending is the reader's business.
				c.forget(call)
				call.answer(reply{err: fmt.Errorf("QMP command %s: %w", call.command, ErrPeerGone)})
			default:
				c.fail(fmt.Errorf("writing to the QMP connection: %w", err))
				return
			}
		case <-c.stop:
			return
		}
	}
}

// read dispatches messages until the connection ends.
func (c *Client) read(greeting chan<- Version) {
	r := bufio.NewReaderSize(c.conn, 64<<10)
	err := c.dispatchAll(r, greeting)
	c.fail(err)
	c.events.end()
	close(c.done)
}

func (c *Client) dispatchAll(r *bufio.Reader, greeting chan<- Version) error {
	greeted := false
	for {
		m, err := readMessage(r, MaxMessage)
		if err != nil {
			return err
		}
		if !greeted {
			if m.kind != kindGreeting {
				return fmt.Errorf("%w: the first message is no greeting", ErrProtocol)
			}
			greeted = true
			greeting <- m.version
			continue
		}
		if err := c.dispatch(m); err != nil {
			return err
		}
	}
}

func (c *Client) dispatch(m message) error {
	switch m.kind {
	case kindEvent:
		return c.events.put(m.event, m.size)
	case kindReturn, kindError:
		c.mu.Lock()
		call := c.pending[m.id]
		delete(c.pending, m.id)
		c.mu.Unlock()
		if call == nil {
			return fmt.Errorf("%w: an answer to no command", ErrProtocol)
		}
		r := reply{result: m.result}
		if m.kind == kindError {
			r = reply{err: &Error{Command: call.command, Class: m.class, Desc: m.desc}}
		}
		call.answer(r)
		return nil
	default:
		return fmt.Errorf("%w: a second greeting", ErrProtocol)
	}
}

// peerGone reports whether err is how a socket says that its peer has closed.
func peerGone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe) ||
		errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

// Pair returns the two ends of a new connection: ours, and the one for the
// hypervisor to inherit. Both are marked close-on-exec. The caller closes
// theirs once the hypervisor is started, or its end will not be noticed.
func Pair() (ours net.Conn, theirs *os.File, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	near := os.NewFile(uintptr(fds[0]), "qmp")
	theirs = os.NewFile(uintptr(fds[1]), "qmp-hypervisor")
	defer near.Close() // FileConn has a copy of its own
	ours, err = net.FileConn(near)
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("making a connection of a socket: %w", err)
	}
	return ours, theirs, nil
}
