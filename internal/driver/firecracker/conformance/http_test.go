package conformance

import (
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestHTTP: what goes over the wire below the requests. Each row is sent to a
// fresh program and compared with all that it answers until nothing more comes.
func TestHTTP(t *testing.T) {
	t.Parallel()
	const (
		head     = `HTTP/1\.1 200 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\nContent-Type: application/json\r\nContent-Length: 32\r\n\r\n\{"firecracker_version":"1\.16\.1"\}`
		none     = `HTTP/1\.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n`
		get      = "GET /version HTTP/1.1\r\n\r\n"
		put      = "PUT /entropy HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"
		badStart = `HTTP/1\.1 400 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\nContent-Type: application/json\r\nContent-Length: \d+\r\n\r\n`
	)
	bad := func(what string) string {
		return badStart + `\{ "error": "` + what + `\nAll previous unanswered requests will be dropped\." \}`
	}
	for _, c := range []struct {
		name   string
		pieces []string
		want   string
	}{
		{"one", []string{get}, head},
		{"without a body", []string{put}, none},
		{"one after the other", []string{get, put, get}, head + none + head},
		{"together", []string{get + put + get}, head + none + head},
		{"in pieces", []string{"GET /ver", "sion HT", "TP/1.1\r", "\n", "Host: x\r\n\r", "\n"}, head},
		{"body apart", []string{"PUT /entropy HTTP/1.1\r\nContent-Length: 2\r\n\r\n", "{", "}"}, none},
		{"old version", []string{"GET /version HTTP/1.0\r\n\r\n"}, head},
		{"names in any case", []string{"PUT /entropy HTTP/1.1\r\ncontent-LENGTH : 2\r\nX: y\r\n\r\n{}"}, none},
		{"close is not obeyed", []string{"GET /version HTTP/1.1\r\nConnection: close\r\n\r\n", get}, head + head},
		{"expecting to go on", []string{"PUT /entropy HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n", "{}"}, `HTTP/1\.1 100 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n` + none},
		{"large", []string{"PUT /entropy HTTP/1.1\r\nContent-Length: 51200\r\n\r\n{" + strings.Repeat(" ", 51198) + "}"}, none},
		{"too large", []string{"PUT /entropy HTTP/1.1\r\nContent-Length: 51201\r\n\r\n"}, bad(`Request payload with size 51201 is larger than the limit of 51200 allowed by server\.`)},
		{"chunks", []string{"PUT /entropy HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"}, badStart + `\{"fault_message":"Empty PUT request\."\}`},
		{"method", []string{"POST / HTTP/1.1\r\n"}, bad(`Invalid HTTP Method: Unsupported HTTP method\.`)},
		{"method in small letters", []string{"get / HTTP/1.1\r\n"}, bad(`Invalid HTTP Method: Unsupported HTTP method\.`)},
		{"goes on after it", []string{"POST / HTTP/1.1\r\n", get}, bad(`Invalid HTTP Method: Unsupported HTTP method\.`) + head},
		{"version", []string{"GET / HTTP/2\r\n"}, bad(`Invalid HTTP Version: Unsupported HTTP version\.`)},
		{"no path", []string{"GET  HTTP/1.1\r\n"}, bad(`Invalid URI: Empty URI not allowed\.`)},
		{"no request", []string{"SECRET\r\n"}, bad(`Invalid request\.`)},
		{"no end of line", []string{strings.Repeat("x", 1024)}, bad(`Invalid request\.`)},
		{"no colon", []string{"GET / HTTP/1.1\r\nSECRET\r\n"}, bad(`Invalid header\. Reason: Header is incorrectly formatted\. Key: SECRET`)},
		{"length", []string{"PUT / HTTP/1.1\r\nContent-Length: -1\r\n"}, bad(`Invalid header\. Reason: Invalid value\. Key:Content-Length; Value: -1`)},
		{"long line in the header", []string{"GET / HTTP/1.1\r\n", strings.Repeat("x", 1024)}, bad(`Invalid header\. Reason: Invalid content length\. Header: x+`)},
		{"empty length", []string{"PUT /entropy HTTP/1.1\r\nContent-Length: 0\r\n\r\n"}, badStart + `\{"fault_message":"Empty PUT request\."\}`},
		{"on its way out", []string{"PUT /machine-config HTTP/1.1\r\nContent-Length: 54\r\n\r\n" + `{"vcpu_count":1,"mem_size_mib":1,"cpu_template":"C3"} `}, `HTTP/1\.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\nDeprecation: true\r\n\r\n`},
	} {
		for _, p := range programs() {
			t.Run(c.name+"/"+p.name, func(t *testing.T) {
				t.Parallel()
				v := start(t, p.path(t))
				want := regexp.MustCompile(`^(?:` + c.want + `)$`)
				if got := v.converse(c.pieces, want); !want.MatchString(got) {
					t.Errorf("the answers are\n%q\nwhich are not\n%s", got, c.want)
				}
			})
		}
	}
}

// taken waits until the program has read what was sent, so that what comes next
// is read apart.
func (v *vmm) taken() {
	raw, err := v.conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return
	}
	for left := 1; left > 0; time.Sleep(time.Millisecond) {
		if cerr := raw.Control(func(fd uintptr) { left, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }); cerr != nil || err != nil {
			return
		}
	}
}

