package leak

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/testkit/guest/scan"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// child starts a program that does nothing until the test ends.
func child(t *testing.T, prepare func(*exec.Cmd)) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	prepare(cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

func write(t *testing.T, path string, data []byte) string {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func scanner(t *testing.T, secrets map[string][]byte) *Scanner {
	t.Helper()
	s, err := New(t, secrets)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func tmpfsDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "leak-test-")
	if err != nil {
		t.Skipf("no tmpfs to write to: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// has reports whether a row of a class names the secret and has all parts in
// its place.
func has(r Report, class Class, secret, form string, parts ...string) bool {
	return slices.ContainsFunc(r.Rows, func(x Row) bool {
		for _, p := range parts {
			if !strings.Contains(x.Place, p) {
				return false
			}
		}
		return x.Class == class && x.Secret == secret && x.Form == form && x.Allowed == ""
	})
}

// planted leaks one secret per place, so that no finding stands in for another.
type planted struct {
	secrets map[string][]byte
	plant   map[string]func(t *testing.T, secret []byte)
	check   map[string]func(r Report) bool
}

func (p *planted) add(name string, plant func(*testing.T, []byte), check func(Report) bool) {
	p.secrets[name], p.plant[name], p.check[name] = Random(15), plant, check
}

// Each way to leak is found where it is, and nothing is found before.
func TestPlantedLeaksAreFound(t *testing.T) {
	p := &planted{map[string][]byte{}, map[string]func(*testing.T, []byte){}, map[string]func(Report) bool{}}
	disk, shm := diskDir(t), tmpfsDir(t)
	var pid string
	p.add("argv", func(t *testing.T, s []byte) {
		cmd := child(t, func(c *exec.Cmd) { c.Args = []string{"--password=" + string(s), "600"} })
		pid = fmt.Sprint(cmd.Process.Pid)
	}, func(r Report) bool { return has(r, Arguments, "argv", "plain", pid, "sleep") })

	p.add("environ", func(t *testing.T, s []byte) {
		child(t, func(c *exec.Cmd) {
			c.Env = []string{"A=b", "TOKEN=" + base64.StdEncoding.EncodeToString(append([]byte("user:"), s...))}
		})
	}, func(r Report) bool { return has(r, Environment, "environ", "base64", "sleep") })

	p.add("disk", func(t *testing.T, s []byte) {
		write(t, filepath.Join(disk, "config"), append(bytes.Repeat([]byte("x"), 3*chunk), s...))
	}, func(r Report) bool { return has(r, File, "disk", "plain", filepath.Join(disk, "config")) })

	p.add("old disk file", func(t *testing.T, s []byte) {
		// Written now with an old modification time, as by rsync or tar.
		path := write(t, filepath.Join(disk, "restored"), s)
		old := time.Now().Add(-1000 * time.Hour)
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}, func(r Report) bool { return has(r, File, "old disk file", "plain", "restored") })

	p.add("sparse disk", func(t *testing.T, s []byte) {
		f, err := os.OpenFile(filepath.Join(disk, "image"), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(1 << 40); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(s, 1<<39+77); err != nil {
			t.Fatal(err)
		}
	}, func(r Report) bool { return has(r, File, "sparse disk", "plain", "image") })

	p.add("deleted", func(t *testing.T, s []byte) {
		path := write(t, filepath.Join(disk, "deleted"), s)
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		child(t, func(c *exec.Cmd) { c.ExtraFiles = []*os.File{f} })
		_ = f.Close()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}, func(r Report) bool { return has(r, Open, "deleted", "plain", "descriptor 3 of", "deleted") })

	p.add("mapped", func(t *testing.T, s []byte) {
		path := filepath.Join(disk, "mapped")
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(s); err != nil {
			t.Fatal(err)
		}
		mem, err := unix.Mmap(int(f.Fd()), 0, len(s), unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Munmap(mem) })
		_ = f.Close()
		_ = os.Remove(path)
	}, func(r Report) bool { return has(r, Open, "mapped", "plain", "mapping") })

	p.add("tmpfs", func(t *testing.T, s []byte) {
		// Written through a mapping, which changes no time stamp there.
		path := write(t, filepath.Join(shm, "page"), make([]byte, 4096))
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		mem, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			t.Fatal(err)
		}
		copy(mem[100:], s)
		_ = unix.Munmap(mem)
	}, func(r Report) bool { return has(r, MemoryFile, "tmpfs", "plain", filepath.Join(shm, "page")) })

	p.add("source", func(t *testing.T, s []byte) {
		if err := os.Mkdir(filepath.Join(shm, "sources"), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(shm, "sources", "key"), s)
		write(t, filepath.Join(shm, "sources-not"), s)
	}, func(r Report) bool {
		return has(r, MemoryFile, "source", "plain", "sources-not") && !has(r, MemoryFile, "source", "plain", "sources/key") &&
			allowed(r, MemoryFile, "source", filepath.Join(shm, "sources/key"), "the source")
	})

	p.add("memfd", func(t *testing.T, s []byte) {
		fd, err := unix.MemfdCreate("carrier", unix.MFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), "carrier")
		t.Cleanup(func() { _ = f.Close() })
		if _, err := f.Write(s); err != nil {
			t.Fatal(err)
		}
	}, func(r Report) bool { return allowed(r, Memfd, "memfd", "/memfd:carrier", "not on any disk") })

	if os.Geteuid() == 0 {
		p.add("namespace", func(t *testing.T, s []byte) { plantInNamespace(t, disk, s) },
			func(r Report) bool {
				return has(r, MemoryFile, "namespace", "plain", disk+"/ns/copy", "mount namespace")
			})
	}

	p.add("name", func(t *testing.T, s []byte) {
		write(t, filepath.Join(disk, "lock-"+string(s)), nil)
	}, func(r Report) bool { return has(r, Name, "name", "plain", "/…") })

	p.add("link", func(t *testing.T, s []byte) {
		if err := os.Symlink("value:"+string(s), filepath.Join(disk, "link")); err != nil {
			t.Fatal(err)
		}
	}, func(r Report) bool { return has(r, Name, "link", "plain", filepath.Join(disk, "link")) })

	p.add("socket", func(t *testing.T, s []byte) {
		l, err := net.Listen("unix", "@"+string(s))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
	}, func(r Report) bool { return has(r, Socket, "socket", "plain") })

	p.add("json", func(t *testing.T, s []byte) {
		b, err := json.Marshal(map[string]any{"bytes": s, "list": fmt.Sprint(s)})
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(disk, "state.json"), b)
	}, func(r Report) bool {
		return has(r, File, "json", "base64", "state.json") && has(r, File, "json", "decimal", "state.json")
	})

	plantAndScan(t, p, filepath.Join(shm, "sources"))
}

// allowed reports whether a place is in the report, as one that may have it.
func allowed(r Report, class Class, secret, place, why string) bool {
	return slices.ContainsFunc(r.Rows, func(x Row) bool {
		return x.Class == class && x.Secret == secret && strings.Contains(x.Place, place) && x.Allowed == why
	})
}

// plantInNamespace writes a file to a mount that only another mount namespace
// sees.
func plantInNamespace(t *testing.T, dir string, secret []byte) {
	dir = filepath.Join(dir, "ns")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	script := `mount -t tmpfs none "$0" && cat >"$0/copy" && touch "$0/ready" && exec sleep 600`
	cmd := exec.Command("sh", "-c", script, dir)
	cmd.Stdin = bytes.NewReader(secret)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	inside := fmt.Sprintf("/proc/%d/root%s/", cmd.Process.Pid, dir)
	for range 500 {
		if _, err := os.Stat(inside + "ready"); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if _, err := os.Stat(filepath.Join(dir, "copy")); err == nil {
		t.Fatal("the mount is visible outside")
	}
}

func plantAndScan(t *testing.T, p *planted, sources string) {
	s := scanner(t, p.secrets)
	s.Allow(sources, "the source")
	if leaks := s.Scan().Leaks(); len(leaks) != 0 {
		t.Fatalf("leaks before there are any: %v", leaks)
	}
	for name, plant := range p.plant {
		plant(t, p.secrets[name])
	}
	s.ScanBytes("a log", append([]byte("key="), p.secrets["argv"]...))
	r := s.Scan()
	t.Logf("\n%s", r.Table())
	for name, check := range p.check {
		if !check(r) {
			t.Errorf("the leak %q is not found", name)
		}
	}
	if !has(r, Text, "argv", "plain", "a log") {
		t.Error("the leak in a log is not found")
	}
	for name, secret := range p.secrets {
		if strings.Contains(r.Table(), string(secret)) {
			t.Errorf("the table repeats secret %s", name)
		}
	}
	out, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(out, &back); err != nil || len(back.Rows) != len(r.Rows) {
		t.Errorf("the machine form does not come back: %v", err)
	}
}

// diskDir returns a new directory on a disk: /tmp is none on many hosts.
func diskDir(t *testing.T) string {
	t.Helper()
	for _, parent := range []string{os.TempDir(), "/var/tmp", "."} {
		dir, err := os.MkdirTemp(parent, "leak-test-")
		if err != nil {
			continue
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		f, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		memory := onMemory(f)
		_ = f.Close()
		if !memory {
			return dir
		}
	}
	t.Skip("there is no disk to write to")
	return ""
}

// A process that ends before the scan is seen by the watch.
func TestWatchSeesShortLivedProcesses(t *testing.T) {
	secret := Random(20)
	s := scanner(t, map[string][]byte{"short": secret})
	stop := s.Watch(2 * time.Millisecond)
	cmd := exec.Command("sleep", "0.3")
	cmd.Env = []string{"KEY=" + string(secret)}
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	stop()
	stop() // harmless
	r := s.Report()
	if !has(r, Environment, "short", "plain", "sleep") {
		t.Errorf("not found:\n%s", r.Table())
	}
	if r.Looked[Environment] != 0 {
		t.Errorf("the watch counts its looks: %d", r.Looked[Environment])
	}
}

// The memory of a process is looked at, and one's own is refused.
func TestScanMemory(t *testing.T) {
	secret, other := Random(20), Random(20)
	s := scanner(t, map[string][]byte{"held": secret, "not held": other})
	// The shell reads the value from a pipe and keeps it in a variable only.
	cmd := exec.Command("bash", "-c", "read -r v; echo ready; read -r w")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	fmt.Fprintf(in, "%s\n", secret)
	if _, err := out.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	if err := s.ScanMemory(cmd.Process.Pid); err != nil {
		t.Skipf("may not read another process's memory: %v", err)
	}
	r := s.Report()
	if !has(r, Memory, "held", "plain", "bash", fmt.Sprint(cmd.Process.Pid)) {
		t.Errorf("not found:\n%s", r.Table())
	}
	if has(r, Memory, "not held", "plain") {
		t.Error("found what the process does not have")
	}
	if err := s.ScanMemory(os.Getpid()); err == nil {
		t.Error("its own memory was scanned")
	}
}

func TestScanFiles(t *testing.T) {
	secret := Random(20)
	s := scanner(t, map[string][]byte{"key": secret})
	core := write(t, filepath.Join(t.TempDir(), "core"), append(make([]byte, 5000), secret...))
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(core, old, old); err != nil {
		t.Fatal(err)
	}
	if err := s.ScanCore(core); err != nil {
		t.Fatal(err)
	}
	if err := s.ScanFile(core); err != nil {
		t.Fatal(err)
	}
	if err := s.ScanReader("stream", bytes.NewReader(secret)); err != nil {
		t.Fatal(err)
	}
	if err := s.ScanFile(core + "-absent"); err == nil {
		t.Error("a file that is not there was scanned")
	}
	r := s.Report()
	for class, place := range map[Class]string{Core: core, File: core, Text: "stream"} {
		if !has(r, class, "key", "plain", place) {
			t.Errorf("not found in %s", class)
		}
	}
}

// A scan that may not see everything says so.
func TestSkippedPlacesAreListed(t *testing.T) {
	if os.Getenv("LEAK_TEST_UNPRIVILEGED") != "" {
		s := scanner(t, map[string][]byte{"key": Random(20)})
		r := s.Scan()
		found := slices.ContainsFunc(r.Skipped, func(k Skip) bool { return k.Class == Environment })
		if !found || !strings.Contains(r.Table(), "skipped") {
			t.Errorf("an unprivileged scan claims to have seen all:\n%s", r.Table())
		}
		return
	}
	need.All(t, need.Root)
	child(t, func(*exec.Cmd) {})
	self := filepath.Join(tmpfsDir(t), "test")
	binary, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(self, binary, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(self), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestSkippedPlacesAreListed$", "-test.v")
	cmd.Dir = "/"
	cmd.Env = []string{"LEAK_TEST_UNPRIVILEGED=1", "PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestParseMapping(t *testing.T) {
	for line, want := range map[string]string{
		"7f00-8f00 r--p 00000000 00:00 0":                   "7f00-8f00 ",
		"7f00-8f00 rw-p 00000000 fe:00 12   /a b (deleted)": "7f00-8f00 /a b (deleted)",
		"7f00-8f00 ---p 00000000 00:00 0":                   "",
		"7f00-8f00 r--p 00000000 00:00 0    [vvar]":         "",
		"7f00-8f00 r-xp 00000000 00:00 0    [vdso]":         "7f00-8f00 [vdso]",
		"rubbish": "",
	} {
		m, ok := parseMapping(line)
		got := ""
		if ok {
			got = fmt.Sprintf("%x-%x %s", m.from, m.to, m.what)
		}
		if got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{`/a\040b`: "/a b", `\134`: `\`, `\999`: `\999`, `\04`: `\04`, "": ""} {
		if got := scan.Unescape(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
