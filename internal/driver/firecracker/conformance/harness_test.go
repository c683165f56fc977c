package conformance

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/driver/firecracker/fake"
)

const patience = 10 * time.Second

// program is one to be asked: the stand-in, or the real one.
type program struct {
	name string
	path func(*testing.T, ...fake.Option) string
	real bool
}

func standIn() program {
	return program{name: "stand-in", path: func(t *testing.T, o ...fake.Option) string { return fake.Install(t, o...) }}
}

// programs are all that can be asked on this machine.
func programs() []program {
	all := []program{standIn()}
	path := os.Getenv("AMPOULE_TEST_FIRECRACKER")
	if f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); path != "" && err == nil {
		_ = f.Close()
		all = append(all, program{name: "real", real: true, path: func(*testing.T, ...fake.Option) string { return path }})
	}
	return all
}

// vmm is a program that runs.
type vmm struct {
	t       *testing.T
	cmd     *exec.Cmd
	dir     string
	socket  string
	console *console
	errors  *said
	exited  chan struct{}
	conn    net.Conn
	reader  *bufio.Reader
	files   *strings.Replacer
}

// said is what stands on standard error, also while more may come.
type said struct {
	mu sync.Mutex
	b  []byte
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.b = append(s.b, p...)
	return len(p), nil
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.b)
}

func (s *said) Len() int { return len(s.String()) }

// console is the other end of standard input and output.
type console struct {
	net.Conn
	mu   sync.Mutex
	text []byte
	more chan struct{}
}

// command prepares a program in a directory of its own.
func command(t *testing.T, path string, args ...string) *vmm {
	t.Helper()
	return inherit(t, path, nil, args...)
}

// inherit is the same with descriptors from 3 on.
func inherit(t *testing.T, path string, files []*os.File, args ...string) *vmm {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs, ours := os.NewFile(uintptr(pair[0]), "theirs"), os.NewFile(uintptr(pair[1]), "ours")
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		t.Fatal(err)
	}
	_ = ours.Close()
	v := &vmm{t: t, dir: t.TempDir(), errors: &said{}, exited: make(chan struct{}),
		console: &console{Conn: conn, more: make(chan struct{}, 1)}}
	v.socket = filepath.Join(v.dir, "api")
	v.cmd = exec.Command(path)
	v.cmd.Args = append([]string{"firecracker"}, args...)
	for i, a := range v.cmd.Args {
		v.cmd.Args[i] = strings.ReplaceAll(a, "{dir}", v.dir)
	}
	v.cmd.Env, v.cmd.ExtraFiles = []string{}, files
	v.cmd.Dir = v.dir
	v.cmd.Stdin, v.cmd.Stdout, v.cmd.Stderr = theirs, theirs, v.errors
	if err := v.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go v.console.drain()
	go func() { _ = v.cmd.Wait(); close(v.exited) }()
	t.Cleanup(func() {
		_ = v.cmd.Process.Kill()
		<-v.exited
		_ = v.console.Close()
	})
	return v
}

// once runs a program to its end in a directory.
func once(t *testing.T, path, dir string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(path)
	cmd.Args = []string{"firecracker"}
	for _, a := range args {
		cmd.Args = append(cmd.Args, strings.ReplaceAll(a, "{dir}", dir))
	}
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = []string{}, dir, &out, &errs
	err := cmd.Run()
	if ended := (*exec.ExitError)(nil); err != nil && !errors.As(err, &ended) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), exitCode(cmd.ProcessState)
}

// exitCode is that of a process; a signal is negative.
func exitCode(state *os.ProcessState) int {
	if s, ok := state.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		return -int(s.Signal())
	}
	return state.ExitCode()
}

// start runs a program as the product does, and connects to it.
func start(t *testing.T, path string, args ...string) *vmm {
	t.Helper()
	if len(args) == 0 {
		args = []string{"--level", "Off"}
	}
	v := command(t, path, append([]string{"--api-sock", "{dir}/api"}, args...)...)
	v.makeFiles()
	v.connect()
	if err := os.Remove(v.socket); err != nil {
		t.Fatal(err)
	}
	return v
}

func (v *vmm) connect() {
	v.t.Helper()
	v.conn = v.dial()
	v.reader = bufio.NewReader(v.conn)
}

