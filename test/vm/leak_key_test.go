package vm

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/guest"
	"github.com/ampoule-vm/ampoule/internal/testkit/leak"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// TestNoLeaksWithKeyOfStart: a VM with a network, a share and a key of this start,
// which one uses, keeps its secrets as any other does; and the private half of that key
// is in ampoule's memory alone, from where the test knows it. (There on the heap too:
// see package sshagent.)
func TestNoLeaksWithKeyOfStart(t *testing.T) {
	need.All(t, need.VM, need.VMAll, need.Root, need.QEMU, need.Guest)
	daemon := vhostDevice(t)
	lines, scanner := secrets(t, newScanner(t))
	stop := scanner.Watch(20 * time.Millisecond)
	defer stop()
	name := fmt.Sprintf("ampoule-leak-%d", os.Getpid())
	m := start(t, options{
		name: name, vsock: true,
		// By hand, where ampoule ssh looks for it.
		env: []string{"RUNTIME_DIRECTORY="},
		lines: append(append(kernelLines(guest.GetSSH(t)), "HypervisorPath="+vsockQEMU(t, daemon), "VSockCID=auto", "GuestSystemd=257",
			"SSH=ephemeral", "Network=user", "Share="+t.TempDir()+":data:9p"), lines...),
	})
	m.waitFor(m.words, name+": ready", 1, bootTime)
	runtime := "/run/ampoule/run/" + name
	public := publicKey(t, filepath.Join(runtime, "ssh-agent"))
	cmd := exec.Command(program, "ssh", "-v", "-o", "BatchMode=yes", name, "id -un")
	cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}
	said, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(said), "root\n") {
		t.Fatalf("%v: %s", err, said)
	}

	texts := map[string][]byte{"the console": []byte(m.console.text()), "ampoule's words": []byte(m.words.text()), "ssh's words": said}
	for what, text := range texts {
		scanner.ScanBytes(what, text)
	}
	if err := scanner.ScanMemory(m.cmd.Process.Pid); err != nil {
		t.Error(err)
	}
	report := scanner.Scan()
	if len(report.Leaks()) != 0 || len(report.Rows) == 0 {
		t.Errorf("leaks, or not even the sources were found:\n%s", report.Table())
	}
	t.Logf("\n%s", report.Table())
	privateHalf(t, m, public, texts, m.dir, runtime)
}

// publicKey asks an agent for its one key.
func publicKey(t *testing.T, socket string) ed25519.PublicKey {
	t.Helper()
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte{0, 0, 0, 1, 11}); err != nil {
		t.Fatal(err)
	}
	// Lengths and kinds, the number of keys, and the key behind its type.
	const before = 4 + 1 + 4 + 4 + 4 + len("ssh-ed25519") + 4
	answer := make([]byte, before+ed25519.PublicKeySize)
	if _, err := io.ReadFull(c, answer); err != nil {
		t.Fatal(err)
	}
	return answer[before:]
}

// privateHalf looks for the seed of a key everywhere.
func privateHalf(t *testing.T, m *machine, public ed25519.PublicKey, texts map[string][]byte, dirs ...string) {
	t.Helper()
	pid := m.cmd.Process.Pid
	seed := seedOf(t, pid, public)
	scanner := newScanner(t)(map[string][]byte{"seed": seed})
	for what, text := range texts {
		scanner.ScanBytes(what, text)
	}
	for _, dir := range dirs {
		scanFiles(t, scanner, dir)
	}
	for _, pid := range []int{pid, m.hypervisor()} {
		if err := scanner.ScanMemory(pid); err != nil {
			t.Error(err)
		}
	}
	report := scanner.Scan()
	t.Logf("\n%s", report.Table())
	own := false
	for _, row := range report.Leaks() {
		if row.Class == leak.Memory && strings.HasPrefix(row.Place, fmt.Sprintf("%d (", pid)) {
			own = true
			continue
		}
		t.Errorf("the private half is in %s: %s", row.Class, row.Place)
	}
	if !own {
		t.Error("the private half was not found where it is: the scan is blind")
	}

	// And were it in a file beside the VM's, it would be found there.
	planted := filepath.Join(dirs[0], "planted")
	writeSecret(t, planted, []byte("key: "+base64.StdEncoding.EncodeToString(seed)+"\n"))
	before := len(scanner.Report().Found(leak.File))
	scanFiles(t, scanner, dirs[0])
	if rows := scanner.Report().Found(leak.File); len(rows) != before+1 {
		t.Errorf("a key in a file is not found: %v", rows)
	}
}

// scanFiles looks at all files below a directory, whatever their age.
func scanFiles(t *testing.T, scanner *leak.Scanner, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		return scanner.ScanFile(path)
	})
	if err != nil {
		t.Error(err)
	}
}

// seedOf finds the seed of a key in the memory of a process. It lies at the beginning
// of a page (package secret), and makes the public half.
func seedOf(t *testing.T, pid int, public ed25519.PublicKey) []byte {
	t.Helper()
	maps, err1 := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	mem, err2 := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	defer mem.Close()
	none := make([]byte, ed25519.SeedSize)
	for line := range strings.Lines(string(maps)) {
		var from, to, offset, inode uint64
		var mode, device string
		if _, err := fmt.Sscanf(line, "%x-%x %s %x %s %d", &from, &to, &mode, &offset, &device, &inode); err != nil || mode != "rw-p" || inode != 0 {
			continue
		}
		for at := from; at < to; at += uint64(os.Getpagesize()) {
			got := make([]byte, ed25519.SeedSize)
			if _, err := mem.ReadAt(got, int64(at)); err != nil || bytes.Equal(got, none) {
				continue
			}
			if bytes.Equal(ed25519.NewKeyFromSeed(got)[ed25519.SeedSize:], public) {
				return got
			}
		}
	}
	t.Fatal("the private half is nowhere in ampoule's memory")
	return nil
}
