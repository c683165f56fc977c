package vm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/testkit/guest"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// TestSSHWithKeyOfStart: without a key and a file of anybody's one gets into a guest
// in which sshd is installed and nothing is configured, as any of its users and again
// after a reboot; and without the key of this start nobody does.
func TestSSHWithKeyOfStart(t *testing.T) {
	need.All(t, need.VM, need.VMAll, need.Root, need.QEMU, need.Guest)
	daemon := vhostDevice(t)
	name := fmt.Sprintf("ampoule-key-%d", os.Getpid())
	m := start(t, options{
		name: name, vsock: true,
		// By hand, where ampoule ssh looks for it.
		env: []string{"RUNTIME_DIRECTORY="},
		lines: append(kernelLines(guest.GetSSH(t)), "HypervisorPath="+vsockQEMU(t, daemon), "VSockCID=auto", "GuestSystemd=257",
			"SSH=ephemeral"),
	})
	home := t.TempDir()
	ssh := func(words ...string) (code int, out string) {
		cmd := exec.Command(program, append([]string{"ssh", "-o", "BatchMode=yes"}, words...)...)
		cmd.Env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH")}
		text, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return cmd.ProcessState.ExitCode(), string(text)
	}
	m.waitFor(m.words, name+": ready", 1, bootTime)
	if code, out := ssh(name, "id -un; exit 7"); code != 7 || out != "root\n" {
		t.Errorf("%d, %q", code, out)
	}
	if code, out := ssh("-v", name, "true"); code != 0 || !strings.Contains(out, name+": entering with the key of this start (SSH=ephemeral), by the agent at /run/ampoule/run/"+name+"/ssh-agent\n") {
		t.Errorf("%d, %q", code, out)
	}
	if code, out := ssh("-o", "IdentityAgent=none", name, "true"); code != 255 || !strings.Contains(out, "Permission denied") {
		t.Errorf("without the agent: %d, %q", code, out)
	}
	if code, out := ssh("-l", "absent", name, "true"); code != 255 || !strings.Contains(out, "\nampoule: "+name+": the guest has not taken the key of this start (SSH=ephemeral) for its user absent: ") {
		t.Errorf("as nobody that there is: %d, %q", code, out)
	}
	// It has the key, how sshd takes it, and where it is heard.
	if r := m.reports(1)[0]; len(r.Credentials) != 3 {
		t.Errorf("the guest has %+v", r.Credentials)
	}
	if code, out := ssh(name, "systemctl reboot"); code != 0 && code != 255 {
		t.Errorf("%d, %q", code, out)
	}
	m.waitFor(m.console, reported, 2, 2*bootTime)
	if code, out := ssh(name, "echo again"); code != 0 || out != "again\n" {
		t.Errorf("after a reboot: %d, %q", code, out)
	}
	if code, out := ssh(name, "systemctl poweroff"); code != 0 && code != 255 {
		t.Errorf("%d, %q", code, out)
	}
	m.wantExit(0, "the guest powered off", 2*bootTime)
	if _, err := os.Stat("/run/ampoule/run/" + name); err == nil {
		t.Error("its directory is left")
	}
	if found, _ := filepath.Glob(home + "/*"); len(found) > 0 {
		t.Errorf("%v are left", found)
	}
}
