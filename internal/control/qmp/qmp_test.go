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
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	greeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}}`
	patience = 10 * time.Second
)

// peer is the hypervisor's side of a connection, played by the test.
type peer struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

// request is what the peer received.
type request struct {
	Execute   string          `json:"execute"`
	Arguments json.RawMessage `json:"arguments"`
	ID        uint64          `json:"id"`
}

func newPeer(t *testing.T) (*peer, net.Conn) {
	t.Helper()
	ours, theirs, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.FileConn(theirs)
	if err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	t.Cleanup(func() { conn.Close() })
	return &peer{t, conn, bufio.NewReader(conn)}, ours
}

func (p *peer) send(format string, args ...any) {
	p.t.Helper()
	if _, err := fmt.Fprintf(p.conn, format+"\r\n", args...); err != nil {
		p.t.Error(err)
	}
}

func (p *peer) receive() request {
	p.t.Helper()
	line, err := p.in.ReadBytes('\n')
	if err != nil {
		p.t.Error(err)
		return request{}
	}
	var r request
	if err := json.Unmarshal(line, &r); err != nil {
		p.t.Error(err)
	}
	return r
}

// connect returns a client after its handshake with p.
func connect(t *testing.T) (*peer, *Client) {
	t.Helper()
	p, conn := newPeer(t)
	go func() {
		p.send(greeting)
		r := p.receive()
		if r.Execute != "qmp_capabilities" || r.Arguments != nil {
			t.Errorf("handshake %+v", r)
		}
		p.send(`{"return": {}, "id": %d}`, r.ID)
	}()
	c, err := New(testContext(t), conn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return p, c
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func awaitDone(t *testing.T, c *Client) error {
	t.Helper()
	select {
	case <-c.Done():
	case <-time.After(patience):
		t.Fatal("the connection has not ended")
	}
	if c.Err() == nil {
		t.Error("ended without a reason")
	}
	return c.Err()
}

func TestHandshake(t *testing.T) {
	_, c := connect(t)
	want := Version{7, 2, 22, "Debian"}
	if got := c.Version(); got != want || got.String() != "7.2.22" {
		t.Errorf("version %+v", got)
	}
	for v, newer := range map[[2]int]bool{{7, 2}: true, {7, 1}: true, {6, 9}: true, {7, 3}: false, {8, 0}: false} {
		if want.AtLeast(v[0], v[1]) != newer {
			t.Errorf("at least %v: %v", v, !newer)
		}
	}
	select {
	case <-c.Done():
		t.Error("done too early")
	default:
	}
	if c.Err() != nil {
		t.Error(c.Err())
	}
}

func TestHandshakeFailures(t *testing.T) {
	tests := []struct {
		name string
		play func(p *peer)
		want error
		text string
	}{
		{"closes at once", func(p *peer) { p.conn.Close() }, ErrPeerGone, "QMP handshake: the hypervisor has closed"},
		{"closes in the greeting", func(p *peer) { io.WriteString(p.conn, greeting[:20]); p.conn.Close() }, io.ErrUnexpectedEOF, "middle of a message"},
		{"not JSON", func(p *peer) { p.send("SSH-2.0-secret") }, ErrProtocol, "no valid JSON at byte 1"},
		{"no greeting", func(p *peer) { p.send(`{"return": {}, "id": 1}`) }, ErrProtocol, "no greeting"},
		{"event first", func(p *peer) { p.send(`{"event": "STOP"}`) }, ErrProtocol, "no greeting"},
		{"refused", func(p *peer) {
			p.send(greeting)
			p.send(`{"error": {"class": "GenericError", "desc": "no"}, "id": %d}`, p.receive().ID)
		}, nil, "QMP command qmp_capabilities: no"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, conn := newPeer(t)
			go tt.play(p)
			c, err := New(testContext(t), conn)
			if err == nil {
				c.Close()
				t.Fatal("no error")
			}
			if tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("error %v", err)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the error repeats the input: %v", err)
			}
		})
	}
}

func TestHandshakeHonoursContext(t *testing.T) {
	_, conn := newPeer(t)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := New(ctx, conn); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

func TestExecute(t *testing.T) {
	p, c := connect(t)
	go func() {
		r := p.receive()
		if r.Execute != "set" || string(r.Arguments) != `{"n":1}` {
			t.Errorf("%+v %s", r, r.Arguments)
		}
		p.send(`{"return": {"status": "running"}, "id": %d}`, r.ID)
	}()
	var result struct{ Status string }
	if err := c.Execute(testContext(t), "set", map[string]int{"n": 1}, &result); err != nil || result.Status != "running" {
		t.Errorf("%+v, %v", result, err)
	}

	go func() {
		p.send(`{"error": {"class": "CommandNotFound", "desc": "not found"}, "id": %d}`, p.receive().ID)
	}()
	err := c.Execute(testContext(t), "nonsense", nil, nil)
	var refused *Error
	if !errors.As(err, &refused) || *refused != (Error{"nonsense", "CommandNotFound", "not found"}) {
		t.Errorf("error %v", err)
	}

	go func() { p.send(`{"return": [1], "id": %d}`, p.receive().ID) }()
	if err := c.Execute(testContext(t), "odd", nil, &result); err == nil || !strings.Contains(err.Error(), "decoding the answer") {
		t.Errorf("error %v", err)
	}
	if err := c.Execute(testContext(t), "bad", func() {}, nil); err == nil || !strings.Contains(err.Error(), "encoding the arguments") {
		t.Errorf("error %v", err)
	}
	if len(c.pending) != 0 {
		t.Errorf("%d commands still pending", len(c.pending))
	}
}

func TestAnswersOutOfOrder(t *testing.T) {
	p, c := connect(t)
	const n = 50
	var wg sync.WaitGroup
	wg.Go(func() {
		var all []request
		for range n {
			all = append(all, p.receive())
		}
		for i := range all {
			r := all[n-1-i]
			p.send(`{"return": %s, "id": %d}`, r.Arguments, r.ID)
			p.send(`{"event": "STOP"}`) // in between
		}
	})
	for i := range n {
		wg.Go(func() {
			var got int
			if err := c.Execute(testContext(t), "echo", i, &got); err != nil || got != i {
				t.Errorf("%d: got %d, %v", i, got, err)
			}
		})
	}
	wg.Wait()
}

func TestAnswerAfterContextEnded(t *testing.T) {
	p, c := connect(t)
	ctx, cancel := context.WithCancel(context.Background())
	late := make(chan uint64)
	go func() {
		r := p.receive()
		cancel()
		late <- r.ID
	}()
	if err := c.Execute(ctx, "slow", nil, nil); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	id := <-late
	go func() {
		next := p.receive()
		p.send(`{"return": "late", "id": %d}`, id)
		p.send(`{"return": "mine", "id": %d}`, next.ID)
	}()
	var got string
	if err := c.Execute(testContext(t), "next", nil, &got); err != nil || got != "mine" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := c.Execute(ctx, "never", nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
}

func TestPeerThatDoesNotRead(t *testing.T) {
	_, c := connect(t)
	big := strings.Repeat("x", 1<<20) // more than a socket takes
	for range 3 {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		if err := c.Execute(ctx, "big", big, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		cancel()
	}
	if len(c.pending) != 1 {
		t.Errorf("%d commands pending; only the first was handed to the writer", len(c.pending))
	}
	closed := make(chan struct{})
	go func() { defer close(closed); c.Close() }()
	select {
	case <-closed:
	case <-time.After(patience):
		t.Fatal("Close hangs")
	}
}

func TestPeerGoesDuringCommand(t *testing.T) {
	p, c := connect(t)
	go func() {
		p.receive()
		p.send(`{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}`)
		p.conn.Close()
	}()
	if err := c.Execute(testContext(t), "stop", nil, nil); !errors.Is(err, ErrPeerGone) {
		t.Errorf("error %v", err)
	}
	if err := awaitDone(t, c); !errors.Is(err, ErrPeerGone) {
		t.Errorf("reason %v", err)
	}
	if err := c.Execute(testContext(t), "more", nil, nil); !errors.Is(err, ErrPeerGone) {
		t.Errorf("afterwards: %v", err)
	}
	e, ok := <-c.Events()
	if d, err := e.Decode(); !ok || err != nil || d != (Shutdown{true, ReasonGuestShutdown}) {
		t.Errorf("last event %+v, %v", e, err)
	}
	if _, ok := <-c.Events(); ok {
		t.Error("an event too many")
	}
}

// The last words of a dying hypervisor must be heard even when a command runs
// into its closed socket first.
func TestLastEventIsReadDespiteBrokenPipe(t *testing.T) {
	for range 50 {
		p, c := connect(t)
		p.send(`{"event": "SHUTDOWN", "data": {"guest": false, "reason": "host-signal"}}`)
		p.conn.Close()
		if err := c.Execute(testContext(t), "query-status", nil, nil); !errors.Is(err, ErrPeerGone) {
			t.Fatalf("error %v", err)
		}
		if e := <-c.Events(); e.Event != "SHUTDOWN" {
			t.Fatalf("event %+v, reason %v", e, c.Err())
		}
		c.Close()
	}
}

func TestAnswerRightBeforeTheEnd(t *testing.T) {
	for range 50 {
		p, c := connect(t)
		go func() {
			p.send(`{"return": {}, "id": %d}`, p.receive().ID)
			p.conn.Close()
		}()
		if err := c.Execute(testContext(t), "quit", nil, nil); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
}

func TestMalformedInputEndsTheConnection(t *testing.T) {
	tests := []struct{ name, input, text string }{
		{"garbage", "\x00\xff\xfesecret\n", "no valid JSON"},
		{"cut JSON", `{"return": {"a": "secret` + "\n", "no valid JSON"},
		{"two values", `{"event": "STOP"} {"event": "secret"}` + "\n", "no valid JSON"},
		{"array", "[]\n", "wrong type"},
		{"number", "1\n", "wrong type"},
		{"null", "null\n", "neither greeting"},
		{"empty object", "{}\n", "neither greeting"},
		{"two kinds", `{"return": {}, "event": "STOP", "id": 1}` + "\n", "neither greeting"},
		{"answer without id", `{"return": {}}` + "\n", "without an id"},
		{"error without id", `{"error": {"class": "GenericError", "desc": "secret"}}` + "\n", "without an id"},
		{"unknown id", `{"return": {}, "id": 999}` + "\n", "to no command"},
		{"id of a wrong type", `{"return": {}, "id": "secret"}` + "\n", "id of the wrong type"},
		{"event of a wrong type", `{"event": {"secret": 1}}` + "\n", "event of the wrong type"},
		{"second greeting", greeting + "\n", "second greeting"},
		{"too deep", strings.Repeat("[", 100000) + "\n", "no valid JSON"},
		{"too long", `{"event": "` + strings.Repeat("x", MaxMessage) + `"}` + "\n", "longer than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, c := connect(t)
			go io.WriteString(p.conn, tt.input)
			err := awaitDone(t, c)
			if !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("reason %v", err)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the error repeats the input: %v", err)
			}
		})
	}
}

