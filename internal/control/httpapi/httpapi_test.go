package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	patience = 10 * time.Second
	// marker stands for a secret that a peer quotes.
	marker = "quoted-secret"
)

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// peer is the hypervisor's side of a connection, played by the test.
type peer struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

// connect returns a client and its peer, on a connection from Listen.
func connect(t *testing.T) (*Client, *peer) {
	t.Helper()
	ours, theirs := listen(t, 1)
	l, err := net.FileListener(theirs)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c := New(ours[0])
	t.Cleanup(func() { c.Close() })
	return c, &peer{t, conn, bufio.NewReader(conn)}
}

func (p *peer) send(text string) {
	p.t.Helper()
	if _, err := io.WriteString(p.conn, text); err != nil {
		p.t.Error(err)
	}
}

// receive reads a request by another reader than ours.
func (p *peer) receive() (*http.Request, string) {
	p.t.Helper()
	r, err := http.ReadRequest(p.in)
	if err != nil {
		p.t.Error(err)
		return &http.Request{}, ""
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		p.t.Error(err)
	}
	return r, string(body)
}

// answer replies to the next requests, one after the other, and hangs up where
// hangUp says so.
func (p *peer) answer(hangUp bool, texts ...string) (done func()) {
	var wg sync.WaitGroup
	wg.Go(func() {
		for _, text := range texts {
			p.receive()
			p.send(text)
		}
		if hangUp {
			p.conn.Close()
		}
	})
	return wg.Wait
}

func TestExchanges(t *testing.T) {
	c, p := connect(t)
	type want struct{ method, path, body, length string }
	wants := []want{
		{"GET", "/api/v1/vmm.ping", "", ""},
		{"PUT", "/api/v1/vm.create", `{"cpus":1}`, "10"},
		{"PUT", "/api/v1/vm.boot", "", "0"},
		{"PATCH", "/vm?x=y", strings.Repeat("b", DefaultMaxRequest), "51200"},
		{"DELETE", "/x", "", ""},
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i, w := range wants {
			r, body := p.receive()
			got := want{r.Method, r.RequestURI, body, r.Header.Get("Content-Length")}
			if got != w {
				t.Errorf("received %.200v, want %.200v", got, w)
			}
			if json := r.Header.Get("Content-Type") == "application/json"; r.Host != "localhost" || json != (w.body != "") {
				t.Errorf("header %v", r.Header)
			}
			reply := fmt.Sprintf("number %d", i)
			p.send(fmt.Sprintf("HTTP/1.1 200 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", len(reply), reply))
		}
	}()
	for i, w := range wants {
		var body Body
		if w.body != "" {
			body = strings.NewReader(w.body)
		}
		r, err := c.Do(testContext(t), w.method, w.path, body)
		if err != nil {
			t.Fatal(err)
		}
		if r.Status != 200 || string(r.Body) != fmt.Sprintf("number %d", i) {
			t.Errorf("%v %q", r, r.Body)
		}
	}
	<-done
	if err := c.Err(); err != nil {
		t.Error(err)
	}
}

