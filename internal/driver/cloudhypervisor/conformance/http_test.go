package conformance

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// talk sends bytes over one connection, ends it, and returns all that comes.
func (r *process) talk(data string) string {
	r.t.Helper()
	conn := must(net.Dial("unix", r.socket))(r.t)
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write([]byte(data)); err != nil {
		r.t.Fatal(err)
	}
	out := []byte{}
	buf := make([]byte, 4096)
	for {
		_ = conn.SetReadDeadline(time.Now().Add(150 * time.Millisecond)) // it keeps the connection
		n, err := conn.Read(buf)
		out = append(out, buf[:n]...)
		if err != nil {
			return string(out)
		}
	}
}

// TestWire: what the HTTP server makes of what is not quite a request. Both have to
// give the same bytes.
func TestWire(t *testing.T) {
	ping := "GET /api/v1/vmm.ping HTTP/1.1\r\n\r\n"
	cases := map[string]string{
		"garbage":            "garbage\r\n\r\n",
		"no version":         "GET /api/v1/vmm.ping\r\n\r\n",
		"HTTP/1.0":           "GET /api/v1/vmm.ping HTTP/1.0\r\n\r\n",
		"HTTP/2":             "GET /api/v1/vmm.ping HTTP/2\r\n\r\n",
		"absolute":           "GET http://localhost/api/v1/vmm.ping HTTP/1.1\r\n\r\n",
		"no slash":           "GET api/v1/vmm.ping HTTP/1.1\r\n\r\n",
		"two at once":        ping + ping,
		"refused and taken":  "DELETE /x HTTP/1.1\r\n\r\n" + ping,
		"wrong length":       "PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
		"header no colon":    "GET /api/v1/vmm.ping HTTP/1.1\r\nnonsense\r\n\r\n",
		"header lower case":  "PUT /api/v1/vm.create HTTP/1.1\r\ncontent-length: 7\r\n\r\nSECRET!",
		"other content type": "PUT /api/v1/vm.create HTTP/1.1\r\nContent-Type: text/html\r\nContent-Length: 7\r\n\r\nSECRET!",
		"expects":            "PUT /api/v1/vm.create HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 7\r\n\r\nSECRET!",
		"no identity":        "GET /api/v1/vmm.ping HTTP/1.1\r\nAccept-Encoding: identity;q=0\r\n\r\n",
		"chunks":             "PUT /api/v1/vm.create HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
		"bare newlines":      "GET /api/v1/vmm.ping HTTP/1.1\n\n",
		"long request line":  "GET /" + strings.Repeat("x", 1100) + " HTTP/1.1\r\n\r\n",
		"long header":        "GET /api/v1/vmm.ping HTTP/1.1\r\nX: " + strings.Repeat("x", 1100) + "\r\n\r\n",
	}
	all := programs(t)
	for name, data := range cases {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			first := ""
			for _, p := range all {
				r := start(t, p)
				r.want(r.ask("GET", "vmm.ping", nil), 200) // it listens
				said := normal(r.talk(data))
				if p.real && said != first {
					t.Errorf("stand-in\n%.700q\nreal\n%.700q", first, said)
				}
				if strings.HasPrefix(data, "G") && !strings.Contains(data, "\r\n") != (said == "") {
					t.Errorf("%s: %.300q", p.name, said)
				}
				first = said
			}
		})
	}
}

// TestTooLarge: what is too large is refused when its length is read, and then
// quoted, a kilobyte at a time, as the headers that it is taken for. Nobody may
// send a secret in a body of more than 51200 bytes.
func TestTooLarge(t *testing.T) {
	for _, p := range programs(t) {
		r := start(t, p)
		body := strings.Repeat("SECRET", 10000)
		said := r.talk("PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: " + itoa(len(body)) + "\r\n\r\n" + body)
		if !strings.Contains(said, "Request payload with size 60000 is larger than the limit of 51200 allowed by server.") {
			t.Errorf("%s: %.300s", p.name, said)
		}
		if n := strings.Count(said, "Invalid header. Reason: Invalid content length. Header: "); n < 50 || strings.Count(said, "SECRET") < 8000 {
			t.Errorf("%s: %d quotations, %d secrets", p.name, n, strings.Count(said, "SECRET"))
		}
		r.want(r.ask("GET", "vmm.ping", nil), 200)
	}
}

// TestConnections: there are ten, and the next one is turned away.
func TestConnections(t *testing.T) {
	for _, p := range programs(t) {
		r := start(t, p)
		var open []net.Conn
		for range 10 {
			conn := must(net.Dial("unix", r.socket))(t)
			defer conn.Close()
			open = append(open, conn)
			_ = conn.SetDeadline(time.Now().Add(patience))
			if _, err := conn.Write([]byte("GET /api/v1/vmm.ping HTTP/1.1\r\n\r\n")); err != nil {
				t.Fatal(err)
			}
			if got := receive(conn); got.status != 200 {
				t.Fatalf("%s: %d %s", p.name, got.status, got.body)
			}
		}
		conn := must(net.Dial("unix", r.socket))(t)
		_ = conn.SetDeadline(time.Now().Add(patience))
		said, err := io.ReadAll(conn)
		conn.Close()
		if err != nil || !bytes.HasPrefix(said, []byte("HTTP/1.1 503\r\n")) {
			t.Errorf("%s: %q, %v", p.name, said, err)
		}
		open[0].Close()
		r.await("a free place", func() bool { return r.ask("GET", "vmm.ping", nil).status == 200 })
	}
}
