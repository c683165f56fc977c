package run

import (
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// These guests run on the real hypervisor, in software: a few instructions
// instead of a kernel.

func guestLines(t testing.TB, lines ...string) func(code ...[]byte) *trial {
	return func(code ...[]byte) *trial {
		t.Helper()
		kernel := "Kernel=" + writeKernel(t, join(code...))
		return newTrial(t, makePlan(t, append([]string{kernel, "Memory=64M", "Accelerator=tcg"}, lines...)...))
	}
}

func TestGuestPowersOff(t *testing.T) {
	need.All(t, need.QEMU)
	tr := guestLines(t, "SetCredential=greeting:hello", "Readiness=console:^ready to go$")(
		say("ready to go\r\n"), once(reset()), say("again\r\n"), powerOff()).start()
	tr.want(ExitPoweredOff, "the guest powered off")
	if got := strings.Count(tr.stdout.String(), "ready to go\n"); got != 2 {
		t.Errorf("the guest began %d times, want 2:\n%s", got, tr.stdout)
	}
	for _, words := range []string{"ampoule: test reboots\n", "ampoule: test: ready\n"} {
		if strings.Count(tr.stderr.String(), words) != 1 {
			t.Errorf("it does not say %q once:\n%s", words, tr.stderr)
		}
	}
	tr.wantNothingLeft()
	if _, err := os.Stat(tr.env["RUNTIME_DIRECTORY"]); !os.IsNotExist(err) {
		t.Error("the runtime directory is left")
	}
}

func TestGuestPanics(t *testing.T) {
	need.All(t, need.QEMU)
	guestLines(t)(panics()).start().want(ExitPanic, "the guest's kernel panicked")
	// On a machine without the device, or before its driver, the last words
	// tell a panic from a reboot.
	words := say("[    1.000000] Kernel panic - not syncing: no init\r\n")
	guestLines(t)(words, reset()).start().want(ExitPanic, "the guest's kernel panicked: no init")
}

func TestPowerButton(t *testing.T) {
	need.All(t, need.QEMU)
	tr := guestLines(t)(awaitPowerButton(), say("good night\r\n"), powerOff()).start()
	tr.stderr.await(t, "started, guest not observed")
	// The first press may come before the guest has enabled its button.
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	tr.want(ExitPoweredOff, "the guest powered off")
	if !strings.Contains(tr.stderr.String(), "SIGTERM: pressing the power button of test") || !strings.Contains(tr.stdout.String(), "good night\n") {
		t.Errorf("\n%s\n%s", tr.stderr, tr.stdout)
	}
}

// A guest that reboots instead of powering off is not started again.
func TestRebootInsteadOfPowerOff(t *testing.T) {
	need.All(t, need.QEMU)
	tr := guestLines(t)(awaitPowerButton(), reset()).start()
	tr.stderr.await(t, "started, guest not observed")
	tr.cancel()
	tr.want(ExitPoweredOff, "the guest rebooted when it was to power off")
}

func TestGuestIgnoresPowerButton(t *testing.T) {
	need.All(t, need.QEMU)
	tr := guestLines(t, "[Service]", "TimeoutStopSec=700ms")().start()
	tr.stderr.await(t, "started, guest not observed")
	began := time.Now()
	tr.cancel()
	tr.want(ExitKilled, "the guest did not power off within 700ms and was killed")
	if took := time.Since(began); took < 700*time.Millisecond || took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
	tr.wantNothingLeft()
}

// A stopped hypervisor answers nothing; the time-out counts all the same.
func TestStoppedHypervisor(t *testing.T) {
	need.All(t, need.QEMU)
	tr := guestLines(t, "[Service]", "TimeoutStopSec=1s")().start()
	tr.stderr.await(t, "started, guest not observed")
	if err := syscall.Kill(hypervisorPid(t, tr), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	tr.cancel()
	tr.want(ExitKilled, "was killed")
}

func TestDyingHypervisor(t *testing.T) {
	need.All(t, need.QEMU)
	for signal, words := range map[syscall.Signal]string{
		syscall.SIGKILL: "the hypervisor died (killed by SIGKILL)", syscall.SIGINT: "ended from outside (host-signal)",
	} {
		tr := guestLines(t)().start()
		tr.stderr.await(t, "started, guest not observed")
		if err := syscall.Kill(hypervisorPid(t, tr), signal); err != nil {
			t.Fatal(err)
		}
		tr.want(ExitHypervisor, words)
		tr.wantNothingLeft()
	}
}

// hypervisorPid reads it from the record, which has everything but values.
func hypervisorPid(t testing.TB, tr *trial) int {
	t.Helper()
	return atoi(t, field(tr.record(), `"hypervisor_pid": `))
}

// A stuck reader of standard output and error holds up neither the guest nor
// the time-out.
func TestStuckReaders(t *testing.T) {
	need.All(t, need.QEMU)
	noise := join(say(strings.Repeat("x", 200)+"\n"), []byte{0xe9, 0x23, 0xff}) // jmp back
	tr := guestLines(t, "[Service]", "TimeoutStopSec=1s")(noise)
	for _, stream := range []**os.File{&tr.options.Stdout} {
		*stream = fullPipe(t)
	}
	tr.options.Messages = stuckMessages(t)
	tr.start()
	pid := hypervisorPid(t, tr)
	began := time.Now()
	tr.cancel()
	tr.want(ExitKilled, "was killed")
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
	if err := syscall.Kill(pid, 0); err == nil {
		t.Error("the hypervisor is left")
	}
}

// What the hypervisor refuses is a mistake of the line that asked for it, and a
// disk that was made for the start is gone again.
func TestRefusedArgument(t *testing.T) {
	need.All(t, need.QEMU)
	tr := guestLines(t, "Disk=data:size=1M", "HypervisorArgs=-device no-such-device")().start()
	out := tr.want(ExitBadInput, "'no-such-device' is not a valid device model name")
	if len(out.Problems) != 1 || out.Problems[0].Key != "HypervisorArgs" || !strings.HasSuffix(out.Problems[0].Origin.File, "test.microvm") {
		t.Errorf("%+v", out.Problems)
	}
	tr.wantNothingLeft()
}

func TestDiskStays(t *testing.T) {
	need.All(t, need.QEMU)
	tr := guestLines(t, "Disk=data:size=1M")(powerOff()).start()
	tr.want(ExitPoweredOff, "")
	info, err := os.Stat(filepath.Join(tr.env["STATE_DIRECTORY"], "data"))
	if err != nil || info.Size() != 1<<20 || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestTwice(t *testing.T) {
	need.All(t, need.QEMU)
	tr := guestLines(t, "[Service]", "TimeoutStopSec=100ms")().start()
	tr.stderr.await(t, "started, guest not observed")
	// The second must not even read its credentials: a source may give them
	// only once.
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	second := newTrial(t, makePlan(t, "LoadCredential=once:"+fifo))
	second.env = tr.env
	began := time.Now()
	second.start().want(ExitHypervisor, "test is running already")
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	if !strings.Contains(tr.record(), `"ready": true`) {
		t.Error("the record of the first is gone")
	}
	tr.cancel()
	tr.want(ExitKilled, "was killed")
}

// A stop that comes while a source keeps us waiting is obeyed at once.
func TestStopWhileGathering(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	tr := newTrial(t, makePlan(t, "LoadCredential=slow:"+fifo, "HypervisorPath="+self(t))).start()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		// A writer finds the FIFO open only once it is being read.
		if fd, err := syscall.Open(fifo, syscall.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil {
			defer syscall.Close(fd)
			break
		}
	}
	began := time.Now()
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	tr.want(ExitHypervisor, "stopped by SIGTERM before the guest ran")
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %s", took)
	}
	tr.wantNothingLeft()
}

// Where the guest's memory can be swapped, one warning names swap.
func TestSwapWarning(t *testing.T) {
	for swaps, want := range map[string]int{"Filename\n": 0, "Filename\n/dev/sda2\n": 1} {
		tr := fakeTrial(t, "late")
		tr.options.Host.Swaps = filepath.Join(t.TempDir(), "swaps")
		tr.options.Host.Cgroup = "/nonexistent"
		if err := os.WriteFile(tr.options.Host.Swaps, []byte(swaps), 0o600); err != nil {
			t.Fatal(err)
		}
		tr.start().want(ExitPoweredOff, "the guest powered off")
		if got := strings.Count(tr.stderr.String(), "this host has swap"); got != want {
			t.Errorf("%d warnings, want %d:\n%s", got, want, tr.stderr)
		}
	}
}

// Under nohup a hang-up stays ignored.
func TestIgnoredSignals(t *testing.T) {
	// Whoever runs the tests may have ignored it already, as nohup does.
	if got := stopSignals(false); len(got) != 3 && !signal.Ignored(syscall.SIGHUP) {
		t.Errorf("%v", got)
	}
	signal.Ignore(syscall.SIGHUP)
	defer func() { // Reset alone leaves it ignored
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGHUP)
		signal.Stop(c)
	}()
	if got := stopSignals(false); !slices.Equal(got, []os.Signal{syscall.SIGTERM, syscall.SIGINT}) {
		t.Errorf("%v", got)
	}
}

// The service manager hears of readiness and of the stop, and is asked for the
// time that it takes to kill.
func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	need.All(t, need.QEMU)
	tr := guestLines(t, "[Service]", "TimeoutStopSec=500ms")().start()
	hear := func() string {
		buf := make([]byte, 4096)
		_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	for _, want := range []string{"STATUS=booting", "READY=1\nSTATUS=started, guest not observed"} {
		if got := hear(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	tr.cancel()
	if got, want := hear(), "STOPPING=1\nSTATUS=powering off"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := hear(), "EXTEND_TIMEOUT_USEC=15500000"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	tr.want(ExitKilled, "was killed")
}