func TestReplies(t *testing.T) {
	// What the server says of a request that it could not read.
	const lost = `{ "error": "Invalid request.` + "\n" + `All previous unanswered requests will be dropped." }`
	tests := []struct {
		name, text string
		status     int
		body       string
		after      error // of the next request; nil is that it works
	}{
		{"no content", "HTTP/1.1 204 \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\n\r\n", 204, "", nil},
		{"no length", "HTTP/1.1 200 OK\r\n\r\n", 200, "", nil},
		{"small names", "HTTP/1.1 200 OK\r\ncontent-length:2\r\n\r\n{}", 200, "{}", nil},
		{"refusal", "HTTP/1.1 400 \r\nContent-Length: 2\r\n\r\n[]", 400, "[]", nil},
		{"interim", "HTTP/1.1 100 \r\nConnection: keep-alive\r\n\r\nHTTP/1.1 200 \r\nContent-Length: 2\r\n\r\n{}", 200, "{}", nil},
		{"empty", "HTTP/1.1 500 \r\nContent-Length: 0\r\n\r\n", 500, "", nil},
		{"longest", "HTTP/1.1 200 \r\nContent-Length: 1048576\r\n\r\n" + strings.Repeat("x", MaxBody), 200, strings.Repeat("x", MaxBody), nil},
		{"full", "HTTP/1.1 503\r\nServer: Firecracker API\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}", 503, "{}", ErrPeerGone},
		{"close among others", "HTTP/1.1 200 \r\nConnection: x, Close\r\n\r\n", 200, "", ErrPeerGone},
		{"two replies", "HTTP/1.1 400 \r\nContent-Length: 2\r\n\r\n[]HTTP/1.1 400 \r\n\r\n", 400, "[]", ErrProtocol},
		{"a byte too much", "HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\n{}\n", 200, "{}", ErrProtocol},
		{"lost place", fmt.Sprintf("HTTP/1.1 400 \r\nContent-Length: %d\r\n\r\n%s", len(lost), lost), 400, lost, ErrProtocol},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, p := connect(t)
			done := p.answer(false, tt.text)
			r, err := c.Do(testContext(t), "GET", "/", nil)
			if err != nil || r.Status != tt.status || string(r.Body) != tt.body {
				t.Fatalf("%v, %v", r, err)
			}
			done()
			if tt.after == nil {
				done = p.answer(false, "HTTP/1.1 204 \r\n\r\n")
				defer done()
			}
			if _, err := c.Do(testContext(t), "GET", "/", nil); !errors.Is(err, tt.after) {
				t.Errorf("the next request: %v", err)
			}
			if !errors.Is(c.Err(), tt.after) {
				t.Error(c.Err())
			}
		})
	}
}

// garbage lists what is no reply, whoever sends it. The peer says no more.
func garbage() map[string]string {
	fields := func(n int) string { return "HTTP/1.1 200 \r\n" + strings.Repeat("A: "+marker+"\r\n", n) + "\r\n" }
	with := func(fields string) string { return "HTTP/1.1 200 " + marker + "\r\n" + fields + "\r\n\r\n" }
	return map[string]string{
		"greeting":             `{"QMP": "` + marker + `"}`,
		"one byte":             "\n",
		"old version":          "HTTP/1.0 200 " + marker + "\r\n\r\n",
		"newer version":        "HTTP/2 200 " + marker,
		"bare newline":         "HTTP/1.1 200 " + marker + "\n",
		"no status":            "HTTP/1.1 " + marker + "\r\n\r\n",
		"long status":          "HTTP/1.1 2000\r\n\r\n",
		"small status":         "HTTP/1.1 099 \r\n\r\n",
		"signed status":        "HTTP/1.1 +20 \r\n\r\n",
		"other protocol":       "HTTP/1.1 101 " + marker + "\r\n\r\n",
		"control in reason":    "HTTP/1.1 200 \x00" + marker + "\r\n\r\n",
		"chunks":               with("Transfer-Encoding: chunked"),
		"negative length":      with("Content-Length: -1"),
		"signed length":        with("Content-Length: +1"),
		"word as length":       with("Content-Length: " + marker),
		"no digits":            with("Content-Length:"),
		"two in one":           with("Content-Length: 1, 1"),
		"too long":             with("Content-Length: 1048577"),
		"overflow":             with("Content-Length: 18446744073709551617"),
		"two lengths":          with("Content-Length: 1\r\nContent-Length: 1"),
		"folded":               with("A: b\r\n " + marker),
		"space before colon":   with("Content-Length : 1"),
		"no colon":             with(marker),
		"no name":              with(": " + marker),
		"bare return":          with("A: b\rContent-Length: 5"),
		"control in value":     with("A: \x01" + marker),
		"body of none":         "HTTP/1.1 204 \r\nContent-Length: 1\r\n\r\n",
		"body of interim":      "HTTP/1.1 100 \r\nContent-Length: 1\r\n\r\n",
		"endless interim":      strings.Repeat("HTTP/1.1 100 \r\n\r\n", maxInterim+1),
		"many fields":          fields(maxFields + 1),
		"head without end":     "HTTP/1.1 200 " + strings.Repeat(marker, maxHead),
		"garbage after a name": "HTTP/1.1200 \r\n\r\n",
	}
}