func (v *vmm) dial() net.Conn {
	v.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
		conn, err := net.Dial("unix", v.socket)
		if err == nil {
			v.t.Cleanup(func() { _ = conn.Close() })
			_ = conn.SetDeadline(time.Now().Add(patience))
			return conn
		}
		select {
		case <-v.exited:
			v.t.Fatalf("it ended before it listened: %v\n%s", v.cmd.ProcessState, v.errors)
		default:
		}
		if time.Now().After(deadline) {
			v.t.Fatal(err)
		}
	}
}

// makeFiles makes what bodies may name.
func (v *vmm) makeFiles() {
	v.t.Helper()
	pairs := []string{"{dir}", v.dir}
	for name, content := range map[string][]byte{
		"kernel": fake.KernelImage(), "initrd": []byte("0123456789"), "text": bytes.Repeat([]byte("no kernel "), 20),
		"short": []byte("\x7fELF"), "disk": make([]byte, 1<<20), "taken": nil, "bzimage": bzImage(), "large": make([]byte, 3<<20),
	} {
		path := filepath.Join(v.dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			v.t.Fatal(err)
		}
		pairs = append(pairs, "{"+name+"}", path)
	}
	v.files = strings.NewReplacer(pairs...)
}

// bzImage is the beginning of a packed kernel.
func bzImage() []byte {
	b := make([]byte, 4096)
	copy(b, "MZ")
	copy(b[0x1fe:], "\x55\xaaHd\x00\x00HdrS")
	copy(b[0x202:], "HdrS")
	return b
}

// answer is what came back.
type answer struct {
	status  int
	headers map[string]string
	body    string
}

// ask sends a request by hand and reads the answer.
func (v *vmm) ask(method, path, body string) answer {
	v.t.Helper()
	text := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n", method, path)
	if body != "" {
		body = v.files.Replace(body)
		text += fmt.Sprintf("Content-Type: application/json\r\nContent-Length: %d\r\n", len(body))
	}
	a, err := v.raw(text + "\r\n" + body)
	if err != nil {
		v.t.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

func (v *vmm) raw(text string) (answer, error) {
	if _, err := io.WriteString(v.conn, text); err != nil {
		return answer{}, err
	}
	return v.next()
}

// next reads an answer.
func (v *vmm) next() (answer, error) {
	a := answer{headers: map[string]string{}}
	line, err := v.reader.ReadString('\n')
	if err != nil {
		return a, err
	}
	if _, err := fmt.Sscanf(line, "HTTP/1.1 %d", &a.status); err != nil {
		return a, fmt.Errorf("%q is no status line: %w", line, err)
	}
	for {
		line, err := v.reader.ReadString('\n')
		if err != nil {
			return a, err
		}
		if line = strings.TrimSpace(line); line == "" {
			break
		}
		name, value, _ := strings.Cut(line, ": ")
		a.headers[name] = value
	}
	n, _ := strconv.Atoi(a.headers["Content-Length"])
	body := make([]byte, n)
	_, err = io.ReadFull(v.reader, body)
	a.body = string(body)
	return a, err
}

// must asks for what has to succeed.
func (v *vmm) must(method, path, body string) answer {
	v.t.Helper()
	a := v.ask(method, path, body)
	if a.status != 204 && a.status != 200 {
		v.t.Fatalf("%s %s: %d %s", method, path, a.status, a.body)
	}
	return a
}

// boot starts a machine with words on its command line.
func (v *vmm) boot(words string) {
	v.t.Helper()
	v.must("PUT", "/boot-source", fmt.Sprintf(`{"kernel_image_path":"{kernel}","boot_args":%q}`, words))
	v.must("PUT", "/actions", `{"action_type":"InstanceStart"}`)
}

// ends waits for the exit code; a signal is negative.
func (v *vmm) ends() int {
	v.t.Helper()
	select {
	case <-v.exited:
	case <-time.After(patience):
		v.t.Fatal("it does not end")
	}
	return exitCode(v.cmd.ProcessState)
}

func (v *vmm) runs() bool {
	select {
	case <-v.exited:
		return false
	default:
		return true
	}
}

func (c *console) drain() {
	b := make([]byte, 4096)
	for {
		n, err := c.Read(b)
		c.mu.Lock()
		c.text = append(c.text, b[:n]...)
		c.mu.Unlock()
		select {
		case c.more <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.text)
}

// sees waits for a text on the console.
func (v *vmm) sees(text string) {
	v.t.Helper()
	timeout := time.After(patience)
	for !strings.Contains(v.console.String(), text) {
		select {
		case <-v.console.more:
		case <-timeout:
			v.t.Fatalf("the console does not say %q, but:\n%s", text, v.console)
		}
	}
}

// gone reports whether an error is that of a closed connection.
func gone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
