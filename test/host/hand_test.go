package host

import (
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// TestByHand: one VM runs once, whichever way it was started first, and each way
// finds the other's.
func TestByHand(t *testing.T) {
	need.All(t, need.VMAll)
	onEach(t, func(h *host) {
		h.file("/etc/ampoule/web.microvm", vm("stay"))
		h.sh("systemctl daemon-reload")
		h.sh("setsid ampoule run web >/tmp/console 2>/tmp/words </dev/null &")
		h.eventually("cat /tmp/words", within(2*time.Minute), says("web: ready"))
		h.sh("systemctl start microvm@web", fails)
		h.sh("journalctl -u microvm@web -o cat --no-pager", says("web is running already (see /run/ampoule/run/web)"))
		// What was refused took nothing from the one that runs.
		h.sh("systemctl reset-failed microvm@web; systemctl start microvm@web", fails)
		h.sh("ampoule list", says("ready", "by hand"))

		// apply leaves it to whoever started it.
		h.sh("systemctl reset-failed microvm@web; ampoule diff web")
		h.sh("ampoule apply", says("nothing to do"))
		h.file("/etc/ampoule/web.microvm.d/more.conf", "[MicroVM]\nMemory=600M\n")
		h.sh("ampoule diff web", exits(1), says("Memory", "600M", "more.conf:2", "runs by hand"))
		h.sh("ampoule apply", says("web: left", "by hand with another plan", "ampoule stop web"))
		h.sh("ampoule apply", says("web: left", "nothing to do"))
		h.sh("ampoule list", says("ready", "by hand"))
		h.sh("rm -r /etc/ampoule/web.microvm.d; ampoule apply; ampoule apply", says("nothing to do"))
		h.sh("{ sleep 3; } | timeout 20 ampoule console web", ends, says("AMPOULE-REPORT"))
		h.sh("ampoule stop web", within(2*time.Minute))
		h.sh("cat /tmp/console /tmp/words", says("orderly-stop", "the guest powered off"))
		h.sh("ls -A /run/ampoule/run", prints(""))

		h.sh("systemctl reset-failed microvm@web; systemctl start microvm@web")
		h.sh("ampoule run web", exits(121), says("web is running already (see /run/ampoule/vm/web)"))
		h.sh("ampoule stop web", exits(2), says("systemctl stop microvm@web.service"))

		// A mask takes the unit from under the VM, with its way to stop.
		h.sh("systemctl mask microvm@web 2>&1; systemctl daemon-reload; systemctl show -p KillMode microvm@web", says("KillMode=control-group"))
		h.sh("systemctl stop microvm@web", within(2*time.Minute))
		h.sh("journalctl -u microvm@web -o cat --no-pager", says("orderly-stop", "the guest powered off"))
		h.sh("systemctl start microvm@web", fails, says("masked"))
		h.sh("systemctl unmask microvm@web 2>&1; systemctl start microvm@web; systemctl stop microvm@web", within(3*time.Minute))
	})
}