func TestGarbage(t *testing.T) {
	for name, text := range garbage() {
		t.Run(name, func(t *testing.T) {
			c, p := connect(t)
			go func() {
				p.receive()
				_, _ = io.WriteString(p.conn, text) // we need not wait for the end of it
			}()
			_, err := c.Do(testContext(t), "GET", "/", nil)
			if !errors.Is(err, ErrProtocol) || strings.Contains(err.Error(), marker) {
				t.Error(err)
			}
			if _, again := c.Do(testContext(t), "GET", "/", nil); !errors.Is(again, ErrProtocol) {
				t.Error(again)
			}
		})
	}
}

// Whatever the peer has said before it goes, it has gone.
func TestPeerGone(t *testing.T) {
	whole := "HTTP/1.1 200 \r\nContent-Length: 20\r\n\r\n" + marker
	for n := range len(whole) + 1 {
		c, p := connect(t)
		done := p.answer(true, whole[:n])
		_, err := c.Do(testContext(t), "PUT", "/", strings.NewReader("{}"))
		done()
		if !errors.Is(err, ErrPeerGone) || strings.Contains(err.Error(), marker) || !errors.Is(c.Err(), ErrPeerGone) {
			t.Fatalf("after %d bytes: %v", n, err)
		}
	}
	c, p := connect(t)
	p.conn.Close()
	if _, err := c.Do(testContext(t), "GET", "/", nil); !errors.Is(err, ErrPeerGone) {
		t.Error(err)
	}
}

// A server that has no room answers and hangs up without having read.
func TestAnswerBeforeRequestIsRead(t *testing.T) {
	ours, theirs, err := unixPair()
	if err != nil {
		t.Fatal(err)
	}
	c := New(ours)
	c.MaxRequest = 1 << 22
	defer c.Close()
	body := bodyFunc{1 << 22, func(w io.Writer) (int64, error) {
		_, err := io.WriteString(theirs, "HTTP/1.1 503\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")
		theirs.Close()
		if err != nil {
			return 0, err
		}
		n, err := w.Write(make([]byte, 1<<22))
		return int64(n), err
	}}
	if r, err := c.Do(testContext(t), "PUT", "/", body); err != nil || r.Status != 503 {
		t.Errorf("%v, %v", r, err)
	}
	if err := c.Err(); !errors.Is(err, ErrPeerGone) {
		t.Error(err)
	}
}

func TestUnaskedIsNoReply(t *testing.T) {
	c, p := connect(t)
	done := p.answer(false, "HTTP/1.1 204 \r\n\r\n")
	if _, err := c.Do(testContext(t), "GET", "/", nil); err != nil {
		t.Fatal(err)
	}
	done()
	p.send("HTTP/1.1 204 \r\n\r\n") // later than the reply
	if _, err := c.Do(testContext(t), "GET", "/", nil); !errors.Is(err, ErrProtocol) {
		t.Error(err)
	}
}

