package console

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pty is a pseudo-terminal: the operator sits at the master, the program has
// the slave.
type pty struct {
	master, slave *os.File

	mu   sync.Mutex
	seen []byte // what the operator sees
}

func openPTY(t *testing.T) *pty {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("needs pseudo-terminals: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	raw, err := master.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var number int
	var ioctlErr error
	err = raw.Control(func(fd uintptr) {
		if ioctlErr = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); ioctlErr == nil {
			number, ioctlErr = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})
	if err := errors.Join(err, ioctlErr); err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return &pty{master: master, slave: slave}
}

// watch collects what the operator sees.
func (p *pty) watch() {
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := p.master.Read(buf)
			p.mu.Lock()
			p.seen = append(p.seen, buf[:n]...)
			p.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
}

func (p *pty) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return string(p.seen)
}

func (p *pty) await(t *testing.T, what string) {
	t.Helper()
	await(t, fmt.Sprintf("%q on the terminal", what), func() bool { return strings.Contains(p.text(), what) })
}

// mode returns the terminal's settings.
func (p *pty) mode(t *testing.T) unix.Termios {
	t.Helper()
	mode, err := unix.IoctlGetTermios(int(p.slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *mode
}

func (p *pty) isRaw(t *testing.T) bool {
	return p.mode(t).Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) == 0
}

func (p *pty) awaitRaw(t *testing.T) {
	t.Helper()
	await(t, "raw mode", func() bool { return p.isRaw(t) })
}

func TestTerminalPassesEveryByte(t *testing.T) {
	p := openPTY(t)
	before := p.mode(t)
	ours, guest := guestPair(t)
	a := attach(t, ours, Options{In: p.slave, Out: p.slave, OnEscape: func() {}})
	p.awaitRaw(t)

	var every []byte
	for b := range 256 {
		every = append(every, byte(b))
	}
	fromGuest, toGuest := make([]byte, 256), make([]byte, 256)
	say(t, guest, string(every))
	if _, err := io.ReadFull(p.master, fromGuest); err != nil || !bytes.Equal(fromGuest, every) {
		t.Errorf("operator got %q, %v", fromGuest, err)
	}
	say(t, p.master, string(every)) // a single Ctrl-] among them, followed by others
	guest.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(guest, toGuest); err != nil || !bytes.Equal(toGuest, every) {
		t.Errorf("guest got %q, %v", toGuest, err)
	}
	guest.Close()
	if err := a.wait(); err != nil {
		t.Error(err)
	}
	if after := p.mode(t); after != before {
		t.Errorf("terminal before %+v, after %+v", before, after)
	}
}

func TestTerminalEscape(t *testing.T) {
	p := openPTY(t)
	before := p.mode(t)
	p.watch()
	ours, guest := guestPair(t)
	var a *attached
	escaped := make(chan struct{}, 10)
	a = attach(t, ours, Options{In: p.slave, Out: p.slave, OnEscape: func() { escaped <- struct{}{} }})
	p.awaitRaw(t)

	guest.SetReadDeadline(time.Now().Add(patience))
	begin := time.Now()
	say(t, p.master, "\x1d")
	got := make([]byte, 1)
	if _, err := io.ReadFull(guest, got); err != nil || got[0] != chEscapeKey {
		t.Fatalf("guest got %q, %v", got, err)
	}
	if d := time.Since(begin); d < escapeTime {
		t.Errorf("a single Ctrl-] passed after %v", d)
	}
	for range 3 {
		say(t, p.master, "\x1d")
		time.Sleep(10 * time.Millisecond)
	}
	select {
	case <-escaped:
	case <-time.After(patience):
		t.Fatal("no escape")
	}
	// Detaching is the caller's decision.
	say(t, guest, "still here")
	p.await(t, "still here")
	a.cancel()
	if err := a.wait(); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if len(escaped) != 0 || p.mode(t) != before {
		t.Errorf("%d more escapes, terminal %+v", len(escaped), p.mode(t))
	}
}

// A guest that reads nothing must not take the escape away.
func TestTerminalEscapeDespiteAStuckGuest(t *testing.T) {
	p := openPTY(t)
	p.watch()
	ours, guest := guestPair(t)
	escaped := make(chan struct{}, 1)
	attach(t, ours, Options{In: p.slave, Out: p.slave, OnEscape: func() { escaped <- struct{}{} }})
	p.awaitRaw(t)
	say(t, p.master, strings.Repeat("x", 1<<20))
	p.await(t, "\a")
	say(t, p.master, "\x1d\x1d\x1d")
	select {
	case <-escaped:
	case <-time.After(patience):
		t.Fatal("no escape")
	}
	say(t, guest, "alive")
	p.await(t, "alive")
}

func TestTerminalLeavesTypeAheadToTheNextReader(t *testing.T) {
	p := openPTY(t)
	ours, guest := guestPair(t)
	a := attach(t, ours, Options{In: p.slave, Out: p.slave})
	p.awaitRaw(t)
	a.cancel()
	if err := a.wait(); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	say(t, p.master, "ls\n")
	got := make([]byte, 10)
	if n, err := p.slave.Read(got); err != nil || string(got[:n]) != "ls\n" {
		t.Errorf("the shell got %q, %v", got[:n], err)
	}
	guest.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, _ := guest.Read(got); n != 0 {
		t.Errorf("the guest got %q", got[:n])
	}
}

func TestTerminalNeedsBothSides(t *testing.T) {
	p := openPTY(t)
	before := p.mode(t)
	ours, guest := guestPair(t)
	var out log
	attach(t, ours, Options{In: p.slave, Out: &out})
	say(t, guest, "\x1b[1mplain\x1b[0m\r\n")
	out.await(t, "plain\n")
	if got := out.all(); got[0] != "plain\n" || p.mode(t) != before {
		t.Errorf("%q, terminal %+v", got, p.mode(t))
	}
}

func TestMessages(t *testing.T) {
	p := openPTY(t)
	p.watch()
	ours, guest := guestPair(t)
	m := NewMessages(p.slave)
	a := attach(t, ours, Options{In: p.slave, Out: p.slave, Messages: m})
	await(t, "raw messages", func() bool { m.mu.Lock(); defer m.mu.Unlock(); return m.raw })
	text := "ampoule: one\nampoule: two\n"
	if n, err := io.WriteString(m, text); n != len(text) || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	p.await(t, "\r\nampoule: one\r\nampoule: two\r\n")
	guest.Close()
	a.wait()

	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	m = NewMessages(w)
	m.setRaw(true) // some other file is the terminal
	io.WriteString(m, text)
	w.Close()
	if got, _ := io.ReadAll(r); string(got) != text {
		t.Errorf("a file got %q", got)
	}
}

const helperVariable = "AMPOULE_CONSOLE_TEST_HELPER"

func TestMain(m *testing.M) {
	if mode := os.Getenv(helperVariable); mode != "" {
		helper(mode)
	}
	os.Exit(m.Run())
}

// helper is a program whose terminal is descriptor 0 and whose guest is
// descriptor 3.
func helper(mode string) {
	opts := Options{In: os.Stdin, Out: os.Stdout}
	guest := os.NewFile(3, "guest")
	switch mode {
	case "plain", "background":
	case "panic in OnEscape":
		opts.OnEscape = func() { panic("on purpose") }
	case "panic in Watch":
		opts.Watch = NewWatch(func(string) { panic("on purpose") })
	case "own SIGTERM":
		opts.OwnSignals = []os.Signal{unix.SIGTERM}
		ch := make(chan os.Signal, 1)
		signal.Notify(ch, unix.SIGTERM)
		go func() { <-ch; fmt.Println("handled") }()
	case "ignored SIGHUP":
		signal.Ignore(unix.SIGHUP)
	}
	if err := Attach(context.Background(), guest, opts); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// startHelper starts one as the leader of a session on the terminal.
func startHelper(t *testing.T, p *pty, mode string) (*exec.Cmd, *os.File) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	guest, theirs := os.NewFile(uintptr(fds[0]), "guest"), os.NewFile(uintptr(fds[1]), "guest")
	t.Cleanup(func() { guest.Close() })
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{helperVariable + "=" + mode}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.slave, p.slave, p.slave
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd, guest
}

func waitHelper(t *testing.T, cmd *exec.Cmd) syscall.WaitStatus {
	t.Helper()
	timer := time.AfterFunc(patience, func() { _ = cmd.Process.Signal(syscall.SIGKILL) })
	defer timer.Stop()
	_ = cmd.Wait()
	return cmd.ProcessState.Sys().(syscall.WaitStatus)
}

func TestSignalsRestoreTheTerminal(t *testing.T) {
	// Whoever runs the tests may have had SIGHUP ignored, as nohup does, and a
	// child would too. One that is caught begins anew there.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT} {
		t.Run(sig.String(), func(t *testing.T) {
			p := openPTY(t)
			p.watch()
			before := p.mode(t)
			cmd, _ := startHelper(t, p, "plain")
			p.awaitRaw(t)
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			status := waitHelper(t, cmd)
			// The Go runtime answers SIGQUIT with a stack trace and status 2.
			if sig == syscall.SIGQUIT && status.ExitStatus() != 2 || sig != syscall.SIGQUIT && status.Signal() != sig {
				t.Errorf("ended with %v: %s", status, p.text())
			}
			if after := p.mode(t); after != before {
				t.Errorf("terminal before %+v, after %+v", before, after)
			}
		})
	}
}

