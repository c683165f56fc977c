package credential

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// nobody is the user that the tests below become.
const nobody = 65534

// TestUnreadable runs itself again without privileges, in a directory that root
// has prepared.
func TestUnreadable(t *testing.T) {
	if dir := os.Getenv("CREDENTIAL_TEST_UNREADABLE"); dir != "" {
		unreadable(t, dir)
		return
	}
	need.All(t, need.Root)
	dir, err := os.MkdirTemp("", "credential-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	w := &world{t: t, dir: dir}
	w.mode("", 0o755)
	w.file("root", "x").file("own", "mine").file("closed/key", "x").file("cd/key", "x").file("etc/credstore/a", "x").mkdir("d").file("d/root", "x")
	w.mode("closed", 0o700)
	w.mode("etc/credstore", 0o700)
	w.mode("cd", 0o700)
	if err := os.Chown(w.path("own"), nobody, nobody); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", w.path("socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	w.mode("socket", 0o600)
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	self := filepath.Join(dir, "program")
	if err := os.WriteFile(self, program, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestUnreadable$", "-test.v")
	cmd.Dir = "/"
	cmd.Env = []string{"CREDENTIAL_TEST_UNREADABLE=" + dir, "TMPDIR=/tmp"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestUnreadable") {
		t.Errorf("%v\n%s", err, out)
	}
}

// unreadable is the part without privileges.
func unreadable(t *testing.T, dir string) {
	if os.Geteuid() != nobody {
		t.Fatalf("this is uid %d", os.Geteuid())
	}
	w := newWorld(t)
	w.env.SystemDirectory, w.env.StoreDirs = "", []string{filepath.Join(dir, "etc/credstore")}
	w.env.EncryptedStoreDirs = nil
	w.dir = dir
	const help = "; run as root, or start the unit with systemctl, so that systemd reads it as root"
	denied := func(path, mode string) string {
		if mode != "" {
			mode = fmt.Sprintf(" (mode %s, owner uid 0)", mode)
		}
		return "uid 65534 may not open DIR/" + path + mode + ": permission denied (EACCES)" + help
	}
	w.one("LoadCredential=k:DIR/own", "k=mine (file DIR/own)")
	w.one("LoadCredential=k:DIR/root", "vm:1: LoadCredential=k:DIR/root: "+denied("root", "0600"))
	w.one("LoadCredential=k:DIR/closed/key", "vm:1: LoadCredential=k:DIR/closed/key: "+denied("closed/key", ""))
	w.one("LoadCredential=k:DIR/closed", "vm:1: LoadCredential=k:DIR/closed: "+denied("closed", "0700"))
	w.one("LoadCredential=k:DIR/d", "vm:1: LoadCredential=k:DIR/d: "+denied("d/root", "0600"))
	w.one("LoadCredential=k:DIR/socket", "vm:1: LoadCredential=k:DIR/socket: "+denied("socket", "0600"))
	w.one("LoadCredential=a", "vm:1: LoadCredential=a: "+denied("etc/credstore/a", ""))
	w.one("ImportCredential=*", "vm:1: ImportCredential=*: "+denied("etc/credstore", "0700"))
	// A default is for what is not there, not for what may not be read.
	w.expect([]string{"LoadCredential=k:DIR/root", "SetCredential=k:default"}, nil, []string{"vm:1: LoadCredential=k:DIR/root: " + denied("root", "0600")})
	w.env.Directory = filepath.Join(dir, "cd")
	w.one("LoadCredential=key:DIR/x", "vm:1: LoadCredential=key:DIR/x: $CREDENTIALS_DIRECTORY (DIR/cd) cannot be listed: permission denied")
}
