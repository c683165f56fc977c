package notify

import (
	"net"
	"path/filepath"
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
