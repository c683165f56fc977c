package notify

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// patient limits are for tests that must not depend on how busy the machine is.
func patient() limits {
	return limits{first: 10 * time.Second, quiet: 200 * time.Millisecond, patience: 2 * time.Second, whole: 10 * time.Second, pieces: 32}
}

func (g guest) write(c net.Conn, text string) {
	g.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		g.t.Fatal(err)
	}
}

// TestPieces: a message is not cut where its sender's packets are.
func TestPieces(t *testing.T) {
	r, g := start(t, patient())
	c := g.connect()
	for _, piece := range []string{"EXIT_STATUS=1", "3", "\nSTAT", "US=gr\xc3", "\xbcn"} {
		g.write(c, piece)
		time.Sleep(5 * time.Millisecond)
	}
	g.waitForClose(c)
	if m := r.Take(); m.ExitStatus == nil || *m.ExitStatus != 13 || m.Status == nil || *m.Status != "grün" {
		t.Errorf("got %+v", m)
	}
}

// TestPatience: a text that cannot be all is waited for longer than one that can.
func TestPatience(t *testing.T) {
	l := patient()
	l.quiet = time.Microsecond
	r, g := start(t, l)
	c := g.connect()
	for _, piece := range []string{"READ", "Y=", "1"} {
		g.write(c, piece)
		time.Sleep(20 * time.Millisecond)
	}
	g.waitForClose(c)
	if !r.Take().Ready {
		t.Error("not heard")
	}
}

// TestPatienceEnds: what cannot be all of a message is taken for it in the end,
// as far as it goes.
func TestPatienceEnds(t *testing.T) {
	l := patient()
	l.patience = 10 * time.Millisecond
	r, g := start(t, l)
	c := g.connect()
	g.write(c, "READY=1\nSTATU")
	g.waitForClose(c)
	if m := r.Take(); !m.Ready || m.Status != nil {
		t.Errorf("got %+v", m)
	}
}

// TestHalfCloseEnds: who closes need not wait for a silence.
func TestHalfCloseEnds(t *testing.T) {
	l := patient()
	l.quiet, l.patience = 10*time.Second, 10*time.Second
	r, g := start(t, l)
	if took := g.say("READY=1\nSTATU"); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	if !r.Take().Ready {
		t.Error("not heard")
	}
}

// TestHeldUp: a sender whose hypervisor hands on no half-close waits for the
// silence and hardly more. What is promised of it, test/bench measures on a
// machine that has nothing else to do; here it is what a clock of milliseconds
// would add, several times over.
func TestHeldUp(t *testing.T) {
	_, g := start(t, defaultLimits())
	g.mute = true
	var took []time.Duration
	for range 101 {
		took = append(took, g.say("STATUS=(1 of 9) A start job is running"))
	}
	slices.Sort(took)
	if median := took[len(took)/2]; median > 20*time.Millisecond {
		t.Errorf("half of all took more than %v", median)
	}
}

func TestLength(t *testing.T) {
	r, g := start(t, defaultLimits())
	longest := "READY=1\nSTATUS=" + strings.Repeat("x", MaxMessage-len("READY=1\nSTATUS="))
	g.say(longest)
	if !r.Take().Ready {
		t.Error("the longest is not heard")
	}
	g.mute = true // so that the end is a silence, and not one of the reads
	g.say(longest + "x")
	c := g.connect()
	_, _ = io.WriteString(c, longest+strings.Repeat("x", 1<<20)) // until we hang up
	if m := r.Take(); !m.IsZero() {
		t.Errorf("heard of what is too long: %+v", m)
	}
	g.waitForClose(c)
	if c := r.Counts(); c.Refused != 2 {
		t.Errorf("%+v", c)
	}
}

// dribble sends a text and then byte after byte until it is cut off.
func (g guest) dribble(text string) {
	g.t.Helper()
	c := g.connect()
	end := time.Now().Add(5 * time.Second)
	for i, err := 0, error(nil); err == nil; i++ {
		if time.Now().After(end) {
			g.t.Fatal("the host does not mind")
		}
		one := "a"
		if i < len(text) {
			one = text[i : i+1]
		}
		_, err = io.WriteString(c, one)
		time.Sleep(time.Millisecond)
	}
	g.waitForClose(c)
}

