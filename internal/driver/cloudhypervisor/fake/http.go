package fake

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

const (
	lineLimit       = 1024  // of a line, and of what is read at once
	bodyLimit       = 51200 // what micro_http takes unless it is told otherwise
	connectionLimit = 10
	descriptorLimit = 253 // SCM_MAX_FD
)

// request is what came in. A body is there only if it has a length.
type request struct {
	method, path string
	body         []byte
	files        []*os.File // that came over the socket with it
}

type response struct {
	status int
	body   []byte
	server string
}

func answer(status int, body []byte) response { return response{status, body, "Cloud Hypervisor API"} }

// bytes writes a response the way of micro_http: no reason behind the status, and
// no Content-Length where there cannot be a body.
func (r response) bytes() []byte {
	out := bytes.Buffer{}
	fmt.Fprintf(&out, "HTTP/1.1 %d \r\nServer: %s\r\nConnection: keep-alive\r\n", r.status, r.server)
	if r.status != 204 && r.status != 100 {
		fmt.Fprintf(&out, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(r.body))
	}
	out.WriteString("\r\n")
	out.Write(r.body)
	return out.Bytes()
}

// refuse is the answer of the HTTP layer itself. It is not JSON, for there is a
// newline in the string.
func refuse(words string) response {
	return response{400, []byte(`{ "error": "` + words + "\nAll previous unanswered requests will be dropped.\" }"), "Firecracker API"}
}

// httpState is what a connection waits for.
type httpState int

const (
	requestLine httpState = iota
	headerLine
	bodyBytes
)

// mistake is one in a request, in the words of micro_http.
type mistake string

func (m mistake) Error() string { return string(m) }

// parser takes apart what comes over one connection. After a mistake it goes on
// where it was: what follows is read as if the mistake had not been there. A body
// that is too long is therefore read as header lines, and quoted in refusals.
type parser struct {
	state   httpState
	pending []byte
	current request
	length  int
	proceed bool // 100-continue is asked for
	files   []*os.File
}

// feed takes the bytes of one read. Requests before a mistake in it are dropped.
func (p *parser) feed(data []byte) (requests []request, proceed bool, err error) {
	kept := len(p.pending)
	p.pending = append(p.pending, data...)
	for {
		done, wait, err := p.step()
		if err != nil {
			p.pending = p.pending[:min(kept, len(p.pending))]
			return nil, false, err
		}
		if done {
			p.current.files, p.files = p.files, nil
			requests = append(requests, p.current)
			p.current, p.length = request{}, 0
		}
		if p.proceed {
			p.proceed, proceed = false, true
		}
		if wait {
			return requests, proceed, nil
		}
	}
}

// step takes one line, or the body. It says whether a request is complete, and
// whether more bytes are needed.
func (p *parser) step() (done, wait bool, err error) {
	if p.state == bodyBytes {
		if len(p.pending) < p.length-len(p.current.body) {
			p.current.body = append(p.current.body, p.pending...)
			p.pending = nil
			return false, true, nil
		}
		n := p.length - len(p.current.body)
		p.current.body = append(p.current.body, p.pending[:n]...)
		p.pending, p.state = p.pending[n:], requestLine
		return true, false, nil
	}
	end := bytes.Index(p.pending, []byte("\r\n"))
	if end < 0 && len(p.pending) >= lineLimit {
		if p.state == requestLine {
			return false, false, mistake("Invalid request.")
		}
		return false, false, mistake("Invalid header. Reason: Invalid content length. Header: " + strings.ToValidUTF8(string(p.pending[:lineLimit]), "\ufffd"))
	}
	if end < 0 {
		return false, true, nil
	}
	line := p.pending[:end]
	if p.state == requestLine {
		p.pending, p.state = p.pending[end+2:], headerLine
		return false, false, p.start(line)
	}
	if end > 0 {
		if err := p.header(line); err != nil {
			return false, false, err
		}
		p.pending = p.pending[end+2:]
		return false, false, nil
	}
	if p.length > bodyLimit {
		return false, false, mistake(fmt.Sprintf("Request payload with size %d is larger than the limit of %d allowed by server.", p.length, bodyLimit))
	}
	p.pending = p.pending[2:]
	if p.length == 0 {
		p.state = requestLine
		return true, false, nil
	}
	p.state = bodyBytes
	return false, false, nil
}

