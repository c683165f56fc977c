package ssh

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestArguments(t *testing.T) {
	c := Client{
		Name: "web", User: "admin", Port: 2222, Identity: "/k", Options: []string{"RequestTTY=yes"},
		Command: []string{"-x", "ls"}, Proxy: []string{"/opt/it's 5%/ampoule", "ssh", "--proxy", "web"},
	}
	want := []string{
		"-o", "RequestTTY=yes",
		"-o", `ProxyCommand='/opt/it'\''s 5%%/ampoule' 'ssh' '--proxy' 'web'`, "-o", "ProxyUseFdpass=yes",
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "GlobalKnownHostsFile=/dev/null",
		"-o", "ControlPath=none", "-o", "LogLevel=ERROR",
		"-l", "admin", "-p", "2222", "-i", "/k", "--", "web.ampoule", "-x", "ls",
	}
	if got := c.Arguments(); !slices.Equal(got, want) {
		t.Errorf("got\n%q\nwant\n%q", got, want)
	}
	c.Agent = "/run/5%/ssh-agent"
	if got := c.Arguments(); slices.Contains(got, "IdentityFile=none") {
		t.Errorf("with a key of the user's own: %q", got)
	}
	c.Identity = ""
	if got := strings.Join(c.Arguments(), " "); !strings.Contains(got, "-o ControlPath=none -o IdentityAgent=/run/5%%/ssh-agent -o IdentityFile=none -o IdentitiesOnly=no -o LogLevel=ERROR -l admin -p 2222 -- web.ampoule") {
		t.Errorf("with an agent: %s", got)
	}
	c.Verbose = 2
	if got := c.Arguments(); !slices.Equal(got[:2], []string{"-v", "-v"}) || slices.Contains(got, "LogLevel=ERROR") {
		t.Errorf("with -vv: %q", got)
	}
}

// The words reach the helper as they are, through the client's expansion and a
// shell.
func TestProxyCommandForShell(t *testing.T) {
	words := []string{"a b", `"'\$(x)`, "100%", "*", "ü"}
	line := strings.ReplaceAll(proxyCommand(words), "%%", "%")
	out, err := exec.Command("/bin/sh", "-c", `printf '%s\n' `+line).Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n"); !slices.Equal(got, words) {
		t.Errorf("got %q", got)
	}
}

func TestWithShell(t *testing.T) {
	got := withShell([]string{"A=1", "SHELL=/usr/sbin/nologin", "SHELLS=2"})
	if !slices.Equal(got, []string{"A=1", "SHELLS=2", "SHELL=/bin/sh"}) {
		t.Errorf("got %q", got)
	}
}

func TestNoClient(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if err := (Client{}).Exec(nil); !errors.Is(err, ErrNoClient) {
		t.Errorf("got %v", err)
	}
}

// files are the two ends of a connection.
func files(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs = os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, theirs
}

// received takes a descriptor as the client does.
func received(t *testing.T, from *os.File) *os.File {
	t.Helper()
	one, control := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	n, cn, _, _, err := unix.Recvmsg(int(from.Fd()), one, control, unix.MSG_CMSG_CLOEXEC)
	if err != nil || n != 1 {
		t.Fatalf("%d bytes, %v", n, err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:cn])
	if err != nil || len(messages) != 1 {
		t.Fatalf("%v, %v", messages, err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("%v, %v", fds, err)
	}
	f := os.NewFile(uintptr(fds[0]), "received")
	t.Cleanup(func() { f.Close() })
	return f
}

func TestPass(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "guest"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	guest, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer guest.Close()
	ours, client := files(t)
	if err := Pass(ours, conn.(*net.UnixConn)); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	got := received(t, client)
	if _, err := guest.Write([]byte("SSH-2.0")); err != nil {
		t.Fatal(err)
	}
	guest.Close()
	if text, err := io.ReadAll(got); err != nil || string(text) != "SSH-2.0" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestPassToNobody(t *testing.T) {
	a, b := files(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if err := Pass(w, a); !errors.Is(err, ErrNoTaker) {
		t.Errorf("into a pipe: %v", err)
	}
	gone, client := files(t)
	client.Close()
	if err := Pass(gone, b); !errors.Is(err, unix.EPIPE) {
		t.Errorf("the client is gone: %v", err)
	}
	a.Close()
	if err := Pass(b, a); err == nil {
		t.Error("a connection that was closed")
	}
}
