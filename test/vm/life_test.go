package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/testkit/guest"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// lineOf matches an error at a line of the VM's file.
func lineOf(m *machine, line int) *regexp.Regexp {
	return regexp.MustCompile("^" + regexp.QuoteMeta(fmt.Sprintf("%s:%d: ", m.file, line)))
}

// TestPowerButton: SIGTERM becomes an orderly shutdown of the guest, and the
// exit code says so.
func TestPowerButton(t *testing.T) {
	need.All(t, need.VM, need.QEMU, need.Guest)
	for machineType, suite := range map[string]string{"q35": "bookworm", "microvm": "trixie"} {
		t.Run(machineType, func(t *testing.T) {
			if machineType != "microvm" {
				need.All(t, need.VMAll)
			}
			m := start(t, options{lines: append(kernelLines(guest.Get(t, suite)), "Machine="+machineType, "KernelCommandLine=ampoule.test=stay")})
			m.waitFor(m.console, reported, 1, bootTime)
			if err := m.cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			m.wantExit(0, "the guest powered off", 2*time.Minute)
			m.waitFor(m.console, "AMPOULE-REPORT orderly-stop", 1, time.Second)
			m.waitFor(m.console, "reboot: Power down", 1, time.Second)
		})
	}
}

// TestStopTimeout: a guest that ignores the power button is killed after the
// timeout, not before.
func TestStopTimeout(t *testing.T) {
	need.All(t, need.VM, need.VMAll, need.QEMU, need.Guest)
	m := start(t, options{
		lines:   append(kernelLines(guest.Get(t, "bookworm")), "KernelCommandLine=ampoule.test=ignore-power"),
		service: []string{"TimeoutStopSec=12s"},
	})
	m.waitFor(m.console, reported, 1, bootTime)
	began := time.Now()
	_ = m.cmd.Process.Signal(syscall.SIGINT)
	m.wantExit(122, "was killed", time.Minute)
	if took := time.Since(began); took < 12*time.Second || took > 20*time.Second {
		t.Errorf("it took %s, want 12 s", took)
	}
}

// TestReboot: the guest reboots as often as it likes, with the same
// credentials; the plan's files may have changed meanwhile.
func TestReboot(t *testing.T) {
	need.All(t, need.VM, need.VMAll, need.Root, need.QEMU, need.Guest)
	t.Parallel()
	for _, machineType := range []string{"q35", "microvm"} {
		t.Run(machineType, func(t *testing.T) {
			t.Parallel()
			secret := filepath.Join(t.TempDir(), "key")
			writeSecret(t, secret, []byte("the first value"))
			m := start(t, options{lines: append(kernelLines(guest.Get(t, "bookworm")), "Machine="+machineType, "KernelCommandLine=ampoule.test=reboot-once,poweroff", "LoadCredential=key:"+secret)})
			m.waitFor(m.words, "started, guest not observed", 1, bootTime)
			writeSecret(t, secret, []byte("another value"))
			if err := os.WriteFile(m.file, []byte("nonsense"), 0o600); err != nil {
				t.Fatal(err)
			}
			m.wantExit(0, "the guest powered off", 2*bootTime)
			for _, r := range m.reports(2) {
				same(t, fmt.Sprintf("boot %d", r.Boot), r.Credentials, []value{{"key", []byte("the first value")}})
			}
		})
	}
}

// TestPanic: a kernel panic is told from a reboot, on the machine that has a
// device for it and on the one that has none.
func TestPanic(t *testing.T) {
	need.All(t, need.VM, need.VMAll, need.QEMU, need.Guest)
	t.Parallel()
	for _, machineType := range []string{"q35", "microvm"} {
		for _, suite := range []string{"bookworm", "trixie"} {
			t.Run(machineType+"/"+suite, func(t *testing.T) {
				t.Parallel()
				m := start(t, options{lines: append(kernelLines(guest.Get(t, suite)), "Machine="+machineType, "KernelCommandLine=ampoule.test=panic")})
				m.wantExit(120, "the guest's kernel panicked", bootTime)
			})
		}
	}
}

// TestEarlyPanic: also without any driver in the guest, as when there is no
// root file system.
func TestEarlyPanic(t *testing.T) {
	need.All(t, need.VM, need.VMAll, need.QEMU, need.Guest)
	t.Parallel()
	g := guest.Get(t, "bookworm")
	for _, machineType := range []string{"q35", "microvm"} {
		t.Run(machineType, func(t *testing.T) {
			m := start(t, options{lines: []string{"Kernel=" + g.Kernel, "Memory=256M", "Machine=" + machineType}})
			m.wantExit(120, "Unable to mount root fs", bootTime)
		})
	}
}

