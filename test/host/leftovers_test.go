package host

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
	"github.com/ampoule-vm/ampoule/internal/testkit/tinykernel"
)

// traces are what a VM can leave behind on a host: interfaces, mounts, processes,
// sockets, files that are not on a disk, and units. The journal's own are not among
// them, nor a file that the host's consoles make some time after its start, nor is
// what systemd keeps of a unit as long as it remembers it.
const traces = `ls /sys/class/net | sed 's/^/interface /'
cut -d' ' -f2 /proc/mounts | sort | sed 's/^/mount /'
ps -eo ppid=,comm= | grep -v -E ' (ps|sh|sed|grep|sort|find|systemctl|cut|ls|sleep|nsenter)$' | sed 's/^ *[0-9]* /process /' | sort
grep -o ' [/@].*' /proc/net/unix | sort -u | sed 's/^/socket/'
find /run /tmp /var/tmp /dev -xdev -path /run/systemd/journal -prune -o -path /run/log -prune -o -path /dev/pts -prune -o -path /run/agetty.reload -o -print | sed -E 's/(systemd-private-.*service-)[A-Za-z0-9]{6}/\1XXXXXX/; s/^/file /' | sort
systemctl list-units --all --plain --no-legend 'microvm*' | grep -v ' inactive ' | sed 's/^/unit /'`

// leftovers compares what there is now with what there was.
func (h *host) leftovers(before, when string) {
	h.Helper()
	// systemd is done with a unit some moments after it has ended.
	var more []string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		known := map[string]bool{}
		for _, line := range lines(before) {
			known[line] = true
		}
		more = nil
		for _, line := range lines(h.sh(traces, ends)) {
			if !known[line] {
				more = append(more, line)
			}
		}
		if more == nil {
			return
		}
	}
	h.Errorf("%s there is left\n%s", when, strings.Join(more, "\n"))
}

// TestLeftovers: two hundred starts and stops of a VM with every network and share
// leave nothing behind on their host, and nor does the death of any of its
// processes. Its guest is a few instructions that know the power button.
func TestLeftovers(t *testing.T) {
	need.All(t, need.VMAll)
	onEachWith(t, func(t *testing.T, version int) {
		h := newHost(t, version, withNetworks(t)...)
		if err := os.WriteFile(h.Path("/etc/guest.elf"), tinykernel.ELF(tinykernel.Word+tinykernel.Button), 0o644); err != nil {
			t.Fatal(err)
		}
		text := "[MicroVM]\nKernel=/etc/guest.elf\nMemory=128M\nReadiness=console:OK\nDisk=data.raw:size=1M\n" +
			"Network=bridge:br0\nNetwork=tap:queues=2\nNetwork=user\nNetwork=macvtap:v0\nPublishPort=127.0.0.1:8080:80\nLoadCredential=KEY:/etc/secrets/key\n"
		if version >= 257 {
			text += "Share=/srv/ro:src:ro\nShare=/srv/rw:dst\n"
		}
		h.file("/etc/ampoule/web.microvm", text+"[Unit]\nStartLimitIntervalSec=0\n[Service]\nTimeoutStopSec=30s\n")
		h.file("/etc/secrets/key", secretValue)
		h.sh("mkdir -p /srv/ro /srv/rw; ip link set lo up; ip link add v0 type veth peer name v1 && ip link set v0 up && ip link set v1 up; " + bridge)
		h.sh("ampoule check web && systemctl daemon-reload")
		// What the first start alone makes is what all share, such as the parents of
		// the state directories.
		h.sh("systemctl start microvm@web && systemctl stop microvm@web", within(boots))
		before := h.sh(traces, ends)

		h.sh("for n in $(seq 200); do systemctl start microvm@web && systemctl stop microvm@web || exit; done", within(30*time.Minute))
		h.sh("journalctl --no-pager -o cat -u microvm@web | grep -c 'the guest powered off'", prints("201"))
		h.leftovers(before, "after two hundred starts and stops")

		victims := []string{"$(systemctl show -P MainPID microvm@web)", "$(pgrep qemu-system)"}
		if version >= 257 {
			victims = append(victims, "$(pgrep virtiofsd | head -n 1)")
		}
		for _, victim := range victims {
			h.sh("systemctl start microvm@web", within(boots))
			running := h.sh(traces, ends)
			h.sh("kill -KILL " + victim)
			if !strings.Contains(victim, "virtiofsd") {
				h.eventually("systemctl show -P NRestarts microvm@web", within(boots), prints("1"))
				h.eventually("systemctl show -p ActiveState -p StatusText microvm@web", within(boots), says("ActiveState=active", "StatusText=ready"))
				h.leftovers(running, "killed "+victim+" and started again,")
			}
			h.sh("systemctl stop microvm@web; systemctl reset-failed", within(boots))
			h.leftovers(before, "killed "+victim+" and stopped,")
		}
	})
}
