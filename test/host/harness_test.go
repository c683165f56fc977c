// Package host plays what an administrator does with the services of VMs, on
// hosts with a real systemd and with real guests. A scenario is a host and the
// lines that are typed there, each with what is expected of it beside it.
package host

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/guest"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
	"github.com/ampoule-vm/ampoule/internal/testkit/nixeval"
	"github.com/ampoule-vm/ampoule/internal/testkit/nspawn"
)

// built is the Debian package under test, made once for all tests.
var built struct {
	once sync.Once
	dir  string
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	nixeval.Remove()
	os.Exit(code)
}

// packageDir returns the directory that holds ampoule.deb.
func packageDir(t testing.TB) string {
	t.Helper()
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "ampoule-host-"); built.err != nil {
			return
		}
		cmd := exec.Command("make", "--silent", "--directory=../..", "deb", "BIN="+built.dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("making the package: %w\n%s", err, out)
			return
		}
		var files []string
		if files, built.err = filepath.Glob(filepath.Join(built.dir, "*.deb")); len(files) == 1 {
			built.err = os.Rename(files[0], filepath.Join(built.dir, "ampoule.deb"))
		} else {
			built.err = fmt.Errorf("make deb made %q", files)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.dir
}

// suites are the releases of the hosts, by their systemd.
var suites = map[int]string{252: "bookworm", 257: "trixie"}

// onEach runs a scenario on both releases; the newer only where all VMs are
// wanted.
func onEach(t *testing.T, scenario func(h *host)) {
	onEachWith(t, func(t *testing.T, version int) { scenario(newHost(t, version)) })
}

// onEachWith is onEach for a test that makes the host itself.
func onEachWith(t *testing.T, scenario func(t *testing.T, version int)) {
	for _, version := range []int{252, 257} {
		t.Run(strconv.Itoa(version), func(t *testing.T) {
			if version != 252 {
				need.All(t, need.VMAll)
			}
			scenario(t, version)
		})
	}
}

// host is a machine with QEMU, our package, and a guest in /var/lib/guest.
type host struct {
	testing.TB
	*nspawn.Machine
	systemd int
	shown   bool // the journal, after the first failure
}

// packages are what a host of a release has beside systemd; virtiofsd is a package
// of its own in the newer, and none in the older.
func packages(systemd int) []string {
	all := []string{"qemu-system-x86", "qemu-utils", "seabios", "procps", "iproute2"}
	if systemd >= 257 {
		all = append(all, "virtiofsd")
	}
	return all
}

// newHost installs a host and boots it. Args are further arguments of
// systemd-nspawn.
func newHost(t testing.TB, systemd int, args ...string) *host {
	t.Helper()
	need.All(t, need.VM, need.Root, need.Guest)
	nspawn.Need(t)
	g := guest.Get(t, "bookworm")
	root := nspawn.Root(t, nspawn.Recipe{Suite: suites[systemd], Packages: packages(systemd)})
	args = append(args, "--bind-ro="+packageDir(t)+":/media", "--bind-ro="+g.Kernel+":/var/lib/guest/vmlinuz", "--bind-ro="+g.Initrd+":/var/lib/guest/initrd")
	h := &host{TB: t, Machine: nspawn.NewMachine(t, root, args...), systemd: systemd}
	h.PowerOn()
	h.booted()
	h.sh("dpkg --install /media/ampoule.deb", within(time.Minute))
	return h
}

// device makes a device of the test's own, whose owner and group a host may change.
func device(t testing.TB, mode, major, minor string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "device")
	if out, err := exec.Command("mknod", "--mode="+mode, path, "c", major, minor).CombinedOutput(); err != nil {
		t.Skipf("making a device: %v: %s", err, out)
	}
	return path
}

// booted waits until the host has started all that it starts by itself: before,
// its targets are not active, and want nothing.
func (h *host) booted() {
	h.Helper()
	h.sh("systemctl is-system-running --wait || true", within(3*time.Minute))
}

// reboot shuts the host down in order and boots it again.
func (h *host) reboot() {
	h.Helper()
	if err := h.PowerOff(2 * time.Minute); err != nil {
		h.Fatalf("the host's shutdown: %v\n%s", err, h.Said())
	}
	h.PowerOn()
}

