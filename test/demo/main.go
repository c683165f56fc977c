// Command demo boots a real VM with three credentials and proves two things: a
// service inside the guest has them byte for byte, and they are nowhere else on
// this machine. It exits non-zero if any line of that is not so.
package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/testkit/guest"
	"github.com/ampoule-vm/ampoule/internal/testkit/leak"
)

// bootTime is how long the guest may take where its processor is emulated.
const bootTime = 5 * time.Minute

func main() {
	if err := demo(); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: %v\n", err)
		os.Exit(1)
	}
}

// credential is one of the three.
type credential struct {
	name, kind string
	value      []byte
	line       string
}

func demo() error {
	step("guest", "Debian 12 with systemd, built once from Debian's packages; about a minute the first time")
	g, err := guest.Build("bookworm")
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "ampoule-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	credentials, err := makeCredentials(dir)
	if err != nil {
		return err
	}
	scanner, err := newScanner(dir, credentials)
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "demo.microvm")
	text := fmt.Sprintf("[MicroVM]\nKernel=%s\nInitrd=%s\nKernelCommandLine=%s ampoule.test=stay\n", g.Kernel, g.Initrd, guest.TestParameters)
	for _, c := range credentials {
		text += c.line + "\n"
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	fmt.Printf("\n%s\n%s\n", file, indent(text))

	step("boot", "ampoule run "+file)
	stopWatch := scanner.Watch(20 * time.Millisecond)
	m, err := boot(dir, file)
	if err != nil {
		return err
	}
	defer m.kill()
	report, err := m.report()
	if err != nil {
		return err
	}
	step("inside", "what a service in the guest, which asked for them by LoadCredential=, was given")
	arrived := printArrived(credentials, report)

	step("outside", "where the secrets are on this machine, in plain text, Base64, hexadecimal and other forms")
	found, err := scan(scanner, m)
	stopWatch()
	if err != nil {
		return err
	}
	fmt.Printf("%s\n", indent(found.Table()))
	if !arrived {
		return errors.New("a credential did not arrive as it was sent")
	}
	if n := len(found.Leaks()); n != 0 {
		return fmt.Errorf("%d leaks", n)
	}
	fmt.Println("All credentials arrived, and none leaked.")
	return nil
}

func step(name, text string) { fmt.Printf("\n== %s: %s\n", name, text) }

func indent(s string) string {
	return "  " + strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n  ") + "\n"
}

// makeCredentials writes the sources: a text, a binary with every awkward byte,
// and a setting that is not secret.
func makeCredentials(dir string) ([]credential, error) {
	binary := make([]byte, 1500)
	if _, err := rand.Read(binary); err != nil {
		return nil, err
	}
	copy(binary, "\x00\n,\"'[]=%\\")
	out := []credential{
		{name: "API_KEY", kind: "secret text", value: leak.Random(24)},
		{name: "tls.key", kind: "secret binary", value: binary},
		{name: "ENVIRONMENT", kind: "plain setting", value: []byte("production"), line: "SetCredential=ENVIRONMENT:production"},
	}
	for i, c := range out {
		if c.line != "" {
			continue
		}
		path := filepath.Join(dir, c.name)
		if err := os.WriteFile(path, c.value, 0o600); err != nil {
			return nil, err
		}
		out[i].line = "LoadCredential=" + c.name + ":" + path
	}
	return out, nil
}

// quiet keeps the scanner's progress to itself.
type quiet struct{}

func (quiet) Logf(string, ...any) {}

func newScanner(dir string, credentials []credential) (*leak.Scanner, error) {
	values := map[string][]byte{}
	for _, c := range credentials {
		if strings.HasPrefix(c.kind, "secret") {
			values[c.name] = c.value
		}
	}
	s, err := leak.New(quiet{}, values)
	if err != nil {
		return nil, err
	}
	for name := range values {
		s.Allow(filepath.Join(dir, name), "its source")
	}
	return s, nil
}

// machine is the running VM.
type machine struct {
	cmd  *exec.Cmd
	dir  string
	done chan struct{}

	mu      sync.Mutex
	console []string
	words   []string
	seen    chan struct{} // closed when the guest has reported

	// crashing: what comes now is a trace, which is scanned and not shown.
	crashing atomic.Bool
}

