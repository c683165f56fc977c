package vm

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	chfake "github.com/ampoule-vm/ampoule/internal/driver/cloudhypervisor/fake"
	"github.com/ampoule-vm/ampoule/internal/run"
	"github.com/ampoule-vm/ampoule/internal/state"
	"github.com/ampoule-vm/ampoule/internal/testkit/guest"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
	"github.com/ampoule-vm/ampoule/internal/testkit/tinykernel"
)

// tellMemory has the guest say each second how much memory it has, and how much of
// that is free, in KiB.
const tellMemory = `while sleep 1; do
	while read name kib unit; do
		case $name in MemTotal:) total=$kib;; MemFree:) free=$kib;; esac
	done </proc/meminfo
	echo memory $total $free
done &
`

// memoryVM boots a guest that tells of its memory, by hand, where ampoule memory
// looks for it.
func memoryVM(t *testing.T, lines ...string) (m *machine, memory func(words ...string) (int, string)) {
	t.Helper()
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte(tellMemory), 0o600); err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("ampoule-memory-%d", os.Getpid())
	m = start(t, options{
		name: name, env: []string{"RUNTIME_DIRECTORY="},
		lines: append(append(kernelLines(guest.Get(t, "trixie")), "LoadCredential="+guest.ScriptName+":"+script), lines...),
	})
	memory = func(words ...string) (int, string) {
		t.Helper()
		cmd := exec.Command(program, append([]string{"memory", name}, words...)...)
		text, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return cmd.ProcessState.ExitCode(), string(text)
	}
	m.waitFor(m.console, "AMPOULE-REPORT said memory ", 1, bootTime)
	return m, memory
}

// says waits for a word of the guest's on its memory, in KiB, that is as wanted.
func (m *machine) says(what string, wanted func(total, free int64) bool) {
	m.t.Helper()
	re := regexp.MustCompile(`AMPOULE-REPORT said memory (\d+) (\d+)`)
	first, _ := m.console.count(re)
	for n := first + 1; ; n++ {
		m.waitFor(m.console, re.String(), n, bootTime)
		lines := m.console.all()
		for i := len(lines) - 1; i >= 0; i-- {
			if f := re.FindStringSubmatch(lines[i]); f != nil {
				total, _ := strconv.ParseInt(f[1], 10, 64)
				free, _ := strconv.ParseInt(f[2], 10, 64)
				if wanted(total, free) {
					return
				}
				if n > first+60 {
					m.t.Fatalf("%s: the guest has %d KiB, of which %d are free", what, total, free)
				}
				break
			}
		}
	}
}

// TestMemoryChanges: memory is added to a guest that runs, and taken from it by a
// balloon; what the guest says of itself agrees, over a reboot too.
func TestMemoryChanges(t *testing.T) {
	need.All(t, need.VM, need.Root, need.QEMU, need.Guest)
	m, memory := memoryVM(t, "MemoryHotplug=512M", "Balloon=yes")
	var before int64
	m.says("before", func(total, free int64) bool { before = total; return true })

	if code, out := memory("1G"); code != 0 || !strings.Contains(out, "The guest has  1G\n") {
		t.Fatalf("%d %s", code, out)
	}
	m.says("with 512 MiB more", func(total, _ int64) bool { return total >= before+500<<10 && total <= before+512<<10 })
	code, out := memory("--json")
	var now run.Memory
	if err := json.Unmarshal([]byte(out), &now); code != 0 || err != nil || now != (run.Memory{Configured: 512 << 20, Addable: 512 << 20, Balloon: true, Asked: 1 << 30, Now: 1 << 30}) {
		t.Errorf("%d %v %s", code, err, out)
	}

	if code, out := memory("384M"); code != 0 || !strings.Contains(out, "The guest has  384M\n") {
		t.Fatalf("%d %s", code, out)
	}
	var ballooned int64
	m.says("with a balloon", func(total, free int64) bool {
		ballooned = free
		return total < before+100<<10 && free < before-128<<10
	})
	if code, out := memory("512M"); code != 0 {
		t.Fatalf("%d %s", code, out)
	}
	m.says("without it", func(_, free int64) bool { return free > ballooned+100<<10 })

	for size, want := range map[string]string{
		"2G": "2G is too much: Memory=512M and MemoryHotplug=512M come to at most 1G", "513M": "which is not in whole steps of 2M", "32M": "is less than a Linux guest runs with", "much": "not a size",
	} {
		if code, out := memory(size); code != 2 || !strings.Contains(out, want) {
			t.Errorf("%s: %d %s", size, code, out)
		}
	}
	_ = m.cmd.Process.Signal(os.Interrupt)
	m.wantExit(0, "powered off", bootTime)
}

