package host

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
	"github.com/ampoule-vm/ampoule/internal/testkit/nspawn"
	"github.com/ampoule-vm/ampoule/internal/testkit/tinykernel"
)

// newNetHost is a host with a network of its own, in which root may do everything,
// and a guest in /var/lib/guest that knows the power button alone: a bridge br0, and
// an interface up0 with a cable in it. Args are further arguments of systemd-nspawn.
func newNetHost(t testing.TB, systemd int, args ...string) *host {
	t.Helper()
	need.All(t, need.VM, need.Root, need.Tun)
	nspawn.Need(t)
	kernel := filepath.Join(t.TempDir(), "tiny")
	if err := os.WriteFile(kernel, tinykernel.ELF(tinykernel.Word+tinykernel.Button), 0o644); err != nil {
		t.Fatal(err)
	}
	root := nspawn.Root(t, nspawn.Recipe{Suite: suites[systemd], Packages: []string{"qemu-system-x86", "qemu-utils", "seabios", "procps"}})
	// As udev makes it; the machine that runs the tests may have it for root alone.
	tun := device(t, "0666", "10", "200")
	args = append(args, "--capability=CAP_NET_ADMIN", "--bind="+tun+":/dev/net/tun", "--bind-ro="+packageDir(t)+":/media", "--bind-ro="+kernel+":/var/lib/guest/tiny")
	h := &host{TB: t, systemd: systemd, Machine: nspawn.NewMachine(t, root, args...)}
	h.PowerOn()
	h.booted()
	h.sh("dpkg --install /media/ampoule.deb", within(time.Minute))
	h.ip("link add br0 type bridge")
	h.ip("link set br0 up")
	h.ip("link add up0 type veth peer name up1")
	h.ip("link set up0 up")
	h.ip("link set up1 up")
	return h
}

// ip carries out a command of iproute2's, which the host does not have, in the
// host's network.
func (h *host) ip(command string) string {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.Context(), time.Minute)
	defer cancel()
	words := append([]string{"--target", strconv.Itoa(h.Leader()), "--net", "ip"}, strings.Fields(command)...)
	out, err := exec.CommandContext(ctx, "nsenter", words...).CombinedOutput()
	if err != nil {
		h.Errorf("ip %s: %v: %s", command, err, out)
	}
	return string(out)
}

// interfaces waits until the host has these and no others, beside those that it
// had. Some are removed a moment after whatever had them is gone.
func (h *host) interfaces(want ...string) {
	h.Helper()
	own := []string{"lo", "br0", "up0", "up1"}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		var got []string
		for line := range strings.Lines(h.ip("-o link show")) {
			fields := strings.Fields(line)
			name, _, _ := strings.Cut(strings.TrimSuffix(fields[1], ":"), "@")
			got = append(got, name)
		}
		wrong := len(got) != len(want)+len(own)
		for _, name := range append(own, want...) {
			wrong = wrong || !slices.Contains(got, name)
		}
		if !wrong {
			return
		}
		if time.Now().After(deadline) {
			h.Errorf("the host has the interfaces %q, want %q beside its own", got, want)
			return
		}
	}
}

// wired is the file of a VM with these lines.
func wired(lines ...string) string {
	return "[MicroVM]\nKernel=/var/lib/guest/tiny\nMemory=64M\nVCPU=2\nReadiness=started\n" + strings.Join(lines, "\n") + "\n"
}

