package secret

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/testkit/leak"
)

func itoa(n int) string { return strconv.Itoa(n) }

// A hardened process and what it starts leave no core, and pass on nothing that
// they were given by mistake. Privileges are not needed.
func TestHarden(t *testing.T) {
	users := map[string]func(*exec.Cmd){"as we are": func(*exec.Cmd) {}, "as nobody": asNobody(t)}
	for user, become := range users {
		for _, mode := range []string{"harden", "harden-undumpable"} {
			t.Run(mode+" "+user, func(t *testing.T) {
				stray, err := os.Open("/etc/passwd")
				if err != nil {
					t.Fatal(err)
				}
				defer stray.Close()
				h := startHelper(t, mode, func(cmd *exec.Cmd) {
					become(cmd)
					// Descriptors 3 to 7 are inherited.
					cmd.ExtraFiles = []*os.File{stray, stray, stray, stray, stray}
				})
				if got := h.line(t); got != "ready" {
					t.Fatalf("the helper says %q", got)
				}
				if got := coreLimit(t, h.cmd.Process.Pid); got != "0 0 bytes" {
					t.Errorf("the core limit is %s", got)
				}
				checkDumpable(t, h.cmd.Process.Pid, mode == "harden")
				h.next(t)
				rest, err := io.ReadAll(h.out)
				if err != nil {
					t.Fatal(err)
				}
				// Two limits, the filter, then standard streams and ls's own
				// directory.
				if got := strings.Fields(string(rest)); strings.Join(got, " ") != "0 0 00000000 0 1 2 3" {
					t.Errorf("a child is left with %q", got)
				}
			})
		}
	}
}

// coreLimit returns soft limit, hard limit and unit.
func coreLimit(t *testing.T, pid int) string {
	t.Helper()
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(limits)) {
		if rest, ok := strings.CutPrefix(line, "Max core file size"); ok {
			return strings.Join(strings.Fields(rest), " ")
		}
	}
	t.Fatal("there is no core limit")
	return ""
}

// checkDumpable looks at the owner of the process's files in /proc, which is
// root where it is not dumpable.
func checkDumpable(t *testing.T, pid int, want bool) {
	t.Helper()
	var of, process unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/environ", pid), &of); err != nil {
		t.Fatal(err)
	}
	if err := unix.Stat(fmt.Sprintf("/proc/%d", pid), &process); err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(status), "Uid:\t65534") {
		return // root's files are root's in any case
	}
	if dumpable := of.Uid == 65534; dumpable != want {
		t.Errorf("dumpable is %v, want %v", dumpable, want)
	}
}

// The core that a program would receive for a hardened process has no memory.
func TestHardenedCoreIsEmpty(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector's memory is too large for a core")
	}
	if _, err := exec.LookPath("gcore"); err != nil {
		t.Skip("gcore is not installed")
	}
	marker := leak.Random(24)
	sizes := map[string]int64{}
	for _, mode := range []string{"harden", "hold"} {
		h := startHelper(t, mode, func(cmd *exec.Cmd) {
			cmd.Env = append(cmd.Env, "MARKER="+string(marker))
			cmd.ExtraFiles = []*os.File{empty(t), empty(t)}
		})
		h.line(t)
		prefix := filepath.Join(t.TempDir(), "core")
		pid := itoa(h.cmd.Process.Pid)
		if out, err := exec.Command("gcore", "-o", prefix, pid).CombinedOutput(); err != nil {
			t.Skipf("gcore cannot attach here: %v\n%s", err, out)
		}
		st, err := os.Stat(prefix + "." + pid)
		if err != nil {
			t.Fatal(err)
		}
		sizes[mode] = st.Size()
		s, err := leak.New(t, map[string][]byte{"environment": marker})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.ScanCore(prefix + "." + pid); err != nil {
			t.Fatal(err)
		}
		if found := len(s.Report().Rows) > 0; found != (mode == "hold") {
			t.Errorf("%s: the stack in the core: %v", mode, found)
		}
	}
	if sizes["harden"]*4 > sizes["hold"] {
		t.Errorf("a hardened process's core has %d bytes, another %d", sizes["harden"], sizes["hold"])
	}
}

func empty(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// Where nothing may be locked, secrets work and say so.
func TestLockRefused(t *testing.T) {
	h := startHelper(t, "unlocked", asNobody(t))
	if got := h.line(t); got != fmt.Sprintf("false false true %d", len(plain)) {
		t.Errorf("locked, memory file locked, equal, length: %s", got)
	}
}

// The way for kernels that lack close_range with a flag.
func TestCloseOnExecEach(t *testing.T) {
	var fds [2]int
	if err := unix.Pipe(fds[:]); err != nil { // without close-on-exec
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	first := max(fds[0], fds[1])
	if err := closeOnExecEach("/proc/self/fd", first); err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil {
			t.Fatal(err)
		}
		if marked := flags&unix.FD_CLOEXEC != 0; marked != (fd >= first) {
			t.Errorf("descriptor %d from %d on: close-on-exec %v", fd, first, marked)
		}
	}
	if err := closeOnExecEach(filepath.Join(t.TempDir(), "absent"), 3); err == nil {
		t.Error("a missing directory is no error")
	}
}

func TestCoreFilterErrors(t *testing.T) {
	if err := noMemoryInCores(filepath.Join(t.TempDir(), "absent")); err == nil || !strings.Contains(err.Error(), "core dumps") {
		t.Errorf("a missing file: %v", err)
	}
	if err := noMemoryInCores("/dev/full"); err == nil || !strings.Contains(err.Error(), "core dumps") {
		t.Errorf("a file that cannot be written: %v", err)
	}
}
