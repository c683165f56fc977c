// Package vm boots real guests through the real program and looks at what
// arrives, what is left, and how it ends. Each test says what it needs; with
// AMPOULE_VM=canary one scenario per promise runs, with AMPOULE_VM=all the
// whole matrix.
package vm

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/console"
	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/driver/all"
	chfake "github.com/ampoule-vm/ampoule/internal/driver/cloudhypervisor/fake"
	fcfake "github.com/ampoule-vm/ampoule/internal/driver/firecracker/fake"
	"github.com/ampoule-vm/ampoule/internal/driver/qemu"
	"github.com/ampoule-vm/ampoule/internal/host"
	"github.com/ampoule-vm/ampoule/internal/pipeline"
	"github.com/ampoule-vm/ampoule/internal/run"
	"github.com/ampoule-vm/ampoule/internal/testkit/guest"
)

// leakVariable makes the test binary a deliberately leaking ampoule: "argv" or
// "file".
const leakVariable = "AMPOULE_TEST_LEAK"

// programsVariable tells a test binary that is ampoule where the others are.
const programsVariable = "AMPOULE_TEST_PROGRAMS"

// program is the ampoule that the tests run, built by TestMain.
var program string

func TestMain(m *testing.M) {
	chfake.RunIfCalled()
	fcfake.RunIfCalled()
	if kind := os.Getenv(leakVariable); kind != "" {
		os.Exit(leakingRun(kind, os.Args[len(os.Args)-1]))
	}
	if os.Getenv(vsockVariable) != "" {
		os.Exit(runWith(vsockDriver{qemu.Driver{}}, os.Args[len(os.Args)-1], run.LeakForTest{}))
	}
	dir, err := os.MkdirTemp("", "ampoule-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	program = filepath.Join(dir, "ampoule")
	// Both programs, since one looks for the other beside itself.
	build := exec.Command("make", "--silent", "--directory=../..", "build", "BIN="+dir)
	build.Stderr = os.Stderr
	code := 1
	if err := build.Run(); err == nil {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// leakingRun is ampoule run FILE with a mistake built in.
func leakingRun(kind, file string) int {
	return runWith(all.Drivers()[0], file, run.LeakForTest{Argv: kind == "argv", File: kind == "file"})
}

// runWith is ampoule run FILE in this process, with a driver of the tests'.
func runWith(d driver.Driver, file string, leak run.LeakForTest) int {
	res := pipeline.Load(pipeline.Input{Argument: file, Drivers: []driver.Driver{d}})
	if res.Plan == nil {
		fmt.Fprintln(os.Stderr, res.Problems.Error())
		return 2
	}
	h := host.Local()
	h.Programs = append(h.Programs, os.Getenv(programsVariable))
	out := run.Run(context.Background(), run.Options{
		Plan: res.Plan, Driver: d, Host: h, Getenv: os.Getenv,
		Stdout: os.Stdout, Messages: console.NewMessages(os.Stderr),
		Leak: leak,
	})
	fmt.Fprintln(os.Stderr, errors.Join(out.Problems.Err(), errors.New(out.Text)))
	return out.Code
}

// machine is a VM under test.
type machine struct {
	t       testing.TB
	dir     string
	file    string
	cmd     *exec.Cmd
	console *log // what the guest said
	words   *log // what ampoule said
	done    chan struct{}
	began   time.Time
}

// log collects lines and wakes those who wait for one.
type log struct {
	mu    sync.Mutex
	lines []string
	more  chan struct{}
}

func newLog() *log { return &log{more: make(chan struct{})} }

func (l *log) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
	close(l.more)
	l.more = make(chan struct{})
}

func (l *log) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.lines...)
}

func (l *log) text() string { return strings.Join(l.all(), "\n") }

// count returns how many lines match, and a channel that is closed when there
// is one more line.
func (l *log) count(re *regexp.Regexp) (int, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, line := range l.lines {
		if re.MatchString(line) {
			n++
		}
	}
	return n, l.more
}

func (l *log) collect(r io.Reader) {
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		l.add(scanner.Text())
	}
}

// options of a VM under test.
type options struct {
	// lines are those of [MicroVM], service those of [Service].
	lines, service []string
	// name of the VM; empty: "test".
	name string
	// env is added to an environment of PATH alone.
	env []string
	// leak starts the leaking build, vsock that whose vsock is a program's.
	leak  string
	vsock bool
	// prefix is a command before ampoule's own, such as a shell that sets a
	// limit and executes "$@".
	prefix []string
}

// kernelLines are what every VM of a suite has.
func kernelLines(g guest.Guest) []string {
	return []string{"Kernel=" + g.Kernel, "Initrd=" + g.Initrd, "Memory=512M", "KernelCommandLine=" + guest.TestParameters}
}

