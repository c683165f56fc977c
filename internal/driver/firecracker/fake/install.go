package fake

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// program is the name by which a test binary becomes the program.
const program = "firecracker"

// RunIfCalled is for TestMain: where the test binary was executed by a link of
// [Install], it is the program, and never returns.
func RunIfCalled() {
	if len(os.Args) == 0 || filepath.Base(os.Args[0]) != program {
		return
	}
	signal.Ignore(syscall.SIGPIPE)
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	go func() {
		<-hangup
		os.Exit(ExitHangup) //nolint:forbidigo // the test binary is the program here
	}()
	os.Exit(Main(os.Args, os.Stdin, os.Stdout, os.Stderr)) //nolint:forbidigo // as above
}

// Option makes a program that is otherwise than the real one.
type Option func(*setup)

func at(t trouble) Option { return func(s *setup) { s.Troubles = append(s.Troubles, t) } }

// LateSocket makes the API's socket appear late.
func LateSocket(d time.Duration) Option { return at(trouble{At: "start", Do: doLate, Wait: d}) }

// NoSocket makes the program end before there is a socket.
func NoSocket(code int) Option { return at(trouble{At: "start", Do: doDie, Code: code}) }

// Late makes the answer to a request such as "PUT /actions" late.
func Late(request string, d time.Duration) Option {
	return at(trouble{At: request, Do: doLate, Wait: d})
}

// Garbage answers a request with what is no HTTP.
func Garbage(request string) Option { return at(trouble{At: request, Do: doGarbage}) }

// Close closes the connection instead of an answer.
func Close(request string) Option { return at(trouble{At: request, Do: doClose}) }

// Die ends the program, without a word, instead of an answer.
func Die(request string, code int) Option {
	return at(trouble{At: request, Do: doDie, Code: code})
}

// Quote refuses a request with an error that quotes all of its body.
func Quote(request string) Option { return at(trouble{At: request, Do: doQuote}) }

// NoKVM refuses to start a machine as a host without /dev/kvm does.
func NoKVM() Option { return func(s *setup) { s.NoKVM = true } }

// Record keeps requests for [Requests], with their bodies: not for tests that
// look for secrets.
func Record() Option { return func(s *setup) { s.Record = true } }

// Install returns the path of a program "firecracker" in a directory of its
// own: a link to the test binary, whose TestMain calls [RunIfCalled]. Each link
// counts its starts for the sections of scripts, so that a machine that is
// rebooted by starting the program again plays the next one.
func Install(t testing.TB, options ...Option) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var s setup
	for _, o := range options {
		o(&s)
	}
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	// The program may run as another user, who writes nothing beside the link
	// but these.
	for name, content := range map[string][]byte{setupFile: b, bootsFile: nil, requestsFile: nil} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o666); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(dir, program)
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	return link
}

// Requests returns what a program of [Install] with [Record] was asked.
func Requests(t testing.TB, link string) (requests []Request) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(filepath.Dir(link), requestsFile))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var r Request
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		requests = append(requests, r)
	}
	return requests
}

// Kernel writes the least that is a kernel: an ELF file with one segment of a
// page at 1 MiB.
func Kernel(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vmlinux")
	if err := os.WriteFile(path, KernelImage(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// KernelImage is the content of what [Kernel] writes. Its processor would halt
// at once.
func KernelImage() []byte {
	const page = 4096
	le := binary.LittleEndian
	b := make([]byte, 2*page)
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], 2)     // an executable
	le.PutUint16(b[18:], 62)    // x86-64
	le.PutUint32(b[20:], 1)     // version
	le.PutUint64(b[24:], himem) // entry
	le.PutUint64(b[32:], 64)    // program headers
	le.PutUint16(b[52:], 64)
	le.PutUint16(b[54:], 56)
	le.PutUint16(b[56:], 1)
	segment := b[64:]
	le.PutUint32(segment, 1)        // to load
	le.PutUint32(segment[4:], 5)    // read and execute
	le.PutUint64(segment[8:], page) // offset
	le.PutUint64(segment[16:], himem)
	le.PutUint64(segment[24:], himem)
	le.PutUint64(segment[32:], page)
	le.PutUint64(segment[40:], page)
	le.PutUint64(segment[48:], page)
	for i := page; i < 2*page; i += 4 {
		copy(b[i:], "\xfa\xf4\xeb\xfc") // cli; hlt; jump to the front
	}
	return b
}
