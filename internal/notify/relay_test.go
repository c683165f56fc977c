package notify

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// guest is a sender of the other side: what sd_notify of systemd 256 and newer
// does with a stream of AF_VSOCK (src/libsystemd/sd-daemon/sd-daemon.c): one
// connection, one send, shutdown of the sending half, a recv that ends with the
// host's close.
type guest struct {
	t    *testing.T
	path string
	// mute hypervisors do not hand on the half-close.
	mute bool
}

func (g guest) connect() *net.UnixConn {
	g.t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: g.path, Net: "unix"})
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { c.Close() })
	return c
}

// say returns how long the sender was held up.
func (g guest) say(text string) time.Duration {
	g.t.Helper()
	began := time.Now()
	c := g.connect()
	defer c.Close()
	if _, err := c.Write([]byte(text)); err != nil {
		g.t.Fatal(err)
	}
	if !g.mute {
		if err := c.CloseWrite(); err != nil {
			g.t.Fatal(err)
		}
	}
	g.waitForClose(c)
	return time.Since(began)
}

func (g guest) waitForClose(c net.Conn) {
	g.t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		g.t.Fatal(err)
	}
	one := make([]byte, 1)
	if n, err := c.Read(one); n != 0 {
		g.t.Fatalf("the host has written something: %q", one)
	} else if ne, ok := err.(net.Error); ok && ne.Timeout() {
		g.t.Fatal("the host has not closed")
	}
}

func listen(t *testing.T) (net.Listener, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	return l, path
}

func start(t *testing.T, limits limits) (*Relay, guest) {
	t.Helper()
	l, path := listen(t)
	r := serve(l, limits)
	t.Cleanup(func() { r.Close() })
	return r, guest{t: t, path: path}
}

func TestReadyIsHeard(t *testing.T) {
	for name, mute := range map[string]bool{"half-close": false, "no half-close": true} {
		t.Run(name, func(t *testing.T) {
			r, g := start(t, defaultLimits())
			g.mute = mute
			g.say("READY=1\nSTATUS=Ready.")
			m := r.Take()
			if !m.Ready || m.Status == nil || *m.Status != "Ready." {
				t.Errorf("got %+v", m)
			}
			select {
			case <-r.Changed():
			default:
				t.Error("nobody was told")
			}
			if again := r.Take(); !again.IsZero() {
				t.Errorf("taken twice: %+v", again)
			}
		})
	}
}

// TestHeardBeforeLetGo: what was said before a guest ends is there when its end
// is noticed.
func TestHeardBeforeLetGo(t *testing.T) {
	r, g := start(t, defaultLimits())
	for i := range 200 {
		g.mute = i%2 == 0
		g.say(fmt.Sprintf("EXIT_STATUS=%d", i%256))
		if m := r.Take(); m.ExitStatus == nil || *m.ExitStatus != i%256 {
			t.Fatalf("message %d: %+v", i, m)
		}
	}
}

// TestNobodyTakes: a sender does not wait for who wants to know.
func TestNobodyTakes(t *testing.T) {
	r, g := start(t, defaultLimits())
	g.say("READY=1\nEXIT_STATUS=3")
	for i := range 200 {
		g.say(fmt.Sprintf("STATUS=number %d", i))
	}
	m := r.Take()
	if !m.Ready || m.ExitStatus == nil || *m.ExitStatus != 3 || m.Status == nil || *m.Status != "number 199" {
		t.Errorf("got %+v", m)
	}
	if c := r.Counts(); c.Heard != 201 || c.Ignored != 0 || c.Refused != 0 {
		t.Errorf("%+v", c)
	}
}

func TestManyAtOnce(t *testing.T) {
	r, g := start(t, defaultLimits())
	var senders sync.WaitGroup
	for i := range 8 {
		senders.Go(func() {
			for j := range 50 {
				c, err := net.Dial("unix", g.path)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := fmt.Fprintf(c, "X_SYSTEMD_UNIT_ACTIVE=t%d.target", i*10+j%10); err != nil {
					t.Error(err)
				}
				_, _ = c.Read(make([]byte, 1))
				c.Close()
			}
		})
	}
	senders.Wait()
	if m := r.Take(); len(m.Targets) != 80 {
		t.Errorf("%d targets, %+v", len(m.Targets), r.Counts())
	}
}

