package httpapi

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"

	"golang.org/x/sys/unix"
)

// Limits of a reply. The server sends heads of a few hundred bytes, and its
// longest body describes the VM.
const (
	MaxBody    = 1 << 20
	maxHead    = 16 << 10
	maxFields  = 64
	maxInterim = 4 // replies such as "100 Continue" before the one that counts
)

// version begins every reply.
const version = "HTTP/1.1"

// malformed says what is wrong without repeating what was received.
func malformed(what string) error { return fmt.Errorf("%w: %s", ErrProtocol, what) }

// replyReader reads replies. Its buffer is its own so that it can be zeroed.
type replyReader struct {
	src io.Reader
	buf [maxHead]byte
	n   int // bytes in buf
}

// forget zeroes what was received.
func (r *replyReader) forget() {
	clear(r.buf[:])
	r.n = 0
}

// received is a reply that was read whole.
type received struct {
	Reply
	after error // why none can follow it, or nil
}

// reply reads the next reply.
func (r *replyReader) reply() (received, error) {
	for range maxInterim + 1 {
		h, err := r.head()
		if err != nil {
			return received{}, err
		}
		if h.status < 200 {
			continue
		}
		body, err := r.body(h.length)
		if err != nil {
			return received{}, err
		}
		return received{Reply{h.status, body}, r.after(h, body)}, nil
	}
	return received{}, malformed("too many interim replies")
}

// after returns why nothing can follow a reply, or nil.
func (r *replyReader) after(h head, body []byte) error {
	switch {
	case r.n > 0:
		return malformed("more than was asked for")
	case h.close:
		return ErrPeerGone
	case h.status == 400 && bytes.Contains(body, []byte("unanswered requests will be dropped")):
		// The server could not read the request, has lost its place in it, and
		// takes what is left for another.
		return malformed("the server has lost its place")
	}
	return nil
}

// head reads up to the empty line and no further than one read goes.
func (r *replyReader) head() (head, error) {
	seen := 0
	for {
		end, err := headEnd(r.buf[:r.n], seen)
		if err != nil {
			return head{}, err
		}
		if end > 0 {
			h, err := parseHead(r.buf[:end])
			r.n = copy(r.buf[:], r.buf[end:r.n])
			return h, err
		}
		seen = r.n
		if r.n == len(r.buf) {
			return head{}, malformed("the head is too long")
		}
		n, err := r.src.Read(r.buf[r.n:])
		r.n += n
		if n > 0 {
			continue // the error will come again
		}
		switch {
		case errors.Is(err, io.EOF) && r.n > 0:
			return head{}, io.ErrUnexpectedEOF
		case err != nil:
			return head{}, err
		}
	}
}

// headEnd returns where a head ends, behind the empty line, or 0. What cannot
// become a head is refused at once and not waited for. The first seen bytes
// were looked at before.
func headEnd(b []byte, seen int) (int, error) {
	if n := min(len(b), len(version)); string(b[:n]) != version[:n] {
		return 0, malformed("not HTTP/1.1")
	}
	for i := seen; i < len(b); i++ {
		switch {
		case b[i] != '\n':
		case b[i-1] != '\r': // not the first byte, which is that of version
			return 0, malformed("a line without its end")
		case bytes.HasSuffix(b[:i-1], []byte("\r\n")):
			return i + 1, nil
		}
	}
	return 0, nil
}

// body reads a body of that length.
func (r *replyReader) body(length int) ([]byte, error) {
	if length == 0 {
		return nil, nil
	}
	body := make([]byte, length)
	// It can quote a secret: it is kept from swap where the kernel lets us.
	_ = unix.Mlock(body)
	n := copy(body, r.buf[:r.n])
	r.n = copy(r.buf[:], r.buf[n:r.n])
	if _, err := io.ReadFull(r.src, body[n:]); err != nil {
		clear(body)
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return body, nil
}

// head is what matters of a reply's head.
type head struct {
	status int
	length int // of the body
	close  bool
}

// parseHead reads a head with all its line ends.
func parseHead(b []byte) (head, error) {
	line, rest, _ := bytes.Cut(b, []byte("\r\n"))
	h, err := parseStatus(line)
	if err != nil {
		return head{}, err
	}
	lengths := 0
	for fields := 0; ; fields++ {
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		if len(line) == 0 {
			break
		}
		if fields == maxFields {
			return head{}, malformed("too many header fields")
		}
		name, value, err := parseField(line)
		if err != nil {
			return head{}, err
		}
		switch name {
		case "content-length":
			lengths++
			if h.length, err = parseLength(value); err != nil {
				return head{}, err
			}
		case "transfer-encoding":
			return head{}, malformed("a transfer encoding")
		case "connection":
			h.close = h.close || hasClose(value)
		}
	}
	switch {
	case lengths > 1:
		return head{}, malformed("two lengths")
	case h.length > 0 && (h.status < 200 || h.status == 204):
		return head{}, malformed("a body where none may be")
	}
	return h, nil
}

// parseStatus reads "HTTP/1.1 200 reason". The server has no reasons, and in
// one reply not even the space before it.
func parseStatus(line []byte) (head, error) {
	rest, ok := bytes.CutPrefix(line, []byte(version+" "))
	if !ok || len(rest) < 3 || len(rest) > 3 && rest[3] != ' ' || !isText(rest) {
		return head{}, malformed("the status line")
	}
	for _, c := range rest[:3] {
		if c < '0' || c > '9' {
			return head{}, malformed("the status")
		}
	}
	status, err := strconv.Atoi(string(rest[:3]))
	if err != nil || status < 100 || status == 101 {
		return head{}, malformed("the status")
	}
	return head{status: status}, nil
}

// parseField reads "Name: value". The name comes in small letters.
func parseField(line []byte) (name string, value []byte, err error) {
	before, after, ok := bytes.Cut(line, []byte(":"))
	if !ok || len(before) == 0 || !isText(after) {
		return "", nil, malformed("a header field")
	}
	for _, c := range before {
		if !isNameByte(c) {
			return "", nil, malformed("the name of a header field")
		}
	}
	return string(bytes.ToLower(before)), bytes.Trim(after, " \t"), nil
}

// isNameByte is stricter than HTTP, which has some punctuation too.
func isNameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

// isText reports whether there is nothing but printable ASCII and tabs.
func isText(b []byte) bool {
	for _, c := range b {
		if c != '\t' && (c < ' ' || c > '~') {
			return false
		}
	}
	return true
}

// parseLength takes digits alone, not all that strconv would.
func parseLength(value []byte) (int, error) {
	if len(value) == 0 || len(value) > len("1048576") {
		return 0, malformed("the length of the body")
	}
	n := 0
	for _, c := range value {
		if c < '0' || c > '9' {
			return 0, malformed("the length of the body")
		}
		n = 10*n + int(c-'0')
	}
	if n > MaxBody {
		return 0, malformed("the body is too long")
	}
	return n, nil
}

// hasClose reports whether a list of connection options has "close".
func hasClose(value []byte) bool {
	for option := range bytes.SplitSeq(value, []byte(",")) {
		if bytes.EqualFold(bytes.Trim(option, " \t"), []byte("close")) {
			return true
		}
	}
	return false
}