// TestInterfaces: they come with the service and go with it, whatever ends it.
func TestInterfaces(t *testing.T) {
	onEachWith(t, func(t *testing.T, version int) {
		h := newNetHost(t, version)
		h.file("/etc/ampoule/web.microvm", wired("Network=bridge:br0,queues=2", "Network=macvtap:up0"))
		h.sh("systemctl daemon-reload; systemctl start microvm@web")
		h.interfaces("vm0-web", "vm1-web")
		if shown := h.ip("-d link show vm0-web"); !strings.Contains(shown, "master br0") || !strings.Contains(shown, "alias ampoule web") {
			h.Errorf("%s", shown)
		}
		h.sh("systemctl show -p NFileDescriptorStore microvm@web", says("NFileDescriptorStore=3"))
		// The hypervisor has the interfaces and nothing of what brought them.
		h.sh("tr '\\0' ' ' </proc/$(pgrep qemu)/cmdline", says(" tap,", "fds="))
		h.sh("cat /proc/$(pgrep qemu)/fdinfo/* | grep -c ^iff:.vm0-web; cat /proc/$(pgrep qemu)/environ", prints("2"))
		h.sh("systemd-analyze security --no-pager microvm@web", exposed(1.5))

		h.sh("kill -KILL $(systemctl show -P MainPID microvm@web)")
		h.eventually("systemctl is-active microvm@web && systemctl show -P NRestarts microvm@web", prints("active", "1"))
		h.interfaces("vm0-web", "vm1-web")
		h.sh("kill -KILL $(pgrep qemu)")
		h.eventually("systemctl is-active microvm@web && systemctl show -P NRestarts microvm@web", prints("active", "2"))
		h.interfaces("vm0-web", "vm1-web")
		h.sh("systemctl restart microvm@web")
		h.interfaces("vm0-web", "vm1-web")
		h.sh("systemctl stop microvm@web")
		h.interfaces()
		h.sh("find /run/ampoule/privileged -mindepth 1; pgrep -a qemu || true", prints(""))
	})
}

// TestInterfacesRefused: what is wrong with them is said at their lines, by whoever
// starts the VM and by ampoule check, and nothing is made.
func TestInterfacesRefused(t *testing.T) {
	onEachWith(t, func(t *testing.T, version int) {
		h := newNetHost(t, version)
		h.file("/etc/ampoule/web.microvm", wired("Network=bridge:br1", "Network=tap:name=up0", "Network=macvtap:up0,mtu=9000", "Network=tap"))
		h.sh("systemctl daemon-reload; systemctl start microvm@web", fails)
		wrong := []string{
			"/etc/ampoule/web.microvm:6: Network=bridge:br1: there is no interface br1; make it first",
			"/etc/ampoule/web.microvm:7: Network=tap: the interface up0 is there already, a veth; accepted: another name=",
			"/etc/ampoule/web.microvm:8: Network=macvtap:up0: an MTU of 9000, and up0 has 1500; accepted: mtu= of at most 1500",
		}
		h.eventually("journalctl -u microvm@web -o cat --no-pager", says(append(wrong, "nothing was started")...))
		h.sh("systemctl show -P Result -P ExecMainStatus -P NRestarts microvm@web", says("exit-code", "2", "0"))
		h.sh("ampoule check web", exits(2), says(wrong...))
		h.interfaces()
		h.sh("find /run/ampoule/privileged -mindepth 1", prints(""))

		// A hook makes what the host lacks; a drop-in takes away what hands it over.
		h.file("/etc/ampoule/web.microvm", wired("Network=bridge:br0", "[Service]", "ExecStartPre=/bin/true"))
		h.sh("systemctl daemon-reload; systemctl start microvm@web")
		h.file("/etc/ampoule/db.microvm", wired("Network=tap:name=vm0-web"))
		h.sh("ampoule check db", exits(2), says("/etc/ampoule/db.microvm:6: Network=tap: the interface vm0-web is that of the VM web; accepted: another name="))
		h.file("/etc/ampoule/db.microvm", wired("Network=bridge:br1", "[Service]", "ExecStartPre=+/bin/true"))
		h.sh("ampoule check db", says("/etc/ampoule/db.microvm:6: warning: Network=bridge:br1: there is no interface br1"))
		h.file("/etc/systemd/system/microvm@db.service.d/x.conf", "[Service]\nExecStartPre=\n")
		h.file("/etc/ampoule/db.microvm", wired("Network=bridge:br0"))
		h.sh("systemctl daemon-reload; systemctl start microvm@db", fails)
		h.sh("journalctl -u microvm@db -o cat --no-pager", says("/etc/ampoule/db.microvm:6: Network=…: nobody has opened ampoule.net0 for the VM; the unit needs its ExecStartPre=+… unit prepare"))

		h.sh("ampoule verify web", says("interface vm0-web"))
		h.ip("link set vm0-web nomaster")
		h.sh("ampoule verify web", exits(12), says("the interface vm0-web is on no bridge any more, and belongs on br0", "cure: ip link set vm0-web master br0"))
		h.ip("link set vm0-web master br0")
		h.ip("link set vm0-web down")
		h.sh("ampoule verify web", exits(12), says("the interface vm0-web is switched off"))
		h.sh("ampoule status web", says("tap vm0-web on the bridge br0"), not("NOT THERE"))
		h.sh("ampoule list", says("  vm0-web  "))
		h.sh("ampoule list --json", says(`"interfaces": [`, `"name": "vm0-web"`, `"kind": "tap"`, `"on": "br0"`))
		h.ip("link del vm0-web")
		h.sh("ampoule status web", says("NOT THERE: ampoule verify says more"))
		h.sh("ampoule list", not("vm0-web"))
		h.sh("ampoule verify web", exits(12), says("the interface vm0-web is not there any more", "cure: systemctl restart microvm@web.service"))
		h.sh("systemctl restart microvm@web; ampoule verify web", says("interface vm0-web"))

		// Files that do not ask for it any more: what was made for what runs goes all
		// the same.
		h.file("/etc/ampoule/web.microvm", wired("Network=macvtap:up0"))
		h.sh("systemctl daemon-reload; systemctl restart microvm@web")
		h.interfaces("vm0-web")
		h.file("/etc/ampoule/web.microvm", wired())
		h.sh("systemctl daemon-reload; systemctl restart microvm@web")
		h.interfaces()
		h.sh("systemctl stop microvm@web")
	})
}

