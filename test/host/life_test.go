package host

import (
	"strings"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

const (
	install = "[Install]\nWantedBy=multi-user.target\n"
	// cat is the journal of a VM since the host's boot.
	cat = "journalctl --boot --no-pager --output=cat --unit="
)

// boots is the time for a guest's boot on a machine that has other things to do.
const boots = 3 * time.Minute

// TestLife: a VM starts when its host does, starts again after a crash of its
// hypervisor or of ampoule, powers off in order with its host, keeps its
// activation over a reboot of the guest, and ends when the guest does.
func TestLife(t *testing.T) {
	need.All(t, need.VMAll)
	onEach(t, func(h *host) {
		h.file("/etc/secrets/key", secretValue)
		key := map[string]string{"KEY": secretValue}
		h.file("/etc/ampoule/web.microvm", vm("stay", "LoadCredential=KEY:/etc/secrets/key", "Disk=data.raw:size=4M")+install)

		h.reboot()
		h.eventually("systemctl show -P StatusText microvm@web", within(boots), prints("ready"))
		h.sh("systemctl is-system-running --wait", prints("running"))
		h.sh("systemctl is-enabled microvm@web", prints("generated"))
		h.sh(cat+"microvm@web", reported(key))
		h.sh("printf kept | dd status=none conv=notrunc of=/var/lib/private/ampoule/vm/web/data.raw")
		first := h.sh("systemctl show -P InvocationID microvm@web")

		h.sh("kill -KILL $(pgrep qemu-system)")
		h.eventually("systemctl show -P NRestarts microvm@web", prints("1"))
		h.eventually("systemctl show -P StatusText microvm@web", prints("booting"))
		h.eventually("systemctl show -P StatusText microvm@web", within(boots), prints("ready"))
		h.sh("systemctl show -P InvocationID microvm@web", not(first))
		h.sh(cat+"microvm@web", says("Main process exited, code=exited, status=121"))
		h.sh(cat+"microvm@web | tail -n 150", reported(key))

		h.sh("kill -KILL $(systemctl show -P MainPID microvm@web)")
		h.eventually("systemctl show -P NRestarts microvm@web", prints("2"))
		h.eventually("systemctl show -P StatusText microvm@web", prints("booting"))
		h.sh("pgrep --count qemu-system", prints("1")) // the old one went with ampoule
		h.eventually("systemctl show -P StatusText microvm@web", within(boots), prints("ready"))

		// From here on it does not start by itself, and its guest goes by itself.
		h.file("/etc/ampoule/web.microvm", vm("poweroff", "LoadCredential=KEY:/etc/secrets/key", "Disk=data.raw:size=4M"))
		h.file("/etc/ampoule/again.microvm", vm("reboot-once", "LoadCredential=KEY:/etc/secrets/key"))
		h.reboot()
		h.sh("journalctl --no-pager --output=cat --unit=microvm@web | tail -n 150", says("orderly-stop", "the guest powered off", "Deactivated successfully"), not("Killing process", "timed out"))
		h.sh("systemctl is-active microvm@web", exits(3), prints("inactive"))
		h.sh("head -c 4 /var/lib/private/ampoule/vm/web/data.raw", prints("kept"))

		h.sh("systemctl start --no-block microvm@again; sleep 3")
		activation := h.sh("systemctl show -p InvocationID -p MainPID microvm@again; pgrep qemu-system")
		h.sh("systemctl start microvm@web", within(boots))
		h.eventually("systemctl show -P ActiveState microvm@web", within(time.Minute), prints("inactive"))
		h.sh(cat+"microvm@web", reported(key), says("the guest powered off"))
		h.sh("systemctl show -p Result -p NRestarts -p ExecMainStatus microvm@web", says("Result=success", "NRestarts=0", "ExecMainStatus=0"))

		h.eventually(cat+"microvm@again", within(boots), says("AMPOULE-REPORT begin 2 1", "AMPOULE-REPORT action stay"))
		h.eventually("systemctl show -P StatusText microvm@again", prints("ready"))
		h.sh("systemctl show -p InvocationID -p MainPID microvm@again; pgrep qemu-system", prints(strings.TrimSpace(activation)))
		h.sh(cat+"microvm@again | sed '1,/AMPOULE-REPORT begin 2 1/d'", reported(key))
		h.sh("systemctl stop microvm@again")
		h.sh(cat+"microvm@again", says("orderly-stop", "the guest powered off"))
	})
}
