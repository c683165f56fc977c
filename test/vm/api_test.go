package vm

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	chfake "github.com/ampoule-vm/ampoule/internal/driver/cloudhypervisor/fake"
	fcfake "github.com/ampoule-vm/ampoule/internal/driver/firecracker/fake"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
	"github.com/ampoule-vm/ampoule/internal/testkit/tinykernel"
)

// withVirtualisation runs a program where /proc/cpuinfo says that the processor
// has what KVM needs. Neither a stand-in nor a guest of a few instructions minds
// that it does not.
func withVirtualisation(t *testing.T) []string {
	t.Helper()
	cpuinfo := filepath.Join(t.TempDir(), "cpuinfo")
	if err := os.WriteFile(cpuinfo, []byte("flags : svm\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return []string{"unshare", "--mount", "sh", "-c", "mount --bind " + cpuinfo + ` /proc/cpuinfo && exec "$@"`, "sh"}
}

// TestNoLeaksByAPI is TestNoLeaks for the hypervisors that get their VM by an API:
// played by a stand-in, or itself where a variable names it.
func TestNoLeaksByAPI(t *testing.T) {
	need.All(t, need.VM, need.Root)
	if f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err != nil {
		t.Skipf("KVM does not open: %v", err)
	} else {
		f.Close()
	}
	kernel := filepath.Join(t.TempDir(), "vmlinux")
	if err := os.WriteFile(kernel, tinykernel.ELF(tinykernel.Word+tinykernel.Loop), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, program, line string }{
		{"cloud-hypervisor", cmp.Or(os.Getenv("AMPOULE_TEST_CLOUD_HYPERVISOR"), chfake.Install(t)), "GuestSystemd=257"},
		{"firecracker", cmp.Or(os.Getenv("AMPOULE_TEST_FIRECRACKER"), fcfake.Install(t)), "KernelCommandLine=root=/dev/vda"},
	} {
		t.Run(c.name, func(t *testing.T) {
			testNoLeaksByAPI(t, []string{
				"Hypervisor=" + c.name, "HypervisorPath=" + c.program, "Kernel=" + kernel, "Memory=128M", "VSockCID=auto", "Readiness=started", c.line,
				"KernelCommandLine=fake.guest=say:OK",
			})
		})
	}
}

func testNoLeaksByAPI(t *testing.T, vm []string) {
	lines, scanner := secrets(t, newScanner(t))
	stop := scanner.Watch(20 * time.Millisecond)
	m := start(t, options{lines: append(vm, lines...), prefix: withVirtualisation(t), service: []string{"TimeoutStopSec=1s"}})
	m.waitFor(m.console, "^OK$", 1, bootTime)
	m.waitFor(m.words, "started, guest not observed", 1, bootTime)
	hypervisor := m.hypervisor()
	scanner.ScanBytes("the console", []byte(m.console.text()))
	scanner.ScanBytes("ampoule's words", []byte(m.words.text()))
	if err := scanner.ScanMemory(m.cmd.Process.Pid); err != nil {
		t.Error(err)
	}
	scanner.Scan()
	// The hypervisor holds the secrets, as the guest's memory does. Nobody may
	// get them out of it: by no socket, and by no core dump.
	sockets, _ := filepath.Glob(filepath.Join(m.dir, "run", "*"))
	for _, path := range sockets {
		if name := filepath.Base(path); name != "console" && name != "vsock" && name != "vsock_9999" && name != "run.json" && name != "plan.json" && name != "lock" {
			t.Errorf("%s lies in the runtime directory", name)
		}
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", hypervisor))
	if err != nil || !bytes.Contains(limits, []byte("Max core file size        0                    0 ")) {
		t.Errorf("%v: core dumps of the hypervisor are not forbidden:\n%s", err, limits)
	}
	if err := syscall.Kill(hypervisor, syscall.SIGABRT); err != nil {
		t.Fatal(err)
	}
	m.wantExit(121, "the hypervisor died", time.Minute)
	if cores, _ := filepath.Glob(filepath.Join(m.dir, "*", "core*")); len(cores) > 0 {
		t.Errorf("a core dump: %v", cores)
	}
	stop()
	report := scanner.Scan()
	if len(report.Leaks()) != 0 {
		t.Errorf("leaks:\n%s", report.Table())
	}
	if len(report.Rows) == 0 {
		t.Error("not even the sources were found: the scan is blind")
	}
	if left, _ := filepath.Glob(filepath.Join(m.dir, "run", "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
