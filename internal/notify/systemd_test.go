package notify_test

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/notify"
	"github.com/ampoule-vm/ampoule/internal/vsock"
)

// TestSystemdNotify has systemd's own program speak over AF_VSOCK. It needs root,
// vsock_loopback, and a systemd that knows streams; few hosts have all three,
// while a guest can.
func TestSystemdNotify(t *testing.T) {
	const loopback = 1 // VMADDR_CID_LOCAL
	if _, err := os.Stat("/sys/module/vsock_loopback"); err != nil {
		t.Skip(err)
	}
	if v := systemdVersion(t); v < 254 || os.Geteuid() != 0 {
		t.Skipf("systemd %d, uid %d", v, os.Geteuid())
	}
	l, err := vsock.ListenKernel(loopback, 0)
	if err != nil {
		t.Fatal(err)
	}
	r := notify.Serve(l)
	defer r.Close()
	say := func(fields ...string) {
		t.Helper()
		cmd := exec.Command("systemd-notify", append([]string{"--no-block"}, fields...)...)
		cmd.Env = append(os.Environ(), fmt.Sprintf("NOTIFY_SOCKET=vsock-stream:%d:%d", loopback, l.Port()))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	say("--status=Starting")
	if m := r.Take(); m.Status == nil || *m.Status != "Starting" || m.Ready {
		t.Errorf("got %+v", m)
	}
	say("READY=1", "MAINPID=1", "STATUS=Ready.", "EXIT_STATUS=7")
	if m := r.Take(); !m.Ready || m.Status == nil || *m.Status != "Ready." || m.ExitStatus == nil || *m.ExitStatus != 7 {
		t.Errorf("got %+v", m)
	}
	if c := r.Counts(); c.Heard != 2 || c.Refused != 0 {
		t.Errorf("%+v", c)
	}
}

func systemdVersion(t *testing.T) int {
	t.Helper()
	out, err := exec.Command("systemd-notify", "--version").Output()
	if err != nil {
		t.Skip(err)
	}
	words := strings.Fields(string(out))
	if len(words) < 2 {
		t.Skipf("%q names no version", out)
	}
	v, err := strconv.Atoi(words[1])
	if err != nil {
		t.Skip(err)
	}
	return v
}