// TestKilledHypervisor: ampoule ends within a second and says why.
func TestKilledHypervisor(t *testing.T) {
	need.All(t, need.VM, need.QEMU, need.Guest)
	m := start(t, options{lines: kernelLines(guest.Get(t, "bookworm"))})
	m.waitFor(m.words, "started, guest not observed", 1, bootTime)
	if err := syscall.Kill(m.hypervisor(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	m.wantExit(121, "the hypervisor died (killed by SIGKILL)", time.Second)
}

// TestTerminatedHypervisor: a signal that QEMU takes as a wish to end.
func TestTerminatedHypervisor(t *testing.T) {
	need.All(t, need.VM, need.VMAll, need.QEMU, need.Guest)
	m := start(t, options{lines: kernelLines(guest.Get(t, "bookworm"))})
	m.waitFor(m.words, "started, guest not observed", 1, bootTime)
	// SIGTERM, which a service manager may send to all processes, it never gets.
	_ = syscall.Kill(m.hypervisor(), syscall.SIGTERM)
	time.Sleep(time.Second)
	if syscall.Kill(m.hypervisor(), 0) != nil {
		t.Fatal("SIGTERM has ended the hypervisor")
	}
	_ = syscall.Kill(m.hypervisor(), syscall.SIGINT)
	m.wantExit(121, "ended from outside", 10*time.Second)
}

// TestKilledAmpoule: no hypervisor is left behind, whatever moment it is.
func TestKilledAmpoule(t *testing.T) {
	need.All(t, need.VM, need.QEMU, need.Guest)
	g := guest.Get(t, "bookworm")
	for _, after := range []time.Duration{0, 50 * time.Millisecond, time.Second} {
		m := start(t, options{lines: kernelLines(g)})
		qemu := m.hypervisor()
		time.Sleep(after)
		_ = m.cmd.Process.Kill()
		<-m.done
		gone(t, qemu, time.Second)
		if t.Failed() {
			return
		}
	}
}

// TestStoppedEarly: a stop that comes before the guest runs is no hang.
func TestStoppedEarly(t *testing.T) {
	need.All(t, need.VM, need.QEMU, need.Guest)
	m := start(t, options{lines: kernelLines(guest.Get(t, "bookworm")), service: []string{"TimeoutStopSec=5s"}})
	qemu := m.hypervisor()
	_ = m.cmd.Process.Signal(syscall.SIGTERM)
	if code := m.exit(time.Minute); code != 121 && code != 122 && code != 0 {
		t.Errorf("exit code %d", code)
	}
	gone(t, qemu, time.Second)
}

// TestOutOfMemory: the hypervisor cannot have the guest's memory.
func TestOutOfMemory(t *testing.T) {
	need.All(t, need.VM, need.QEMU, need.Guest)
	lines := append(kernelLines(guest.Get(t, "bookworm"))[:2], "Memory=4G")
	m := start(t, options{lines: lines, prefix: []string{"sh", "-c", `ulimit -v 3000000; exec "$@"`, "sh"}})
	m.wantExit(121, "annot allocate memory", time.Minute)
	nothingLeft(t, m)
}

// nothingLeft checks that a failed start left no file in its directories.
func nothingLeft(t *testing.T, m *machine) {
	t.Helper()
	for _, dir := range []string{"state", "run"} {
		entries, _ := os.ReadDir(filepath.Join(m.dir, dir))
		for _, e := range entries {
			t.Errorf("%s is left in %s", e.Name(), dir)
		}
	}
}

// TestFullDisk: a disk that does not fit is an error before the guest runs, and
// leaves nothing half-made.
func TestFullDisk(t *testing.T) {
	need.All(t, need.VM, need.Root, need.QEMU, need.Guest)
	small := t.TempDir()
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=16m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(small, unix.MNT_DETACH) })
	for _, format := range []string{"raw", "qcow2"} {
		size := map[string]string{"raw": "64M", "qcow2": "512G"}[format]
		m := start(t, options{
			lines: append(kernelLines(guest.Get(t, "bookworm")), "Disk=data.img:"+format+",size="+size),
			env:   []string{"STATE_DIRECTORY=" + small},
		})
		m.wantExit(121, "o space left on device", time.Minute)
		if n, _ := m.words.count(lineOfWords(m, 6)); n != 1 {
			t.Errorf("%s: no message names the line", format)
		}
		if entries, _ := os.ReadDir(small); len(entries) != 0 {
			t.Errorf("%s: %v is left", format, entries)
		}
	}
}