// start writes the file of a VM and runs it.
func start(t testing.TB, o options) *machine {
	t.Helper()
	m := &machine{t: t, dir: t.TempDir(), console: newLog(), words: newLog(), done: make(chan struct{}), began: time.Now()}
	if o.name == "" {
		o.name = "test"
	}
	m.file = filepath.Join(m.dir, o.name+".microvm")
	text := "[MicroVM]\n" + strings.Join(o.lines, "\n") + "\n"
	if len(o.service) > 0 {
		text += "[Service]\n" + strings.Join(o.service, "\n") + "\n"
	}
	if err := os.WriteFile(m.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	argv := append(append([]string{}, o.prefix...), program, "run", m.file)
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + m.dir, "TMPDIR=" + m.dir,
		"STATE_DIRECTORY=" + filepath.Join(m.dir, "state"), "RUNTIME_DIRECTORY=" + filepath.Join(m.dir, "run"), "CACHE_DIRECTORY=" + filepath.Join(m.dir, "cache")}
	if o.leak != "" || o.vsock {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		argv = []string{self, m.file}
		env = append(env, leakVariable+"="+o.leak, programsVariable+"="+filepath.Dir(program))
	}
	if o.vsock {
		env = append(env, vsockVariable+"=1")
	}
	m.cmd = exec.Command(argv[0], argv[1:]...)
	m.cmd.Env = append(env, o.env...)
	stdout, err1 := m.cmd.StdoutPipe()
	stderr, err2 := m.cmd.StderrPipe()
	if err := errors.Join(err1, err2, m.cmd.Start()); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(m.done)
		var both sync.WaitGroup
		both.Go(func() { m.console.collect(stdout) })
		both.Go(func() { m.words.collect(stderr) })
		both.Wait()
		_ = m.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = m.cmd.Process.Kill()
		<-m.done
		if t.Failed() {
			m.dump(argv, text)
		}
	})
	return m
}

// dump prints what a person needs who wants to know why a test failed.
func (m *machine) dump(argv []string, text string) {
	m.t.Logf("after %s\n--- %s\n%s--- run it again with\n%s\n--- ampoule said\n%s\n--- the guest said\n%s",
		time.Since(m.began).Round(time.Millisecond), m.file, text, strings.Join(argv, " "), m.words.text(), lastLines(m.console.all(), 150))
}

func lastLines(lines []string, n int) string {
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// bootTime is how long a guest may take on a machine that emulates it and has
// other work.
const bootTime = 4 * time.Minute

// waitFor waits until n lines of the log match.
func (m *machine) waitFor(l *log, pattern string, n int, limit time.Duration) {
	m.t.Helper()
	re := regexp.MustCompile(pattern)
	deadline := time.After(limit)
	for {
		got, more := l.count(re)
		if got >= n {
			return
		}
		select {
		case <-more:
		case <-m.done:
			if got, _ := l.count(re); got < n {
				m.t.Fatalf("it ended (%v) before %q was seen %d times", m.cmd.ProcessState, pattern, n)
			}
			return
		case <-deadline:
			m.t.Fatalf("%q was not seen %d times within %s", pattern, n, limit)
		}
	}
}

// exit waits for the end and returns the exit code.
func (m *machine) exit(limit time.Duration) int {
	m.t.Helper()
	select {
	case <-m.done:
	case <-time.After(limit):
		m.t.Fatalf("it did not end within %s", limit)
	}
	return m.cmd.ProcessState.ExitCode()
}

// wantExit waits for the end with a code and words of ampoule.
func (m *machine) wantExit(code int, words string, limit time.Duration) {
	m.t.Helper()
	if got := m.exit(limit); got != code {
		m.t.Errorf("exit code %d, want %d", got, code)
	}
	if !strings.Contains(m.words.text(), words) {
		m.t.Errorf("ampoule did not say %q", words)
	}
}

// reports parses what the guest reported in each of its boots.
func (m *machine) reports(boots int) []guest.Report {
	m.t.Helper()
	reports, err := guest.ParseReports(m.console.all())
	if err != nil {
		m.t.Fatal(err)
	}
	if len(reports) != boots {
		m.t.Fatalf("the guest reported %d times, want %d", len(reports), boots)
	}
	return reports
}

// hypervisor returns the process id of ampoule's child, usually QEMU.
func (m *machine) hypervisor() int {
	m.t.Helper()
	for range 100 {
		for _, pid := range childrenOf(m.cmd.Process.Pid) {
			return pid
		}
		time.Sleep(50 * time.Millisecond)
	}
	m.t.Fatal("ampoule has no child")
	return 0
}

// childrenOf lists the children of every thread of a process.
func childrenOf(pid int) []int {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	var out []int
	for _, t := range tasks {
		data, _ := os.ReadFile(t)
		for _, word := range bytes.Fields(data) {
			if n, err := strconv.Atoi(string(word)); err == nil {
				out = append(out, n)
			}
		}
	}
	return out
}

// gone waits until a process is no more.
func gone(t testing.TB, pid int, limit time.Duration) {
	t.Helper()
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err := syscall.Kill(pid, 0); errors.Is(err, syscall.ESRCH) {
			return
		}
		if stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); bytes.Contains(stat, []byte(") Z ")) {
			return
		}
	}
	t.Errorf("process %d is still there after %s", pid, limit)
}
