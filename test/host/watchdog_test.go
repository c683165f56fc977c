package host

import (
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// TestWatchdog: a hypervisor that hangs is noticed by systemd's watchdog, which
// ends it and starts the VM again; one that works is left alone.
func TestWatchdog(t *testing.T) {
	need.All(t, need.VMAll)
	onEach(t, func(h *host) {
		h.file("/etc/ampoule/web.microvm", vm("stay")+"[Service]\nWatchdogSec=6s\n")
		h.sh("systemctl daemon-reload; systemctl start microvm@web")
		h.sh("sleep 15; systemctl show -p NRestarts -p ActiveState microvm@web", says("NRestarts=0", "ActiveState=active"))
		h.sh("kill -STOP $(pgrep qemu-system)")
		h.eventually("systemctl show -p NRestarts -p SubState microvm@web", within(2*time.Minute), says("NRestarts=1", "SubState=running"))
		h.sh("journalctl -u microvm@web -o cat --no-pager", says("Watchdog timeout"))
		h.sh("systemctl stop microvm@web; systemctl show -p Result microvm@web", says("Result=success"))
	})
}
