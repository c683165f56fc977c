package host

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
	"github.com/ampoule-vm/ampoule/internal/testkit/nspawn"
)

// newListHost is a host whose VMs are other programs: what systemd does with
// them is the same, and takes no time.
func newListHost(t *testing.T, version int) *host {
	t.Helper()
	need.All(t, need.Root)
	nspawn.Need(t)
	root := nspawn.Root(t, nspawn.Recipe{Suite: suites[version], Packages: []string{"qemu-system-x86", "qemu-utils", "seabios", "procps"}})
	h := &host{TB: t, Machine: nspawn.NewMachine(t, root, "--bind-ro="+packageDir(t)+":/media"), systemd: version}
	h.PowerOn()
	h.sh("dpkg --install /media/ampoule.deb", within(time.Minute))
	return h
}

// instead is a VM in whose place something else runs.
func instead(command string, lines ...string) string {
	return "[MicroVM]\nKernel=/boot/vmlinuz\nMemory=64M\n[Service]\nExecStart=\nExecStart=" + command + "\n" + strings.Join(lines, "\n") + "\n"
}

// notifies is a VM whose program tells systemd something and stays.
func notifies(words string) string {
	return instead(`/bin/sh -c "systemd-notify `+words+`; exec sleep infinity"`, "Type=notify", "NotifyAccess=all")
}

const stays = "/bin/sleep infinity"

// TestList: a line for each VM, in whatever state systemd has it.
func TestList(t *testing.T) {
	for _, version := range []int{252, 257} {
		t.Run(strconv.Itoa(version), func(t *testing.T) {
			h := newListHost(t, version)
			for name, text := range map[string]string{
				"booting": notifies("--status=booting"), "ready": notifies("--ready --status=ready"), "rebooting": notifies("--ready --status=rebooting"),
				"started": notifies("--ready '--status=started, guest not observed'"), "plain": instead(stays), "inactive": instead(stays),
				"failed": instead("/bin/false", "Restart=no"), "restarting": instead("/bin/false", "Restart=always", "RestartSec=1h"),
				"stopping": instead(`/bin/sh -c 'trap "" TERM; while :; do sleep 1; done'`, "TimeoutStopSec=5min"),
				"masked":   instead(stays), "gone": instead(stays), "changed": instead(stays),
				"broken": "[MicroVM]\nKernle=/boot/vmlinuz\n",
			} {
				h.file("/etc/ampoule/"+name+".microvm", text)
			}
			h.file("/etc/ampoule/orphan.microvm.d/10-x.conf", "[MicroVM]\nMemory=1G\n")
			h.sh("systemctl daemon-reload; systemctl mask --runtime microvm@masked")
			h.sh("systemctl start --no-block microvm@booting; for vm in ready rebooting started plain restarting stopping gone changed; do systemctl start microvm@$vm; done; systemctl start microvm@failed microvm@broken", ends)
			h.sh("systemctl stop --no-block microvm@stopping; rm /etc/ampoule/gone.microvm; systemctl daemon-reload; sleep 1")
			h.sh("sleep 1; touch /etc/ampoule/changed.microvm")
			h.file("/etc/ampoule/unloaded.microvm", instead(stays))
			h.file("/etc/ampoule/mistaken.microvm", "[MicroVM]\n")

			want := map[string]string{
				"booting": "booting", "ready": "ready", "rebooting": "rebooting", "started": "started", "plain": "started", "inactive": "inactive", "failed": "failed",
				"restarting": "restarting", "stopping": "powering off", "masked": "masked", "gone": "started, no longer declared", "changed": "started, files changed",
				"broken": "broken", "orphan": "broken", "unloaded": "not loaded", "mistaken": "broken",
			}
			var lines []string
			for name, state := range want {
				lines = append(lines, "\n"+name+" ("+state+")\n")
			}
			listing := `sed -E 's/^(\S+) +/\1 (/; s/  .*/)/'`
			h.sh("echo; ampoule list | "+listing, says(lines...))
			h.sh("echo; setpriv --reuid=65534 --regid=65534 --clear-groups ampoule list | "+listing, says(lines...))
			h.sh(`ampoule list | grep -E '^ready +ready +[-0-9T:]+Z +([0-9.]+ (Ki|Mi)?B|-) +-|^inactive +inactive +- +- +- +- +/etc/ampoule/inactive.microvm$'`, says("ready ", "inactive "))
			h.sh("ampoule list --json", says(`"state": "ready"`, `"status_text": "ready"`, `"reload_due": true`))

			h.sh("ampoule status ready", says("ready: ready since", "microvm@ready.service", `active (running), "ready"`, "/etc/ampoule/ready.microvm"))
			h.sh("ampoule status failed", exits(3), says("failed: failed", "(exit code 1)"))
			h.sh("ampoule status broken", exits(3), says("/etc/ampoule/broken.microvm:2: Kernle=", "none: the unit says what is wrong with the files", "bad input; nothing was started (exit code 2)"),
				not("for which the loaded unit refuses"))
			h.sh("ampoule status gone", says("started, no longer declared", "there are none"))
			h.sh("ampoule status unlaoded", exits(2), says("did you mean unloaded?"))
			h.sh("ampoule status microvm@stopping.service", says("powering off"))
			h.sh("systemctl kill --signal=KILL microvm@stopping microvm@failed; ampoule status failed --json", exits(3), says(`"exit_status": 1`, `"result": "exit-code"`))
			h.sh("sed -i s/Memory=64M/Memory=65M/ /etc/ampoule/plain.microvm; ampoule status plain", says("NOT WHAT IS LOADED: the VM differs; systemctl daemon-reload"))
		})
	}
}

// TestListMany: a thousand units are all listed, by root and by anybody, running
// or not. How long it takes is in the log.
func TestListMany(t *testing.T) {
	need.All(t, need.VMAll)
	for _, version := range []int{252, 257} {
		t.Run(strconv.Itoa(version), func(t *testing.T) {
			h := newListHost(t, version)
			h.file("/etc/ampoule/v1.microvm", instead(stays))
			// Without the sandbox, which takes its time to set up and is not what
			// is measured, and with as much as a plan has.
			h.file("/etc/systemd/system/microvm@v1.service", "[Unit]\nSourcePath=/etc/ampoule/v1.microvm\n[Service]\nExecStart="+stays+"\nSetCredential=ampoule.plan:"+strings.Repeat("x", 9000)+"\n")
			h.sh("cd /etc; for i in $(seq 2 1000); do cp ampoule/v1.microvm ampoule/v$i.microvm; sed s/v1.microvm/v$i.microvm/ <systemd/system/microvm@v1.service >systemd/system/microvm@v$i.service; done; "+
				"systemctl daemon-reload", within(time.Minute))
			for _, running := range []int{0, 500, 1000} {
				if running > 0 {
					h.sh(fmt.Sprintf("systemctl start $(seq -f 'microvm@v%%g.service' %d %d)", running-499, running), within(2*time.Minute))
				}
				for _, who := range []string{"", "setpriv --reuid=65534 --regid=65534 --clear-groups "} {
					out := h.sh("start=$(date +%s%N); "+who+"ampoule list | wc -l; echo $(( ($(date +%s%N) - start) / 1000000 )) ms", says("1001\n"), within(time.Minute))
					t.Logf("%d of 1000 run, %q: %s", running, who, strings.TrimPrefix(strings.TrimSpace(out), "1001\n"))
				}
			}
		})
	}
}