func TestLate(t *testing.T) {
	for _, part := range []string{"", "HTTP/1.1 2", "HTTP/1.1 200 \r\nContent-Length: 9\r\n\r\nhalf"} {
		c, p := connect(t)
		done := p.answer(false, part)
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		_, err := c.Do(ctx, "GET", "/", nil)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrPeerGone) || errors.Is(err, ErrProtocol) {
			t.Errorf("after %q: %v", part, err)
		}
		done()
		// The reply to the first is not that to the second.
		if _, err := c.Do(testContext(t), "GET", "/", nil); !errors.Is(err, ErrAbandoned) || errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	}
	// A peer that does not read.
	c, _ := connect(t)
	c.MaxRequest = 8 << 20
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Do(ctx, "PUT", "/", bytes.NewReader(make([]byte, 8<<20))); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestCancelled(t *testing.T) {
	c, p := connect(t)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { p.receive(); cancel() }()
	if _, err := c.Do(ctx, "GET", "/", nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := c.Err(); !errors.Is(err, ErrAbandoned) {
		t.Error(err)
	}
}

// What has not begun leaves the connection as it is.
func TestNotBegun(t *testing.T) {
	c, p := connect(t)
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := c.Do(ended, "GET", "/", nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	for _, bad := range []struct{ method, path string }{
		{"get", "/"}, {"", "/"}, {"GET /", "/"}, {"GET", ""}, {"GET", "x"}, {"GET", "/a b"},
		{"GET", "/a\r\nX: y"}, {"GET", "/ä"}, {"GET", "/" + strings.Repeat("a", maxPath)},
	} {
		if _, err := c.Do(testContext(t), bad.method, bad.path, nil); err == nil {
			t.Errorf("accepted %q %q", bad.method, bad.path)
		}
	}
	if _, err := c.Do(testContext(t), "PUT", "/", strings.NewReader("")); err == nil {
		t.Error("accepted an empty body")
	}
	if _, err := c.Do(testContext(t), "PUT", "/", bytes.NewReader(make([]byte, DefaultMaxRequest+1))); !errors.Is(err, ErrTooLong) {
		t.Error(err)
	}
	done := p.answer(false, "HTTP/1.1 204 \r\n\r\n")
	defer done()
	if _, err := c.Do(testContext(t), "GET", "/", nil); err != nil {
		t.Error(err)
	}
}

// bodyFunc is a body that says one length and does something.
type bodyFunc struct {
	length int
	write  func(io.Writer) (int64, error)
}

func (b bodyFunc) Len() int                           { return b.length }
func (b bodyFunc) WriteTo(w io.Writer) (int64, error) { return b.write(w) }

func TestBodyBreaksItsPromise(t *testing.T) {
	wiped := errors.New("the value was wiped")
	for name, tt := range map[string]struct {
		write func(io.Writer) (int64, error)
		want  error
	}{
		"short": {func(w io.Writer) (int64, error) { n, err := w.Write([]byte("{")); return int64(n), err }, errLength},
		"long":  {func(w io.Writer) (int64, error) { n, err := w.Write([]byte("{}}")); return int64(n), err }, errLength},
		"wiped": {func(io.Writer) (int64, error) { return 0, wiped }, wiped},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := connect(t)
			if _, err := c.Do(testContext(t), "PUT", "/", bodyFunc{2, tt.write}); !errors.Is(err, tt.want) {
				t.Error(err)
			}
			if err := c.Err(); !errors.Is(err, ErrAbandoned) {
				t.Error(err)
			}
		})
	}
}

func TestClose(t *testing.T) {
	c, p := connect(t)
	go func() { p.receive(); c.Close() }()
	if _, err := c.Do(testContext(t), "GET", "/", nil); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	c.Close()
	if _, err := c.Do(testContext(t), "GET", "/", nil); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

// Every caller gets the reply to its own request, and one that waits for its
// turn can give up without harm.
func TestConcurrent(t *testing.T) {
	c, p := connect(t)
	const callers, each = 8, 20
	go func() {
		for range callers * each {
			_, body := p.receive()
			p.send(fmt.Sprintf("HTTP/1.1 200 \r\nContent-Length: %d\r\n\r\n%s", len(body), body))
		}
	}()
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for j := range each {
				text := fmt.Sprintf("%d of %d", j, i)
				r, err := c.Do(testContext(t), "PUT", "/", strings.NewReader(text))
				if err != nil || string(r.Body) != text {
					t.Errorf("%s: %q %v", text, r.Body, err)
					return
				}
			}
		})
	}
	wg.Wait()

	first := make(chan error, 1)
	go func() { _, err := c.Do(testContext(t), "GET", "/", nil); first <- err }()
	p.receive() // the first has its turn
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Do(ctx, "GET", "/", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	p.send("HTTP/1.1 204 \r\n\r\n")
	if err := <-first; err != nil {
		t.Error(err)
	}
}

func TestReplyIsNotPrinted(t *testing.T) {
	r := Reply{400, []byte(marker)}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if got := fmt.Sprintf(format, r); strings.Contains(got, marker) || !strings.Contains(got, "400") {
			t.Errorf("%s: %s", format, got)
		}
	}
}

// unixPair returns the ends of a connection.
func unixPair() (ours, theirs net.Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	if ours, err = connOf(fds[0]); err != nil {
		return nil, nil, err
	}
	theirs, err = connOf(fds[1])
	return ours, theirs, err
}