func TestPeerClosesMidLine(t *testing.T) {
	p, c := connect(t)
	io.WriteString(p.conn, `{"event": "SHUT`)
	p.conn.Close()
	if err := awaitDone(t, c); !errors.Is(err, ErrPeerGone) || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("reason %v", err)
	}
}

func TestAnswerLongerThanTheBuffer(t *testing.T) {
	p, c := connect(t)
	want := strings.Repeat("long ", 200_000)
	go func() { p.send(`{"return": %q, "id": %d}`, want, p.receive().ID) }()
	var got string
	if err := c.Execute(testContext(t), "long", nil, &got); err != nil || got != want {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestEventFloodWithoutReaderLosesNothing(t *testing.T) {
	p, c := connect(t)
	const n = 20_000
	go func() {
		w := bufio.NewWriter(p.conn)
		for i := range n {
			fmt.Fprintf(w, `{"event": "E%d", "data": {"n": %d}, "timestamp": {"seconds": %d, "microseconds": 5}}`+"\n", i, i, i)
		}
		w.Flush()
		p.send(`{"return": {}, "id": %d}`, p.receive().ID)
		p.conn.Close()
	}()
	// Commands work although nobody reads events.
	if err := c.Execute(testContext(t), "ping", nil, nil); err != nil {
		t.Fatal(err)
	}
	awaitDone(t, c)
	count := 0
	for e := range c.Events() {
		if e.Event != fmt.Sprintf("E%d", count) || string(e.Data) != fmt.Sprintf(`{"n": %d}`, count) ||
			!e.Time.Equal(time.Unix(int64(count), 5000)) {
			t.Fatalf("event %d: %+v", count, e)
		}
		count++
	}
	if count != n {
		t.Errorf("%d of %d events", count, n)
	}
}

func TestEventsBeyondTheBoundFailLoudly(t *testing.T) {
	for name, line := range map[string]string{
		"count": `{"event":"E"}` + "\n",
		"bytes": `{"event":"E","data":"` + strings.Repeat("x", 1<<20) + `"}` + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			p, c := connect(t)
			go func() {
				w := bufio.NewWriter(p.conn)
				for {
					if _, err := w.WriteString(line); err != nil {
						return
					}
				}
			}()
			if err := awaitDone(t, c); !errors.Is(err, ErrTooManyEvents) {
				t.Errorf("reason %v", err)
			}
			count := 0
			for range c.Events() {
				count++
			}
			if count == 0 || count > MaxQueuedEvents+1 {
				t.Errorf("%d events kept", count)
			}
		})
	}
}

