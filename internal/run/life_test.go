package run

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/state"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// manager hears what a run tells the service manager.
type manager struct {
	t    testing.TB
	conn *net.UnixConn
}

func newManager(t *testing.T) manager {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return manager{t, conn}
}

// hear returns the next message, "" when none comes in time.
func (m manager) hear(patience time.Duration) string {
	buf := make([]byte, 4096)
	_ = m.conn.SetReadDeadline(time.Now().Add(patience))
	n, _ := m.conn.Read(buf)
	return string(buf[:n])
}

func (m manager) want(all ...string) {
	m.t.Helper()
	for _, want := range all {
		if got := m.hear(time.Minute); got != want {
			m.t.Errorf("the service manager hears %q, want %q", got, want)
		}
	}
}

// The phases of a guest that is observed, over a reboot, as the service manager
// and the record have them.
func TestPhases(t *testing.T) {
	need.All(t, need.QEMU)
	m := newManager(t)
	tr := guestLines(t, "Readiness=console:^ready to go$")(
		say("ready to go\r\n"), once(reset()), awaitPowerButton(), powerOff()).start()
	m.want("STATUS=booting", "READY=1\nSTATUS=ready", "STATUS=rebooting", "STATUS=ready")
	rec, err := state.Read(tr.env["RUNTIME_DIRECTORY"])
	if err != nil || rec.Phase != state.Ready && rec.Phase != state.Rebooting || rec.Reboots != 1 || !rec.Ready || !rec.ByHand ||
		rec.Started.IsZero() || rec.ReadyAt.Before(rec.Started) || !strings.HasSuffix(rec.File, "test.microvm") {
		t.Errorf("%+v, %v", rec, err)
	}
	tr.cancel()
	m.want("STOPPING=1\nSTATUS=powering off")
	tr.want(ExitPoweredOff, "the guest powered off")
}

// A hypervisor that answers keeps the watchdog quiet; one that hangs does not,
// and the watchdog's signal ends the run with the exit code that has it
// restarted.
func TestWatchdog(t *testing.T) {
	need.All(t, need.QEMU)
	m := newManager(t)
	tr := guestLines(t)()
	tr.env["WATCHDOG_USEC"] = "400000"
	tr.start()
	m.want("STATUS=booting", "READY=1\nSTATUS=started, guest not observed", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1")
	pid := hypervisorPid(t, tr)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if first := m.hear(300 * time.Millisecond); first != "" && first != "WATCHDOG=1" { // it may be on its way
		t.Errorf("%q", first)
	}
	if got := m.hear(time.Second); got != "" {
		t.Errorf("a hypervisor that hangs: %q", got)
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGABRT); err != nil {
		t.Fatal(err)
	}
	tr.want(ExitHypervisor, "watchdog")
	if syscall.Kill(pid, 0) == nil {
		t.Error("the hypervisor is left")
	}
	tr.wantNothingLeft()
}

func TestWatchdogInterval(t *testing.T) {
	for usec, want := range map[string]time.Duration{
		"30000000": 15 * time.Second, "": 0, "0": 0, "1": 0, "-4": 0, "x": 0, "18446744073709551615": 0, "9223372036854775807": 0,
	} {
		env := map[string]string{"WATCHDOG_USEC": usec, "WATCHDOG_PID": "7"}
		get := func(name string) string { return env[name] }
		if got := watchdogInterval(get, 7); got != want {
			t.Errorf("%s: %s, want %s", usec, got, want)
		}
		if got := watchdogInterval(get, 8); got != 0 {
			t.Errorf("%s: that of another process counts", usec)
		}
	}
}

// The run above a runner relays the signs of life of the boot below it.
func TestRunnerWatchdog(t *testing.T) {
	need.All(t, need.Root, need.QEMU)
	m := newManager(t)
	kernel := writeKernel(t, nil)
	p := makePlan(t, "Kernel="+kernel, "Memory=64M", "Accelerator=tcg", "Runner="+script(t, "sleep 1; exec BOOT"), "[Service]", "TimeoutStopSec=1s")
	tr := newTrial(t, p)
	for name, dir := range tr.env {
		t.Setenv(name, dir)
	}
	tr.env["WATCHDOG_USEC"] = "400000"
	tr.start()
	// Before there is a boot, too: nothing of ours can hang.
	m.want("STATUS=booting", "READY=1\nSTATUS=started, guest not observed", "WATCHDOG=1", "WATCHDOG=1")
	pid := 0
	for deadline := time.Now().Add(time.Minute); pid == 0 && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		rec, _ := state.Read(tr.env["RUNTIME_DIRECTORY"])
		pid = rec.HypervisorPid
	}
	for m.hear(time.Millisecond) != "" {
	}
	m.want("WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1")
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	m.hear(300 * time.Millisecond)
	if got := m.hear(time.Second); got != "" {
		t.Errorf("a hypervisor that hangs: %q", got)
	}
	tr.cancel()
	tr.want(ExitKilled, "was killed")
}

