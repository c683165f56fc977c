package qemu

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/driver/drivertest"
	"github.com/ampoule-vm/ampoule/internal/host"
)

// diskWords are QEMU's words for the disks of a VM.
func diskWords(t *testing.T, lines ...string) []string { return wordsOf(t, "Disk[", lines...) }

// wordsOf are QEMU's words from lines whose IDs begin so.
func wordsOf(t *testing.T, id string, lines ...string) []string {
	t.Helper()
	vm, err := drivertest.Read(t, Driver{}, lines)
	if err != nil {
		t.Fatal(err)
	}
	part, problems := Driver{}.Compose(vm, "x86-64")
	if problems.HasErrors() {
		t.Fatal(problems.Err())
	}
	var words []string
	for _, p := range part.Command {
		if strings.HasPrefix(p.From, id) {
			words = append(words, p.Words...)
		}
	}
	return words
}

// emulator is a QEMU that has its disks and runs nothing.
type emulator struct {
	in     io.WriteCloser
	out    *bufio.Reader
	cmd    *exec.Cmd
	stderr bytes.Buffer
}

// startQEMU starts one, or returns what it says of why not.
func startQEMU(t *testing.T, words []string) (*emulator, string) {
	t.Helper()
	e := &emulator{}
	e.cmd = exec.Command("qemu-system-x86_64", append([]string{"-nodefaults", "-no-user-config", "-display", "none", "-M", "q35,usb=off", "-accel", "tcg", "-m", "16", "-S", "-qmp", "stdio"}, words...)...)
	e.cmd.Stderr = &e.stderr
	var err error
	if e.in, err = e.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := e.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	e.out = bufio.NewReader(out)
	if err := e.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop := func() { _ = e.cmd.Process.Kill(); _ = e.cmd.Wait() }
	// It greets before it has its disks.
	_, _ = io.WriteString(e.in, "{\"execute\":\"qmp_capabilities\"}\n")
	for range 2 {
		if _, err := e.out.ReadString('\n'); err != nil {
			stop()
			return nil, e.stderr.String()
		}
	}
	t.Cleanup(stop)
	return e, ""
}

func (e *emulator) ask(t *testing.T, command string, into any) {
	t.Helper()
	if _, err := fmt.Fprintf(e.in, "{\"execute\":%q}\n", command); err != nil {
		t.Fatal(err)
	}
	line, err := e.out.ReadBytes('\n')
	if err != nil {
		t.Fatalf("%v: %s", err, e.stderr.String())
	}
	var reply struct{ Return, Error json.RawMessage }
	if err := json.Unmarshal(line, &reply); err != nil || reply.Error != nil {
		t.Fatalf("%s: %s", command, line)
	}
	if into != nil {
		if err := json.Unmarshal(reply.Return, into); err != nil {
			t.Fatal(err)
		}
	}
}

func needs(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("needs %s", p)
		}
	}
}

