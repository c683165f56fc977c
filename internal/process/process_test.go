package process

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// start starts a child and sees to its end.
func start(t *testing.T, spec Spec) *Process {
	t.Helper()
	p, err := Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			t.Errorf("kill: %v", err)
		}
		p.Wait()
	})
	return p
}

func shell(script string) Spec {
	return Spec{Path: "/bin/sh", Args: []string{"sh", "-c", script}}
}

// wait fails the test when the child does not end soon.
func wait(t *testing.T, p *Process) Exit {
	t.Helper()
	select {
	case <-p.Done():
	case <-time.After(10 * time.Second):
		t.Fatalf("process %d has not ended", p.Pid())
	}
	exit, err := p.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return exit
}

// output runs a child with its standard output in a pipe.
func output(t *testing.T, spec Spec) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	spec.Stdout = w
	p := start(t, spec)
	w.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, p); exit != (Exit{}) {
		t.Fatalf("%s: %s", exit, p.StderrTail())
	}
	return string(text)
}

// lifeline returns a pipe: whoever holds w is alive, and r ends with the last.
func lifeline(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// awaitDeath fails unless every holder of the pipe's other end is gone soon.
func awaitDeath(t *testing.T, r *os.File) {
	t.Helper()
	if err := r.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(r); err != nil {
		t.Fatalf("somebody is still alive: %v", err)
	}
}

func TestExit(t *testing.T) {
	tests := []struct {
		script string
		want   Exit
		text   string
	}{
		{"exit 0", Exit{}, "exit code 0"},
		{"exit 77", Exit{Code: 77}, "exit code 77"},
		{"kill -TERM $$", Exit{Code: -1, Signal: syscall.SIGTERM}, "killed by SIGTERM"},
		{"kill -40 $$", Exit{Code: -1, Signal: 40}, "killed by signal 40"},
	}
	for _, tt := range tests {
		exit := wait(t, start(t, shell(tt.script)))
		if exit != tt.want || exit.String() != tt.text {
			t.Errorf("%s: %+v, %q", tt.script, exit, exit)
		}
	}
}

func TestChildHasOnlyWhatItIsGiven(t *testing.T) {
	t.Setenv("AMPOULE_STRAY", "must not travel")
	if got := output(t, Spec{Path: "/bin/cat", Args: []string{"cat", "/proc/self/environ"}}); got != "" {
		t.Errorf("environment %q", got)
	}
	got := output(t, Spec{Path: "/usr/bin/env", Args: []string{"env"}, Env: []string{"B=2 2", "A=1"}})
	if got != "B=2 2\nA=1\n" {
		t.Errorf("environment %q", got)
	}
	got = output(t, Spec{Path: "/bin/cat", Args: []string{"renamed", "/proc/self/cmdline"}})
	if got != "renamed\x00/proc/self/cmdline\x00" {
		t.Errorf("arguments %q", got)
	}
	dir := t.TempDir()
	if got := output(t, Spec{Path: "/bin/pwd", Args: []string{"pwd", "-P"}, Dir: dir}); got != dir+"\n" {
		t.Errorf("working directory %q, want %q", got, dir)
	}
}

func TestStrayDescriptorsAreNotInherited(t *testing.T) {
	// As a careless shell leaves them: open, and without close-on-exec.
	var strays []int
	for range 3 {
		fd, err := unix.Dup(1)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		strays = append(strays, fd)
	}
	// High above everything that is in use.
	high, err := unix.FcntlInt(1, unix.F_DUPFD, 900)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(high)
	for _, fd := range append(strays, high) {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC != 0 {
			t.Fatalf("descriptor %d is no stray: flags %d, %v", fd, flags, err)
		}
	}
	ls := Spec{Path: "/bin/ls", Args: []string{"ls", "-1", "/proc/self/fd"}}
	// The last one is the directory that ls reads.
	if got := strings.Fields(output(t, ls)); !slices.Equal(got, []string{"0", "1", "2", "3"}) {
		t.Errorf("descriptors %v", got)
	}
	a, b := lifeline(t)
	ls.Extra = []*os.File{a, b}
	if got := strings.Fields(output(t, ls)); !slices.Equal(got, []string{"0", "1", "2", "3", "4", "5"}) {
		t.Errorf("descriptors %v", got)
	}
}

func TestExtraDescriptorsKeepTheirOrder(t *testing.T) {
	dir := t.TempDir()
	spec := shell("cat <&3; cat <&4; cat <&5")
	for _, text := range []string{"one ", "two ", "three"} {
		path := filepath.Join(dir, text)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		// In front, so that descriptor numbers and positions disagree.
		spec.Extra = slices.Insert(spec.Extra, 0, f)
	}
	if got := output(t, spec); got != "threetwo one " {
		t.Errorf("got %q", got)
	}
}

func TestChildLeadsItsOwnSession(t *testing.T) {
	p := start(t, Spec{Path: "/bin/sleep", Args: []string{"sleep", "1000"}})
	sid, err := unix.Getsid(p.Pid())
	if err != nil || sid != p.Pid() {
		t.Errorf("session %d of process %d, %v", sid, p.Pid(), err)
	}
	pgid, err := unix.Getpgid(p.Pid())
	if err != nil || pgid != p.Pid() {
		t.Errorf("process group %d of process %d, %v", pgid, p.Pid(), err)
	}
}

func TestDefaultStreamsAreNull(t *testing.T) {
	got := output(t, shell("cat; readlink /proc/self/fd/0"))
	if got != "/dev/null\n" {
		t.Errorf("standard input: %q", got)
	}
	p := start(t, shell("out=$(readlink /proc/$$/fd/1); echo $out >&2"))
	wait(t, p)
	if got := p.StderrTail(); got != "/dev/null\n" {
		t.Errorf("standard output: %q", got)
	}
}

func TestStderr(t *testing.T) {
	var mu sync.Mutex
	var lines []string
	spec := shell(`echo first >&2; printf 'second\nunfinished' >&2`)
	spec.StderrLine = func(line string) {
		mu.Lock()
		defer mu.Unlock()
		lines = append(lines, line)
	}
	p := start(t, spec)
	wait(t, p)
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(lines, []string{"first", "second", "unfinished"}) {
		t.Errorf("lines %q", lines)
	}
	if got := p.StderrTail(); got != "first\nsecond\nunfinished" {
		t.Errorf("tail %q", got)
	}
}

func TestStderrTailIsBoundedAndBeginsWithALine(t *testing.T) {
	var count int
	spec := shell(`i=0; while [ $i -lt 20000 ]; do echo "line $i" >&2; i=$((i+1)); done`)
	spec.StderrLine = func(string) { count++ }
	p := start(t, spec)
	wait(t, p)
	tail := p.StderrTail()
	if len(tail) > tailLimit || len(tail) < tailLimit-20 {
		t.Errorf("tail of %d bytes", len(tail))
	}
	if !strings.HasPrefix(tail, "line ") || !strings.HasSuffix(tail, "\nline 19999\n") {
		t.Errorf("tail begins %.20q", tail)
	}
	if count != 20000 {
		t.Errorf("%d lines", count)
	}
}

func TestStderrLongLineComesInPieces(t *testing.T) {
	var got []byte
	var longest int
	spec := shell(`head -c 100000 /dev/zero | tr '\0' x >&2; echo >&2; echo end >&2`)
	var last string
	spec.StderrLine = func(line string) {
		got, last, longest = append(got, line...), line, max(longest, len(line))
	}
	wait(t, start(t, spec))
	if want := append(bytes.Repeat([]byte("x"), 100000), "end"...); !bytes.Equal(got, want) || last != "end" {
		t.Errorf("%d bytes, last line %q", len(got), last)
	}
	if longest != lineLimit {
		t.Errorf("longest piece %d", longest)
	}
}

func TestGivenStderrIsNotCaptured(t *testing.T) {
	r, w := lifeline(t)
	spec := shell("echo direct >&2")
	spec.Stderr = w
	p := start(t, spec)
	w.Close()
	text, err := io.ReadAll(r)
	if err != nil || string(text) != "direct\n" || p.StderrTail() != "" {
		t.Errorf("%q, %v, tail %q", text, err, p.StderrTail())
	}
}

func TestSomebodyHoldingStderrDoesNotDelayTheEnd(t *testing.T) {
	// Out of the group, so that it survives the child; that takes it a moment.
	spec := shell(`setsid sleep 30 & sleep 0.3; echo $!; echo early >&2`)
	r, w := lifeline(t)
	spec.Stdout = w
	p := start(t, spec)
	w.Close()
	var pid int
	if _, err := fmt.Fscan(r, &pid); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	defer unix.Kill(pid, unix.SIGKILL)
	wait(t, p)
	if d := time.Since(begin); d < drainTime/2 || d > drainTime+2*time.Second {
		t.Errorf("end noticed after %v", d)
	}
	if got := p.StderrTail(); got != "early\n" {
		t.Errorf("tail %q", got)
	}
}

func TestHangingCallbackDoesNotHideTheEnd(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	spec := shell("echo one >&2; echo two >&2; exit 3")
	spec.StderrLine = func(string) { <-release }
	if exit := wait(t, start(t, spec)); exit.Code != 3 {
		t.Errorf("exit %v", exit)
	}
}

func TestRestOfTheGroupEndsWithTheChild(t *testing.T) {
	r, w := lifeline(t)
	spec := shell("sleep 1000 & sleep 1000 & exit 5")
	spec.Extra = []*os.File{w}
	p := start(t, spec)
	w.Close()
	if exit := wait(t, p); exit.Code != 5 {
		t.Errorf("exit %v", exit)
	}
	awaitDeath(t, r)
}

func TestKillAndSignal(t *testing.T) {
	p := start(t, Spec{Path: "/bin/sleep", Args: []string{"sleep", "1000"}})
	select {
	case <-p.Done():
		t.Fatal("ended by itself")
	case <-time.After(50 * time.Millisecond):
	}
	if err := p.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, p); exit.Signal != syscall.SIGUSR1 {
		t.Errorf("exit %v", exit)
	}
	if err := p.Signal(syscall.SIGUSR1); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signal after the end: %v", err)
	}
	if err := p.Kill(); err != nil {
		t.Errorf("kill after the end: %v", err)
	}

	p = start(t, shell("trap '' TERM INT HUP; while :; do sleep 1000; done"))
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, p); exit.Signal != syscall.SIGKILL {
		t.Errorf("exit %v", exit)
	}
}