func TestDecode(t *testing.T) {
	tests := []struct {
		event, data string
		want        any
	}{
		{"SHUTDOWN", `{"guest": true, "reason": "guest-reset"}`, Shutdown{true, ReasonGuestReset}},
		{"SHUTDOWN", `{"guest": false, "reason": "new-one"}`, Shutdown{false, "new-one"}},
		{"RESET", `{"guest": false, "reason": "host-qmp-system-reset"}`, Reset{false, ReasonHostReset}},
		{"GUEST_PANICKED", `{"action": "pause", "info": {"type": "hyper-v"}}`, GuestPanicked{"pause"}},
		{"POWERDOWN", ``, Powerdown{}},
		{"STOP", ``, Stop{}},
		{"RESUME", ``, Resume{}},
		{"RTC_CHANGE", `{"offset": 1}`, nil},
	}
	for _, tt := range tests {
		got, err := Event{Event: tt.event, Data: json.RawMessage(tt.data)}.Decode()
		if err != nil || got != tt.want {
			t.Errorf("%s: %#v, %v", tt.event, got, err)
		}
	}
	for _, bad := range []string{``, `[`, `[]`, `{"guest": "secret"}`} {
		_, err := Event{Event: "SHUTDOWN", Data: json.RawMessage(bad)}.Decode()
		if !errors.Is(err, ErrProtocol) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestEventTime(t *testing.T) {
	for _, tt := range []struct{ seconds, micros int64 }{{-1, -1}, {0, 1e6}, {1 << 62, 0}, {5, -1}} {
		if got := eventTime(tt.seconds, tt.micros); !got.IsZero() {
			t.Errorf("%v: %v", tt, got)
		}
	}
	if got := eventTime(7, 8); !got.Equal(time.Unix(7, 8000)) {
		t.Errorf("%v", got)
	}
}

func TestCloseEndsEverything(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 20 {
		p, c := connect(t)
		p.send(`{"event": "STOP"}`)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if err := c.Execute(testContext(t), "hang", nil, nil); !errors.Is(err, ErrClosed) {
					t.Errorf("error %v", err)
				}
			})
		}
		p.receive()
		for range 2 {
			wg.Go(func() { c.Close() })
		}
		wg.Wait()
		if err := awaitDone(t, c); !errors.Is(err, ErrClosed) {
			t.Errorf("reason %v", err)
		}
		for range c.Events() {
			// At most what the pump had in its hand; then closed.
		}
		p.conn.Close()
	}
	for end := time.Now().Add(patience); runtime.NumGoroutine() > before; {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines before, %d after", before, runtime.NumGoroutine())
		}
		time.Sleep(time.Millisecond)
	}
}

