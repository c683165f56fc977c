package host

import (
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// links are the network interfaces of a host, by name.
func (h *host) links() string {
	h.Helper()
	return h.sh("ls /sys/class/net")
}

// bridge makes a bridge with an address of the host's.
const bridge = "ip link add br0 type bridge && ip addr add 10.7.0.1/24 dev br0 && ip link set br0 up"

// TestBridge: two guests on one bridge talk to each other and to the host, by
// descriptors that were passed to a hypervisor without any privilege, and with two
// queues where they are wanted.
func TestBridge(t *testing.T) {
	need.All(t, need.VMAll)
	onEachWith(t, func(t *testing.T, version int) {
		h := newHost(t, version, withNetworks(t)...)
		h.answers()
		h.sh(bridge)
		before := h.links()
		h.scripted("one", "name=$(agent address any 10.7.0.11/24)\necho mac $(cat /sys/class/net/$name/address)\n"+
			"agent ask 10.7.0.1:7000\nagent answer :80 one &\nagent ask 10.7.0.12:80\nwait\n", "Network=bridge:br0")
		h.scripted("two", "name=$(agent address 52:54:00:00:00:02 10.7.0.12/24)\necho queues $(ls -d /sys/class/net/$name/queues/tx-* | wc -l) mtu $(cat /sys/class/net/$name/mtu)\n"+
			"agent ask 10.7.0.1:7000\nagent answer :80 two &\nagent ask 10.7.0.11:80\nwait\n",
			"VCPU=2", "Network=bridge:br0,name=two0,mac=52:54:00:00:00:02,queues=2,mtu=1400")
		h.sh("ampoule check one two && systemctl daemon-reload")
		for _, name := range []string{"one", "two"} {
			h.sh("systemd-analyze verify --man=no /run/systemd/generator/microvm@"+name+".service", prints(""))
			h.sh("systemd-analyze security --no-pager --threshold=15 microvm@"+name+".service", exposed(1.5))
		}
		h.sh("systemctl start microvm@one microvm@two", within(2*boots))
		h.eventually(cat+"microvm@one", within(boots), said("to 10.7.0.11: host", "to 10.7.0.11: two"))
		h.eventually(cat+"microvm@two", within(boots), said("to 10.7.0.12: host", "to 10.7.0.12: one", "queues 2 mtu 1400"))
		h.eventually(asked("10.7.0.11/80"), prints("to 10.7.0.1: one"))
		h.eventually(asked("10.7.0.12/80"), prints("to 10.7.0.1: two"))
		h.sh("ip -o link show master br0 | wc -l", prints("2"))
		h.sh("ip -d link show two0", says("tun type tap", "multi_queue numqueues 2", "master br0", "persist off", "alias ampoule two"))
		// The hypervisor has the interfaces, and no network but them.
		h.sh(`for p in $(pgrep qemu-system); do grep -E '^(Uid|CapEff):' /proc/$p/status; readlink /proc/$p/ns/net; done`,
			says("CapEff:\t0000000000000000"), not("Uid:\t0\t", strings.TrimSpace(h.sh("readlink /proc/1/ns/net"))))
		mac := h.sh(cat + "microvm@one | grep -o 'said mac .*'")
		h.unbroken()

		// The same address after another start; the interfaces of a VM that is gone
		// are gone, whoever was killed.
		h.sh("kill -KILL $(systemctl show -P MainPID microvm@one)")
		h.eventually("systemctl show -P NRestarts microvm@one", prints("1"))
		h.eventually(cat+"microvm@one | grep -c 'said to 10.7.0.11: two'", within(boots), prints("2"))
		h.sh(cat+"microvm@one | grep -o 'said mac .*' | sort -u", prints(strings.TrimSpace(mac)))
		h.sh("ip -o link show master br0 | wc -l", prints("2"))
		h.sh("systemctl stop microvm@one microvm@two", within(boots))
		if after := h.links(); after != before {
			h.Errorf("interfaces %q are left of %q", after, before)
		}
	})
}

// TestMacvtap: a guest has an interface on top of one of the host's, by which it
// reaches who is at the other end.
func TestMacvtap(t *testing.T) {
	need.All(t, need.VMAll)
	onEachWith(t, func(t *testing.T, version int) {
		h := newHost(t, version, withNetworks(t)...)
		h.answers()
		h.sh("ip link add v0 type veth peer name v1 && ip link set v0 up && ip link set v1 up && ip addr add 10.9.0.1/24 dev v1")
		before := h.links()
		h.scripted("mac", "agent address any 10.9.0.2/24\nagent ask 10.9.0.1:7000\nagent answer :80 mac\n", "Network=macvtap:v0")
		h.sh("ampoule check mac && systemctl daemon-reload")
		h.sh("systemd-analyze security --no-pager --threshold=15 microvm@mac.service", exposed(1.5))
		h.sh("systemctl start microvm@mac", within(boots))
		h.eventually(cat+"microvm@mac", within(boots), said("to 10.9.0.2: host"))
		h.eventually(asked("10.9.0.2/80"), prints("to 10.9.0.1: mac"))
		h.unbroken()
		h.sh("kill -KILL $(pgrep qemu-system)")
		h.eventually("systemctl show -P NRestarts microvm@mac", prints("1"))
		h.eventually(cat+"microvm@mac | grep -c 'said to 10.9.0.2: host'", within(boots), prints("2"))
		h.sh("systemctl stop microvm@mac", within(boots))
		if after := h.links(); after != before {
			h.Errorf("interfaces %q are left of %q", after, before)
		}
	})
}