// TestInterfacesByHand: root has them made by ampoule run itself; another user is
// told who can.
func TestInterfacesByHand(t *testing.T) {
	onEachWith(t, func(t *testing.T, version int) {
		h := newNetHost(t, version)
		h.file("/etc/ampoule/web.microvm", wired("Network=bridge:br0", "Network=macvtap:up0"))
		h.sh("setpriv --reuid=65534 --regid=65534 --clear-groups ampoule run web </dev/null", exits(2),
			says("/etc/ampoule/web.microvm:6: Network=…: run by hand, only root can do what this takes", "/etc/ampoule/web.microvm:7: "))
		h.sh("(setsid ampoule run web </dev/null >/tmp/said 2>&1; echo ended $? >>/tmp/said) &")
		h.eventually("cat /tmp/said", says("started, guest not observed"))
		h.interfaces("vm0-web", "vm1-web")
		h.sh("systemctl daemon-reload; systemctl start microvm@web", fails) // it runs
		h.sh("journalctl -u microvm@web -o cat --no-pager", says("web is running already (see /run/ampoule/run/web)"))
		h.sh("systemctl show -P NRestarts -P ExecMainStatus microvm@web", says("0", "2"))
		h.interfaces("vm0-web", "vm1-web")
		h.sh("ampoule stop web")
		h.eventually("cat /tmp/said", says("ended 0"))
		h.interfaces()

		// Killed: the tap is gone, the rest with the next start.
		h.sh("(setsid ampoule run web </dev/null >/tmp/again 2>&1) &")
		h.eventually("cat /tmp/again", says("started, guest not observed"))
		h.sh("kill -KILL $(pgrep -x ampoule)")
		h.interfaces("vm1-web")
		h.sh("systemctl reset-failed; systemctl start microvm@web && systemctl stop microvm@web")
		h.interfaces()
	})
}
