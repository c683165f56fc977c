// Package host plays what an administrator does with the services of VMs, on
// hosts with a real systemd and with real guests.
package host

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/guest"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
	"github.com/ampoule-vm/ampoule/internal/testkit/nspawn"
)

// programs is the directory of the programs under test, built by TestMain.
var programs string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "ampoule-host-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	programs = dir
	build := exec.Command("make", "--silent", "--directory=../..", "build", "BIN="+dir)
	build.Stderr = os.Stderr
	code := 1
	if err := build.Run(); err == nil {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// suites are the releases of the hosts, by their systemd.
var suites = map[int]string{252: "bookworm", 257: "trixie"}

// host is one boot of a host.
type host struct {
	t     testing.TB
	suite string
	dir   string // what the host sees as /ampoule
	files map[string]string
	steps []string
}

// newHost prepares a host with QEMU, the programs under test, and a guest in
// /var/lib/guest.
func newHost(t testing.TB, suite string) *host {
	t.Helper()
	need.All(t, need.VM, need.Root, need.Guest)
	nspawn.Need(t)
	return &host{t: t, suite: suite, dir: t.TempDir(), files: map[string]string{}}
}

// file puts a file into the host before it does anything. Mode 0600 is for
// those below /etc/secrets.
func (h *host) file(path, text string) { h.files[path] = text }

// do adds a line of shell; its output and its exit code are recorded under its
// number.
func (h *host) do(command string) int {
	h.steps = append(h.steps, command)
	return len(h.steps) - 1
}

// step is what a line of shell came to.
type step struct {
	out  string // standard output and standard error
	code string
}

// run boots the host, carries the steps out one after the other, and powers off.
func (h *host) run() []step {
	h.t.Helper()
	g := guest.Get(h.t, "bookworm")
	root := nspawn.Root(h.t, nspawn.Recipe{Suite: h.suite, Packages: []string{"qemu-system-x86", "qemu-utils", "seabios", "procps"}})
	for path, text := range h.files {
		mode := os.FileMode(0o644)
		if strings.HasPrefix(path, "/etc/secrets/") {
			mode = 0o600
		}
		h.write(filepath.Join("tree", path), text, mode)
	}
	var script strings.Builder
	script.WriteString("cp -a /ampoule/tree/. / 2>/dev/null\nsystemctl daemon-reload\ncd /\n")
	for i, s := range h.steps {
		fmt.Fprintf(&script, "{ %s\n} >/ampoule/step%d 2>&1 </dev/null\necho $? >/ampoule/code%d\n", s, i, i)
	}
	script.WriteString("systemctl poweroff --no-block\n")
	h.write("script", script.String(), 0o755)
	h.write("scenario.service", "[Unit]\nAfter=multi-user.target\n[Service]\nType=oneshot\nTimeoutStartSec=infinity\nExecStart=/bin/sh /ampoule/script\n", 0o644)
	args := []string{
		"--bind=" + h.dir + ":/ampoule", "--bind-ro=" + filepath.Join(programs, "ampoule") + ":/usr/local/bin/ampoule",
		"--bind-ro=" + filepath.Join(programs, "ampoule-init") + ":/usr/local/lib/ampoule/ampoule-init",
		"--bind-ro=" + g.Kernel + ":/var/lib/guest/vmlinuz", "--bind-ro=" + g.Initrd + ":/var/lib/guest/initrd",
		"--bind-ro=" + filepath.Join(h.dir, "scenario.service") + ":/etc/systemd/system/scenario.service",
	}
	said, err := nspawn.Boot(h.t, root, 15*time.Minute, args, []string{"systemd.wants=scenario.service"})
	steps := make([]step, len(h.steps))
	for i := range steps {
		steps[i] = step{h.read(fmt.Sprintf("step%d", i)), strings.TrimSpace(h.read(fmt.Sprintf("code%d", i)))}
	}
	h.t.Cleanup(func() {
		if !h.t.Failed() {
			return
		}
		for i, s := range steps {
			h.t.Logf("--- %d: %s\n%s--- exit code %s", i, h.steps[i], nspawn.Tail([]byte(s.out)), s.code)
		}
	})
	if err != nil {
		h.t.Fatalf("the host: %v\n%s", err, nspawn.Tail(said))
	}
	return steps
}

func (h *host) write(name, text string, mode os.FileMode) {
	h.t.Helper()
	path := filepath.Join(h.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) read(name string) string {
	data, _ := os.ReadFile(filepath.Join(h.dir, name))
	return string(data)
}