func boot(dir, file string) (*machine, error) {
	program, err := filepath.Abs("bin/ampoule")
	if err != nil {
		return nil, err
	}
	m := &machine{dir: dir, cmd: exec.Command(program, "run", file), done: make(chan struct{}), seen: make(chan struct{})}
	m.cmd.Dir = dir
	m.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "XDG_RUNTIME_DIR=" + dir}
	stdout, err1 := m.cmd.StdoutPipe()
	stderr, err2 := m.cmd.StderrPipe()
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	if err := m.cmd.Start(); err != nil {
		return nil, err
	}
	// Ctrl-C ends the demo and the VM with it.
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-interrupts
		_ = m.cmd.Process.Kill()
	}()
	go func() {
		defer close(m.done)
		var both sync.WaitGroup
		both.Go(func() { m.read(stdout, &m.console) })
		both.Go(func() { m.read(stderr, &m.words) })
		both.Wait()
		_ = m.cmd.Wait()
	}()
	return m, nil
}

func (m *machine) read(r io.Reader, lines *[]string) {
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		m.mu.Lock()
		*lines = append(*lines, scanner.Text())
		m.mu.Unlock()
		if lines == &m.words && !m.crashing.Load() {
			fmt.Printf("  %s\n", scanner.Text())
		}
		if strings.Contains(scanner.Text(), "AMPOULE-REPORT action") {
			close(m.seen)
		}
	}
}

func (m *machine) texts() (console, words string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return strings.Join(m.console, "\n"), strings.Join(m.words, "\n")
}

// report waits for the guest's word, and shows that time passes.
func (m *machine) report() (guest.Report, error) {
	began := time.Now()
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-m.seen:
			fmt.Printf("  the guest is up after %s\n", time.Since(began).Round(time.Second))
			m.mu.Lock()
			defer m.mu.Unlock()
			return guest.ParseReport(m.console)
		case <-m.done:
			console, _ := m.texts()
			return guest.Report{}, fmt.Errorf("the VM ended early (%v):\n%s", m.cmd.ProcessState, console)
		case <-tick.C:
			m.mu.Lock()
			n := len(m.console)
			m.mu.Unlock()
			fmt.Printf("  %3.0f s, %d lines on the guest's console\n", time.Since(began).Seconds(), n)
		}
		if time.Since(began) > bootTime {
			console, _ := m.texts()
			return guest.Report{}, fmt.Errorf("no report within %s:\n%s", bootTime, console)
		}
	}
}

// kill ends what is left of the VM.
func (m *machine) kill() {
	_ = m.cmd.Process.Kill()
	<-m.done
}

// printArrived compares what the service saw with what was sent.
func printArrived(credentials []credential, report guest.Report) bool {
	saw := map[string]guest.Item{}
	for _, i := range report.Loaded {
		saw[i.Name] = i
	}
	ok := true
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tKIND\tBYTES\tSHA256 IN THE GUEST\tEQUAL")
	for _, c := range credentials {
		item, there := saw[c.name]
		equal := "yes"
		if !there || item != guest.Of(c.name, c.value) {
			equal, ok = "NO", false
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\n", c.name, c.kind, item.Bytes, item.SHA256, equal)
	}
	w.Flush()
	fmt.Printf("%s", indent(b.String()))
	if len(report.Credentials) != len(credentials) {
		fmt.Printf("  the guest has %d credentials and was sent %d\n", len(report.Credentials), len(credentials))
		ok = false
	}
	return ok
}

// scan looks everywhere while the VM runs, then provokes a core dump of the
// runner and looks at that too.
func scan(s *leak.Scanner, m *machine) (leak.Report, error) {
	console, words := m.texts()
	s.ScanBytes("the guest's console", []byte(console))
	s.ScanBytes("ampoule's messages", []byte(words))
	if err := s.ScanMemory(m.cmd.Process.Pid); err != nil {
		return leak.Report{}, err
	}
	s.Scan()
	// As a crash would end it, with the limit that ampoule has set lifted from
	// outside where that is possible.
	unlimited := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	_ = unix.Prlimit(m.cmd.Process.Pid, unix.RLIMIT_CORE, &unlimited, nil)
	m.crashing.Store(true)
	if err := m.cmd.Process.Signal(syscall.SIGABRT); err != nil {
		return leak.Report{}, err
	}
	<-m.done
	_, trace := m.texts()
	s.ScanBytes("the trace of the runner's crash", []byte(trace))
	cores, err := filepath.Glob(filepath.Join(m.dir, "core*"))
	if err != nil {
		return leak.Report{}, err
	}
	for _, core := range cores {
		if err := s.ScanCore(core); err != nil {
			return leak.Report{}, err
		}
	}
	fmt.Printf("  a crash of the runner left %d core files in its directory\n\n", len(cores))
	return s.Scan(), nil
}
