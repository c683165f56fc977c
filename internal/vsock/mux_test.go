package vsock

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestListenMux(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "vsock")
	l, err := ListenMux(socket, 8888)
	if err != nil {
		t.Fatal(err)
	}
	path := socket + "_8888"
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode(); got != fs.ModeSocket|0o600 {
		t.Errorf("the mode is %v", got)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	accepted.Close()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Close: %v", err)
	}
}

func TestListenMuxReplacesWhatWasLeftBehind(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "vsock")
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: MuxPath(socket, 1), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	if _, err := ListenMux(socket, 1); !errors.Is(err, ErrInUse) {
		t.Errorf("while somebody listens: %v", err)
	}
	left.Close()
	l, err := ListenMux(socket, 1)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

func TestListenMuxKeepsWhatIsNoSocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "vsock")
	if err := os.WriteFile(MuxPath(socket, 1), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ListenMux(socket, 1); !errors.Is(err, fs.ErrExist) {
		t.Errorf("got %v", err)
	}
	if text, err := os.ReadFile(MuxPath(socket, 1)); err != nil || string(text) != "kept" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestPathTooLong(t *testing.T) {
	dir := t.TempDir()
	fits := filepath.Join(dir, strings.Repeat("a", maxPath-len(dir)-len("/_65535")))
	l, err := ListenMux(fits, 65535)
	if err != nil {
		t.Fatalf("the longest: %v", err)
	}
	l.Close()
	if err := CheckMuxPath(fits, 65535); err != nil {
		t.Error(err)
	}
	long := fits + "a"
	if _, err := ListenMux(long, 65535); !errors.Is(err, ErrPathTooLong) || !strings.Contains(err.Error(), "has 108 bytes, and 107 are the most") {
		t.Errorf("got %v", err)
	}
	if err := CheckMuxPath(long, 65535); !errors.Is(err, ErrPathTooLong) {
		t.Errorf("got %v", err)
	}
	if _, err := DialMux(t.Context(), "/"+strings.Repeat("a", 107), 22); !errors.Is(err, ErrPathTooLong) {
		t.Errorf("got %v", err)
	}
	for _, relative := range []string{"vsock", "@vsock", ""} {
		if l, err := ListenMux(relative, 1); !errors.Is(err, ErrNotAbsolute) {
			t.Errorf("%q: %v, %v", relative, l, err)
		}
	}
}

// multiplexer answers one connection with what answer writes.
func multiplexer(t *testing.T, answer func(c net.Conn, line string)) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "vsock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		line, err := bufio.NewReader(c).ReadString('\n')
		if err != nil {
			return
		}
		answer(c, line)
	}()
	return socket
}

func TestDialMux(t *testing.T) {
	socket := multiplexer(t, func(c net.Conn, line string) {
		// The guest's first words in the same packet must not get lost.
		fmt.Fprintf(c, "OK 1073741824\nSSH-2.0 after %s", line)
	})
	ctx, cancel := context.WithCancel(t.Context())
	c, err := DialMux(ctx, socket, 22)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cancel() // it was for connecting alone
	if got, err := io.ReadAll(c); err != nil || string(got) != "SSH-2.0 after CONNECT 22\n" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestDialMuxRefused(t *testing.T) {
	for name, c := range map[string]struct {
		answer string
		want   error
	}{
		"hangs up":             {"", ErrRefused},
		"hangs up in the line": {"OK 10", ErrRefused},
		"no number":            {"OK \n", ErrProtocol},
		"a name":               {"OK ssh\n", ErrProtocol},
		"a sign":               {"OK +1\n", ErrProtocol},
		"no space":             {"OK1\n", ErrProtocol},
		"more":                 {"OK 1 2\n", ErrProtocol},
		"carriage return":      {"OK 1\r\n", ErrProtocol},
		"too large":            {"OK 4294967296\n", ErrProtocol},
		"a banner":             {"SSH-2.0-OpenSSH_9.2p1\n", ErrProtocol},
		"endless":              {strings.Repeat("O", 1<<16), ErrProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			socket := multiplexer(t, func(conn net.Conn, _ string) { io.WriteString(conn, c.answer) })
			got, err := DialMux(t.Context(), socket, 22)
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}

func TestDialMuxGivesUp(t *testing.T) {
	block := make(chan struct{})
	defer close(block)
	socket := multiplexer(t, func(net.Conn, string) { <-block })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := DialMux(ctx, socket, 22); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if _, err := DialMux(t.Context(), filepath.Join(t.TempDir(), "none"), 22); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a hypervisor: %v", err)
	}
}