// converse sends pieces one by one, and returns what comes back once it is what
// is wanted and nothing follows, or once nothing comes for long.
func (v *vmm) converse(pieces []string, want *regexp.Regexp) string {
	v.t.Helper()
	go func() {
		for _, p := range pieces {
			if _, err := io.WriteString(v.conn, p); err != nil {
				return
			}
			v.taken()
		}
	}()
	var all []byte
	b := make([]byte, 4096)
	for {
		pause := 2 * time.Second
		if want.Match(all) {
			pause = 20 * time.Millisecond
		}
		_ = v.conn.SetReadDeadline(time.Now().Add(pause))
		n, err := v.conn.Read(b)
		all = append(all, b[:n]...)
		if err != nil {
			return string(all)
		}
	}
}

// A client that closes its sending half is gone.
func TestHalfClose(t *testing.T) {
	t.Parallel()
	for _, p := range programs() {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			v := start(t, p.path(t))
			if _, err := io.WriteString(v.conn, "GET / HTT"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(50 * time.Millisecond)
			if err := v.conn.(*net.UnixConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(v.conn); len(b) > 0 || err != nil && !gone(err) {
				t.Errorf("%q, %v", b, err)
			}
		})
	}
}

// Ten connections are served, the next one is told so and closed.
func TestConnections(t *testing.T) {
	t.Parallel()
	for _, p := range programs() {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			v := command(t, p.path(t), "--api-sock", "{dir}/api", "--level", "Off")
			v.makeFiles()
			var conns []net.Conn
			for range 10 {
				v.connect()
				conns = append(conns, v.conn)
				v.must("GET", "/", "")
			}
			refused := v.dial()
			b, err := io.ReadAll(refused)
			if want := "HTTP/1.1 503\r\nServer: Firecracker API\r\nConnection: close\r\nContent-Length: 40\r\n\r\n{ \"error\": \"Too many open connections\" }"; string(b) != want || err != nil && !gone(err) {
				t.Errorf("%q, %v", b, err)
			}
			_ = conns[0].Close()
			for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
				v.connect()
				a, err := v.raw("GET / HTTP/1.1\r\n\r\n")
				if err == nil && a.status == 200 {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("no place is free: %d, %v", a.status, err)
				}
			}
		})
	}
}

// A larger body is a matter of an argument.
func TestLimit(t *testing.T) {
	t.Parallel()
	for _, p := range programs() {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			v := start(t, p.path(t), "--level", "Off", "--http-api-max-payload-size", "60000")
			v.must("PUT", "/entropy", fmt.Sprintf("{%s}", strings.Repeat(" ", 59998)))
		})
	}
}
