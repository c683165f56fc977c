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
// an interface up0 with a cable in it.
func newNetHost(t testing.TB, systemd int) *host {
	t.Helper()
	need.All(t, need.VM, need.Root, need.Tun)
	nspawn.Need(t)
	kernel := filepath.Join(t.TempDir(), "tiny")
	if err := os.WriteFile(kernel, tinykernel.ELF(tinykernel.Word+tinykernel.Button), 0o644); err != nil {
		t.Fatal(err)
	}
	root := nspawn.Root(t, nspawn.Recipe{Suite: suites[systemd], Packages: []string{"qemu-system-x86", "qemu-utils", "seabios", "procps"}})
	h := &host{TB: t, systemd: systemd, Machine: nspawn.NewMachine(t, root, "--capability=CAP_NET_ADMIN", "--bind=/dev/net/tun",
		"--bind-ro="+packageDir(t)+":/media", "--bind-ro="+kernel+":/var/lib/guest/tiny")}
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