func TestPairIsCloseOnExec(t *testing.T) {
	ours, theirs, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	defer theirs.Close()
	near, err := ours.(*net.UnixConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	for _, f := range []*os.File{near, theirs} {
		if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("%s: flags %d, %v", f.Name(), flags, err)
		}
	}
}

// FuzzReader feeds a whole connection with what the peer may say after a
// proper handshake: it must end with a reason, and every event that it
// delivers must have been in the input.
func FuzzReader(f *testing.F) {
	f.Add([]byte(`{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}}` + "\r\n"))
	f.Add([]byte(`{"return": {}, "id": 2}` + "\n" + `{"error": {"class": "a", "desc": "b"}, "id": 3}` + "\n"))
	f.Add([]byte(`{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}` + "\n\n \n{"))
	f.Add([]byte(greeting))
	f.Add([]byte("\xff\x00\n"))
	f.Fuzz(func(t *testing.T, input []byte) {
		ours, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			in := bufio.NewReader(theirs)
			io.WriteString(theirs, greeting+"\n")
			in.ReadSlice('\n')
			io.WriteString(theirs, `{"return": {}, "id": 1}`+"\n")
			theirs.Write(input)
		}()
		c, err := New(context.Background(), ours)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		events := 0
		for e := range c.Events() {
			events++
			if _, err := e.Decode(); err != nil && !errors.Is(err, ErrProtocol) {
				t.Errorf("event %+v: %v", e, err)
			}
		}
		<-c.Done()
		if err := c.Err(); !errors.Is(err, ErrProtocol) && !errors.Is(err, ErrPeerGone) {
			t.Errorf("reason %v", err)
		}
		if lines := strings.Count(string(input), "\n"); events > lines {
			t.Errorf("%d events in %d lines", events, lines)
		}
	})
}
