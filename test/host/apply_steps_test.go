package host

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// slow is a VM that takes a second to start and a second to stop.
func slow(lines ...string) string {
	return instead(stays, append([]string{"ExecStartPre=/bin/sleep 1", "ExecStop=/bin/sleep 1"}, lines...)...) + install + "[Unit]\nStartLimitIntervalSec=0\n"
}

// TestApplySteps: each thing that apply does, and leaves undone, and that nothing else is
// touched.
func TestApplySteps(t *testing.T) {
	for _, version := range []int{252, 257} {
		t.Run(strconv.Itoa(version), func(t *testing.T) {
			if version != 252 {
				need.All(t, need.VMAll)
			}
			h := newListHost(t, version)
			applyNew(h)
			applyChanges(h)
			applyStops(h)
			applyTrouble(h)
			applyKilled(h)
		})
	}
}

// pids are the processes of VMs, by which it is seen that they were not touched.
func (h *host) pids(vms ...string) string {
	h.Helper()
	return strings.TrimSpace(h.sh("systemctl show -P MainPID -P InvocationID microvm@" + strings.Join(vms, " microvm@")))
}

const inOrder = "and all are as they are declared\nnothing to do\n"

func applyNew(h *host) {
	h.Helper()
	for _, name := range []string{"same", "changed", "removed", "broken", "masked", "hidden-by-mask"} {
		// Here one is restarted oftener than systemd thinks is good for it.
		h.file("/etc/ampoule/"+name+".microvm", instead(stays)+install+"[Unit]\nStartLimitIntervalSec=0\n")
	}
	h.file("/etc/ampoule/kept.microvm", "[MicroVM]\nRestartIfChanged=no\n"+instead(stays)+install)
	h.file("/etc/ampoule/unwanted.microvm", instead(stays))
	h.file("/etc/ampoule/later.microvm", instead(stays)+"[Install]\nWantedBy=nobody-starts-this.target\n")
	h.sh("ampoule diff", exits(1), says("same: start (multi-user.target wants it)", "unwanted: new, daemon-reload (no unit that is active wants it)"))
	h.sh("setpriv --reuid=65534 --regid=65534 --clear-groups ampoule apply", exits(2), says("ampoule: apply has systemd reload, start and stop, which is for root; --dry-run shows what it would do"))
	h.sh("ampoule apply --dry-run", exits(1), says("changed: start"))
	h.sh("ls /run/systemd/generator/microvm@same.service", fails)
	h.sh("ampoule apply", says("daemon-reload: done", "same: started", "kept: started"), not("unwanted: started", "later: started", "failed"))
	h.sh("systemctl is-active microvm@same microvm@changed microvm@unwanted microvm@later", ends, prints("active", "active", "inactive", "inactive"))
	h.sh("ampoule apply", says(inOrder))
	h.sh("ampoule diff", says("all are as they are declared"))
	// One that somebody has stopped stays so.
	h.sh("systemctl stop microvm@same; ampoule apply", says(inOrder))
	h.sh("systemctl start microvm@same")
}