func TestPanicsRestoreTheTerminal(t *testing.T) {
	for mode, provoke := range map[string]func(p *pty, guest *os.File){
		"panic in OnEscape": func(p *pty, _ *os.File) { io.WriteString(p.master, "\x1d\x1d\x1d") },
		"panic in Watch":    func(_ *pty, guest *os.File) { io.WriteString(guest, realPanic) },
	} {
		t.Run(mode, func(t *testing.T) {
			p := openPTY(t)
			p.watch()
			before := p.mode(t)
			cmd, guest := startHelper(t, p, mode)
			p.awaitRaw(t)
			provoke(p, guest)
			if status := waitHelper(t, cmd); status.ExitStatus() != 2 {
				t.Errorf("ended with %v", status)
			}
			p.await(t, "panic: on purpose")
			if after := p.mode(t); after != before {
				t.Errorf("terminal before %+v, after %+v", before, after)
			}
		})
	}
}

func TestOwnSignalsAreLeftAlone(t *testing.T) {
	for mode, sig := range map[string]syscall.Signal{"own SIGTERM": syscall.SIGTERM, "ignored SIGHUP": syscall.SIGHUP} {
		t.Run(mode, func(t *testing.T) {
			p := openPTY(t)
			p.watch()
			before := p.mode(t)
			cmd, guest := startHelper(t, p, mode)
			p.awaitRaw(t)
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if mode == "own SIGTERM" {
				p.await(t, "handled")
			}
			say(t, guest, "still attached")
			p.await(t, "still attached")
			if !p.isRaw(t) {
				t.Error("the terminal is not raw any more")
			}
			guest.Close()
			if status := waitHelper(t, cmd); status.ExitStatus() != 0 {
				t.Errorf("ended with %v", status)
			}
			if p.mode(t) != before {
				t.Error("the terminal is not restored")
			}
		})
	}
}

