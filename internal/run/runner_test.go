package run

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/state"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

func TestChildEnvironment(t *testing.T) {
	got := childEnvironment(
		[]string{"A=1", "NOTIFY_SOCKET=/x", "CREDENTIALS_DIRECTORY=/old", "no variable", "=C:=x", "B=", "AMPOULE_CONTROL=9"},
		[]string{"CREDENTIALS_DIRECTORY=/new", "AMPOULE_CONTROL=4"})
	want := []string{"A=1", "B=", "CREDENTIALS_DIRECTORY=/new", "AMPOULE_CONTROL=4"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// pair joins a boot with the run above it, as over an inherited descriptor.
func pair(t testing.TB) (above *net.UnixConn, boot *remote) {
	t.Helper()
	above, theirs, err := controlPair()
	if err != nil {
		t.Fatal(err)
	}
	// Connect takes the descriptor over, so it gets one of its own.
	fd, err := unix.FcntlInt(theirs.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	theirs.Close()
	if err != nil {
		t.Fatal(err)
	}
	boot, err = connect(fmt.Sprint(fd))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { above.Close() })
	return above, boot
}

// The protocol between boot and run, over a real socket pair: the largest
// record that a VM can have arrives whole.
func TestReport(t *testing.T) {
	above, boot := pair(t)
	c := &child{
		runner: &runner{Options: Options{Plan: makePlan(t, "Readiness=console:x")}, voice: newVoice(os.Stderr)},
		conn:   above, messages: make(chan message), over: make(chan struct{}),
	}
	c.record = state.Record{Schema: 1, Name: "test", Pid: 42, File: "/f", Phase: state.Booting}
	go c.read()
	rec := state.Record{Schema: 1, Name: "test", Pid: 7, Reboots: 3, Delivery: state.Delivery{Channel: "fw_cfg", HypervisorPid: 9}}
	for i := range 300 {
		rec.Credentials = append(rec.Credentials, state.DeliveredMetadata{
			Name: fmt.Sprintf("%03d%s", i, strings.Repeat("<", 252)), Bytes: i, Source: "file /" + strings.Repeat("\x01", 4090),
		})
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		boot.started(rec)
		boot.started(rec)
		boot.phase(state.Ready)
		boot.ended(Outcome{Code: 120, Text: strings.Repeat("x", 1<<20), Problems: badInput(nil).Problems})
		boot.close()
	}()
	c.drainAll(t)
	<-sent
	if c.record.ReadyAt.IsZero() {
		t.Error("nobody knows when it was ready")
	}
	rec.Pid, rec.File, rec.Ready, rec.Phase, rec.ReadyAt = 42, "/f", true, state.Ready, c.record.ReadyAt
	if !reflect.DeepEqual(c.record, rec) {
		got, _ := json.Marshal(c.record)
		t.Errorf("the record came out as %.300s… with %d credentials", got, len(c.record.Credentials))
	}
	if !c.booted || c.outcome == nil || c.outcome.Code != 120 || !strings.HasPrefix(c.outcome.Text, "xxx") {
		t.Errorf("%v, %+v", c.booted, c.outcome)
	}
	// A second boot of the same runner begins anew.
	c.receive(message{Hello: true})
	if c.outcome != nil {
		t.Error("the outcome of the first boot counts for the second")
	}
}

func (c *child) drainAll(t testing.TB) {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		select {
		case m, ok := <-c.messages:
			if !ok {
				c.voice.close()
				return
			}
			c.receive(m)
		case <-limit:
			t.Fatal("the reports do not end")
		}
	}
}

func TestStops(t *testing.T) {
	above, boot := pair(t)
	if _, err := above.Write([]byte("no JSON")); err != nil {
		t.Fatal(err)
	}
	send(above, message{Hello: true}) // not for us
	send(above, message{Stop: "SIGTERM"})
	above.Close()
	for _, want := range []string{"SIGTERM", orphaned} {
		select {
		case got := <-boot.stops():
			if got != want {
				t.Errorf("%q, want %q", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("no %q", want)
		}
	}
	boot.close()
	for _, fd := range []string{"", "x", "-1", "2", "100000", "99999999999999999999"} {
		if _, err := connect(fd); err == nil {
			t.Errorf("descriptor %q is taken", fd)
		}
	}
}

// script writes a runner. BOOT in it is ampoule boot.
func script(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "runner")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+strings.ReplaceAll(text, "BOOT", exe)+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func runnerTrial(t *testing.T, text, mode string, lines ...string) *trial {
	t.Helper()
	tr := fakeTrial(t, mode, append([]string{"Runner=" + script(t, text)}, lines...)...)
	// The boot has an environment of its own, and shares the directories.
	for name, dir := range tr.env {
		t.Setenv(name, dir)
	}
	return tr
}

// The runner's own end and the guest's are told apart.
func TestRunnerEnds(t *testing.T) {
	need.All(t, need.Root)
	for name, tt := range map[string]struct {
		script, mode string
		code         int
		words        string
	}{
		"boots":             {"BOOT", "reboots", ExitPoweredOff, "the guest powered off"},
		"executes":          {"exec BOOT", "late", ExitPoweredOff, "the guest powered off"},
		"goes on":           {"BOOT; exit 7", "late", ExitPoweredOff, "the guest powered off"},
		"guest dies":        {"exec BOOT", "dies", ExitHypervisor, "out of ideas"},
		"tries again":       {"BOOT || exec BOOT", "dies", ExitHypervisor, "out of ideas"},
		"fails":             {"exit 7", "late", ExitHypervisor, "ended early (exit code 7)"},
		"does not boot":     {"exit 0", "late", ExitPoweredOff, "the runner ended"},
		"leaves":            {"BOOT & sleep 2; exit 0", "mute", ExitHypervisor, "ended before its guest did (exit code 0)"},
		"no descriptor":     {"exec BOOT 4>&-", "late", ExitHypervisor, "ended early (exit code 121)"},
		"bad input in boot": {"CREDENTIALS_DIRECTORY=/nonexistent exec BOOT", "late", ExitBadInput, "nothing was started"},
	} {
		t.Run(name, func(t *testing.T) {
			tr := runnerTrial(t, tt.script, tt.mode).start()
			tr.want(tt.code, tt.words)
			tr.wantNothingLeft()
			if _, err := os.Stat("/run/credentials/microvm@test.service"); err == nil {
				t.Error("the directory for the credentials is left")
			}
		})
	}
}

// A runner sees its credentials, those of [Service] too, and nobody else does.
func TestRunnerCredentials(t *testing.T) {
	need.All(t, need.Root)
	const text = `cat "$CREDENTIALS_DIRECTORY/a" "$CREDENTIALS_DIRECTORY/host"; stat -fc %T "$CREDENTIALS_DIRECTORY"; ls "$CREDENTIALS_DIRECTORY"; cat; cat <&3 >/dev/null && sleep 0.2`
	tr := runnerTrial(t, text, "late", "[Service]", "SetCredential=host:h")
	tr.start()
	tr.stdout.await(t, "bhramfs\na\nhost\n")
	if entries, err := os.ReadDir("/run/credentials/microvm@test.service"); err == nil && len(entries) != 0 {
		t.Errorf("outside there is %v", entries)
	}
	tr.want(ExitPoweredOff, "the runner ended")
}

// A stop goes to boot while there is one, and to the runner else.
func TestRunnerStops(t *testing.T) {
	need.All(t, need.Root)
	for name, tt := range map[string]struct {
		script, mode string
		signal       string
		code         int
		words        string
	}{
		"before boot": {"trap 'exit 5' TERM; echo here; while :; do sleep 0.1; done", "late", "here", ExitHypervisor, "ended early (exit code 5)"},
		"deaf":        {"trap '' TERM; echo here; while :; do sleep 0.1; done", "late", "here", ExitKilled, "the runner did not end within 2s and was killed"},
		"starting":    {"echo here; exec BOOT", "mute", "here", ExitHypervisor, "stopped by its caller before the guest ran"},
		"after boot":  {"trap 'exit 6' TERM; BOOT; echo here; while :; do sleep 0.1; done", "late", "here", ExitPoweredOff, "the guest powered off"},
	} {
		t.Run(name, func(t *testing.T) {
			// Only the deaf one is to come to the end of it.
			limit := "TimeoutStopSec=1min"
			if name == "deaf" {
				limit = "TimeoutStopSec=2s"
			}
			tr := runnerTrial(t, tt.script, tt.mode, "[Service]", limit).start()
			tr.stdout.await(t, tt.signal)
			if name == "starting" {
				time.Sleep(500 * time.Millisecond) // boot has come to its hypervisor
			}
			tr.cancel()
			tr.want(tt.code, tt.words)
			tr.wantNothingLeft()
		})
	}
}

// With ampoule run killed, boot and its hypervisor end too, whatever they are
// at: here the hypervisor has not even greeted.
func TestOrphanedBoot(t *testing.T) {
	above, theirs, err := controlPair()
	if err != nil {
		t.Fatal(err)
	}
	tr := fakeTrial(t, "mute")
	fd, err := unix.FcntlInt(theirs.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	theirs.Close()
	if err != nil {
		t.Fatal(err)
	}
	tr.options.Control = fmt.Sprint(fd)
	tr.start()
	for deadline := time.Now().Add(10 * time.Second); len(children(t)) == 0 && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	pids := children(t)
	above.Close()
	began := time.Now()
	tr.want(ExitHypervisor, "ampoule run is gone, before the guest ran")
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	for _, pid := range pids {
		if syscall.Kill(pid, 0) == nil {
			t.Errorf("process %d is left", pid)
		}
	}
}