func applyChanges(h *host) {
	h.Helper()
	others := h.pids("same", "removed", "broken", "masked", "kept")
	changed := h.pids("changed")
	h.sh("sed -i s/Memory=64M/Memory=65M/ /etc/ampoule/changed.microvm /etc/ampoule/kept.microvm; echo '# words' >>/etc/ampoule/same.microvm")
	h.sh("ampoule diff changed", exits(1), says("changed: restart (changed: Memory)", "vm.memory  Memory=  64M -> 65M  /etc/ampoule/changed.microvm:3", "restart"))
	h.sh("setpriv --reuid=65534 --regid=65534 --clear-groups ampoule diff changed", exits(1), says("changed: restart"))
	h.sh("ampoule apply changed", says("changed: restarted"), not("kept"))
	h.sh("ampoule diff kept", exits(1), says("left as it is (changed: Memory; RestartIfChanged=no (/etc/ampoule/kept.microvm:2))"))
	h.sh("ampoule apply", says("RestartIfChanged=no"), not("restarted"))
	if h.pids("changed") == changed {
		h.Error("the VM that changed was not restarted")
	}
	h.sh("ampoule diff changed", prints("changed: as it is declared"))

	// Reloaded by somebody, and not restarted.
	h.sh("sed -i s/Memory=65M/Memory=66M/ /etc/ampoule/changed.microvm; systemctl daemon-reload")
	h.sh("ampoule diff changed", exits(1), says("changed: restart", "65M -> 66M"))
	h.sh("ampoule apply", says("changed: restarted"), not("daemon-reload: done"))

	// A line of [Service], resource control, and what systemd takes by itself.
	h.sh("echo Environment=A=hunter2 >>/etc/ampoule/changed.microvm; sed -i '/Environment/d; s/^.Service.$/&\\nEnvironment=A=hunter2/' /etc/ampoule/changed.microvm")
	h.sh("ampoule apply", says("changed: restarted", "[Service] Environment="), not("hunter2"))
	h.sh("sed -i 's/^.Service.$/&\\nCPUQuota=50%/' /etc/ampoule/changed.microvm; systemctl daemon-reload")
	if h.systemd == 257 { // it leaves the cgroup as it was
		h.sh("ampoule apply", says("changed: restarted", "CPUQuota"))
		h.sh("ampoule apply", not("restarted"))
	} else {
		h.sh("ampoule diff changed", prints("changed: as it is declared"))
		h.sh("ampoule apply", not("restarted"))
	}
	h.sh("sed -i 's/^.Service.$/&\\nRestartSec=7/' /etc/ampoule/changed.microvm; ampoule diff changed", exits(1), says("changed: daemon-reload", "[Service] RestartSec", "none -> 7"))
	h.sh("ampoule apply", says("daemon-reload: done"), not("restarted"))
	h.sh("systemctl show -P RestartUSec microvm@changed", prints("7s"))

	// Clearing a list takes a restart too, also where somebody has reloaded.
	h.sh("sed -i 's/^.Service.$/&\\nRestrictAddressFamilies=/' /etc/ampoule/changed.microvm; systemctl daemon-reload; ampoule apply", says("changed: restarted", "[Service] RestrictAddressFamilies="))
	if h.pids("same", "removed", "broken", "masked", "kept") != others {
		h.Error("a VM was touched that did not change")
	}
	h.sh("sed -i s/Memory=65M/Memory=64M/ /etc/ampoule/kept.microvm; ampoule apply", not("restarted"))
	h.sh("ampoule apply", says(inOrder))
}

func applyStops(h *host) {
	h.Helper()
	others := h.pids("same", "changed", "broken", "kept")
	h.sh("echo data >/var/lib/private/ampoule/vm/removed/data.raw")
	h.sh("rm /etc/ampoule/removed.microvm; ln -sf /dev/null /etc/ampoule/masked.microvm; systemctl mask --runtime microvm@hidden-by-mask")
	h.sh("ampoule clean", prints("nothing is left of VMs that are not declared any more"))
	h.sh("ampoule clean --remove removed", exits(2), says("removed is running"))
	h.sh("ampoule diff", exits(1), says("removed: stop (no file declares it any more)", "masked: stop (masked: its file is a link to /dev/null)", "hidden-by-mask: stop (masked: systemctl mask)"))
	h.sh("ampoule apply", says("removed: stopped\n  its state is left: /var/lib/private/ampoule/vm/removed, ", "masked: stopped", "hidden-by-mask: stopped", "daemon-reload: done"))
	h.sh("systemctl is-active microvm@removed microvm@masked microvm@hidden-by-mask", ends, prints("inactive", "inactive", "inactive"))
	h.sh("ampoule apply", says(inOrder))
	h.sh("ampoule clean", says("removed", "/var/lib/private/ampoule/vm/removed"), not("masked", "same"))
	h.sh("ampoule clean --remove masked", exits(2), says("masked is declared by"))
	h.sh("ampoule clean --remove removed", says("removed: removed /var/lib/private/ampoule/vm/removed"))
	h.sh("ampoule clean", prints("nothing is left of VMs that are not declared any more"))
	h.sh("ls /var/lib/private/ampoule/vm /var/lib/ampoule/vm", says("same"), not("removed"))
	h.sh("systemctl unmask --runtime microvm@hidden-by-mask; rm /etc/ampoule/masked.microvm /etc/ampoule/hidden-by-mask.microvm; ampoule apply; ampoule clean")
	h.sh("ampoule clean --remove hidden-by-mask masked; ampoule apply; ampoule apply", says(inOrder))
	if h.pids("same", "changed", "broken", "kept") != others {
		h.Error("a VM was touched that did not change")
	}
}

