package host

import (
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

const status = "systemctl status --no-pager --lines=20 "

// TestChange: what becomes of a VM whose files change, break, go and are masked,
// while it runs and while it is stopped.
func TestChange(t *testing.T) {
	need.All(t, need.VMAll)
	onEach(t, func(h *host) {
		h.file("/etc/ampoule/web.microvm", vm("stay", "SetCredential=SETTING:one")+install)
		h.sh("systemctl daemon-reload && systemctl start microvm@web", within(boots))
		edited(h)
		broken(h)
		gone(h)
	})
}

// edited: a change reaches a VM at its next start after a daemon-reload.
func edited(h *host) {
	h.Helper()
	one, two := map[string]string{"SETTING": "one"}, map[string]string{"SETTING": "two!"}
	h.sh(cat+"microvm@web", reported(one))
	running := h.sh("systemctl show -p MainPID -p InvocationID -p ActiveEnterTimestamp microvm@web; pgrep qemu-system")
	h.sh("sleep 1.1") // systemd looks at the times of files
	h.file("/etc/ampoule/web.microvm", vm("stay", "SetCredential=SETTING:two!"))
	h.sh("systemctl show -P NeedDaemonReload microvm@web", prints("yes"))
	h.sh("systemctl restart microvm@web", within(boots), says("changed on disk"))
	h.sh(cat+"microvm@web | tail -n 100", reported(one)) // what is loaded is what runs

	running = h.sh("systemctl show -p MainPID -p InvocationID -p ActiveEnterTimestamp microvm@web; pgrep qemu-system", not(running))
	h.sh("systemctl daemon-reload")
	h.sh("systemctl show -p MainPID -p InvocationID -p ActiveEnterTimestamp microvm@web; pgrep qemu-system", prints(strings.TrimSpace(running)))
	h.sh("systemctl show -P NeedDaemonReload microvm@web", prints("no"))
	h.sh("test ! -e /run/systemd/generator/multi-user.target.wants/microvm@web.service") // [Install] is gone
	h.sh("systemctl restart microvm@web", within(boots))
	h.sh(cat+"microvm@web | tail -n 100", reported(two))
	h.sh(cat+"microvm@web | grep -c orderly-stop", prints("2"))
}

// broken: a VM whose file breaks runs on, starts again after a crash with what
// it had, stops in order, and then does not start but says why.
func broken(h *host) {
	h.Helper()
	const mistake = "/etc/ampoule/web.microvm:2: Kernl=/x: unknown key in [MicroVM]; did you mean Kernel=?"
	h.sh("sed -i 2iKernl=/x /etc/ampoule/web.microvm; systemctl daemon-reload")
	h.sh(status+"microvm@web", says("active (running)", "running as before its files had mistakes", mistake))
	h.sh("systemctl show -p KillMode -p TimeoutStopUSec microvm@web", prints("TimeoutStopUSec=1min", "KillMode=mixed"))
	h.sh("systemd-analyze verify --man=no /run/systemd/generator/microvm@web.service", prints(""))
	h.sh("systemctl daemon-reload") // the last good unit outlives more than one
	h.sh("kill -KILL $(pgrep qemu-system)")
	// Until it starts again, what the one before has said is still there.
	h.eventually("systemctl show -p ActiveState -p NRestarts -p StatusText microvm@web", within(boots), says("ActiveState=active", "NRestarts=1", "StatusText=ready"))
	h.sh(cat+"microvm@web | tail -n 100", reported(map[string]string{"SETTING": "two!"}))
	h.sh("systemctl stop microvm@web")
	h.sh(cat+"microvm@web | tail -n 20", says("the guest powered off"))

	h.sh("systemctl start microvm@web", fails)
	h.eventually("systemctl show -P ActiveState microvm@web", prints("failed"))
	h.sh(status+"microvm@web", exits(3), says(mistake))
	h.sh("systemctl reset-failed; systemctl daemon-reload; systemctl start microvm@web", fails)
	h.sh(status+"microvm@web", exits(3), says("cannot start: "+mistake))
	h.sh("ampoule check web", exits(2), says(mistake))
	h.sh("sed -i 2d /etc/ampoule/web.microvm; systemctl daemon-reload; systemctl reset-failed microvm@web")
	h.sh("systemctl show -P Description microvm@web", prints("microVM web"))
}

// gone: a VM that is removed or masked while it runs stops in order, and does
// not start again.
func gone(h *host) {
	h.Helper()
	h.file("/etc/ampoule/masked.microvm", vm("stay")+install)
	h.sh("systemctl daemon-reload; systemctl start microvm@web microvm@masked", within(boots))
	h.sh("rm /etc/ampoule/web.microvm; ln -sf /dev/null /etc/ampoule/masked.microvm; systemctl daemon-reload; systemctl daemon-reload")
	for _, unit := range []string{"microvm@web", "microvm@masked"} {
		h.sh(status+unit, says("active (running)", "not declared any more"))
		h.sh("systemctl show -P KillMode "+unit, prints("mixed"))
	}
	h.sh("find /run/systemd/generator -name '*.wants' -exec ls {} +", not("microvm"))
	h.sh("systemctl restart microvm@web", fails)
	h.sh(cat+"microvm@web | tail -n 200", says("orderly-stop", "the guest powered off", "/etc/ampoule/web.microvm:1: the file was removed"))
	h.sh("systemctl stop microvm@masked")
	h.sh(cat+"microvm@masked", says("orderly-stop", "the guest powered off"))
	h.sh("systemctl start microvm@masked", fails)
	h.sh(cat+"microvm@masked | tail -n 5", says("/etc/ampoule/masked.microvm:1: the VM is masked"))
	h.sh("systemctl daemon-reload; systemctl start microvm@masked", fails, says("masked"))
	h.sh("systemctl start microvm@web", fails, says("not found"))
}
