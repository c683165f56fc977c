package vm

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/guest"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// writeRunner writes a Runner= script; AMPOULE in it is the program.
func writeRunner(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "runner")
	if err := os.WriteFile(path, []byte("#!/bin/sh\nset -eu\n"+strings.ReplaceAll(text, "AMPOULE ", program+" ")), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestRunner: a runner of the user's, run by hand by root, has the credentials
// in a directory that nobody else sees, and boots the plan with them.
func TestRunner(t *testing.T) {
	need.All(t, need.VM, need.VMAll, need.Root, need.QEMU, need.Guest)
	t.Parallel()
	secretLines, scanner := secrets(t, newScanner(t))
	scanner.Allow("/run/credentials/microvm@test.service", "the runner's own ramfs, which no other process sees")
	runner := writeRunner(t, `
echo "runner: $(ls "$CREDENTIALS_DIRECTORY" | tr '\n' ' ')" >&2
echo "runner: $(wc -c < "$CREDENTIALS_DIRECTORY/binary") bytes, $(stat -fc %T "$CREDENTIALS_DIRECTORY")" >&2
grep -q '"schema":1' "$AMPOULE_PLAN"
AMPOULE boot
echo "runner: done" >&2
`)
	m := start(t, options{lines: append(append(kernelLines(guest.Get(t, "bookworm")), secretLines...), "Runner="+runner, "KernelCommandLine=ampoule.test=stay")})
	m.waitFor(m.console, reported, 1, bootTime)
	m.waitFor(m.words, "^runner: binary text $", 1, time.Second)
	m.waitFor(m.words, "^runner: 2000 bytes, ramfs$", 1, time.Second)
	if n := len(m.reports(1)[0].Credentials); n != 2 {
		t.Errorf("the guest has %d credentials, want 2", n)
	}
	if report := scanner.Scan(); len(report.Leaks()) != 0 {
		t.Errorf("leaks:\n%s", report.Table())
	}
	_ = m.cmd.Process.Signal(syscall.SIGTERM)
	m.wantExit(0, "the guest powered off", 2*time.Minute)
	m.waitFor(m.words, "^runner: done$", 1, time.Second)
}

// TestRunnerExecutesBoot: also as the runner's last step, and with ampoule
// killed nothing is left.
func TestRunnerExecutesBoot(t *testing.T) {
	need.All(t, need.VM, need.VMAll, need.Root, need.QEMU, need.Guest)
	t.Parallel()
	for _, how := range []string{"exec AMPOULE boot", "AMPOULE boot\ntrue"} {
		m := start(t, options{lines: append(kernelLines(guest.Get(t, "bookworm")), "Runner="+writeRunner(t, how))})
		m.waitFor(m.console, `systemd\[1\]`, 1, bootTime)
		var pids []int
		for pid := m.hypervisor(); pid != 0; {
			pids = append(pids, pid)
			pid = firstChild(pid)
		}
		if len(pids) < 2 {
			t.Fatalf("processes %v", pids)
		}
		_ = m.cmd.Process.Kill()
		<-m.done
		for _, pid := range pids {
			gone(t, pid, 3*time.Second)
		}
	}
}

func firstChild(pid int) int {
	for _, c := range childrenOf(pid) {
		return c
	}
	return 0
}

// TestRunnerFails: its own exit is reported, and so is one that never boots.
func TestRunnerFails(t *testing.T) {
	need.All(t, need.VM, need.Root, need.QEMU, need.Guest)
	lines := kernelLines(guest.Get(t, "bookworm"))
	start(t, options{lines: append(lines, "Runner="+writeRunner(t, "exit 7"))}).
		wantExit(121, "ended early (exit code 7)", time.Minute)
	start(t, options{lines: append(lines, "Runner="+writeRunner(t, "true"))}).
		wantExit(0, "ended without ampoule boot", time.Minute)
	m := start(t, options{lines: append(lines, "Runner="+writeRunner(t, "trap '' TERM\necho deaf >&2\nsleep 100")), service: []string{"TimeoutStopSec=2s"}})
	m.waitFor(m.words, "^deaf$", 1, time.Minute)
	_ = m.cmd.Process.Signal(syscall.SIGTERM)
	m.wantExit(122, "was killed", 30*time.Second)
}