func applyTrouble(h *host) {
	h.Helper()
	broken := h.pids("broken", "same")
	h.sh("sed -i 2iKernl=/x /etc/ampoule/broken.microvm; sed -i s/Memory=66M/Memory=67M/ /etc/ampoule/changed.microvm")
	h.file("/etc/ampoule/theirs.microvm", instead(stays)+install)
	h.file("/etc/systemd/system/microvm@theirs.service", "[Service]\nExecStart="+stays+"\n")
	h.sh("ampoule apply", exits(20), says("broken: left as it is (its files have mistakes; it runs on as it was)", "/etc/ampoule/broken.microvm:2: Kernl=/x: unknown key",
		"theirs: left as it is (another file provides microvm@theirs.service)", "changed: restarted"))
	h.sh("ampoule apply", exits(20), says("nothing to do"))
	h.sh("sed -i 2d /etc/ampoule/broken.microvm; rm /etc/ampoule/theirs.microvm /etc/systemd/system/microvm@theirs.service; ampoule apply", not("restarted"))
	if h.pids("broken", "same") != broken {
		h.Error("a VM was touched that did not change")
	}

	// A job that fails: in words, and the others go on.
	h.file("/etc/ampoule/fails.microvm", instead("/bin/false", "Type=notify", "Restart=no")+install)
	h.file("/etc/ampoule/fine.microvm", instead(stays)+install)
	h.sh("ampoule apply", exits(21), says("fails: start failed: ended (exit code 1); journalctl -u microvm@fails.service tells more", "fine: started"))
	h.sh("ampoule diff fails", exits(1), says("fails: start (failed, and multi-user.target wants it)"))
	h.sh("sed -i 's|=/bin/false|="+stays+"|; s/Type=notify/Type=exec/' /etc/ampoule/fails.microvm; ampoule apply", says("fails: started"))
	h.sh("rm /etc/ampoule/fails.microvm /etc/ampoule/fine.microvm; ampoule apply; ampoule apply", says(inOrder))
}

// applyKilled: killed at any moment and run again, it comes to the same end.
func applyKilled(h *host) {
	h.Helper()
	same := h.pids("same", "kept")
	for n, delay := range []time.Duration{0, 100, 400, 1100, 1300, 1600, 2200, 2800, 3400} {
		h.file("/etc/ampoule/leaving.microvm", slow())
		h.file("/etc/ampoule/slow.microvm", slow())
		h.sh("ampoule apply", says("leaving: started"))
		h.sh("rm /etc/ampoule/leaving.microvm /etc/ampoule/coming*", ends)
		coming := fmt.Sprintf("coming%d", n)
		h.file("/etc/ampoule/"+coming+".microvm", slow())
		h.sh(fmt.Sprintf("sed -i s/Memory=64M/Memory=%dM/ /etc/ampoule/slow.microvm", 70+n))
		h.sh(fmt.Sprintf("ampoule apply >/tmp/killed 2>&1 & sleep %.1f; kill -KILL $!; wait", float64(delay)/1000), ends)
		h.sh("cat /tmp/killed; ampoule apply; ampoule apply; ampoule apply", says(inOrder))
		h.eventually("systemctl is-active microvm@leaving microvm@slow microvm@"+coming, ends, prints("inactive", "active", "active"))
		h.sh("ls /run/systemd/generator", not("leaving"))
		h.sh(fmt.Sprintf("echo; tr '\\0' '\\n' </run/credentials/microvm@slow.service/ampoule.plan | grep -c '\"memory\":%d'", (70+n)<<20), ends, says("\n1\n"))
	}
	h.sh("rm /etc/ampoule/slow.microvm /etc/ampoule/coming*; ampoule apply")
	if h.pids("same", "kept") != same {
		h.Error("a VM was touched that did not change")
	}
	// Interrupted by hand, it says so.
	h.file("/etc/ampoule/slow.microvm", slow())
	h.sh("ampoule apply >/tmp/killed 2>&1 & pid=$!; sleep 0.7; kill -INT $pid; wait $pid; echo code $?; cat /tmp/killed", says("code 130", "slow: start: goes on without being waited for", "interrupted"))
	h.eventually("systemctl is-active microvm@slow", prints("active"))
	h.sh("ampoule apply", says(inOrder))
}