// start takes the request line. A wrong one still leads to the headers.
func (p *parser) start(line []byte) error {
	method, rest, ok := bytes.Cut(line, []byte(" "))
	uri, version, ok2 := bytes.Cut(rest, []byte(" "))
	if !ok || !ok2 {
		p.state = requestLine
		return mistake("Invalid request.")
	}
	problem := ""
	switch {
	case !oneOf(string(method), "GET", "PUT", "PATCH"):
		problem = "Invalid HTTP Method: Unsupported HTTP method."
	case len(uri) == 0:
		problem = "Invalid URI: Empty URI not allowed."
	case !utf8.Valid(uri):
		problem = "Invalid URI: Cannot parse URI as UTF-8."
	case !oneOf(string(version), "HTTP/1.0", "HTTP/1.1"):
		problem = "Invalid HTTP Version: Unsupported HTTP version."
	}
	if problem != "" {
		p.state = requestLine
		return mistake(problem)
	}
	p.current = request{method: string(method), path: absolutePath(string(uri))}
	p.length = 0
	return nil
}

// absolutePath is what the routes are looked up by. A query belongs to it.
func absolutePath(uri string) string {
	if rest, ok := strings.CutPrefix(uri, "http://"); ok {
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			return rest[i:]
		}
		return ""
	}
	if strings.HasPrefix(uri, "/") {
		return uri
	}
	return ""
}

func (p *parser) header(line []byte) error {
	if !utf8.Valid(line) {
		return mistake("Invalid header. Reason: Header contains invalid characters. Key: invalid utf-8 sequence")
	}
	name, value, ok := strings.Cut(string(line), ":")
	if !ok {
		return mistake("Invalid header. Reason: Header is incorrectly formatted. Key: " + name)
	}
	switch strings.ToLower(strings.TrimSpace(name)) {
	case "content-length":
		n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 32)
		if err != nil {
			return mistake(fmt.Sprintf("Invalid header. Reason: Invalid value. Key:%s; Value:%s", name, value))
		}
		p.length = int(n)
	case "expect":
		p.proceed = strings.TrimSpace(value) == "100-continue"
	case "accept-encoding":
		if strings.TrimSpace(value) == "" {
			return mistake("Invalid request.")
		}
		for v := range strings.SplitSeq(value, ",") {
			if v = strings.TrimSpace(v); v == "identity;q=0" || v == "*;q=0" && !strings.Contains(value, "identity") {
				return mistake(fmt.Sprintf("Invalid header. Reason: Invalid value. Key:Accept-Encoding; Value:%s", v))
			}
		}
	}
	return nil
}

func oneOf(s string, all ...string) bool {
	for _, one := range all {
		if s == one {
			return true
		}
	}
	return false
}

// serve answers connections until the listener is closed.
func (v *vmm) serve(listener net.Listener) {
	open := make(chan struct{}, connectionLimit)
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		select {
		case open <- struct{}{}:
			go func() {
				defer func() { conn.Close(); <-open }()
				v.converse(conn)
			}()
		default:
			_, _ = conn.Write([]byte("HTTP/1.1 503\r\nServer: Firecracker API\r\nConnection: close\r\n" +
				"Content-Length: 40\r\n\r\n{ \"error\": \"Too many open connections\" }"))
			conn.Close()
		}
	}
}

// receive reads bytes, and the descriptors that come with them. They belong to
// the first request that is complete from there on, whatever it is.
func (p *parser) receive(conn net.Conn, buf []byte) (int, error) {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return conn.Read(buf)
	}
	oob := make([]byte, unix.CmsgSpace(4*descriptorLimit))
	n, m, _, _, err := socket.ReadMsgUnix(buf, oob)
	if err != nil {
		return n, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:m])
	if err != nil {
		return n, err
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			p.files = append(p.files, os.NewFile(uintptr(fd), "received"))
		}
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// converse answers what comes over one connection, in order.
func (v *vmm) converse(conn net.Conn) {
	p := parser{}
	buf := make([]byte, lineLimit)
	defer func() { closeAll(p.files) }()
	for {
		n, err := p.receive(conn, buf[:lineLimit-len(p.pending)])
		if err != nil {
			return
		}
		requests, proceed, err := p.feed(buf[:n])
		if err != nil {
			if _, err := conn.Write(refuse(err.Error()).bytes()); err != nil {
				return
			}
			continue
		}
		if proceed {
			_, _ = conn.Write(response{status: 100, server: "Firecracker API"}.bytes())
		}
		for _, r := range requests {
			ok := v.reply(conn, r)
			closeAll(r.files)
			if !ok {
				return
			}
		}
	}
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
