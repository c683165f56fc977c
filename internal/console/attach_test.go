package console

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const patience = 10 * time.Second

// guestPair returns the two ends of a console's connection.
func guestPair(t *testing.T) (ours, guest net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conns := make([]net.Conn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "console")
		if conns[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
		t.Cleanup(func() { conns[i].Close() })
	}
	return conns[0], conns[1]
}

// log is an operator's output that remembers each write.
type log struct {
	mu     sync.Mutex
	writes []string
	block  chan struct{} // if not nil, writes wait for it
	err    error
}

func (l *log) Write(p []byte) (int, error) {
	if l.block != nil {
		<-l.block
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.writes = append(l.writes, string(p))
	return len(p), l.err
}

func (l *log) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.writes...)
}

func (l *log) await(t *testing.T, what string) {
	t.Helper()
	await(t, fmt.Sprintf("%q in the log", what), func() bool { return strings.Contains(strings.Join(l.all(), ""), what) })
}

func await(t *testing.T, what string, true func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !true(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

// attached is an Attach that runs.
type attached struct {
	t      *testing.T
	cancel func()
	result chan error
}

func attach(t *testing.T, guest io.ReadWriter, opts Options) *attached {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	a := &attached{t, cancel, make(chan error, 1)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		a.result <- Attach(ctx, guest, opts)
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return a
}

func (a *attached) wait() error {
	a.t.Helper()
	select {
	case err := <-a.result:
		return err
	case <-time.After(patience):
		a.t.Fatal("Attach has not returned")
		return nil
	}
}

func say(t *testing.T, w io.Writer, text string) {
	t.Helper()
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
}

func TestLinesAreWrittenWhole(t *testing.T) {
	ours, guest := guestPair(t)
	var out log
	a := attach(t, ours, Options{Out: &out})
	say(t, guest, "one\r\ntw")
	out.await(t, "one")
	say(t, guest, "o\r\n\x1b[1mthree\x1b[0m\r\nlast")
	guest.Close()
	if err := a.wait(); err != nil {
		t.Error(err)
	}
	if got, want := fmt.Sprintf("%q", out.all()), `["one\n" "two\n" "three\n" "last\n"]`; got != want {
		t.Errorf("writes %s, want %s", got, want)
	}
}

func TestPartialLineIsFlushedAfterSilence(t *testing.T) {
	ours, guest := guestPair(t)
	var out log
	attach(t, ours, Options{Out: &out})
	begin := time.Now()
	say(t, guest, "host login: ")
	time.Sleep(flushAfter / 2)
	if got := out.all(); len(got) != 0 {
		t.Errorf("too early: %q", got)
	}
	out.await(t, "host login: \n")
	if d := time.Since(begin); d < flushAfter || d > flushAfter+3*time.Second {
		t.Errorf("flushed after %v", d)
	}
}

func TestWatchSeesTheUnfinishedLineSoon(t *testing.T) {
	ours, guest := guestPair(t)
	found := make(chan string, 1)
	w := NewWatch(nil, Pattern{Regexp: regexp.MustCompile(`login: $`), Found: func(line string) { found <- line }})
	attach(t, ours, Options{Out: io.Discard, Watch: w})
	begin := time.Now()
	say(t, guest, "Debian\r\n\r\nhost login: ")
	select {
	case line := <-found:
		if line != "host login: " {
			t.Errorf("line %q", line)
		}
		if d := time.Since(begin); d > flushAfter {
			t.Errorf("found after %v", d)
		}
	case <-time.After(patience):
		t.Fatal("not found")
	}
}

func TestPanicWithoutNewlineAtTheEnd(t *testing.T) {
	ours, guest := guestPair(t)
	w := NewWatch(nil)
	a := attach(t, ours, Options{Watch: w})
	say(t, guest, "[    1.000000] Kernel panic - not syncing: cut")
	guest.Close()
	if err := a.wait(); err != nil {
		t.Error(err)
	}
	if reason, last := w.LastPanic(); reason != "cut" || !last {
		t.Errorf("%q, %v", reason, last)
	}
}

func TestInputIsForwardedOnlyOnRequest(t *testing.T) {
	for _, forward := range []bool{false, true} {
		ours, guest := guestPair(t)
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		// Bytes that mean something on a terminal mean nothing here.
		const text = "a\x1d\x1d\x1d\x03\x00\xffb\n"
		say(t, w, text)
		w.Close()
		a := attach(t, ours, Options{In: r, ForwardInput: forward, OnEscape: func() { t.Error("escape on a pipe") }})
		if forward {
			got := make([]byte, len(text))
			guest.SetReadDeadline(time.Now().Add(patience))
			if _, err := io.ReadFull(guest, got); err != nil || string(got) != text {
				t.Errorf("guest got %q, %v", got, err)
			}
		}
		// The end of the input is not that of the console.
		guest.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if n, err := guest.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("forward %v: guest got %d bytes, %v", forward, n, err)
		}
		guest.Close()
		if err := a.wait(); err != nil {
			t.Error(err)
		}
		if left, err := io.ReadAll(r); err != nil || !forward && string(left) != text {
			t.Errorf("forward %v: %q left, %v", forward, left, err)
		}
	}
}

func TestForwardedPipeWaitsForASlowGuest(t *testing.T) {
	ours, guest := guestPair(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte("0123456789abcdef"), 64<<10) // 1 MiB, more than any queue
	go func() {
		defer w.Close()
		w.Write(want)
	}()
	attach(t, ours, Options{In: r, ForwardInput: true})
	time.Sleep(50 * time.Millisecond) // everything is full by now
	got := make([]byte, len(want))
	guest.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(guest, got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("not the same bytes, %v", err)
	}
}

func TestContextEndsAttach(t *testing.T) {
	before := runtime.NumGoroutine()
	ours, guest := guestPair(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	var out log
	a := attach(t, ours, Options{In: r, Out: &out, ForwardInput: true})
	say(t, guest, "unfinished")
	// A guest that does not read must not matter either.
	go w.Write(make([]byte, 1<<20))
	time.Sleep(50 * time.Millisecond)
	a.cancel()
	if err := a.wait(); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if got := out.all(); len(got) != 1 || got[0] != "unfinished\n" {
		t.Errorf("writes %q", got)
	}
	// The connection is as before and can be attached again.
	a = attach(t, ours, Options{Out: &out})
	say(t, guest, "again\n")
	guest.Close()
	r.Close()
	if err := a.wait(); err != nil {
		t.Error(err)
	}
	out.await(t, "again\n")
	await(t, "goroutines ended", func() bool { return runtime.NumGoroutine() <= before+1 })
}

// noDeadlines hides a connection's deadlines.
type noDeadlines struct{ io.ReadWriter }

func TestGuestWithoutDeadlines(t *testing.T) {
	ours, guest := guestPair(t)
	a := attach(t, noDeadlines{ours}, Options{})
	say(t, guest, "x")
	a.cancel()
	if err := a.wait(); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestBlockedOperatorNeverStallsTheGuest(t *testing.T) {
	ours, guest := guestPair(t)
	out := log{block: make(chan struct{})}
	w := NewWatch(nil)
	a := attach(t, ours, Options{Out: &out, Watch: w})
	// Far more than the queue and the socket take together.
	line := strings.Repeat("x", 1000) + "\n"
	const lines = 5000
	written := make(chan struct{})
	go func() {
		defer close(written)
		for i := range lines {
			fmt.Fprintf(guest, "%05d %s", i, line)
		}
		io.WriteString(guest, "[    9.000000] Kernel panic - not syncing: seen\n")
	}()
	select {
	case <-written:
	case <-time.After(patience):
		t.Fatal("the guest is stalled")
	}
	await(t, "the panic", func() bool { reason, _ := w.LastPanic(); return reason == "seen" })

	close(out.block)
	guest.Close()
	if err := a.wait(); err != nil {
		t.Error(err)
	}
	checkDropped(t, out.all(), lines, len("00000 ")+len(line))
}

// checkDropped: every line is there in order, or within the marked gap of
// exactly its size, and the latest are there.
func checkDropped(t *testing.T, writes []string, lines, size int) {
	t.Helper()
	next, gaps := 0, 0
	for _, w := range writes[:len(writes)-1] {
		var dropped, number int
		if _, err := fmt.Sscanf(w, "[… %d bytes dropped …]\n", &dropped); err == nil {
			gaps++
			if dropped%size != 0 {
				t.Errorf("%d bytes dropped, no whole lines", dropped)
			}
			next += dropped / size
			continue
		}
		if _, err := fmt.Sscanf(w, "%d ", &number); err != nil || number != next || len(w) != size {
			t.Fatalf("write %.20q, want line %d", w, next)
		}
		next++
	}
	if next != lines || gaps == 0 {
		t.Errorf("%d of %d lines, %d gaps", next, lines, gaps)
	}
	if last := writes[len(writes)-1]; !strings.Contains(last, "Kernel panic") {
		t.Errorf("last line %q", last)
	}
}

func TestStuckOperatorDelaysTheEndOnlyForAWhile(t *testing.T) {
	ours, guest := guestPair(t)
	out := log{block: make(chan struct{})}
	defer close(out.block)
	a := attach(t, ours, Options{Out: &out})
	say(t, guest, "x\n")
	guest.Close()
	begin := time.Now()
	if err := a.wait(); err != nil {
		t.Error(err)
	}
	if d := time.Since(begin); d > drainTime+3*time.Second {
		t.Errorf("returned after %v", d)
	}
}

func TestFailingOperatorIsReportedAtTheEnd(t *testing.T) {
	ours, guest := guestPair(t)
	out := log{err: syscall.ENOSPC}
	w := NewWatch(nil)
	a := attach(t, ours, Options{Out: &out, Watch: w})
	say(t, guest, "x\n")
	out.await(t, "x")
	say(t, guest, realPanic+realEnd)
	guest.Close()
	if err := a.wait(); !errors.Is(err, syscall.ENOSPC) || !strings.HasPrefix(err.Error(), "writing the console: ") {
		t.Errorf("error %v", err)
	}
	if _, last := w.LastPanic(); !last {
		t.Error("the watch has missed the panic")
	}
	if got := out.all(); len(got) != 1 {
		t.Errorf("written after the failure: %q", got)
	}
}

type brokenGuest struct{ err error }

func (g brokenGuest) Read([]byte) (int, error)    { return 0, g.err }
func (g brokenGuest) Write(p []byte) (int, error) { return 0, g.err }

func TestGuestErrors(t *testing.T) {
	for _, err := range []error{io.EOF, syscall.ECONNRESET, syscall.EIO, net.ErrClosed} {
		if got := attach(t, brokenGuest{err}, Options{}).wait(); got != nil {
			t.Errorf("%v: %v", err, got)
		}
	}
	got := attach(t, brokenGuest{syscall.EBADF}, Options{}).wait()
	if !errors.Is(got, syscall.EBADF) || !strings.HasPrefix(got.Error(), "reading the guest's console: ") {
		t.Errorf("error %v", got)
	}
}

func TestOutputCountsSmallChunks(t *testing.T) {
	out := log{block: make(chan struct{})}
	o := newOutput(&out, false)
	o.push([]byte("\n"))
	// From here on the writer is stuck with its first chunk.
	await(t, "the first write", func() bool { o.mu.Lock(); defer o.mu.Unlock(); return len(o.chunks) == 0 })
	for range 1 << 20 {
		o.push([]byte("\n"))
	}
	o.mu.Lock()
	queued, dropped := len(o.chunks), o.dropped
	o.mu.Unlock()
	if queued > outputLimit/chunkCost || queued+dropped != 1<<20 {
		t.Errorf("%d queued, %d dropped", queued, dropped)
	}
	close(out.block)
	if err := o.close(patience); err != nil {
		t.Error(err)
	}
}

func TestEscape(t *testing.T) {
	start := time.Unix(1000, 0)
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	type step struct {
		ms    int
		in    string
		pass  string
		fired int
	}
	tests := []struct {
		name  string
		steps []step
	}{
		{"text", []step{{0, "abc", "abc", 0}}},
		{"at once", []step{{0, "\x1d\x1d\x1d", "", 1}}},
		{"slowly", []step{{0, "\x1d", "", 0}, {400, "\x1d", "", 0}, {999, "\x1d", "", 1}}},
		{"too slowly", []step{{0, "\x1d", "", 0}, {400, "\x1d", "", 0}, {1000, "\x1d", "\x1d\x1d", 0}, {1500, "\x1d\x1d", "", 1}}},
		{"single passes after the time", []step{{0, "\x1d", "", 0}, {999, "", "", 0}, {1000, "", "\x1d", 0}}},
		{"not in a row", []step{{0, "\x1d\x1da\x1db", "\x1d\x1da\x1db", 0}}},
		{"twice", []step{{0, "a\x1d\x1d\x1db\x1d\x1d\x1dc", "abc", 2}}},
		{"four", []step{{0, "\x1d\x1d\x1d\x1d", "", 1}, {1000, "", "\x1d", 0}}},
	}
	for _, tt := range tests {
		var e escape
		for i, s := range tt.steps {
			var got []byte
			fired := 0
			if s.in == "" {
				got = e.expire(at(s.ms))
			}
			for rest := []byte(s.in); len(rest) > 0; {
				pass, more, f := e.feed(at(s.ms), rest)
				got, rest = append(got, pass...), more
				if f {
					fired++
				}
			}
			if string(got) != s.pass || fired != s.fired {
				t.Errorf("%s, step %d: passed %q, fired %d", tt.name, i, got, fired)
			}
			if wait := e.timeout(at(s.ms)); (wait == -1) != (e.presses == 0) || wait > 1000 {
				t.Errorf("%s, step %d: timeout %d with %d presses", tt.name, i, wait, e.presses)
			}
		}
	}
}
