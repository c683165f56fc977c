package fake

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// The HTTP server, by micro_http at the commit that Cargo.lock names: it reads
// at most 1024 bytes at a time, keeps connections alive, knows no chunks, and
// drops a client that closes its sending half, even one that waits for an
// answer.

const (
	bufferSize     = 1024
	maxConnections = 10
	serverFull     = "HTTP/1.1 503\r\nServer: Firecracker API\r\nConnection: close\r\nContent-Length: 40\r\n\r\n{ \"error\": \"Too many open connections\" }"
)

// listenUnix binds a socket that stays where it is when the program ends.
func listenUnix(path string) (*net.UnixListener, error) {
	if len(path) > 107 {
		return nil, errors.New("path must be shorter than SUN_LEN")
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	return l, nil
}

type server struct {
	p        *process
	listener *net.UnixListener
	open     atomic.Int32
}

func (s *server) accept() {
	for {
		conn, err := s.listener.AcceptUnix()
		if err != nil {
			return
		}
		if s.open.Load() == maxConnections {
			_, _ = conn.Write([]byte(serverFull))
			_ = conn.Close()
			continue
		}
		s.open.Add(1)
		go func() {
			defer s.open.Add(-1)
			defer conn.Close()
			(&connection{p: s.p, conn: conn}).serve()
		}()
	}
}

type state int

const (
	wantLine state = iota
	wantHeaders
	wantBody
)

// request is one that was read to its end. No body and an empty one are the
// same: nil.
type request struct {
	method, uri, version string
	length               int
	expect               bool
	body                 []byte
}

type connection struct {
	p    *process
	conn *net.UnixConn

	buf    [bufferSize]byte
	cursor int // bytes that were kept from the last time
	state  state
	req    *request
	body   []byte
	left   int // bytes of the body that are still to come

	ready []*request
	out   []byte
}

// errGone: the client has closed.
var errGone = errors.New("connection closed")

func (c *connection) serve() {
	for {
		n, err := c.read()
		if err != nil {
			return
		}
		c.ready, c.out = nil, nil
		if err := c.parse(c.cursor + n); err != nil {
			c.ready = nil
			body := fmt.Sprintf("{ \"error\": \"%v\nAll previous unanswered requests will be dropped.\" }", err)
			c.out = append(c.out, response{status: 400, body: body}.bytes()...)
		}
		if _, err := c.conn.Write(c.out); len(c.out) > 0 && err != nil {
			return
		}
		for _, r := range c.ready {
			if !c.answer(r) {
				return
			}
		}
	}
}

// answer handles one request; false: the connection is over.
func (c *connection) answer(r *request) bool {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	began := time.Now()
	var b []byte
	t := c.p.setup.at(r.method + " " + r.uri)
	if t != nil {
		time.Sleep(t.Wait)
	}
	switch {
	case t != nil && t.Do == doDie:
		c.p.end(outcome{t.Code, true})
		return false
	case t != nil && t.Do == doClose:
		return false
	case t != nil && t.Do == doGarbage:
		b = []byte("\x00\xffSSH-2.0-garbage\r\n\r\n{")
	case t != nil && t.Do == doQuote:
		quoted := &jsonError{text: "invalid type: string " + strconv.Quote(string(r.body)) + ", expected u8", line: 1, column: len(r.body)}
		b = fault(serdeFault(quoted)).bytes()
	default:
		b = c.p.handle(r).bytes()
	}
	c.p.setup.record(r, b)
	c.p.log.say(levelDebug, inAPI, "Total previous API call duration: %d us.", time.Since(began).Microseconds())
	_, err := c.conn.Write(b)
	return err == nil
}

// read appends to what is kept. A client that has closed, or only its half, is
// gone without looking at what it sent.
func (c *connection) read() (n int, err error) {
	if c.cursor >= bufferSize {
		return 0, errGone
	}
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	waited := raw.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLRDHUP}}
		ready, perr := unix.Poll(poll, 0)
		switch {
		case errors.Is(perr, unix.EINTR) || perr == nil && ready == 0:
			return false
		case perr != nil || poll[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0:
			err = errGone
		default:
			n, err = unix.Read(int(fd), c.buf[c.cursor:])
		}
		return true
	})
	if err == nil {
		err = waited
	}
	if err == nil && n <= 0 {
		err = errGone
	}
	return n, err
}

// parse takes what lies in buf[:end].
func (c *connection) parse(end int) error {
	start := 0
	for {
		more, err := true, error(nil)
		switch c.state {
		case wantLine:
			more, err = c.line(&start, end)
		case wantHeaders:
			more, err = c.header(&start, end)
		case wantBody:
			more, err = c.content(&start, end)
		}
		if err != nil || !more {
			return err
		}
	}
}

// keep moves the rest to the front.
func (c *connection) keep(start, end int) {
	copy(c.buf[:], c.buf[start:end])
	c.cursor = end - start
}

var errInvalidRequest = words("Invalid request.")