func TestConcurrentUse(t *testing.T) {
	p := start(t, Spec{Path: "/bin/sleep", Args: []string{"sleep", "1000"}})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			p.Kill()
			p.StderrTail()
			if exit, err := p.Wait(); err != nil || exit.Signal != syscall.SIGKILL {
				t.Errorf("%v, %v", exit, err)
			}
			p.Kill()
		})
	}
	wg.Wait()
}

func TestStartErrors(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	orphan := file("orphan", "#!/nonexistent/interpreter\n", 0o755)
	plain := file("plain", "data", 0o644)
	garbage := file("garbage", "\x00\x01\x02", 0o755)
	closed, _ := lifeline(t)
	closed.Close()
	ok := []string{"x"}
	tests := []struct {
		name string
		spec Spec
		want string
	}{
		{"relative", Spec{Path: "sh", Args: ok}, `starting "sh": the path of the binary is not absolute`},
		{"no arguments", Spec{Path: "/bin/true"}, "no arguments"},
		{"NUL in an argument", Spec{Path: "/bin/true", Args: []string{"x", "sec\x00ret"}}, "argument 1 contains a NUL byte"},
		{"bad environment", Spec{Path: "/bin/true", Args: ok, Env: []string{"A=1", "secret"}}, "entry 1 of the environment is not NAME=VALUE"},
		{"NUL in the environment", Spec{Path: "/bin/true", Args: ok, Env: []string{"A=\x00secret"}}, "entry 0 of the environment"},
		{"nil descriptor", Spec{Path: "/bin/true", Args: ok, Extra: []*os.File{os.Stdin, nil}}, "descriptor 4 is not given"},
		{"closed descriptor", Spec{Path: "/bin/true", Args: ok, Extra: []*os.File{closed}}, "descriptor 3: file already closed"},
		{"missing", Spec{Path: dir + "/missing", Args: ok}, "missing\": no such file or directory"},
		{"interpreter missing", Spec{Path: orphan, Args: ok}, "interpreter or dynamic loader does not: no such file"},
		{"not executable", Spec{Path: plain, Args: ok}, "permission denied"},
		{"directory", Spec{Path: dir, Args: ok}, "permission denied"},
		{"not a program", Spec{Path: garbage, Args: ok}, "exec format error"},
		{"no such directory", Spec{Path: "/bin/true", Args: ok, Dir: dir + "/missing"}, "entering the working directory: stat"},
		{"directory is a file", Spec{Path: "/bin/true", Args: ok, Dir: plain}, "entering the working directory"},
	}
	fds := countDescriptors(t)
	for _, tt := range tests {
		p, err := Start(tt.spec)
		if err == nil {
			p.Kill()
			t.Errorf("%s: started", tt.name)
			continue
		}
		if !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "starting ") {
			t.Errorf("%s: %v", tt.name, err)
		}
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error repeats a value: %v", tt.name, err)
		}
	}
	if now := countDescriptors(t); now > fds {
		t.Errorf("%d descriptors before, %d after", fds, now)
	}
}

func TestNothingIsLeftBehind(t *testing.T) {
	run := func() {
		p, err := Start(shell("echo x >&2; exit 1"))
		if err != nil {
			t.Fatal(err)
		}
		wait(t, p)
	}
	run() // the poller and its descriptors come with the first pipe
	fds, routines := countDescriptors(t), runtime.NumGoroutine()
	for range 50 {
		run()
	}
	if now := countDescriptors(t); now > fds {
		t.Errorf("%d descriptors before, %d after", fds, now)
	}
	// Done is closed a moment before the goroutine itself ends.
	for end := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > routines; {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines before, %d after", routines, runtime.NumGoroutine())
		}
		time.Sleep(time.Millisecond)
	}
}

func countDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
