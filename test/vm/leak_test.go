package vm

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/testkit/guest"
	"github.com/ampoule-vm/ampoule/internal/testkit/leak"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// reported is the line that ends the guest's second copy of its report.
const reported = `AMPOULE-REPORT action`

// TestNoLeaks: with the guest running, its secrets are on this machine in
// their source files and in no other place: not in an argument, an
// environment, a file, a log, the runner's memory or a core dump of it.
func TestNoLeaks(t *testing.T) {
	need.All(t, need.VM, need.Root, need.QEMU, need.Guest)
	for _, c := range []struct{ name, machine, channel, suite string }{
		{"smbios", "q35", "smbios", "bookworm"}, {"fw_cfg", "microvm", "fw_cfg", "trixie"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name != "smbios" {
				need.All(t, need.VMAll)
			}
			testNoLeaks(t, append(kernelLines(guest.Get(t, c.suite)), "Machine="+c.machine, "CredentialChannel="+c.channel))
		})
	}
}

// secrets writes two sources and returns their values by name.
func secrets(t testing.TB, scan func(map[string][]byte) *leak.Scanner) (lines []string, scanner *leak.Scanner) {
	t.Helper()
	values := map[string][]byte{
		"text":   leak.Random(24),
		"binary": noise(2000),
	}
	scanner = scan(values)
	dir := t.TempDir()
	for _, name := range []string{"text", "binary"} {
		path := filepath.Join(dir, name)
		writeSecret(t, path, values[name])
		scanner.Allow(path, "the source")
		lines = append(lines, "LoadCredential="+name+":"+path)
	}
	return lines, scanner
}

// noise is n bytes of any value.
func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

func newScanner(t testing.TB) func(map[string][]byte) *leak.Scanner {
	return func(values map[string][]byte) *leak.Scanner {
		s, err := leak.New(t, values)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
}

func testNoLeaks(t *testing.T, machineLines []string) {
	lines, scanner := secrets(t, newScanner(t))
	stop := scanner.Watch(20 * time.Millisecond)
	lines = append(machineLines, append(lines, "KernelCommandLine=ampoule.test=stay")...)
	m := start(t, options{lines: lines})
	m.waitFor(m.console, reported, 1, bootTime)
	if n := len(m.reports(1)[0].Credentials); n != 2 {
		t.Fatalf("the guest has %d credentials, want 2", n)
	}
	scanner.ScanBytes("the console", []byte(m.console.text()))
	scanner.ScanBytes("ampoule's words", []byte(m.words.text()))
	if err := scanner.ScanMemory(m.cmd.Process.Pid); err != nil {
		t.Error(err)
	}
	scanner.Scan()
	provokeCore(t, m, scanner)
	stop()
	report := scanner.Scan()
	if len(report.Leaks()) != 0 {
		t.Errorf("leaks:\n%s", report.Table())
	}
	if len(report.Rows) == 0 {
		t.Error("not even the sources were found: the scan is blind")
	}
	t.Logf("\n%s", report.Table())
}

// provokeCore ends the runner as a crash would, with every limit on core dumps
// lifted from outside, and looks at what the kernel wrote.
func provokeCore(t *testing.T, m *machine, scanner *leak.Scanner) {
	t.Helper()
	pid := m.cmd.Process.Pid
	unlimited := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if err := unix.Prlimit(pid, unix.RLIMIT_CORE, &unlimited, nil); err != nil {
		// Without CAP_SYS_RESOURCE nobody can lift what ampoule has set, and its
		// whole memory has been looked at already.
		t.Logf("lifting the limit on core dumps: %v", err)
	}
	qemu := m.hypervisor()
	if err := syscall.Kill(pid, syscall.SIGSEGV); err != nil {
		t.Fatal(err)
	}
	<-m.done
	scanner.ScanBytes("the trace of the crash", []byte(m.words.text()))
	gone(t, qemu, time.Second)
	pattern, _ := os.ReadFile("/proc/sys/kernel/core_pattern")
	cores, _ := filepath.Glob(filepath.Join(m.cmd.Dir, "core*"))
	for _, c := range cores {
		if err := scanner.ScanCore(c); err != nil {
			t.Error(err)
		}
		os.Remove(c)
	}
	t.Logf("core pattern %q, %d core files", strings.TrimSpace(string(pattern)), len(cores))
}

// TestLeakScanFindsLeaks: a build that passes one credential in an argument,
// or writes it to a file, is found out. Without this the scan might be blind.
func TestLeakScanFindsLeaks(t *testing.T) {
	need.All(t, need.VM, need.Root, need.QEMU, need.Guest)
	g := guest.Get(t, "bookworm")
	for kind, class := range map[string]leak.Class{"argv": leak.Arguments, "file": leak.File} {
		t.Run(kind, func(t *testing.T) {
			value := string(leak.Random(24))
			scanner := newScanner(t)(map[string][]byte{"text": []byte(value)})
			dir := t.TempDir()
			source := filepath.Join(dir, "text")
			writeSecret(t, source, []byte(value))
			scanner.Allow(source, "the source")
			m := start(t, options{leak: kind, lines: append(kernelLines(g), "LoadCredential=text:"+source)})
			m.waitFor(m.words, "started, guest not observed", 1, bootTime)
			found := false
			for _, row := range scanner.Scan().Leaks() {
				found = found || row.Class == class || class == leak.File && row.Class == leak.MemoryFile
			}
			if !found {
				t.Errorf("the scan does not find a secret in %s", class)
			}
		})
	}
}
