package credential

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// serve answers each connection to a socket with what reply gives for the name
// of the other side.
func (w *world) serve(name string, reply func(peer string, c *net.UnixConn)) {
	w.t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: w.path(name), Net: "unix"})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				reply(c.RemoteAddr().String(), c)
			}()
		}
	}()
}

// A socket is told who asks for what, by the name that systemd would use.
func TestLoadFromSocket(t *testing.T) {
	w := newWorld(t)
	peers := make(chan string, 10)
	w.serve("s", func(peer string, c *net.UnixConn) {
		peers <- peer
		// The other side says at once that it has nothing to send.
		if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("the client sends %d bytes, %v", n, err)
		}
		for _, part := range []string{"in ", "", "parts\x00", strings.Repeat("!", 100_000)} {
			_, _ = c.Write([]byte(part))
			time.Sleep(5 * time.Millisecond)
		}
	})
	w.one("LoadCredential=API_KEY:DIR/s", "API_KEY=in parts\x00"+strings.Repeat("!", 100_000)+" (socket DIR/s)")
	if peer := <-peers; !regexp.MustCompile(`^@[0-9a-f]{16}/unit/microvm@test\.service/API_KEY$`).MatchString(peer) {
		t.Errorf("the socket is told %q", peer)
	}
	w.link("l", "DIR/s")
	w.service("LoadCredential=host:DIR/l")
	creds, problems := w.gather("LoadCredentialEncrypted=e:DIR/l", "Credential=guest:host")
	if len(creds) != 2 || problems != nil {
		t.Errorf("%q", problems)
	}
	asked := map[string]bool{}
	for range 2 {
		peer := <-peers
		asked[peer[strings.LastIndex(peer, "/"):]] = true
	}
	if !asked["/e"] || !asked["/host"] {
		t.Errorf("the socket is asked for %v", asked)
	}
	w.env.Unit = ""
	w.gather("LoadCredential=a:DIR/s")
	if peer := <-peers; strings.Contains(peer, "unit") {
		t.Errorf("without a unit the socket is told %q", peer)
	}
}

// The path of a socket may be longer than a socket's address.
func TestSocketWithLongPath(t *testing.T) {
	w := newWorld(t)
	w.serve("s", func(_ string, c *net.UnixConn) { _, _ = c.Write([]byte("far")) })
	dir := strings.Repeat("x", 200)
	w.mkdir(dir)
	if err := os.Rename(w.path("s"), w.path(dir+"/s")); err != nil {
		t.Fatal(err)
	}
	w.one("LoadCredential=a:DIR/"+dir+"/s", "a=far (socket DIR/"+dir+"/s)")
}

func TestBadSockets(t *testing.T) {
	w := newWorld(t)
	w.env.Timeout = 100 * time.Millisecond
	w.serve("silent", func(_ string, c *net.UnixConn) { time.Sleep(2 * time.Second) })
	w.serve("endless", func(_ string, c *net.UnixConn) {
		for {
			if _, err := c.Write(make([]byte, 1<<16)); err != nil {
				return
			}
		}
	})
	w.serve("works", func(_ string, c *net.UnixConn) { _, _ = c.Write([]byte("x")) })
	l, err := net.Listen("unix", w.path("dead"))
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = l.Close()
	d, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: w.path("datagram"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()

	w.one("LoadCredential=a:DIR/silent", "vm:1: LoadCredential=a:DIR/silent: socket DIR/silent gave no end of data within 100ms")
	w.one("LoadCredential=a:DIR/dead", "vm:1: LoadCredential=a:DIR/dead: nobody listens on socket DIR/dead; start the service behind it first")
	w.one("LoadCredential=a:DIR/datagram",
		"vm:1: LoadCredential=a:DIR/datagram: DIR/datagram is no stream socket; a source is a file, a directory, a FIFO or an AF_UNIX stream socket")
	w.env.Timeout = 20 * time.Second
	w.one("LoadCredential=a:DIR/endless", "vm:1: LoadCredential=a:DIR/endless: socket DIR/endless is too large; at most 1048576 bytes are possible")
	long := strings.Repeat("n", 100)
	_, problems := w.gather("LoadCredential=" + long + ":DIR/works")
	want := `socket DIR/works cannot be told who is asking: "/unit/microvm@test.service/` + long + `" with a random part has 143 bytes, a socket's name has at most 107`
	if len(problems) != 1 || !strings.HasSuffix(problems[0], want) {
		t.Errorf("%q", problems)
	}
}

// A listener whose queue is full is waited for.
func TestSocketQueueFull(t *testing.T) {
	w := newWorld(t)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: w.path("s")}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	first, err := net.Dial("unix", w.path("s"))
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	w.env.Timeout = 150 * time.Millisecond
	w.one("LoadCredential=a:DIR/s", "vm:1: LoadCredential=a:DIR/s: socket DIR/s gave no end of data within 150ms")
	w.env.Timeout = 20 * time.Second
	go func() {
		time.Sleep(50 * time.Millisecond)
		for range 2 {
			c, _, err := unix.Accept(fd)
			if err != nil {
				return
			}
			_, _ = unix.Write(c, []byte("at last"))
			_ = unix.Close(c)
		}
	}()
	w.one("LoadCredential=a:DIR/s", "a=at last (socket DIR/s)")
}

func TestLoadFromFIFO(t *testing.T) {
	w := newWorld(t)
	w.fifo("f")
	go func() {
		time.Sleep(50 * time.Millisecond) // the reader waits for a writer
		f, err := os.OpenFile(w.path("f"), os.O_WRONLY, 0)
		if err != nil {
			t.Error(err)
			return
		}
		for _, part := range []string{"one", "two", strings.Repeat("3", 200_000)} {
			_, _ = f.WriteString(part)
			time.Sleep(30 * time.Millisecond)
		}
		_ = f.Close()
	}()
	w.one("LoadCredential=a:DIR/f", "a=onetwo"+strings.Repeat("3", 200_000)+" (FIFO DIR/f)")

	// A writer that says nothing gives an empty value.
	go func() {
		if f, err := os.OpenFile(w.path("f"), os.O_WRONLY, 0); err == nil {
			_ = f.Close()
		}
	}()
	w.one("LoadCredential=a:DIR/f", "a= (FIFO DIR/f)")

	w.env.Timeout = 80 * time.Millisecond
	w.one("LoadCredential=a:DIR/f", "vm:1: LoadCredential=a:DIR/f: FIFO DIR/f gave no end of data within 80ms")
	stuck, err := os.OpenFile(w.path("f"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer stuck.Close()
	if _, err := stuck.WriteString("half of a secret"); err != nil {
		t.Fatal(err)
	}
	w.one("LoadCredential=a:DIR/f", "vm:1: LoadCredential=a:DIR/f: FIFO DIR/f gave no end of data within 80ms")
}

// An interrupt ends the wait at once.
func TestCancel(t *testing.T) {
	w := newWorld(t)
	w.fifo("f")
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(50*time.Millisecond, cancel)
	began := time.Now()
	creds, list := Gather(ctx, w.requests("vm", "LoadCredential=a:DIR/f", "LoadCredential=b:DIR/f"), w.env)
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
	if creds != nil || len(list) != 2 || !strings.Contains(list[0].What, context.Canceled.Error()) {
		t.Errorf("%v, %v", creds, list)
	}
}

// What the kernel says to the reader comes out.
func TestReadPolledErrors(t *testing.T) {
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if _, err := readPolled(context.Background(), int(dir.Fd()), 10); !errors.Is(err, unix.EISDIR) {
		t.Errorf("%v", err)
	}
}
