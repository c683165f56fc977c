package conformance

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/driver/cloudhypervisor/fake"
)

// TestOptions: what is refused before there is an API, and how.
func TestOptions(t *testing.T) {
	cases := map[string]struct {
		args string
		code int
		says string // in what is printed
	}{
		"version":              {"--version", 0, `^cloud-hypervisor v53\.\S+\nMigration Protocol Versions: 0\n$`},
		"version and features": {"-V -v", 0, `Enabled features: \["io_uring", "kvm"\]\n$`},
		"unknown":              {"--bogus", 2, `^error: unexpected argument '--bogus' found\n`},
		"unknown with value":   {"--bogus=1", 2, `^error: unexpected argument '--bogus' found\n`},
		"no option":            {"foo", 2, `^error: unexpected argument 'foo' found\n`},
		"no value":             {"--api-socket", 2, `^error: a value is required for '--api-socket <api-socket>' but none was supplied\n`},
		"twice":                {"--api-socket a --api-socket b", 2, `^error: the argument '--api-socket <api-socket>' cannot be used multiple times\n`},
		"seccomp":              {"--api-socket a --seccomp maybe", 2, `^error: invalid value 'maybe' for '--seccomp <seccomp>'\n  \[possible values: true, false, log, errno\]\n`},
		"landlock alone":       {"--landlock --api-socket a", 2, `^error: the following required arguments were not provided:\n  <--firmware <firmware>\|--kernel <kernel>>\n`},
		"memory alone":         {"--memory size=1G", 2, `^error: the following required arguments were not provided:\n`},
		"switch with value":    {"--no-shutdown=yes", 2, `^error: unexpected value 'yes' for '--no-shutdown' found; no more were expected\n`},
		"socket: no number":    {"--api-socket fd=x", 1, `^Error: Cloud Hypervisor exited with the following chain of errors:\n  0: Error parsing --api-socket\n  1: invalid digit found in string\n$`},
		"socket: too large":    {"--api-socket fd=99999999999", 1, `1: number too large to fit in target type\n$`},
		"socket: no directory": {"--api-socket path=nowhere/s", 1, `Error creation API server's socket\n`},
		"monitor: no number":   {"--api-socket a --event-monitor fd=x", 1, `0: Error parsing --event-monitor\n  1: unable to convert x for fd\n$`},
		"monitor: unknown":     {"--api-socket a --event-monitor x=1", 1, `0: Error parsing --event-monitor\n  1: unknown option: x\n$`},
		"monitor: closed":      {"--api-socket a --event-monitor fd=77", 1, `0: Error doing event monitor I/O\n  1: Bad file descriptor \(os error 9\)\n$`},
		"monitor: a path":      {"--api-socket a --event-monitor b", 1, `invalid|unknown option: b\n`},
		"nothing":              {"", 2, `^Launch a cloud-hypervisor VMM\.\n\nUsage: cloud-hypervisor \[OPTIONS\]\n`},
	}
	all := programs(t)
	for name, c := range cases {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			var first string
			for _, p := range all {
				code, said := runOnce(t, p, strings.Fields(c.args)...)
				if code != c.code || !regexp.MustCompile(`(?s)`+c.says).MatchString(said) {
					t.Errorf("%s: exit code %d, want %d\n%.800s\nwant %s", p.name, code, c.code, said, c.says)
				}
				if name == "nothing" {
					continue // the stand-in has no help
				}
				if said = withoutLog(said); p.real && said != first {
					t.Errorf("stand-in\n%s\nreal\n%s", first, said)
				}
				first = said
			}
		})
	}
}

func withoutLog(said string) string {
	return regexp.MustCompile(`(?m)^cloud-hypervisor: +[0-9.]+s: .*\n`).ReplaceAllString(said, "")
}

// runOnce runs a program to its end. What it prints is put together.
func runOnce(t *testing.T, p program, args ...string) (int, string) {
	t.Helper()
	var out bytes.Buffer
	c := &exec.Cmd{Path: p.path, Args: append([]string{fake.Name}, args...), Env: []string{}, Dir: t.TempDir(), Stdout: &out, Stderr: &out}
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	status := c.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return -int(status.Signal()), out.String()
	}
	return status.ExitStatus(), out.String()
}

// TestWrongDescriptor: a descriptor that is no listening socket is only found out
// by a thread, which dies of it. The process takes that for an order to end, and
// its exit code is that of a good end. (With RUST_BACKTRACE in its environment it
// dies by SIGSYS, for its filter has nothing for backtraces.)
func TestWrongDescriptor(t *testing.T) {
	for _, p := range programs(t) {
		for _, fd := range []string{"fd=0", "fd=99"} {
			if code, said := runOnce(t, p, "--api-socket", fd); code != 0 || !strings.Contains(said, "panicked") {
				t.Errorf("%s %s: exit code %d\n%s", p.name, fd, code, said)
			}
		}
	}
}

// TestPath: a socket by path is the process's own, and gone after a good end.
func TestPath(t *testing.T) {
	for _, p := range programs(t) {
		dir := must(os.MkdirTemp("", "ch"))(t)
		t.Cleanup(func() { os.RemoveAll(dir) })
		r := &process{t: t, dir: dir, socket: dir + "/s", events: newSink(), console: newSink(), stderr: newSink(), exited: make(chan struct{})}
		r.command = &exec.Cmd{Path: p.path, Args: []string{fake.Name, "--api-socket", "path=" + r.socket}, Env: []string{}}
		if err := r.command.Start(); err != nil {
			t.Fatal(err)
		}
		go func() { _ = r.command.Wait(); close(r.exited) }()
		t.Cleanup(func() { _ = r.command.Process.Kill(); <-r.exited })
		r.await("ping", func() bool { return r.ask("GET", "vmm.ping", nil).status == 200 })
		if info := must(os.Stat(r.socket))(t); info.Mode().Perm() != 0o700 {
			t.Errorf("%s: the socket has mode %o", p.name, info.Mode().Perm())
		}
		r.want(r.ask("PUT", "vmm.shutdown", nil), 200)
		if code := r.exit(); code != 0 {
			t.Errorf("%s: exit code %d", p.name, code)
		}
		if _, err := os.Stat(r.socket); !os.IsNotExist(err) {
			t.Errorf("%s: the socket is left behind: %v", p.name, err)
		}
	}
}