// file writes a file on the host, with its directories. What is in /etc/secrets
// only root may read.
func (h *host) file(path, text string) {
	h.Helper()
	mode := os.FileMode(0o644)
	if strings.HasPrefix(path, "/etc/secrets/") {
		mode = 0o600
	}
	if err := os.MkdirAll(filepath.Dir(h.Path(path)), 0o755); err != nil {
		h.Fatal(err)
	}
	if err := os.WriteFile(h.Path(path), []byte(text), mode); err != nil {
		h.Fatal(err)
	}
}

// step is a line of shell that is carried out, and what is expected of it.
type step struct {
	line   string
	limit  time.Duration
	checks []func(*step) string

	out  string // standard output and standard error
	code int
}

// want is an expectation: it gives the step a check, which returns what is
// wrong or "".
type want func(*step)

func check(f func(*step) string) want { return func(s *step) { s.checks = append(s.checks, f) } }

// exits expects an exit code; without it 0 is expected.
func exits(code int) want {
	return func(s *step) {
		s.checks[0] = func(s *step) string {
			if s.code != code {
				return fmt.Sprintf("it ends with %d, want %d", s.code, code)
			}
			return ""
		}
	}
}

// fails expects any exit code but 0.
func fails(s *step) {
	s.checks[0] = func(s *step) string {
		if s.code == 0 {
			return "it succeeds"
		}
		return ""
	}
}

// ends accepts any exit code.
func ends(s *step) { s.checks[0] = func(*step) string { return "" } }

// says expects texts in what the line prints.
func says(texts ...string) want {
	return check(func(s *step) string {
		for _, text := range texts {
			if !strings.Contains(s.out, text) {
				return fmt.Sprintf("it does not say %q", text)
			}
		}
		return ""
	})
}

// not expects that texts are not in what the line prints.
func not(texts ...string) want {
	return check(func(s *step) string {
		for _, text := range texts {
			if strings.Contains(s.out, text) {
				return fmt.Sprintf("it says %q", text)
			}
		}
		return ""
	})
}

// prints expects exactly these lines.
func prints(lines ...string) want {
	return check(func(s *step) string {
		if want := strings.Join(lines, "\n"); strings.TrimSpace(s.out) != want {
			return fmt.Sprintf("it does not print exactly %q", want)
		}
		return ""
	})
}

// within sets the time that a line has, instead of two minutes.
func within(limit time.Duration) want { return func(s *step) { s.limit = limit } }

// sh carries a line of shell out as root and returns what it printed.
func (h *host) sh(line string, wants ...want) string {
	h.Helper()
	s := newStep(line, wants)
	h.carryOut(s)
	if wrong := s.wrong(); wrong != "" {
		h.complain(s, wrong)
	}
	return s.out
}

// eventually repeats a line until it is as expected, at most for half a minute
// or what within says.
func (h *host) eventually(line string, wants ...want) string {
	h.Helper()
	s := newStep(line, append([]want{within(30 * time.Second)}, wants...))
	for deadline := time.Now().Add(s.limit); ; time.Sleep(100 * time.Millisecond) {
		h.carryOut(s)
		wrong := s.wrong()
		if wrong == "" {
			return s.out
		}
		if time.Now().After(deadline) {
			h.complain(s, fmt.Sprintf("for %s %s", s.limit, wrong))
			return s.out
		}
	}
}

func newStep(line string, wants []want) *step {
	s := &step{line: line, limit: 2 * time.Minute, checks: make([]func(*step) string, 1)}
	exits(0)(s)
	for _, w := range wants {
		w(s)
	}
	return s
}

func (s *step) wrong() string {
	for _, c := range s.checks {
		if wrong := c(s); wrong != "" {
			return wrong
		}
	}
	return ""
}

func (h *host) carryOut(s *step) {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.Context(), s.limit)
	defer cancel()
	var out bytes.Buffer
	cmd := h.Command(ctx, "sh", "-c", s.line)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	s.out, s.code = out.String(), cmd.ProcessState.ExitCode()
	if ctx.Err() != nil {
		h.complain(s, fmt.Sprintf("it has not ended after %s", s.limit))
		h.FailNow()
	}
	if s.code < 0 {
		h.complain(s, err.Error())
	}
}

// complain records a failure, with the journal at the first one.
func (h *host) complain(s *step, wrong string) {
	h.Helper()
	h.Errorf("# %s\n%s--- exit code %d: %s", s.line, nspawn.Tail([]byte(s.out)), s.code, wrong)
	if !h.shown {
		h.shown = true
		journal, _ := h.Command(h.Context(), "journalctl", "--no-pager", "--lines=60", "--output=short-monotonic").CombinedOutput()
		h.Logf("the journal:\n%s", nspawn.Tail(journal))
	}
}