// After a stop, the shell has set its own mode; coming back, ours is needed.
func TestContinuedMakesTheTerminalRawAgain(t *testing.T) {
	p := openPTY(t)
	before := p.mode(t)
	cmd, guest := startHelper(t, p, "plain")
	p.awaitRaw(t)
	if err := unix.IoctlSetTermios(int(p.slave.Fd()), unix.TCSETS, &before); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	p.awaitRaw(t)
	guest.Close()
	if status := waitHelper(t, cmd); status.ExitStatus() != 0 || p.mode(t) != before {
		t.Errorf("ended with %v, terminal %+v", status, p.mode(t))
	}
}

// Ctrl-C on the raw terminal is the guest's, not ours.
func TestInterruptKeyGoesToTheGuest(t *testing.T) {
	p := openPTY(t)
	cmd, guest := startHelper(t, p, "plain")
	p.awaitRaw(t)
	say(t, p.master, "\x03\x1a\x1c")
	got := make([]byte, 3)
	if _, err := io.ReadFull(guest, got); err != nil || string(got) != "\x03\x1a\x1c" {
		t.Errorf("guest got %q, %v", got, err)
	}
	guest.Close()
	if status := waitHelper(t, cmd); status.ExitStatus() != 0 {
		t.Errorf("ended with %v", status)
	}
}

// A job in the background gets lines and is not stopped by its terminal.
func TestBackgroundJob(t *testing.T) {
	p := openPTY(t)
	p.watch()
	before := p.mode(t)
	script := `set -m; "$0" <&0 & wait $!; echo "status $?"`
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	guest, theirs := os.NewFile(uintptr(fds[0]), "guest"), os.NewFile(uintptr(fds[1]), "guest")
	defer guest.Close()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", script, exe)
	cmd.Env = []string{helperVariable + "=background"}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.slave, p.slave, p.slave
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	say(t, guest, "\x1b[1mplain line\x1b[0m\n")
	p.await(t, "plain line\r\n")
	if strings.Contains(p.text(), "\x1b[1m") || p.mode(t).Lflag != before.Lflag {
		t.Errorf("treated as a terminal: %q", p.text())
	}
	guest.Close()
	p.await(t, "status 0")
	if status := waitHelper(t, cmd); status.ExitStatus() != 0 {
		t.Errorf("ended with %v", status)
	}
}