func (c *connection) line(start *int, end int) (bool, error) {
	at := bytes.Index(c.buf[*start:end], []byte("\r\n"))
	if at < 0 {
		if end == bufferSize && *start == 0 {
			return false, errInvalidRequest
		}
		c.keep(*start, end)
		return false, nil
	}
	line := string(c.buf[*start : *start+at])
	*start += at + 2
	parts := strings.SplitN(line, " ", 3)
	if len(parts) < 3 {
		return false, errInvalidRequest
	}
	switch parts[0] {
	case "GET", "PUT", "PATCH", "DELETE":
	default:
		return false, words("Invalid HTTP Method: Unsupported HTTP method.")
	}
	if parts[1] == "" {
		return false, words("Invalid URI: Empty URI not allowed.")
	}
	if !utf8.ValidString(parts[1]) {
		return false, words("Invalid URI: Cannot parse URI as UTF-8.")
	}
	if parts[2] != "HTTP/1.1" && parts[2] != "HTTP/1.0" {
		return false, words("Invalid HTTP Version: Unsupported HTTP version.")
	}
	c.req = &request{method: parts[0], uri: parts[1], version: parts[2]}
	c.state = wantHeaders
	return true, nil
}

func (c *connection) header(start *int, end int) (bool, error) {
	at := bytes.Index(c.buf[*start:end], []byte("\r\n"))
	switch {
	case at < 0:
		if end == bufferSize && *start == 0 {
			return false, wordsf("Invalid header. Reason: Invalid content length. Header: %s", strings.ToValidUTF8(string(c.buf[:]), "\ufffd"))
		}
		c.keep(*start, end)
		return false, nil
	case at > 0:
		line := string(c.buf[*start : *start+at])
		if err := c.req.header(line); err != nil {
			return false, wordsf("Invalid header. Reason: %v", err)
		}
		*start += at + 2
		return true, nil
	}
	if c.req.length == 0 {
		*start += 2
		c.finish()
		return true, nil
	}
	if c.req.length > c.p.limit {
		return false, wordsf("Request payload with size %d is larger than the limit of %d allowed by server.", c.req.length, c.p.limit)
	}
	if c.req.expect {
		c.out = append(c.out, c.req.version+" 100 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n"...)
	}
	*start += 2
	c.left, c.state = c.req.length, wantBody
	return true, nil
}

// header takes one line. Names nobody knows and values nobody supports are
// passed over.
func (r *request) header(line string) error {
	if !utf8.ValidString(line) {
		return words("Header contains invalid characters.")
	}
	name, value, ok := strings.Cut(line, ":")
	if !ok {
		return wordsf("Header is incorrectly formatted. Key: %s", name)
	}
	trimmed := strings.TrimSpace(value)
	switch strings.TrimSpace(strings.ToLower(name)) {
	case "content-length":
		n, err := strconv.ParseUint(strings.TrimPrefix(trimmed, "+"), 10, 32)
		if err != nil {
			return wordsf("Invalid value. Key:%s; Value:%s", name, value)
		}
		r.length = int(n)
	case "expect":
		r.expect = r.expect || trimmed == "100-continue"
	case "accept-encoding":
		if trimmed == "" {
			return errInvalidRequest
		}
		for _, e := range strings.Split(trimmed, ",") {
			if e = strings.TrimSpace(e); e == "identity;q=0" || e == "*;q=0" && !strings.Contains(trimmed, "identity") {
				return wordsf("Invalid value. Key:Accept-Encoding; Value:%s", e)
			}
		}
	}
	return nil
}

func (c *connection) content(start *int, end int) (bool, error) {
	if c.left > end-*start {
		c.body = append(c.body, c.buf[*start:end]...)
		c.left -= end - *start
		c.cursor = 0
		return false, nil
	}
	c.body = append(c.body, c.buf[*start:*start+c.left]...)
	*start += c.left
	c.left = 0
	rest := c.body[c.req.length:]
	c.req.body, c.body = c.body[:c.req.length:c.req.length], nil
	if len(rest) > 0 {
		return false, errInvalidRequest
	}
	c.finish()
	return true, nil
}

func (c *connection) finish() {
	c.ready = append(c.ready, c.req)
	c.req, c.state, c.left = nil, wantLine, 0
}

// response is an answer. Those without a body have no length either.
type response struct {
	status     int
	body       string
	deprecated bool
}

func (r response) bytes() []byte {
	b := fmt.Appendf(nil, "HTTP/1.1 %d \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n", r.status)
	if r.deprecated {
		b = append(b, "Deprecation: true\r\n"...)
	}
	if r.status != 204 {
		b = fmt.Appendf(b, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(r.body))
	}
	return append(append(b, "\r\n"...), r.body...)
}

// path is the absolute path of the URI, or "".
func (r *request) path() string {
	rest, scheme := strings.CutPrefix(r.uri, "http://")
	if scheme {
		at := strings.IndexByte(rest, '/')
		if at < 0 {
			return ""
		}
		return rest[at:]
	}
	if strings.HasPrefix(r.uri, "/") {
		return r.uri
	}
	return ""
}
