package vm

import (
	"cmp"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/driver/qemu"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
	"github.com/ampoule-vm/ampoule/internal/testkit/guest"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

const (
	// vsockVariable makes the test binary an ampoule whose QEMU has the vsock of a
	// program in the place of the kernel's, which few machines for tests have.
	vsockVariable = "AMPOULE_TEST_VSOCK"
	// daemonVariable names that program: vhost-device-vsock of rust-vmm.
	daemonVariable = "AMPOULE_TEST_VHOST_DEVICE_VSOCK"
)

// vsockDriver is QEMU with a vsock by a path.
type vsockDriver struct{ qemu.Driver }

// Compose replaces the vsock. What a vhost-user device reads of the guest's memory
// has to be shared.
func (d vsockDriver) Compose(vm *spec.VM, architecture string) (plan.VM, diag.List) {
	out, problems := d.Driver.Compose(vm, architecture)
	if out.VSock == nil {
		return out, problems
	}
	out.VSock.Multiplexed = true
	for i, p := range out.Command {
		if p.Ask == plan.AskVSock {
			out.Command[i].Words = []string{
				"-object", fmt.Sprintf("memory-backend-memfd,id=memory,size=%d,share=on", vm.Memory.Value), "-machine", "memory-backend=memory",
				"-chardev", "socket,id=vsock,path={path}" + deviceSuffix, "-device", "vhost-user-vsock-pci,chardev=vsock",
			}
		}
	}
	return out, problems
}

// deviceSuffix makes of the path of a vsock that at which QEMU reaches the device.
const deviceSuffix = ".device"

// vsockQEMU writes a hypervisor that starts the device, which lives as long, and
// becomes QEMU. Of what QEMU inherits the device gets nothing, or the end of QEMU
// would not be noticed.
func vsockQEMU(t *testing.T, daemon string) string {
	t.Helper()
	program, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "qemu")
	text := fmt.Sprintf(`#!/bin/bash
for word in "$@"; do
	[[ $word == socket,id=vsock,path=* ]] || continue
	device=${word#*path=}
	/bin/rm -f "$device"
	(
		for fd in /proc/self/fd/*; do
			fd=${fd##*/}
			[[ $fd -le 2 ]] || exec {fd}>&-
		done
		exec /usr/bin/setpriv --pdeathsig KILL '%s' --guest-cid=5 --socket="$device" --uds-path="${device%%%s}" </dev/null >'%s/device.log' 2>&1
	) &
	until [[ -S $device ]]; do /bin/sleep 0.05; done
done
exec '%s' "$@"
`, daemon, deviceSuffix, dir, program)
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if words, _ := os.ReadFile(filepath.Join(dir, "device.log")); t.Failed() && len(words) > 0 {
			t.Logf("the device said %s", words)
		}
	})
	return path
}

// serviceManager is what $NOTIFY_SOCKET leads to; the log gets its lines.
func serviceManager(t *testing.T) (path string, said *log) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	said = newLog()
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, err := l.Read(buf)
			if err != nil {
				return
			}
			for line := range strings.Lines(string(buf[:n])) {
				said.add(strings.TrimSuffix(line, "\n"))
			}
		}
	}()
	return path, said
}

// vhostDevice is the path of the program that makes a vsock.
func vhostDevice(t *testing.T) string {
	t.Helper()
	daemon := os.Getenv(daemonVariable)
	if daemon == "" {
		t.Skip("it needs a vsock that is no kernel's; set " + daemonVariable + " to the path of vhost-device-vsock")
	}
	return daemon
}

