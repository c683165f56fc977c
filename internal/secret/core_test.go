package secret

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/testkit/leak"
)

// held is a helper that holds a control value on its heap and a secret.
type held struct {
	*helper
	control, secret []byte
}

func startHolder(t *testing.T, prepare func(*exec.Cmd)) held {
	t.Helper()
	h := held{control: leak.Random(24), secret: leak.Random(24)}
	var ends []*os.File
	for _, data := range [][]byte{h.control, h.secret} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
		_ = w.Close()
		ends = append(ends, r)
	}
	h.helper = startHelper(t, "hold", func(cmd *exec.Cmd) {
		cmd.ExtraFiles = ends
		prepare(cmd)
	})
	for _, r := range ends {
		_ = r.Close()
	}
	if got := h.line(t); got != "ready" {
		t.Fatalf("the helper says %q", got)
	}
	return h
}

// inFile reports which of the two values a file has.
func (h held) inFile(t *testing.T, path string) (control, secret bool) {
	t.Helper()
	s, err := leak.New(t, map[string][]byte{"control": h.control, "secret": h.secret})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.ScanCore(path); err != nil {
		t.Fatal(err)
	}
	return names(s.Report())
}

// inMemory reports which of the two values the helper's memory has.
func (h held) inMemory(t *testing.T) (control, secret bool) {
	t.Helper()
	s, err := leak.New(t, map[string][]byte{"control": h.control, "secret": h.secret})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.ScanMemory(h.cmd.Process.Pid); err != nil {
		t.Skipf("may not read the helper's memory: %v", err)
	}
	return names(s.Report())
}

func names(r leak.Report) (control, secret bool) {
	for _, row := range r.Rows {
		control = control || row.Secret == "control"
		secret = secret || row.Secret == "secret"
	}
	return control, secret
}

// After a wipe the process's memory has no trace of the secret, in any form;
// before, the same search finds it.
func TestWipeLeavesNothingInMemory(t *testing.T) {
	h := startHolder(t, func(*exec.Cmd) {})
	if control, secret := h.inMemory(t); !control || !secret {
		t.Fatalf("the search is blind: control %v, secret %v", control, secret)
	}
	h.next(t)
	h.line(t)
	control, secret := h.inMemory(t)
	if !control {
		t.Error("the search is blind after the wipe")
	}
	if secret {
		t.Error("the secret is still in the process's memory")
	}
}

// A core that gdb takes of a living process has the heap and not the secret,
// neither while it is held nor after the wipe.
func TestGcoreHasNoSecret(t *testing.T) {
	if _, err := exec.LookPath("gcore"); err != nil {
		t.Skip("gcore is not installed")
	}
	if raceEnabled {
		t.Skip("the race detector's memory is too large for a core")
	}
	h := startHolder(t, func(*exec.Cmd) {})
	for _, state := range []string{"held", "wiped"} {
		prefix := filepath.Join(t.TempDir(), "core")
		pid := strings.TrimSpace(itoa(h.cmd.Process.Pid))
		out, err := exec.Command("gcore", "-o", prefix, pid).CombinedOutput()
		if err != nil {
			t.Skipf("gcore cannot attach here: %v\n%s", err, out)
		}
		control, secret := h.inFile(t, prefix+"."+pid)
		if !control {
			t.Fatalf("%s: the core has no heap", state)
		}
		if secret {
			t.Errorf("%s: the secret is in the core", state)
		}
		if state == "held" {
			h.next(t)
			h.line(t)
		}
	}
}

// The same for a core that the kernel writes when the process dies.
func TestKernelCoreHasNoSecret(t *testing.T) {
	pattern, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	if err != nil || bytes.ContainsAny(pattern, "|/") {
		t.Skipf("cores do not go to the directory of the process here: %q", pattern)
	}
	if raceEnabled {
		t.Skip("the race detector's memory is too large for a core")
	}
	h := startHolder(t, func(cmd *exec.Cmd) { cmd.Stderr = nil })
	unlimited := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if err := unix.Prlimit(h.cmd.Process.Pid, unix.RLIMIT_CORE, &unlimited, nil); err != nil {
		t.Skipf("no core can be provoked: %v", err)
	}
	if err := h.cmd.Process.Signal(unix.SIGABRT); err != nil {
		t.Fatal(err)
	}
	err = h.cmd.Wait()
	cores, _ := filepath.Glob(filepath.Join(h.cmd.Dir, "core*"))
	if len(cores) != 1 {
		t.Fatalf("the helper left no core: %v", err)
	}
	control, secret := h.inFile(t, cores[0])
	if !control {
		t.Fatal("the core has no heap")
	}
	if secret {
		t.Error("the secret is in the core")
	}
}
