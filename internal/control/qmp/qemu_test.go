package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

const qemuBinary = "qemu-system-x86_64"

// qemu is a real hypervisor without a guest.
type qemu struct {
	t      *testing.T
	cmd    *exec.Cmd
	client *Client
}

// startQEMU starts one with a QMP connection on an inherited descriptor.
func startQEMU(t *testing.T, args ...string) *qemu {
	t.Helper()
	need.All(t, need.QEMU)
	path, err := exec.LookPath(qemuBinary)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, path, append([]string{
		"-nodefaults", "-no-user-config", "-display", "none", "-S",
		"-chardev", "socket,id=q,fd=3", "-mon", "chardev=q,mode=control",
	}, args...)...)
	cmd.ExtraFiles = []*os.File{theirs}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	q := &qemu{t: t, cmd: cmd}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s\n%s", cmd, stderr.String())
		}
	})
	if q.client, err = New(ctx, ours); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { q.client.Close() })
	return q
}

func (q *qemu) execute(command string, args, result any) {
	q.t.Helper()
	if err := q.client.Execute(testContext(q.t), command, args, result); err != nil {
		q.t.Fatal(err)
	}
}

// await returns the data of the first event that has a known type, which must
// be the wanted one.
func (q *qemu) await(want any) {
	q.t.Helper()
	timeout := time.After(30 * time.Second)
	for {
		select {
		case e, ok := <-q.client.Events():
			if !ok {
				q.t.Fatalf("no %#v: %v", want, q.client.Err())
			}
			got, err := e.Decode()
			if err != nil {
				q.t.Fatal(err)
			}
			if got == nil {
				continue
			}
			if got != want {
				q.t.Fatalf("event %s %s, want %#v", e.Event, e.Data, want)
			}
			if age := time.Since(e.Time); age < -time.Minute || age > time.Minute {
				q.t.Errorf("%s happened at %v", e.Event, e.Time)
			}
			return
		case <-timeout:
			q.t.Fatalf("no %#v", want)
		}
	}
}

func TestQEMULife(t *testing.T) {
	q := startQEMU(t, "-machine", "none")
	out, err := exec.Command(qemuBinary, "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	if v := q.client.Version(); !strings.HasPrefix(string(out), "QEMU emulator version "+v.String()) {
		t.Errorf("version %v; the binary says %s", v, out)
	}

	var status struct {
		Running bool
		Status  string
	}
	q.execute("query-status", nil, &status)
	if status.Running || status.Status != "prelaunch" {
		t.Errorf("status %+v", status)
	}
	q.execute("cont", nil, nil)
	q.await(Resume{})
	q.execute("query-status", nil, &status)
	if !status.Running {
		t.Errorf("status %+v", status)
	}
	q.execute("system_powerdown", nil, nil)
	q.await(Powerdown{})
	q.execute("system_reset", nil, nil)
	q.await(Reset{false, ReasonHostReset})
	q.execute("stop", nil, nil)
	q.await(Stop{})
	q.execute("quit", nil, nil)
	q.await(Shutdown{false, ReasonHostQuit})
	if err := awaitDone(t, q.client); !errors.Is(err, ErrPeerGone) {
		t.Errorf("reason %v", err)
	}
}

func TestQEMURefusals(t *testing.T) {
	q := startQEMU(t, "-machine", "none")
	tests := []struct {
		command string
		args    any
		class   string
	}{
		{"ampoule-nonsense", nil, "CommandNotFound"},
		{"device_del", map[string]string{"id": "missing"}, "DeviceNotFound"},
		{"cont", map[string]int{"surplus": 1}, "GenericError"},
		{"qmp_capabilities", nil, "CommandNotFound"},
	}
	for _, tt := range tests {
		err := q.client.Execute(testContext(t), tt.command, tt.args, nil)
		var refused *Error
		if !errors.As(err, &refused) || refused.Class != tt.class || refused.Command != tt.command || refused.Desc == "" {
			t.Errorf("%s: %#v", tt.command, err)
		}
	}
}

func TestQEMUConcurrentCommands(t *testing.T) {
	q := startQEMU(t, "-machine", "none")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				var name struct{ Name string }
				if err := q.client.Execute(testContext(t), "query-name", nil, &name); err != nil {
					t.Error(err)
					return
				}
				var commands []struct{ Name string }
				if err := q.client.Execute(testContext(t), "query-commands", nil, &commands); err != nil || len(commands) < 50 {
					t.Errorf("%d commands, %v", len(commands), err)
					return
				}
			}
		})
	}
	wg.Wait()
	// The longest answer there is.
	var schema json.RawMessage
	q.execute("query-qmp-schema", nil, &schema)
	if len(schema) < 100_000 || len(schema) > MaxMessage/4 {
		t.Errorf("schema of %d bytes", len(schema))
	}
}

func TestQEMUSignals(t *testing.T) {
	q := startQEMU(t, "-machine", "none")
	if err := q.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	q.await(Shutdown{false, ReasonHostSignal})
	awaitDone(t, q.client)

	q = startQEMU(t, "-machine", "none")
	if err := q.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := awaitDone(t, q.client); !errors.Is(err, ErrPeerGone) {
		t.Errorf("reason %v", err)
	}
	if d := time.Since(begin); d > 3*time.Second {
		t.Errorf("noticed after %v", d)
	}
	if e, ok := <-q.client.Events(); ok {
		t.Errorf("event %+v of a killed hypervisor", e)
	}
}

// firmware returns the path of a BIOS image with nothing but code at the
// processor's first address, in 16-bit mode: a whole guest in a few bytes.
func firmware(t *testing.T, code ...byte) string {
	t.Helper()
	image := make([]byte, 64<<10)
	copy(image[len(image)-16:], append(code, 0xf4, 0xeb, 0xfd)) // hlt; jmp to it
	path := filepath.Join(t.TempDir(), "bios")
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestQEMUGuestEvents(t *testing.T) {
	reset := []byte{0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee}  // out 0xcf9, 6
	panics := []byte{0xba, 0x05, 0x05, 0xb0, 0x01, 0xee} // out 0x505, 1
	tests := []struct {
		name string
		code []byte
		args []string
		want []any
	}{
		{"reboot", reset, nil, []any{Reset{true, ReasonGuestReset}, Reset{true, ReasonGuestReset}}},
		{"reboot ends", reset, []string{"-no-reboot"}, []any{Shutdown{true, ReasonGuestReset}}},
		{
			"panic", panics, []string{"-device", "pvpanic", "-action", "panic=shutdown"},
			[]any{GuestPanicked{"poweroff"}, Shutdown{true, ReasonGuestPanic}},
		},
		{
			"panic pauses", panics, []string{"-device", "pvpanic", "-action", "panic=pause"},
			[]any{GuestPanicked{"pause"}, Stop{}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			q := startQEMU(t, append([]string{
				"-machine", "q35", "-accel", "tcg", "-m", "16", "-bios", firmware(t, tt.code...),
			}, tt.args...)...)
			q.execute("cont", nil, nil)
			q.await(Resume{})
			for _, want := range tt.want {
				q.await(want)
			}
		})
	}
}