func TestForget(t *testing.T) {
	r, g := start(t, defaultLimits())
	before := g.connect()
	g.say("READY=1") // and before is accepted
	r.Forget()
	if m := r.Take(); !m.IsZero() {
		t.Errorf("remembered: %+v", m)
	}
	if _, err := before.Write([]byte("STATUS=of the boot before")); err != nil {
		t.Fatal(err)
	}
	g.waitForClose(before)
	if m := r.Take(); !m.IsZero() {
		t.Errorf("heard of the boot before: %+v", m)
	}
	g.say("STATUS=of this one")
	if m := r.Take(); m.Status == nil || m.Ready {
		t.Errorf("got %+v", m)
	}
}

// TestDrain: before systemd 256 a sender does not wait, and its machine is gone
// at once.
func TestDrain(t *testing.T) {
	for range 50 {
		r, g := start(t, defaultLimits())
		for _, text := range []string{"STOPPING=1", "EXIT_STATUS=7\nX_SYSTEMD_SHUTDOWN=exit"} {
			c := g.connect()
			if _, err := c.Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
			c.Close()
		}
		if err := r.Drain(); err != nil {
			t.Fatal(err)
		}
		if m := r.Take(); !m.Stopping || m.ExitStatus == nil || *m.ExitStatus != 7 || m.Shutdown != "exit" {
			t.Fatalf("got %+v", m)
		}
	}
}

// TestDrainOnABusyHost: the deadline has passed before anybody accepts.
func TestDrainOnABusyHost(t *testing.T) {
	l, path := listen(t)
	g := guest{t: t, path: path}
	for _, text := range []string{"STOPPING=1", "EXIT_STATUS=7"} {
		c := g.connect()
		g.write(c, text)
		c.Close()
	}
	if err := l.(*net.UnixListener).SetDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	r := newRelay(l, defaultLimits())
	r.run()
	if m := r.Take(); !m.Stopping || m.ExitStatus == nil {
		t.Errorf("got %+v", m)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

// TestDrainEnds: one that is not gone is not waited for.
func TestDrainEnds(t *testing.T) {
	r, g := start(t, patient())
	idle := g.connect()
	began := time.Now()
	if err := r.Drain(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > drainLimit+5*time.Second {
		t.Errorf("it took %v", took)
	}
	g.waitForClose(idle)
}

func TestClose(t *testing.T) {
	r, g := start(t, defaultLimits())
	idle := g.connect()
	talking := g.connect()
	if _, err := talking.Write([]byte("STAT")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	g.waitForClose(idle)
	g.waitForClose(talking)
	if c, err := net.Dial("unix", g.path); err == nil {
		c.Close()
		t.Error("it still listens")
	}
}

// failing is a listener that fails at first.
type failing struct {
	net.Listener
	times int
}

func (f *failing) Accept() (net.Conn, error) {
	if f.times--; f.times >= 0 {
		return nil, os.NewSyscallError("accept4", syscall.EMFILE)
	}
	return f.Listener.Accept()
}

func TestAcceptIsTriedAgain(t *testing.T) {
	l, path := listen(t)
	r := Serve(&failing{l, 2})
	defer r.Close()
	guest{t: t, path: path}.say("READY=1")
	if !r.Take().Ready {
		t.Error("not heard")
	}
}

func TestPace(t *testing.T) {
	p := pace{pause: time.Millisecond, burst: 3}
	now := time.Unix(1000, 0)
	for i, want := range []time.Duration{-2, -1, 0, 1, 2, 3} {
		if got := p.next(now); got != want*time.Millisecond {
			t.Errorf("number %d waits %v", i, got)
		}
	}
	now = now.Add(6 * time.Millisecond)
	if got := p.next(now); got != -2*time.Millisecond {
		t.Errorf("after a rest: %v", got)
	}
}