// TestGuestSpeaks: the guest's PID 1 learns by every channel, or by the kernel's
// command line, where it can say that it is ready, and says so after each of its
// boots; what it says meanwhile is the service's status, and the exit status that
// it wants is ours.
func TestGuestSpeaks(t *testing.T) {
	need.All(t, need.VM, need.QEMU, need.Guest)
	daemon := vhostDevice(t)
	for _, c := range []struct {
		channel, then string
		boots, code   int
		words         string
		level         need.Need
	}{
		{channel: "", then: "exit-7", boots: 1, code: 7, words: "the guest powered off with exit status 7", level: need.VM},
		{channel: "smbios", then: "reboot-once,exit-7", boots: 2, code: 7, words: "the guest powered off with exit status 7", level: need.VMAll},
		{channel: "fw_cfg", then: "exit-120", boots: 1, code: 119, words: "the guest powered off with exit status 120", level: need.VMAll},
		{channel: "initrd", then: "reboot-once,poweroff", boots: 2, code: 0, words: "the guest powered off\n", level: need.VMAll},
	} {
		t.Run(cmp.Or(c.channel, "command line"), func(t *testing.T) {
			need.All(t, c.level)
			lines := append(kernelLines(guest.Get(t, "trixie")), "HypervisorPath="+vsockQEMU(t, daemon), "VSockCID=auto", "GuestSystemd=257",
				"KernelCommandLine=ampoule.test=slow-start ampoule.then="+c.then)
			if c.channel != "" {
				lines = append(lines, "CredentialChannel="+c.channel, "SetCredential=other:value")
			}
			notify, said := serviceManager(t)
			m := start(t, options{lines: lines, vsock: true, env: []string{"NOTIFY_SOCKET=" + notify}})
			m.waitFor(said, "^READY=1$", 1, bootTime)
			if c.boots > 1 {
				m.waitFor(said, "^STATUS=rebooting$", 1, bootTime)
				m.waitFor(said, "^STATUS=ready$", 2, bootTime)
			}
			if got := m.exit(bootTime); got != c.code {
				t.Errorf("exit code %d, want %d", got, c.code)
			}
			checkSaid(t, said.all(), c.boots)
			if !strings.Contains(m.words.text()+"\n", "test: ready\n") || !strings.Contains(m.words.text()+"\n", c.words) {
				t.Errorf("ampoule did not say that it is ready, or not %q", c.words)
			}
			if n, _ := os.ReadDir(filepath.Join(m.dir, "run")); len(n) > 0 {
				t.Errorf("%v are left", n)
			}
			for _, r := range m.reports(c.boots) {
				want := []value{{plan.NotifyCredential, []byte("vsock-stream:2:9999")}}
				if c.channel != "" {
					want = append(want, value{"other", []byte("value")})
				}
				same(t, fmt.Sprintf("boot %d", r.Boot), r.Credentials, want)
			}
		})
	}
}

// checkSaid looks at what the service manager heard: in each boot what the guest's
// PID 1 waits for, then that it is ready, and after that nothing of what it says.
func checkSaid(t *testing.T, said []string, boots int) {
	t.Helper()
	at := 0
	next := func(pattern string) bool {
		re := regexp.MustCompile(pattern)
		i := slices.IndexFunc(said[at:], re.MatchString)
		at += i + 1
		return i >= 0
	}
	for _, phase := range []string{"booting", "rebooting"}[:boots] {
		for _, pattern := range []string{"^STATUS=" + phase + "$", "^STATUS=" + phase + ": .*ampoule-report.service", "^STATUS=ready$"} {
			if !next(pattern) {
				t.Fatalf("no %s after line %d of %q", pattern, at, said)
			}
		}
	}
	if next("^STATUS=.*: ") {
		t.Errorf("after it was ready: %q", said[at-1])
	}
}

// TestSSHIntoGuest: with nothing but a key as a credential one gets into a guest in
// which sshd is installed and nothing is configured.
func TestSSHIntoGuest(t *testing.T) {
	need.All(t, need.VM, need.VMAll, need.Root, need.QEMU, need.Guest)
	daemon := vhostDevice(t)
	key := filepath.Join(t.TempDir(), "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	name := fmt.Sprintf("ampoule-test-%d", os.Getpid())
	g := guest.GetSSH(t)
	m := start(t, options{
		name: name, vsock: true,
		// By hand, where ampoule ssh looks for it.
		env: []string{"RUNTIME_DIRECTORY="},
		lines: append(kernelLines(g), "HypervisorPath="+vsockQEMU(t, daemon), "VSockCID=auto", "GuestSystemd=257",
			"LoadCredential=ssh.authorized_keys.root:"+key+".pub"),
	})
	ssh := func(words ...string) (code int, out string) {
		cmd := exec.Command(program, append([]string{"ssh", "-o", "IdentitiesOnly=yes", "-i", key}, words...)...)
		text, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return cmd.ProcessState.ExitCode(), string(text)
	}
	m.waitFor(m.words, name+": ready", 1, bootTime)
	if code, out := ssh(name, "systemctl is-system-running; cat /proc/sys/kernel/osrelease; exit 7"); code != 7 || !strings.Contains(out, "-cloud-amd64") {
		t.Errorf("%d, %q", code, out)
	}
	if code, out := ssh("-p", "23", name); code != 255 || !strings.Contains(out, name+": nothing in the guest listens at port 23 of its vsock\n") {
		t.Errorf("%d, %q", code, out)
	}
	// The guest's end takes the connection with it.
	if code, out := ssh(name, "systemctl exit 3"); code != 0 && code != 255 {
		t.Errorf("%d, %q", code, out)
	}
	m.wantExit(3, "with exit status 3", 2*bootTime)
	if _, err := os.Stat("/run/ampoule/run/" + name); err == nil {
		t.Error("its directory is left")
	}
}
