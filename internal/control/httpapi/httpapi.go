// Package httpapi speaks to a hypervisor whose control is an HTTP server on a
// socket of the file system: Cloud Hypervisor and Firecracker, both with the
// same small server, micro-http.
//
// A [Client] has one connection and one request on it at a time. It knows as
// much of HTTP/1.1 as that server sends and refuses the rest: what is not
// understood to the byte could be the answer to another request. After a
// refusal, and after a request that was given up, the connection is never used
// again, and says why.
//
// A request's body may be a secret. It goes from where it lies to the socket
// without a copy in between, and nothing of it, nor of a reply, which can quote
// it, is ever in an error. Package net/http can promise neither.
//
// [Listen] and [DialPath] come to such a connection so that nobody else can.
//
// What does not belong here: paths of requests, what a body says, what a status
// means, starting the hypervisor.
//
// The package is for Linux only.
package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Errors for which a caller may want to test with errors.Is. A reply that did
// not come in time is none of them: that is the error of the context.
var (
	// ErrClosed: Close was called.
	ErrClosed = errors.New("the connection to the hypervisor's API is closed")
	// ErrPeerGone: the hypervisor has closed its end, usually by ending.
	ErrPeerGone = errors.New("the hypervisor has closed the connection to its API")
	// ErrProtocol: the peer sent what is not the reply to a request.
	ErrProtocol = errors.New("malformed reply of the hypervisor's API")
	// ErrAbandoned: an earlier request was given up before it was over, so that
	// its reply could be taken for that to a later one.
	ErrAbandoned = errors.New("an earlier request to the hypervisor's API was given up")
	// ErrTooLong: the body is longer than MaxRequest; nothing was sent.
	ErrTooLong = errors.New("the body is longer than the hypervisor's API accepts")
)

// DefaultMaxRequest is the longest body that the server accepts unless it was
// told otherwise. The bytes of a longer one it takes for further requests, and
// refuses each with an error that quotes it.
const DefaultMaxRequest = 51200

// Body is what a request carries, JSON always. A bytes.Reader is one; a secret
// is one that writes itself in one call.
type Body interface {
	// Len returns the number of bytes that WriteTo writes.
	Len() int
	// WriteTo writes all of them. The writer it gets makes no copy.
	WriteTo(w io.Writer) (int64, error)
}

// Reply is the answer to a request. A refusal is one too.
type Reply struct {
	// Status is the code, 200 to 999.
	Status int
	// Body is nil where there is none.
	Body []byte
}

// String and GoString leave out the body, which can quote a secret.
func (r Reply) String() string {
	return fmt.Sprintf("status %d with %d bytes", r.Status, len(r.Body))
}

// Wipe zeroes the body, which can have a secret in it, and gives up the lock on
// its memory. Nothing of the body may be used after it.
func (r Reply) Wipe() {
	if len(r.Body) > 0 {
		clear(r.Body)
		_ = unix.Munlock(r.Body) // which may not have been locked
	}
}

// GoString is String, for %#v.
func (r Reply) GoString() string { return r.String() }

// Client is one connection. Its methods may be called by several goroutines.
type Client struct {
	// MaxRequest is the longest body that is sent. It is for whoever has called
	// New to change, before the first request.
	MaxRequest int

	conn net.Conn
	turn chan struct{} // room for the one request that is on its way
	in   replyReader   // belongs to whoever has the turn

	mu  sync.Mutex
	err error // why no request is possible any more; the first reason counts
}

// New makes a client of a connection, which it owns from now on. Nothing is
// sent: the peer need not even have accepted the connection.
func New(conn net.Conn) *Client {
	return &Client{MaxRequest: DefaultMaxRequest, conn: conn, turn: make(chan struct{}, 1), in: replyReader{src: conn}}
}

// Err returns nil while requests are possible, and then the first reason why
// they are not: ErrClosed, ErrPeerGone, ErrProtocol, ErrAbandoned or an error
// of the socket, wrapped.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends the connection, and a request on its way with it. It may be called
// more than once.
func (c *Client) Close() error {
	c.fail(ErrClosed)
	return nil
}

// fail gives the connection up.
func (c *Client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
		c.conn.Close()
	}
}

// Do sends a request and waits for its reply, whatever its status. Without a
// body, body is nil; one that is empty is refused, because a secret that was
// wiped too early is.
//
// When ctx ends first, its error is returned, and the hypervisor may or may not
// carry the request out. Any other error is one of Err, except for what is
// wrong with the request itself, such as ErrTooLong.
func (c *Client) Do(ctx context.Context, method, path string, body Body) (Reply, error) {
	return c.DoWith(ctx, method, path, body, nil)
}

// DoWith is Do for a request with which descriptors go to the hypervisor, at most
// [MaxFiles]: it gets copies, and the files stay the caller's. The connection has to
// be one of AF_UNIX.
func (c *Client) DoWith(ctx context.Context, method, path string, body Body, files []*os.File) (Reply, error) {
	reply, err := c.do(ctx, method, path, body, files)
	if err != nil {
		return Reply{}, fmt.Errorf("%s %s: %w", method, path, err)
	}
	return reply, nil
}

func (c *Client) do(ctx context.Context, method, path string, body Body, files []*os.File) (Reply, error) {
	request, err := newRequest(method, path, body)
	if err != nil {
		return Reply{}, err
	}
	if err := request.take(c.conn, files); err != nil {
		return Reply{}, err
	}
	if request.length > c.MaxRequest {
		return Reply{}, fmt.Errorf("%w: %d bytes, not %d", ErrTooLong, request.length, c.MaxRequest)
	}
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return Reply{}, ctx.Err()
	}
	defer func() { <-c.turn }()
	// A request that was not begun leaves the connection as it is.
	if err := ctx.Err(); err != nil {
		return Reply{}, err
	}
	if err := c.Err(); err != nil {
		return Reply{}, err
	}
	defer c.bound(ctx)()
	defer c.in.forget()

	got, err := c.exchange(request)
	if err != nil {
		return Reply{}, c.ended(ctx, err)
	}
	if got.after != nil {
		c.fail(describe(got.after))
	}
	return got.Reply, nil
}

// bound makes reads and writes of the connection end with ctx until the
// function that it returns is called.
func (c *Client) bound(ctx context.Context) (release func()) {
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		_ = c.conn.SetDeadline(time.Unix(1, 0)) // long ago; an error is that it is closed
	})
	return func() {
		if !stop() {
			<-done // or it would end the next request
		}
		_ = c.conn.SetDeadline(time.Time{})
	}
}

// exchange sends a request and reads the reply to it.
func (c *Client) exchange(r request) (received, error) {
	if err := quiet(c.conn); err != nil {
		return received{}, err
	}
	sendErr := r.send(c.conn)
	if sendErr != nil && !peerGone(sendErr) {
		return received{}, sendErr
	}
	// A server that is full answers before it has read anything, and hangs up.
	got, err := c.in.reply()
	if got.after == nil {
		got.after = sendErr
	}
	return got, err
}

// ended gives the connection up for an error, and returns what the caller of
// the request is told.
func (c *Client) ended(ctx context.Context, err error) error {
	var own *bodyError
	switch late := ctx.Err(); {
	case errors.As(err, &own):
		c.fail(ErrAbandoned)
		return err
	case late != nil && errors.Is(err, os.ErrDeadlineExceeded):
		c.fail(ErrAbandoned)
		return late
	}
	err = describe(err)
	c.fail(err)
	if first := c.Err(); errors.Is(first, ErrClosed) {
		return first
	}
	return err
}
