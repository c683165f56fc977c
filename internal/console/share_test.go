package console

import (
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// sharing is a console that others can take part in.
func sharing(t *testing.T) (a *attached, guest net.Conn, connect func() *net.UnixConn) {
	t.Helper()
	ours, guest := guestPair(t)
	path := filepath.Join(t.TempDir(), "console")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	a = attach(t, ours, Options{Out: io.Discard, Share: l})
	return a, guest, func() *net.UnixConn {
		t.Helper()
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
}

// hear reads n bytes.
func hear(t *testing.T, conn net.Conn, n int) string {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	buf := make([]byte, n)
	if got, err := io.ReadFull(conn, buf); err != nil {
		t.Fatalf("%d of %d bytes: %v", got, n, err)
	}
	return string(buf)
}

// Every client gets what was said before it came, and then what all get; what
// it says goes to the guest.
func TestShare(t *testing.T) {
	a, guest, connect := sharing(t)
	first := connect()
	say(t, guest, "one\r\n")
	if got := hear(t, first, 5); got != "one\r\n" {
		t.Errorf("%q", got)
	}
	second := connect()
	if got := hear(t, second, 5); got != "one\r\n" {
		t.Errorf("late: %q", got)
	}
	say(t, guest, "\x1b[1mtwo")
	for _, c := range []*net.UnixConn{first, second} {
		if got := hear(t, c, 7); got != "\x1b[1mtwo" {
			t.Errorf("live: %q", got)
		}
	}
	say(t, first, "abc")
	if got := hear(t, guest, 3); got != "abc" {
		t.Errorf("the guest hears %q", got)
	}
	say(t, second, "\x1d\x1d\x1d")
	if got := hear(t, guest, 3); got != "\x1d\x1d\x1d" {
		t.Errorf("the guest hears %q", got)
	}
	// One that has nothing more to say may listen on.
	if err := second.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	first.Close()
	say(t, guest, "three")
	if got := hear(t, second, 5); got != "three" {
		t.Errorf("after its last word: %q", got)
	}
	// The guest's last words come before the end.
	say(t, guest, "bye")
	guest.Close()
	if err := a.wait(); err != nil {
		t.Error(err)
	}
	if rest, err := io.ReadAll(second); err != nil || string(rest) != "bye" {
		t.Errorf("%q, %v", rest, err)
	}
}

// A new client gets the last 64 KiB to the byte.
func TestShareScrollBack(t *testing.T) {
	_, guest, connect := sharing(t)
	listener := connect()
	var all bytes.Buffer
	for i := range 100_000 {
		all.WriteByte(byte(i*i>>7 + i))
	}
	// In pieces, so that they lie across the ring's end.
	for piece := range slices.Chunk(all.Bytes(), 7001) {
		say(t, guest, string(piece))
		if got := hear(t, listener, len(piece)); got != string(piece) {
			t.Fatal("the live bytes are others")
		}
	}
	want := all.String()[all.Len()-ScrollBack:]
	if got := hear(t, connect(), ScrollBack); got != want {
		t.Error("the latest bytes are others")
	}
}

// A client that does not read is sent away, and nobody else waits for it.
func TestShareStuckClient(t *testing.T) {
	a, guest, connect := sharing(t)
	stuck, good := connect(), connect()
	say(t, guest, "x")
	hear(t, stuck, 1)
	hear(t, good, 1)
	line := strings.Repeat("y", 32<<10)
	began := time.Now()
	for range 64 { // 2 MiB
		say(t, guest, line)
		if got := hear(t, good, len(line)); got != line {
			t.Fatal("the other client hears something else")
		}
	}
	if took := time.Since(began); took > patience/2 {
		t.Errorf("it took %s", took)
	}
	_ = stuck.SetReadDeadline(time.Now().Add(patience))
	if n, err := io.Copy(io.Discard, stuck); n > 1<<20 {
		t.Errorf("it got %d bytes (%v) and was not sent away", n, err)
	}
	guest.Close()
	if err := a.wait(); err != nil {
		t.Error(err)
	}
}

// A client that reads nothing does not hold up the end for long.
func TestShareStuckAtEnd(t *testing.T) {
	a, guest, connect := sharing(t)
	connect()
	stuck := connect()
	say(t, guest, strings.Repeat("z", 60<<10))
	hear(t, stuck, 1)
	say(t, guest, strings.Repeat("z", 250<<10))
	time.Sleep(100 * time.Millisecond)
	guest.Close()
	began := time.Now()
	if err := a.wait(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 3*drainTime {
		t.Errorf("it took %s", took)
	}
}

// A guest that reads nothing holds up a client that talks, and nothing else;
// the end comes all the same.
func TestShareDeafGuest(t *testing.T) {
	a, guest, connect := sharing(t)
	talker, listener := connect(), connect()
	_ = talker.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	var err error
	for err == nil {
		_, err = talker.Write(make([]byte, 4096))
	}
	say(t, guest, "still here")
	if got := hear(t, listener, 10); got != "still here" {
		t.Errorf("%q", got)
	}
	a.cancel()
	a.wait()
}

// Clients that left without a word make room.
func TestShareLimit(t *testing.T) {
	_, guest, connect := sharing(t)
	say(t, guest, "hello")
	for range 3 {
		var all []*net.UnixConn
		for range maxClients {
			c := connect()
			if got := hear(t, c, 5); got != "hello" {
				t.Fatalf("%q", got)
			}
			all = append(all, c)
		}
		one := connect()
		_ = one.SetReadDeadline(time.Now().Add(patience))
		if n, err := one.Read(make([]byte, 1)); n != 0 || err == nil || os.IsTimeout(err) {
			t.Errorf("one too many is served: %d, %v", n, err)
		}
		for i, c := range all {
			if i%2 == 0 {
				_ = c.CloseWrite()
				time.Sleep(time.Millisecond)
			}
			c.Close()
		}
	}
}

// Other users are not let in, whatever the socket's mode.
func TestShareOtherUser(t *testing.T) {
	need.All(t, need.Root)
	_, guest, connect := sharing(t)
	say(t, guest, "secret")
	own := connect()
	hear(t, own, 6)
	path := own.RemoteAddr().String()
	for dir := filepath.Dir(path); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(path, 0o777); err != nil {
		t.Fatal(err)
	}
	got, err := asUser(t, 12345, path)
	if err != nil || got != "" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := asUser(t, 0, path); err != nil || got != "secret" {
		t.Errorf("root: %q, %v", got, err)
	}
}

// asUser connects as another user and returns what it hears first.
func asUser(t *testing.T, uid int, path string) (string, error) {
	t.Helper()
	type result struct {
		text string
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with its user
		done <- func() result {
			if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
				return result{"", errno}
			}
			fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
			if err != nil {
				return result{"", err}
			}
			defer syscall.Close(fd)
			if err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
				return result{"", err}
			}
			buf := make([]byte, 64)
			n, err := syscall.Read(fd, buf)
			return result{string(buf[:max(n, 0)]), err}
		}()
	}()
	select {
	case r := <-done:
		return r.text, r.err
	case <-time.After(patience):
		t.Fatal("it is neither served nor sent away")
		panic("unreachable")
	}
}
