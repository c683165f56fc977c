package run

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/state"
	"github.com/ampoule-vm/ampoule/internal/testkit/tinykernel"
)

// These run the hypervisors themselves, where a variable names a binary and KVM
// opens. Their guests are a few instructions: a stock kernel makes no progress
// where the processor's own virtualisation is hidden.

func realCases(t *testing.T) []apiCase {
	t.Helper()
	var out []apiCase
	for _, c := range apiCases(t) {
		variable := "AMPOULE_TEST_" + strings.ToUpper(strings.ReplaceAll(c.name, "-", "_"))
		if program := os.Getenv(variable); program != "" {
			c.install = func(testing.TB) string { return program }
			out = append(out, c)
		}
	}
	if len(out) == 0 {
		t.Skip("no variable AMPOULE_TEST_CLOUD_HYPERVISOR or AMPOULE_TEST_FIRECRACKER names a binary")
	}
	return out
}

func realKernel(t testing.TB, code string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vmlinux")
	if err := os.WriteFile(path, tinykernel.ELF(code), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func forEachReal(t *testing.T, f func(t *testing.T, c apiCase)) {
	for _, c := range realCases(t) {
		t.Run(c.name, func(t *testing.T) { f(t, c) })
	}
}

// real makes a VM of a hypervisor itself.
func (c apiCase) real(t testing.TB, code string, lines ...string) *trial {
	t.Helper()
	return c.realOf(t, realKernel(t, code), lines...)
}

func (c apiCase) realOf(t testing.TB, kernel string, lines ...string) *trial {
	t.Helper()
	lines = append([]string{"Hypervisor=" + c.name, "HypervisorPath=" + c.install(t), "Kernel=" + kernel, "Memory=128M"}, append(c.lines, lines...)...)
	tr := newTrial(t, makePlan(t, lines...))
	tr.withKVM()
	tr.options.Host.KVM = "/dev/kvm"
	return tr
}

// The VM runs, and its secret stands where it belongs: in the guest's memory, and
// not in the words or the environment of the process; nobody can reach the API.
func TestRealStart(t *testing.T) {
	forEachReal(t, func(t *testing.T, c apiCase) {
		const value = "real-secret-0123456789-abcdefghij"
		key := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(key, []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
		tr := c.real(t, tinykernel.Word+tinykernel.Loop, "LoadCredential=KEY:"+key, "VCPU=2", "VSockCID=auto", "Disk=d.raw:size=16M", "MachineID=0123456789abcdef0123456789abcdef",
			"[Service]", "TimeoutStopSec=300ms").start()
		tr.await("OK\n")
		tr.stderr.await(t, "started, guest not observed")
		record := tr.record()
		pid := hypervisorPid(t, tr)
		t.Logf("%s", record)
		wanted := "io.systemd.credential.binary:KEY=" + base64.StdEncoding.EncodeToString([]byte(value))
		if c.name == "firecracker" {
			wanted = value
		}
		if n := inMemory(t, pid, wanted); n == 0 {
			t.Error("the secret is not in the guest's memory")
		}
		for _, file := range []string{"cmdline", "environ"} {
			data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
			if err != nil || bytes.Contains(data, []byte("real-secret")) || file == "environ" && len(data) > 0 {
				t.Errorf("%s: %q %v", file, data, err)
			}
			t.Logf("%s: %q", file, data)
		}
		entries, err := os.ReadDir(tr.env["RUNTIME_DIRECTORY"])
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if name := e.Name(); strings.Contains(name, "api") {
				t.Errorf("the socket of the API is there for others: %s", name)
			}
		}
		tr.cancel()
		tr.want(ExitKilled, "the guest did not power off")
		tr.wantOnlyDisk("d.raw")
	})
}

// wantOnlyDisk is wantNothingLeft but for the disk that a VM keeps.
func (tr *trial) wantOnlyDisk(disk string) {
	tr.t.Helper()
	if err := os.Remove(filepath.Join(tr.env["STATE_DIRECTORY"], disk)); err != nil {
		tr.t.Error(err)
	}
	tr.wantNothingLeft()
}

// inMemory counts a text in what a process has mapped.
func inMemory(t testing.TB, pid int, text string) (n int) {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	for line := range strings.Lines(string(maps)) {
		from, rest, _ := strings.Cut(line, "-")
		to, _, _ := strings.Cut(rest, " ")
		start, err1 := strconv.ParseInt(from, 16, 64)
		end, err2 := strconv.ParseInt(to, 16, 64)
		if err1 != nil || err2 != nil {
			continue
		}
		data, _ := io.ReadAll(io.NewSectionReader(memory, start, min(end-start, 1<<30)))
		n += bytes.Count(data, []byte(text))
	}
	return n
}

// What a guest types comes back: the console goes both ways.
func TestRealConsole(t *testing.T) {
	forEachReal(t, func(t *testing.T, c apiCase) {
		tr := c.real(t, tinykernel.Word+tinykernel.Echo, "[Service]", "TimeoutStopSec=300ms").start()
		tr.await("OK\n")
		conn, err := net.Dial("unix", filepath.Join(tr.env["RUNTIME_DIRECTORY"], state.ConsoleName))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "echo this\n"); err != nil {
			t.Fatal(err)
		}
		tr.await("echo this\n")
		tr.cancel()
		tr.want(ExitKilled, "")
		tr.wantNothingLeft()
	})
}

func TestRealEnds(t *testing.T) {
	forEachReal(t, func(t *testing.T, c apiCase) {
		if !c.reboots {
			c.real(t, tinykernel.Word+tinykernel.Reset+tinykernel.Loop).start().want(ExitPoweredOff, "the guest rebooted, which ends firecracker")
			return
		}
		c.real(t, tinykernel.Word+tinykernel.PowerOff+tinykernel.Loop).start().want(ExitPoweredOff, "the guest powered off")
		tr := c.real(t, tinykernel.Word+strings.Repeat(tinykernel.Pause, 50)+tinykernel.Reset+tinykernel.Loop, "SetCredential=a:hush-hush-hush").start()
		for strings.Count(tr.stdout.String(), "OK\n") < 3 {
			tr.await("OK\n")
			time.Sleep(10 * time.Millisecond)
		}
		tr.cancel()
		tr.want(ExitPoweredOff, "the guest rebooted when it was to power off")
		tr.wantNothingLeft()
	})
}

// A hypervisor that is killed takes nothing with it and leaves nothing.
func TestRealKilled(t *testing.T) {
	forEachReal(t, func(t *testing.T, c apiCase) {
		tr := c.real(t, tinykernel.Word+tinykernel.Loop, "VSockCID=auto").start()
		tr.await("OK\n")
		if err := syscall.Kill(hypervisorPid(t, tr), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		tr.want(ExitHypervisor, "the hypervisor died (killed by SIGKILL)")
		tr.wantNothingLeft()
	})
}

// What the hypervisor itself refuses is told in its words.
func TestRealRefusal(t *testing.T) {
	forEachReal(t, func(t *testing.T, c apiCase) {
		odd := filepath.Join(t.TempDir(), "vmlinux")
		data := tinykernel.ELF(tinykernel.Loop)
		binary.LittleEndian.PutUint64(data[tinykernel.SegmentOffset:], 1<<40) // the segment lies beyond the file
		if err := os.WriteFile(odd, data, 0o644); err != nil {
			t.Fatal(err)
		}
		tr := c.realOf(t, odd)
		out := <-tr.start().out
		t.Logf("%s", out.Text)
		if out.Code != ExitHypervisor || !strings.Contains(out.Text, "the hypervisor refuses the request") || !strings.Contains(out.Text, "ernel") {
			t.Errorf("%+v", out)
		}
		tr.wantNothingLeft()
	})
}
