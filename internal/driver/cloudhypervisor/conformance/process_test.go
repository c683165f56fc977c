package conformance

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/driver/cloudhypervisor/fake"
)

const patience = 20 * time.Second

func TestMain(m *testing.M) {
	fake.RunIfCalled()
	os.Exit(m.Run())
}

// program is one that the cases are run against.
type program struct {
	name string
	path string
	real bool
	pty  bool // instead of a socket pair
}

// terminal makes what becomes standard input and output.
func (p program) terminal(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	if !p.pty {
		pair := must(syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0))(t)
		return os.NewFile(uintptr(pair[0]), "console"), os.NewFile(uintptr(pair[1]), "console")
	}
	ours = must(os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0))(t)
	if err := unix.IoctlSetPointerInt(int(ours.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n := must(unix.IoctlGetInt(int(ours.Fd()), unix.TIOCGPTN))(t)
	return ours, must(os.OpenFile("/dev/pts/"+itoa(n), os.O_RDWR|unix.O_NOCTTY, 0))(t)
}

func programs(t *testing.T) []program {
	t.Helper()
	all := []program{{name: "stand-in", path: fake.Install(t)}}
	path := os.Getenv("AMPOULE_TEST_CLOUD_HYPERVISOR")
	if path == "" {
		return all
	}
	kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		t.Logf("the real program is left out: %v", err)
		return all
	}
	kvm.Close()
	return append(all, program{name: "real", path: path, real: true})
}

// process is one that runs.
type process struct {
	t       *testing.T
	dir     string
	socket  string
	command *exec.Cmd
	input   *os.File // our end of the standard input and output
	console *sink
	events  *sink
	stderr  *sink
	exited  chan struct{}
}

// start runs a program as the driver does: no environment, a socket that listens,
// a pipe for events, and one end of a socket pair as standard input and output.
func start(t *testing.T, p program, more ...string) *process {
	t.Helper()
	return startWith(t, p, nil, more...)
}

// startWith also hands on descriptors, from 5 on.
func startWith(t *testing.T, p program, files []*os.File, more ...string) *process {
	t.Helper()
	dir, err := os.MkdirTemp("", "ch") // a short path: that of a socket is limited
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	r := &process{t: t, dir: dir, socket: filepath.Join(dir, "api"), console: newSink(), events: newSink(), stderr: newSink(), exited: make(chan struct{})}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: r.socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	listening := must(l.File())(t)
	l.Close()
	eventsOut, eventsIn := pipe(t)
	stderrOut, stderrIn := pipe(t)
	ours, theirs := p.terminal(t)
	r.input = ours
	r.command = &exec.Cmd{
		Path: p.path, Args: append([]string{fake.Name, "--api-socket", "fd=3", "--event-monitor", "fd=4"}, more...),
		Env: []string{}, Dir: dir, Stdin: theirs, Stdout: theirs, Stderr: stderrIn, ExtraFiles: append([]*os.File{listening, eventsIn}, files...),
	}
	if err := r.command.Start(); err != nil {
		t.Fatal(err)
	}
	for _, f := range []*os.File{theirs, stderrIn, listening, eventsIn} {
		f.Close()
	}
	go r.console.fill(ours)
	go r.events.fill(eventsOut)
	go r.stderr.fill(stderrOut)
	go func() { _ = r.command.Wait(); close(r.exited) }()
	t.Cleanup(func() { _ = r.command.Process.Kill(); <-r.exited })
	return r
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	return r, w
}

// exit waits for the end and returns the exit code, or minus the signal.
func (r *process) exit() int {
	r.t.Helper()
	select {
	case <-r.exited:
	case <-time.After(patience):
		r.t.Fatalf("the process does not end\n%s", r.stderr)
	}
	status := r.command.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return -int(status.Signal())
	}
	return status.ExitStatus()
}

// names are the events so far, as SOURCE:EVENT; those of devices are left out,
// since they come when the guest's drivers do.
func (r *process) names() []string {
	var out []string
	d := json.NewDecoder(strings.NewReader(r.events.String()))
	for {
		var e struct{ Source, Event string }
		if err := d.Decode(&e); err != nil {
			return out
		}
		if e.Source != "virtio-device" {
			out = append(out, e.Source+":"+e.Event)
		}
	}
}

// sink collects what comes from somewhere.
type sink struct {
	mu   sync.Mutex
	data bytes.Buffer
	done chan struct{}
}

func newSink() *sink { return &sink{done: make(chan struct{})} }

func (s *sink) fill(f *os.File) {
	defer close(s.done)
	defer f.Close()
	buf := make([]byte, 4096)
	for {
		n, err := f.Read(buf)
		s.mu.Lock()
		s.data.Write(buf[:n])
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (s *sink) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.data.String()
}

// await waits until a condition holds.
func (r *process) await(what string, holds func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("%s: waited in vain\nevents %q\nconsole %q\nstderr %q", what, r.names(), r.console, r.stderr)
		}
	}
}

// reply is what came over the API.
type reply struct {
	status int
	header string
	body   string
}

// ask sends one request over a connection of its own. A nil body is none.
func (r *process) ask(method, path string, body []byte) reply {
	r.t.Helper()
	text := method + " /api/v1/" + path + " HTTP/1.1\r\nHost: localhost\r\n"
	if body != nil {
		text += "Content-Type: application/json\r\nContent-Length: " + itoa(len(body)) + "\r\n"
	}
	return r.send(append([]byte(text+"\r\n"), body...))
}

// send sends bytes and reads one response.
func (r *process) send(data []byte) reply {
	r.t.Helper()
	conn, err := net.Dial("unix", r.socket)
	if err != nil {
		return reply{body: err.Error()}
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	go func() { _, _ = conn.Write(data) }() // one that is refused early is not read to its end
	return receive(conn)
}

func receive(conn io.Reader) reply {
	var out reply
	all := []byte{}
	buf := make([]byte, 4096)
	for {
		head, body, complete := bytes.Cut(all, []byte("\r\n\r\n"))
		if complete && len(body) >= contentLength(head) {
			out.header, out.body = string(head), string(body[:contentLength(head)])
			if parts := strings.Fields(out.header); len(parts) > 1 {
				out.status = atoi(parts[1])
			}
			return out
		}
		n, err := conn.Read(buf)
		all = append(all, buf[:n]...)
		if err != nil {
			out.body = string(all)
			if !errors.Is(err, io.EOF) {
				out.body += err.Error()
			}
			return out
		}
	}
}

// memfd is a descriptor to inherit, for a kernel that is no file anywhere.
func memfd(t *testing.T, data []byte) *os.File {
	t.Helper()
	f := os.NewFile(uintptr(must(unix.MemfdCreate("test", unix.MFD_CLOEXEC))(t)), "memfd")
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	return f
}
