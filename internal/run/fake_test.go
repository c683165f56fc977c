package run

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/console"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/state"
)

// fakeHypervisor is what TestMain becomes: it speaks QMP as QEMU 7.2 does and
// does what QEMU cannot be told to do. The modes:
//
//	mute     never greets, as if it were stopped before it came so far
//	closes   closes the control connection in mid-life and stays
//	breaks   sends what is not QMP in mid-life
//	reboots  resets once; insists on the order of commands that QEMU needs
//	refuses  resets, and refuses the orders for going on
//	forgets  resets, and never answers the orders for going on
//	late     powers off and is dead before anybody could read why
//	dies     says words and dies before it greets
func fakeHypervisor(mode string) int {
	if mode == "dies" {
		fmt.Fprintln(os.Stderr, "out of ideas")
		return 3
	}
	inherited := os.NewFile(firstFD, "control")
	conn, err := net.FileConn(inherited)
	inherited.Close()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 9
	}
	f := &fake{conn: conn, in: bufio.NewScanner(conn)}
	if mode == "mute" {
		hang()
	}
	f.send(`{"QMP": {"version": {"qemu": {"micro": 19, "minor": 2, "major": 7}, "package": " (fake)"}, "capabilities": ["oob"]}}`)
	f.expect("qmp_capabilities")
	f.expect("cont")
	f.event("RESUME", "")
	switch mode {
	case "closes":
		conn.Close()
		hang()
	case "breaks":
		f.send("]")
		hang()
	case "late":
		f.event("SHUTDOWN", `{"guest": true, "reason": "guest-shutdown"}`)
		return 0
	}
	f.event("SHUTDOWN", `{"guest": true, "reason": "guest-reset"}`)
	f.event("STOP", "")
	switch mode {
	case "refuses":
		f.refuse()
		hang()
	case "forgets":
		f.in.Scan()
		hang()
	}
	f.expect(`set-action {"reboot":"reset"}`)
	f.expect("system_reset")
	f.event("RESET", `{"guest": false, "reason": "host-qmp-system-reset"}`)
	f.expect(`set-action {"reboot":"shutdown"}`)
	f.expect("cont")
	f.event("RESUME", "")
	f.event("SHUTDOWN", `{"guest": true, "reason": "guest-shutdown"}`)
	f.expect("quit")
	return 0
}

// hang stays for ever. An empty select would do that only where cgo is linked
// in: without it, the runtime ends a process in which nothing can happen.
func hang() {
	for {
		time.Sleep(time.Hour)
	}
}

type fake struct {
	conn net.Conn
	in   *bufio.Scanner
}

func (f *fake) send(line string) { fmt.Fprintf(f.conn, "%s\r\n", line) }

func (f *fake) event(name, data string) {
	if data != "" {
		data = `, "data": ` + data
	}
	f.send(`{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "` + name + `"` + data + `}`)
}

// receive reads a command.
func (f *fake) receive() (command string, id uint64) {
	if f.in.Scan() {
		var m struct {
			Execute   string
			Arguments json.RawMessage
			ID        uint64
		}
		if err := json.Unmarshal(f.in.Bytes(), &m); err != nil {
			f.fail("not JSON: " + f.in.Text())
		}
		return strings.TrimSpace(m.Execute + " " + string(m.Arguments)), m.ID
	}
	os.Exit(0) // our side is gone
	return "", 0
}

func (f *fake) expect(want string) {
	got, id := f.receive()
	if got != want {
		f.fail("got " + got + ", want " + want)
	}
	f.send(fmt.Sprintf(`{"return": {}, "id": %d}`, id))
}

func (f *fake) refuse() {
	_, id := f.receive()
	f.send(fmt.Sprintf(`{"id": %d, "error": {"class": "CommandNotFound", "desc": "The command set-action has not been found"}}`, id))
}

func (f *fake) fail(words string) {
	fmt.Fprintln(os.Stderr, words)
	os.Exit(9)
}

func fakeTrial(t testing.TB, mode string, lines ...string) *trial {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return newTrial(t, makePlan(t, append([]string{"HypervisorPath=" + path, "HypervisorArgs=-fake " + mode, "SetCredential=a:b"}, lines...)...))
}

func TestMisbehavingHypervisor(t *testing.T) {
	for mode, want := range map[string]struct {
		code  int
		words string
	}{
		"closes":  {ExitHypervisor, "the hypervisor has closed the QMP connection"},
		"breaks":  {ExitHypervisor, "malformed QMP message"},
		"reboots": {ExitPoweredOff, "the guest powered off"},
		"refuses": {ExitHypervisor, "did not start the guest again after its reboot and was killed: QMP command set-action: The command set-action has not been found"},
		"forgets": {ExitHypervisor, "did not start the guest again after its reboot and was killed: QMP command set-action: context deadline exceeded"},
		"late":    {ExitPoweredOff, "the guest powered off"},
		"dies":    {ExitHypervisor, "the hypervisor did not start (exit code 3): out of ideas"},
	} {
		t.Run(mode, func(t *testing.T) {
			before := descriptors(t)
			tr := fakeTrial(t, mode).start()
			tr.want(want.code, want.words)
			tr.wantNothingLeft()
			if after := descriptors(t); after > before {
				t.Errorf("%d descriptors, %d before", after, before)
			}
		})
	}
}

// descriptors counts ours, without the pipes of a trial.
func descriptors(t testing.TB) int {
	t.Helper()
	n := 0
	for range 20 {
		n = 0
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			target, _ := os.Readlink("/proc/self/fd/" + e.Name())
			if strings.HasPrefix(target, "socket:") || strings.HasPrefix(target, "/memfd:") {
				n++
			}
		}
		if n == 0 {
			return 0
		}
		time.Sleep(10 * time.Millisecond) // goroutines that are about to close
	}
	return n
}

// A hypervisor that never answers is waited for no longer than the operator
// likes.
func TestMuteHypervisor(t *testing.T) {
	tr := fakeTrial(t, "mute", "Disk=data:size=1M").start()
	for deadline := time.Now().Add(10 * time.Second); len(children(t)) == 0 && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	pids := children(t)
	// What is being started is there to be read, although no guest runs yet.
	if text, err := state.ReadPlan(tr.env["RUNTIME_DIRECTORY"], plan.MaxBytes); err != nil || !bytes.Equal(text, tr.options.Plan.JSON()) {
		t.Errorf("the plan that is kept: %s, %v", text, err)
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	tr.want(ExitHypervisor, "stopped by SIGINT before the guest ran")
	tr.wantNothingLeft()
	for _, pid := range pids {
		if err := syscall.Kill(pid, 0); err == nil {
			t.Errorf("process %d is left", pid)
		}
	}
}

// children are the processes that this one started.
func children(t testing.TB) (pids []int) {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		data, _ := os.ReadFile("/proc/self/task/" + task.Name() + "/children")
		for word := range strings.FieldsSeq(string(data)) {
			pids = append(pids, atoi(t, word))
		}
	}
	return pids
}

func atoi(t testing.TB, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// field returns what stands behind a name on its line, without a comma.
func field(text, name string) string {
	_, rest, _ := strings.Cut(text, name)
	rest, _, _ = strings.Cut(rest, "\n")
	return strings.TrimSuffix(rest, ",")
}

// fullPipe is a pipe that nobody reads and that takes no more.
func fullPipe(t testing.TB) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	_ = w.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	for err == nil {
		_, err = w.Write(make([]byte, 4096))
	}
	_ = w.SetWriteDeadline(time.Time{})
	return w
}

func stuckMessages(t testing.TB) *console.Messages { return console.NewMessages(fullPipe(t)) }