// lineOfWords matches a message that has the line somewhere.
func lineOfWords(m *machine, line int) *regexp.Regexp {
	return regexp.MustCompile(regexp.QuoteMeta(fmt.Sprintf("%s:%d: ", m.file, line)))
}

// TestHypervisorDiesDuringStart: its own words are shown.
func TestHypervisorDiesDuringStart(t *testing.T) {
	need.All(t, need.VM, need.QEMU, need.Guest)
	g := guest.Get(t, "bookworm")
	fake := filepath.Join(t.TempDir(), "hypervisor")
	// Stands for a hypervisor that breaks while it starts, which the real one
	// does not do on demand.
	script := "#!/bin/sh\necho 'cannot find my feet' >&2\nexit 3\n"
	if err := os.WriteFile(fake, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	m := start(t, options{lines: append(kernelLines(g), "HypervisorPath="+fake)})
	m.wantExit(121, "the hypervisor did not start (exit code 3): cannot find my feet", time.Minute)
	nothingLeft(t, m)

	// The real one refuses a flag: that is a mistake of the file, at its line.
	m = start(t, options{lines: append(kernelLines(g), "HypervisorArgs=-device no-such-device")})
	m.wantExit(2, "'no-such-device' is not a valid device model name", time.Minute)
	if n, _ := m.words.count(lineOf(m, 6)); n != 1 {
		t.Error("the refusal does not name its line")
	}
	nothingLeft(t, m)
}

// TestSixtyStarts: sixty starts of microvm in a row, each gets to systemd.
// Under emulation one in five would hang were the kernel not told the rate of
// the time stamp counter.
func TestSixtyStarts(t *testing.T) {
	need.All(t, need.VM, need.VMAll, need.QEMU, need.Guest)
	for _, suite := range []string{"bookworm", "trixie"} {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			for i := range 30 {
				m := start(t, options{lines: append(kernelLines(guest.Get(t, suite)), "Machine=microvm")})
				m.waitFor(m.console, `systemd\[1\]: (systemd|Detected)`, 1, bootTime)
				_ = m.cmd.Process.Kill()
				<-m.done
				if t.Failed() {
					t.Fatalf("start %d hangs", i+1)
				}
			}
		})
	}
}

// TestReadinessAndDisk: the console makes the VM ready; a created disk is there
// with its serial number, and still is, with its contents, on the next start.
func TestReadinessAndDisk(t *testing.T) {
	need.All(t, need.VM, need.VMAll, need.QEMU, need.Guest)
	t.Parallel()
	state := t.TempDir()
	for _, machineType := range []string{"q35", "microvm"} {
		m := start(t, options{
			lines: append(kernelLines(guest.Get(t, "trixie")), "Machine="+machineType, "KernelCommandLine=ampoule.test=poweroff",
				"Readiness=console:^AMPOULE-REPORT begin", "Disk=data.raw:size=8M,serial=data", "Disk=more.qcow2:qcow2,size=9M", "VCPU=2"),
			env: []string{"STATE_DIRECTORY=" + state},
		})
		m.wantExit(0, "test: ready", bootTime)
		disks := m.reports(1)[0].Disks
		if len(disks) != 2 || disks[0].Serial != "data" || disks[0].Bytes != 8<<20 || disks[1].Bytes != 9<<20 {
			t.Errorf("%s: the guest has %+v", machineType, disks)
		}
		for _, name := range []string{"data.raw", "more.qcow2"} {
			if _, err := os.Stat(filepath.Join(state, name)); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestMissingSecret: nothing is started, and the message names the line.
func TestMissingSecret(t *testing.T) {
	need.All(t, need.VM, need.QEMU, need.Guest)
	m := start(t, options{lines: append(kernelLines(guest.Get(t, "bookworm")), "LoadCredential=KEY:/nonexistent/key")})
	m.wantExit(2, "/nonexistent/key", time.Minute)
	if n, _ := m.words.count(lineOf(m, 6)); n != 1 {
		t.Error("the message does not name the line")
	}
	if strings.Contains(m.words.text(), "pressing") || len(m.console.all()) != 0 {
		t.Error("something was started")
	}
	nothingLeft(t, m)
}

// TestTwice: one VM cannot run twice.
func TestTwice(t *testing.T) {
	need.All(t, need.VM, need.QEMU, need.Guest)
	lines := kernelLines(guest.Get(t, "bookworm"))
	shared := []string{"RUNTIME_DIRECTORY=" + t.TempDir()}
	first := start(t, options{lines: lines, env: shared})
	first.waitFor(first.words, "started, guest not observed", 1, bootTime)
	start(t, options{lines: lines, env: shared}).wantExit(121, "is running already", time.Minute)
}