// Others take part in the console of a run; the name of its socket may be
// longer than an address.
func TestConsoleSocket(t *testing.T) {
	need.All(t, need.QEMU)
	tr := guestLines(t)(say("good morning\r\n"), awaitPowerButton(), say("good night\r\n"), powerOff())
	dir := filepath.Join(tr.dir, strings.Repeat("long/", 30), "test")
	tr.env["RUNTIME_DIRECTORY"] = dir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, state.ConsoleName), nil, 0o644); err != nil { // left by somebody
		t.Fatal(err)
	}
	tr.start()
	tr.stdout.await(t, "good morning")
	info, err := os.Lstat(filepath.Join(dir, state.ConsoleName))
	if err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("%v, %v", info, err)
	}
	conn, err := DialConsole(state.Instance{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	tr.cancel()
	_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
	all, err := io.ReadAll(conn)
	if err != nil || !strings.HasSuffix(string(all), "good morning\r\ngood night\r\n") {
		t.Errorf("%q, %v", all, err)
	}
	tr.want(ExitPoweredOff, "")
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("%v are left", entries)
	}
}

// A link in the socket's place is not followed: it could lead to a service that
// obeys whoever types.
func TestDialConsoleLink(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "other"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Symlink("other", filepath.Join(dir, state.ConsoleName)); err != nil {
		t.Fatal(err)
	}
	if conn, err := DialConsole(state.Instance{Dir: dir}); err == nil {
		conn.Close()
		t.Error("it is")
	}
}

// Without a console, or without a place, there is no socket.
func TestNoConsoleSocket(t *testing.T) {
	need.All(t, need.QEMU)
	tr := guestLines(t, "Console=none")(awaitPowerButton(), powerOff()).start()
	tr.stderr.await(t, "started, guest not observed")
	if _, err := os.Lstat(filepath.Join(tr.env["RUNTIME_DIRECTORY"], state.ConsoleName)); err == nil {
		t.Error("there is one")
	}
	tr.cancel()
	tr.want(ExitPoweredOff, "")
}

// Nothing that does not hold the lock is ever signalled.
func TestStopNobodyElse(t *testing.T) {
	dir := t.TempDir()
	bystander, err := os.StartProcess("/bin/sleep", []string{"sleep", "60"}, &os.ProcAttr{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = bystander.Kill(); _, _ = bystander.Wait() }()
	rec := &state.Record{Name: filepath.Base(dir), Pid: bystander.Pid, Delivery: state.Delivery{HypervisorPid: bystander.Pid}}
	for _, i := range []state.Instance{
		{Dir: dir, Record: rec}, {Dir: dir, Running: true, Pid: bystander.Pid, Record: rec}, {Dir: dir, Running: true, Pid: 1 << 22, Record: rec},
	} {
		for _, kill := range []bool{false, true} {
			if err := Stop(context.Background(), i, kill, nil); !errors.Is(err, ErrNotRunning) {
				t.Errorf("%+v: %v", i, err)
			}
		}
	}
	if stat, err := os.ReadFile("/proc/" + strconv.Itoa(bystander.Pid) + "/stat"); err != nil || strings.Contains(string(stat), ") Z") {
		t.Errorf("it was hit: %s, %v", stat, err)
	}
}
