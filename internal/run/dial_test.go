package run

import (
	"bufio"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/state"
	"github.com/ampoule-vm/ampoule/internal/vsock"
)

// answering listens as a multiplexer does, and answers each connection with what
// it is asked.
func answering(t *testing.T, path string) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			line, _ := bufio.NewReader(c).ReadString('\n')
			_, _ = io.WriteString(c, "OK 1\n"+line)
			c.Close()
		}
	}()
}

func multiplexed(dir string) state.Instance {
	return state.Instance{Name: "web", Dir: dir, Running: true, Record: &state.Record{Name: "web", VSock: filepath.Join(dir, state.VSockName)}}
}

func TestDialGuest(t *testing.T) {
	// The path is longer than an address can be.
	short := t.TempDir()
	dir := filepath.Join(short, strings.Repeat("long/", 30))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	answering(t, filepath.Join(short, "s"))
	if err := os.Rename(filepath.Join(short, "s"), filepath.Join(dir, state.VSockName)); err != nil {
		t.Fatal(err)
	}
	i := multiplexed(dir)
	i.Record.VSock = "/somewhere/else" // what the record says of the path does not count
	conn, err := DialGuest(t.Context(), i, 22)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if text, err := io.ReadAll(conn); err != nil || string(text) != "CONNECT 22\n" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestDialGuestWithout(t *testing.T) {
	dir := t.TempDir()
	if _, err := DialGuest(t.Context(), state.Instance{Dir: dir}, 22); !errors.Is(err, ErrNotBooted) {
		t.Errorf("no record: %v", err)
	}
	if _, err := DialGuest(t.Context(), state.Instance{Dir: dir, Record: &state.Record{}}, 22); !errors.Is(err, ErrNoVSock) {
		t.Errorf("no vsock: %v", err)
	}
	if _, err := DialGuest(t.Context(), multiplexed(dir), 22); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no socket: %v", err)
	}
}

// Neither a link nor a file is taken for the socket.
func TestDialGuestElsewhere(t *testing.T) {
	dir := t.TempDir()
	answering(t, filepath.Join(dir, "other"))
	path := filepath.Join(dir, state.VSockName)
	if err := os.Symlink("other", path); err != nil {
		t.Fatal(err)
	}
	if conn, err := DialGuest(t.Context(), multiplexed(dir), 22); err == nil {
		conn.Close()
		t.Error("a link is followed")
	}
	if err := errors.Join(os.Remove(path), os.WriteFile(path, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := DialGuest(t.Context(), multiplexed(dir), 22); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("a file: %v", err)
	}
}

// A server that runs as another user than the socket's owner is not the VM's.
func TestDialGuestOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it needs root")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, state.VSockName)
	answering(t, path)
	if err := os.Chown(path, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if _, err := DialGuest(t.Context(), multiplexed(dir), 22); err == nil || !strings.Contains(err.Error(), "another user") {
		t.Errorf("got %v", err)
	}

	// systemd maps the owner of such a directory. Who runs the VM counts then.
	mapped := multiplexed(dir)
	mapped.Pid = os.Getpid()
	conn, err := DialGuest(t.Context(), mapped, 22)
	if err != nil {
		t.Fatalf("served by the process that runs the VM: %v", err)
	}
	conn.Close()
	other := exec.Command("sleep", "60")
	other.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65533, Gid: 65533}}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = other.Process.Kill(), other.Wait() })
	mapped.Pid = other.Process.Pid
	if _, err := DialGuest(t.Context(), mapped, 22); err == nil || !strings.Contains(err.Error(), "another user") {
		t.Errorf("served by another user than the one that runs the VM: %v", err)
	}
}

func TestDialGuestGivesUp(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, state.VSockName))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := DialGuest(ctx, multiplexed(dir), 22); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// Numbers that are not a guest's lead to the host itself, and one that another VM
// names too may lead to that.
func TestDialGuestNumber(t *testing.T) {
	at := func(dir string, cid uint32) state.Instance {
		return state.Instance{Name: "web", Dir: dir, Running: true, Record: &state.Record{VSockCID: cid}}
	}
	for _, cid := range []uint32{1, vsock.HostCID, 1<<32 - 1} {
		if _, err := DialGuest(t.Context(), at("/a", cid), 22); err == nil || !strings.Contains(err.Error(), "none of a guest") {
			t.Errorf("%d: %v", cid, err)
		}
	}
	gone := at("/b", 7)
	gone.Running = false
	unread := state.Instance{Name: "db", Dir: "/c", Running: true}
	if err := checkNumber(at("/a", 7), []state.Instance{at("/a", 7), gone, unread, at("/d", 8)}); err != nil {
		t.Error(err)
	}
	if err := checkNumber(at("/a", 7), []state.Instance{at("/a", 7), at("/b", 7)}); err == nil || !strings.Contains(err.Error(), "web (/b)") {
		t.Errorf("got %v", err)
	}
}