// TestMemoryOfHugePages: a guest whose memory is huge pages boots, and takes as many
// of them as it has memory.
func TestMemoryOfHugePages(t *testing.T) {
	need.All(t, need.VM, need.Root, need.QEMU, need.Guest)
	const dir = "/sys/kernel/mm/hugepages/hugepages-2048kB/"
	number := func(name string) int {
		text, err := os.ReadFile(dir + name)
		n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			t.Skipf("this kernel has no huge pages: %v", err)
		}
		return n
	}
	was := number("nr_hugepages")
	set := func(n int) { _ = os.WriteFile(dir+"nr_hugepages", []byte(strconv.Itoa(n)), 0) }
	t.Cleanup(func() { set(was) })
	set(was + 320)
	if number("nr_hugepages") < was+320 {
		t.Skip("this host does not set aside as many huge pages")
	}
	free := number("free_hugepages")
	m, memory := memoryVM(t, "HugePages=2M", "MemoryHotplug=128M")
	taken := func() int { return free - number("free_hugepages") + number("resv_hugepages") }
	if got := taken(); got != 256 {
		t.Errorf("512 MiB are %d huge pages", got)
	}
	if code, out := memory("640M"); code != 0 || !strings.Contains(out, "The guest has  640M\n") {
		t.Errorf("%d %s", code, out)
	}
	if got := taken(); got != 320 {
		t.Errorf("640 MiB are %d huge pages", got)
	}
	_ = m.cmd.Process.Signal(os.Interrupt)
	m.wantExit(0, "powered off", bootTime)
	for deadline := time.Now().Add(10 * time.Second); taken() != 0 && time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
	}
	if got := taken(); got != 0 {
		t.Errorf("%d huge pages are still taken", got)
	}
}

// TestMemoryByAPI: a hypervisor that is told by its API takes the orders, and of its
// answer, which has the credentials in it, nothing stays behind.
func TestMemoryByAPI(t *testing.T) {
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
	real := os.Getenv("AMPOULE_TEST_CLOUD_HYPERVISOR")
	lines, scanner := secrets(t, newScanner(t))
	m := start(t, options{
		lines: append(lines, "Hypervisor=cloud-hypervisor", "HypervisorPath="+cmp.Or(real, chfake.Install(t)), "Kernel="+kernel, "GuestSystemd=257", "Readiness=started",
			"Memory=256M", "MemoryHotplug=256M", "Balloon=yes", "KernelCommandLine=fake.guest=take-memory,say:OK"),
		prefix: withVirtualisation(t), service: []string{"TimeoutStopSec=1s"},
	})
	m.waitFor(m.console, "^OK$", 1, bootTime)
	m.waitFor(m.words, "started, guest not observed", 1, bootTime)
	dir := filepath.Join(m.dir, "run")
	record, err := state.Read(dir)
	if err != nil || record.Orders != filepath.Join(dir, "orders") {
		t.Fatalf("no socket for orders: %v, %+v", err, record)
	}
	i := state.Instance{Dir: dir, Record: &record}
	for _, mib := range []int64{256, 384, 384, 512, 128, 256} {
		got, err := run.AskMemory(t.Context(), i, mib<<20)
		// No guest of a few instructions heeds a balloon.
		if want := (run.Memory{Configured: 256 << 20, Addable: 256 << 20, Balloon: true, Asked: mib << 20, Now: mib << 20}); err != nil || real == "" && got != want || got.Asked != want.Asked {
			t.Errorf("%d MiB: %+v, %v", mib, got, err)
		}
	}
	if err := scanner.ScanMemory(m.cmd.Process.Pid); err != nil {
		t.Error(err)
	}
	if report := scanner.Scan(); len(report.Leaks()) != 0 || len(report.Rows) == 0 {
		t.Errorf("leaks, or the scan is blind:\n%s", report.Table())
	}
}

// TestWatchdogResets: a guest that opens its watchdog and feeds it no more is reset,
// which is a reboot, with its credentials.
func TestWatchdogResets(t *testing.T) {
	need.All(t, need.VMAll, need.Root, need.QEMU, need.Guest)
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("exec 3>/dev/watchdog0 && echo x >&3 && echo opened && sleep 600\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m := start(t, options{
		lines:   append(kernelLines(guest.GetWatchdog(t, "trixie")), "Watchdog=yes", "KernelCommandLine=i6300esb.heartbeat=5", "LoadCredential="+guest.ScriptName+":"+script),
		service: []string{"TimeoutStopSec=1s"},
	})
	m.waitFor(m.console, "AMPOULE-REPORT said opened", 1, bootTime)
	m.waitFor(m.words, "test: the guest's watchdog has run out, and resets it", 1, bootTime)
	m.waitFor(m.words, "test reboots", 1, bootTime)
	m.waitFor(m.console, "AMPOULE-REPORT said opened", 2, bootTime)
}