// TestDribble: whoever sends one byte at a time is cut off, and not heard.
func TestDribble(t *testing.T) {
	for _, text := range []string{"STATUS=", "STATU"} { // it can be all, and it cannot
		t.Run(text, func(t *testing.T) {
			l := patient()
			l.pieces = 8
			r, g := start(t, l)
			g.dribble(text)
			if m, c := r.Take(), r.Counts(); !m.IsZero() || c.Refused != 1 {
				t.Errorf("%+v, %+v", m, c)
			}
		})
	}
}

// TestPatienceIsNotEndless, however often the sender adds to it.
func TestPatienceIsNotEndless(t *testing.T) {
	l := patient()
	l.pieces, l.whole, l.quiet = 1<<20, 50*time.Millisecond, time.Microsecond
	r, g := start(t, l)
	g.dribble("STATU")
	if m, c := r.Take(), r.Counts(); !m.IsZero() || c.Ignored != 1 {
		t.Errorf("%+v, %+v", m, c)
	}
}

// TestBusyHost: a message that has arrived is heard, however late we come to it.
func TestBusyHost(t *testing.T) {
	for _, l := range []limits{
		{first: time.Minute, quiet: 10 * time.Millisecond, patience: time.Nanosecond, whole: time.Minute, pieces: 32},
		{first: time.Minute, quiet: 10 * time.Millisecond, patience: time.Minute, whole: time.Nanosecond, pieces: 32},
	} {
		ours, theirs := pair(t)
		for _, piece := range []string{"REA", "DY", "=1\nST"} {
			guest{t: t}.write(theirs, piece)
		}
		small := &oneAtATime{ours}
		if text, err := l.read(small); err != nil || string(text) != "READY=1\nST" {
			t.Errorf("%+v: %q, %v", l, text, err)
		}
	}
}

// oneAtATime reads what is there in pieces.
type oneAtATime struct{ *net.UnixConn }

func (o *oneAtATime) Read(p []byte) (int, error) { return o.UnixConn.Read(p[:1]) }

func pair(t *testing.T) (ours, theirs *net.UnixConn) {
	t.Helper()
	l, path := listen(t)
	defer l.Close()
	theirs = guest{t: t, path: path}.connect()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.UnixConn), theirs
}

func TestSilentFromTheStart(t *testing.T) {
	l := patient()
	l.first = 20 * time.Millisecond
	r, g := start(t, l)
	c := g.connect()
	g.waitForClose(c)
	if c := r.Counts(); c.Refused != 1 {
		t.Errorf("%+v", c)
	}
}

func TestSaysNothing(t *testing.T) {
	r, g := start(t, patient())
	g.say("")
	g.say("MAINPID=1")
	if c := r.Counts(); c.Ignored != 2 || c.Refused != 0 {
		t.Errorf("%+v", c)
	}
	if m := r.Take(); !m.IsZero() {
		t.Errorf("heard %+v", m)
	}
}

// TestCrowd: connections that say nothing, and such that do not come to an end,
// neither cost more than the limit nor keep a message from being heard.
func TestCrowd(t *testing.T) {
	l := patient()
	l.first, l.whole, l.quiet = time.Minute, time.Minute, time.Microsecond
	r, g := start(t, l)
	before := runtime.NumGoroutine()
	var crowd []net.Conn
	for i := range 5 * maxOpen {
		c := g.connect()
		if i%2 == 0 {
			g.write(c, "STAT")
		}
		crowd = append(crowd, c)
	}
	g.say("READY=1")
	if !r.Take().Ready {
		t.Error("not heard")
	}
	if more := runtime.NumGoroutine() - before; more > maxOpen+1 {
		t.Errorf("%d goroutines more", more)
	}
	g.waitForClose(crowd[0])
	if c := r.Counts(); c.Refused < 4*maxOpen {
		t.Errorf("%+v", c)
	}
}

// TestFlood: more messages than anybody has to send are slowed down, and all of
// them are heard.
func TestFlood(t *testing.T) {
	l, path := listen(t)
	r := newRelay(l, defaultLimits())
	r.pace = pace{pause: 5 * time.Millisecond, burst: 10}
	go r.run()
	defer r.Close()
	g := guest{t: t, path: path}
	began := time.Now()
	for i := range 30 {
		g.say(fmt.Sprintf("STATUS=%d", i))
	}
	if took := time.Since(began); took < 90*time.Millisecond {
		t.Errorf("30 messages took %v", took)
	}
	if c := r.Counts(); c.Heard != 30 {
		t.Errorf("%+v", c)
	}
}