// TestRealDisks: the program takes every format and option, holds the locks by which
// a disk in use is known, and refuses one that is locked for another hypervisor, by
// words that name the disk's line.
func TestRealDisks(t *testing.T) {
	needs(t, "qemu-system-x86_64", "qemu-img")
	dir := t.TempDir()
	var lines []string
	paths := map[string]string{}
	for option, format := range map[string]string{"raw": "raw", "qcow2": "qcow2", "vhd": "vpc", "vhdx": "vhdx", "raw,ro": "raw", "raw,direct": "raw"} {
		path := filepath.Join(dir, strings.ReplaceAll(option, ",", "-"))
		if out, err := exec.Command("qemu-img", "create", "-q", "-f", format, path, "8M").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if option == "raw,direct" && host.CheckDisk(host.Disk{Path: path, Format: "raw", Direct: true}) != nil {
			t.Log("no direct access here")
			continue
		}
		paths[option] = path
		lines = append(lines, "Disk="+path+":"+option)
	}
	e, words := startQEMU(t, diskWords(t, lines...))
	if e == nil {
		t.Fatal(words)
	}
	var nodes []struct {
		NodeName string `json:"node-name"`
		Drv      string
		RO       bool
		Cache    struct{ Direct bool }
	}
	e.ask(t, "query-named-block-nodes", &nodes)
	for i, line := range lines {
		_, option, _ := strings.Cut(line, ":")
		drv := map[string]string{"vhd": "vpc"}[option]
		if drv == "" {
			drv, _, _ = strings.Cut(option, ",")
		}
		for _, n := range nodes {
			if n.NodeName == fmt.Sprintf("disk%d", i) && (n.Drv != drv || n.RO != strings.Contains(option, "ro") || n.Cache.Direct != strings.Contains(option, "direct")) {
				t.Errorf("%s: %+v", option, n)
			}
		}
	}
	if direct, ok := paths["raw,direct"]; ok && !opensDirectly(e.cmd.Process.Pid, direct) {
		t.Error("the disk is not open with O_DIRECT")
	}
	for option, path := range paths {
		ro := strings.Contains(option, "ro")
		if err := host.DiskFree(host.Disk{Path: path}); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d (qemu-system-x86)", e.cmd.Process.Pid)) {
			t.Errorf("%s, to be written: %v", option, err)
		}
		if err := host.DiskFree(host.Disk{Path: path, ReadOnly: true}); (err == nil) != ro {
			t.Errorf("%s, to be read: %v", option, err)
		}
	}
}

// opensDirectly reports whether a process has a file open with O_DIRECT.
func opensDirectly(pid int, path string) bool {
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	return slices.ContainsFunc(fds, func(fd string) bool {
		target, _ := os.Readlink(fd)
		info, _ := os.ReadFile(strings.Replace(fd, "/fd/", "/fdinfo/", 1))
		_, rest, _ := strings.Cut(string(info), "flags:\t")
		var flags int
		_, _ = fmt.Sscanf(rest, "%o", &flags)
		return target == path && flags&0o40000 != 0
	})
}

func TestRealLocks(t *testing.T) {
	needs(t, "qemu-system-x86_64")
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		ours   bool // for reading alone
		theirs string
		refuse bool
	}{
		{false, "", true}, {false, ":ro", true}, {true, "", true}, {true, ":ro", false},
	} {
		f, err := host.LockDisk(host.Disk{Path: path, ReadOnly: tt.ours})
		if err != nil {
			t.Fatal(err)
		}
		words := diskWords(t, "Disk="+path+tt.theirs)
		e, said := startQEMU(t, words)
		if refused := e == nil; refused != tt.refuse {
			t.Errorf("%+v: %v", tt, said)
		}
		if e == nil {
			if argument := (Driver{}).Ended(1, said).Argument; !strings.Contains(strings.Join(words, " "), argument) || argument == "" {
				t.Errorf("%+v: no line is behind %q of %q", tt, argument, said)
			}
		} else {
			_ = e.cmd.Process.Kill()
			_ = e.cmd.Wait()
		}
		f.Close()
	}
}

// TestRealDevices: the program takes the words for devices of the host, and names the
// one that it cannot have.
func TestRealDevices(t *testing.T) {
	needs(t, "qemu-system-x86_64")
	words := func(lines ...string) []string { return wordsOf(t, "Device[", lines...) }
	// A USB device may be plugged in later, as far as QEMU is concerned.
	if e, said := startQEMU(t, words("Device=usb:046d:c077", "Device=usb:1-2.3")); e == nil {
		t.Error(said)
	}
	all := words("Device=usb:046d:c077", "Device=pci:ffff:1f:1f.7")
	_, said := startQEMU(t, all)
	if argument := (Driver{}).Ended(1, said).Argument; argument != "-device vfio-pci,host=ffff:1f:1f.7,id=device1" {
		t.Errorf("%q is blamed in %q", argument, said)
	}
}
