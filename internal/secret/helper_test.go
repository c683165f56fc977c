package secret

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// helperEnv makes the test program a helper: a process that a test looks at
// from outside.
const helperEnv = "SECRET_TEST_HELPER"

func TestMain(m *testing.M) {
	if mode := os.Getenv(helperEnv); mode != "" {
		if err := help(mode); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// help does what a mode says, then tells "ready" and goes on with each line
// that it is given.
func help(mode string) error {
	step := bufio.NewReader(os.Stdin)
	pause := func() { fmt.Println("ready"); _, _ = step.ReadString('\n') }
	switch mode {
	case "hold":
		return hold(pause)
	case "harden", "harden-undumpable":
		if err := Harden(mode == "harden-undumpable"); err != nil {
			return err
		}
		pause()
		// What a child is left with.
		cmd := exec.Command("sh", "-c", "ulimit -Sc; ulimit -Hc; cat /proc/self/coredump_filter; ls /proc/self/fd")
		out, err := cmd.CombinedOutput()
		fmt.Print(string(out))
		return err
	case "unlocked":
		if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{}); err != nil {
			return err
		}
		v, err := FromBytes([]byte(plain))
		if err != nil {
			return err
		}
		m, err := NewMemfd("test", v)
		if err != nil {
			return err
		}
		fmt.Println(v.Locked(), m.Locked(), v.EqualBytes([]byte(plain)), m.Len())
	}
	return nil
}

// hold reads a control value onto the heap and a secret into a Value, keeps
// both, then wipes the secret.
func hold(pause func()) error {
	control, err := io.ReadAll(os.NewFile(3, "control"))
	if err != nil {
		return err
	}
	v, err := ReadFrom(os.NewFile(4, "secret"), 1<<20)
	if err != nil {
		return err
	}
	b := NewBuilder(0)
	b.AppendBase64(v)
	composed, err := b.Value()
	if err != nil {
		return err
	}
	m, err := NewMemfd("test", composed)
	if err != nil {
		return err
	}
	pause()
	if err := m.Close(); err != nil {
		return err
	}
	v.Wipe()
	composed.Wipe()
	pause()
	fmt.Println(len(control))
	return nil
}

// helper is a running helper process.
type helper struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// startHelper starts the test program in a mode. Its directory is a new one.
func startHelper(t *testing.T, mode string, prepare func(*exec.Cmd)) *helper {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = []string{helperEnv + "=" + mode, "PATH=" + os.Getenv("PATH"), "GOTRACEBACK=crash"}
	cmd.Dir = t.TempDir()
	cmd.Stderr = os.Stderr
	prepare(cmd)
	h := &helper{cmd: cmd}
	if h.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	h.out = bufio.NewReader(out)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return h
}

func (h *helper) line(t *testing.T) string {
	t.Helper()
	line, err := h.out.ReadString('\n')
	if err != nil {
		t.Fatalf("the helper ended: %v", err)
	}
	return strings.TrimSpace(line)
}

func (h *helper) next(t *testing.T) {
	t.Helper()
	if _, err := fmt.Fprintln(h.in); err != nil {
		t.Fatal(err)
	}
}

// asNobody runs a command as a user without privileges, from a copy of the test
// program that this user may read.
func asNobody(t *testing.T) func(*exec.Cmd) {
	t.Helper()
	if os.Geteuid() != 0 {
		return func(*exec.Cmd) {}
	}
	dir, err := os.MkdirTemp("", "secret-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	self := filepath.Join(dir, "program")
	if err := os.WriteFile(self, program, 0o755); err != nil {
		t.Fatal(err)
	}
	return func(cmd *exec.Cmd) {
		cmd.Path, cmd.Dir = self, "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
}
