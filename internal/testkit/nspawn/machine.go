package nspawn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Machine is a host whose disk outlives its boots. Between them it is off.
type Machine struct {
	t testing.TB
	// root is what the disk starts from, layer and work are what was changed
	// since, as overlayfs wants them.
	root, layer, work string
	args              []string

	// Online gives the host the network of the test, where it would have none.
	Online bool

	cmd    *exec.Cmd
	group  group
	leader int
	ended  chan struct{}
	said   bytes.Buffer
	result error
}

// NewMachine returns a host that is off. Its disk is the root and what the
// host changes, which goes with the test. Args are further arguments of
// systemd-nspawn.
func NewMachine(t testing.TB, root string, args ...string) *Machine {
	t.Helper()
	dir := t.TempDir()
	m := &Machine{t: t, root: root, layer: filepath.Join(dir, "layer"), work: filepath.Join(dir, "work"), args: args}
	for _, d := range []string{m.layer, m.work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(m.Kill)
	return m
}

// Path returns where the test finds a file of the host, by its absolute path
// there. While the machine is off it leads to what was changed alone.
func (m *Machine) Path(path string) string {
	if m.leader != 0 {
		return filepath.Join(fmt.Sprintf("/proc/%d/root", m.leader), path)
	}
	return filepath.Join(m.layer, path)
}

// Names are all paths by which processes outside of the host see one of its
// files, by its absolute path there: on the test's disk, and where
// systemd-nspawn has it.
func (m *Machine) Names(path string) []string {
	return []string{filepath.Join(m.layer, path), filepath.Join(m.root, path)}
}

// OuterPid is the test's number of a process, by that which the host has; 0
// where there is none.
func (m *Machine) OuterPid(pid int) int {
	files, _ := filepath.Glob("/proc/[0-9]*/status")
	space, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", m.leader))
	for _, file := range files {
		text, _ := os.ReadFile(file)
		_, ids, _ := strings.Cut(string(text), "\nNSpid:\t")
		ids, _, _ = strings.Cut(ids, "\n")
		all := strings.Fields(ids)
		if len(all) < 2 || all[len(all)-1] != strconv.Itoa(pid) {
			continue
		}
		if own, _ := os.Readlink(filepath.Join(filepath.Dir(file), "ns/pid")); own == space {
			outer, _ := strconv.Atoi(all[0])
			return outer
		}
	}
	return 0
}

// Leader is the process that the host has as PID 1; 0 while it is off.
func (m *Machine) Leader() int { return m.leader }

// PowerOn boots the host and returns when it has a PID 1 that can be asked.
// PID1 are arguments of the host's systemd.
func (m *Machine) PowerOn(pid1 ...string) {
	m.t.Helper()
	if m.leader != 0 {
		m.t.Fatal("the host is on")
	}
	// The mount goes with the process, even if the test is killed. See Boot for
	// the network namespace.
	script := `mount -t overlay -o "lowerdir=$1,upperdir=$2,workdir=$3" ampoule "$1" && shift 3 && exec "$@"`
	var apart string
	m.group, apart = ownGroup()
	script = apart + script
	namespaces := []string{"--mount"}
	if !m.Online {
		script = "echo 10000 >/proc/sys/net/unix/max_dgram_qlen\n" + script
		namespaces = append(namespaces, "--net")
	}
	words := append(namespaces, "sh", "-c", script, "sh", m.root, m.layer, m.work)
	words = append(words, command(m.root, m.args, pid1)...)
	m.said.Reset()
	cmd := exec.Command("unshare", words...)
	cmd.Env = append(os.Environ(), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
	cmd.Stdout, cmd.Stderr = &m.said, &m.said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.cmd, m.ended = cmd, make(chan struct{})
	go func() {
		m.result = cmd.Wait()
		m.group.remove()
		close(m.ended)
	}()
	m.awaitSystemd()
}

// awaitSystemd waits until the host's PID 1 answers.
func (m *Machine) awaitSystemd() {
	m.t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		select {
		case <-m.ended:
			m.t.Fatalf("the host has not booted: %v\n%s", m.result, m.said.Bytes())
		default:
		}
		if m.leader == 0 {
			m.leader = initOf(m.cmd.Process.Pid)
			continue
		}
		if m.Command(m.t.Context(), "systemctl", "show", "-p", "Version").Run() == nil {
			return
		}
	}
	m.t.Fatalf("the host's systemd does not answer after a minute:\n%s", Tail(m.said.Bytes()))
}

// initOf returns the process below pid that is PID 1 of a namespace of its own,
// and 0 where there is none yet.
func initOf(pid int) int {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, t := range threads {
		text, _ := os.ReadFile(t)
		for word := range strings.FieldsSeq(string(text)) {
			child, err := strconv.Atoi(word)
			if err != nil {
				continue
			}
			status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", child))
			for line := range strings.Lines(string(status)) {
				if ids, ok := strings.CutPrefix(line, "NSpid:"); ok {
					if all := strings.Fields(ids); len(all) > 1 && all[len(all)-1] == "1" {
						return child
					}
				}
			}
			if found := initOf(child); found != 0 {
				return found
			}
		}
	}
	return 0
}

// Command is a command that runs on the host as root, with no more environment
// than a login has.
func (m *Machine) Command(ctx context.Context, words ...string) *exec.Cmd {
	enter := []string{"--target", strconv.Itoa(m.leader), "--all", "--root", "--wd", "--"}
	cmd := exec.CommandContext(ctx, "nsenter", append(enter, words...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "USER=root", "LANG=C.UTF-8", "TERM=dumb"}
	// A step that hangs is killed with all that it has started.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	return cmd
}

// PowerOff shuts the host down in order, within limit, and returns what went
// wrong.
func (m *Machine) PowerOff(limit time.Duration) error {
	if m.leader == 0 {
		return errors.New("the host is off")
	}
	ctx, cancel := context.WithTimeout(m.t.Context(), limit)
	defer cancel()
	if out, err := m.Command(ctx, "systemctl", "poweroff").CombinedOutput(); err != nil && ctx.Err() != nil {
		return fmt.Errorf("ordering the shutdown: %w\n%s", err, out)
	}
	select {
	case <-m.ended:
		m.leader = 0
		return m.result
	case <-ctx.Done():
		m.Kill()
		return fmt.Errorf("the host is up after %s", limit)
	}
}

// Kill is what a power cut is. It does nothing to a machine that is off.
func (m *Machine) Kill() {
	if m.cmd == nil {
		return
	}
	if m.leader != 0 {
		_ = syscall.Kill(m.leader, syscall.SIGKILL)
	}
	select {
	case <-m.ended:
	case <-time.After(10 * time.Second):
		_ = syscall.Kill(-m.cmd.Process.Pid, syscall.SIGKILL)
		<-m.ended
	}
	m.cmd, m.leader = nil, 0
}

// Said is what systemd-nspawn and the host's console said in this boot.
func (m *Machine) Said() []byte { return Tail(m.said.Bytes()) }
