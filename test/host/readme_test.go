package host

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
	"github.com/ampoule-vm/ampoule/internal/testkit/nspawn"
)

// firstVM are the lines that README.md has for a newcomer.
func firstVM(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(data), "\n## Your first VM\n")
	_, section, _ = strings.Cut(section, "\n```sh\n")
	lines, _, ok := strings.Cut(section, "\n```\n")
	if n := strings.Count(lines, "\n") + 1; !ok || n < 5 || n > 10 {
		t.Fatalf("the README's first VM takes %d lines, at most 10 are wanted:\n%s", n, lines)
	}
	return lines
}

// TestReadme: the README's own lines, typed on a fresh Debian with Go and make,
// end in a VM that runs and has its secret.
func TestReadme(t *testing.T) {
	lines := firstVM(t)
	need.All(t, need.VMAll, need.Root)
	nspawn.Need(t)
	tree := t.TempDir()
	archive := exec.Command("sh", "-c", `git -C ../.. archive HEAD | tar -x -C "$1"`, "sh", tree)
	if out, err := archive.CombinedOutput(); err != nil {
		t.Fatalf("copying the tree: %v\n%s", err, out)
	}
	goroot, cache := goEnv(t, "GOROOT"), goEnv(t, "GOMODCACHE")
	root := nspawn.Root(t, nspawn.Recipe{Suite: "bookworm", Packages: []string{"ca-certificates", "make"}})
	h := &host{TB: t, systemd: 252, Machine: nspawn.NewMachine(t, root,
		"--bind-ro="+goroot+":/usr/local/go", "--bind-ro="+cache+":/root/go/pkg/mod", "--bind="+tree+":/root/ampoule", "--capability=CAP_MKNOD", "--property=DevicePolicy=auto")}
	h.Online = true
	h.PowerOn()
	said := h.sh("cd /root/ampoule; export HOME=/root PATH=$PATH:/usr/local/go/bin; set -e\n"+lines, within(10*time.Minute),
		says("microvm@hello.service", "API_KEY"))
	t.Log(said)
	h.eventually("journalctl -u microvm@hello -o cat --no-pager", within(3*time.Minute), says("login"))
	// What a newcomer would type next, at the guest's console.
	key := strings.TrimSpace(h.sh("cat /etc/ampoule/api-key"))
	// On a busy machine the shell behind the login takes a while.
	h.eventually("{ sleep 2; echo; sleep 1; echo 'systemd-creds --system cat API_KEY; echo seen'; sleep 8; } | timeout 60 ampoule console hello", ends, within(3*time.Minute), says(key))
	h.sh("systemctl stop microvm@hello", prints(""))
	h.sh("journalctl -u microvm@hello -o cat --no-pager", says("the guest powered off"))
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.Command("go", "env", name).Output()
	if err != nil {
		t.Fatal(fmt.Errorf("asking go for %s: %w", name, err))
	}
	return filepath.Clean(strings.TrimSpace(string(out)))
}
