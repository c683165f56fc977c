package host

import (
	"os"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
	"github.com/ampoule-vm/ampoule/internal/testkit/tinykernel"
)

// TestRunnerInterfaces: a VM whose Runner= starts it has its interfaces as any other,
// after a crash too. The runner itself has none of them, and no name of theirs.
func TestRunnerInterfaces(t *testing.T) {
	onEachWith(t, func(t *testing.T, version int) {
		h := newNetHost(t, version)
		h.file("/usr/local/bin/own", "#!/bin/sh\nfiles=$(for f in /proc/self/fd/*; do readlink $f; done | grep -c -e tun -e tap)\n"+
			"names=$(tr '\\0' '\\n' </proc/$$/environ | grep -c LISTEN)\necho it has $files files and $names names\nexec ampoule boot\n")
		h.sh("chmod 755 /usr/local/bin/own")
		h.file("/etc/ampoule/web.microvm", wired("Network=bridge:br0,queues=2", "Network=macvtap:up0", "Runner=/usr/local/bin/own"))
		h.sh("ampoule check web && systemctl daemon-reload")
		h.sh("systemd-analyze security --no-pager microvm@web", exposed(1.5))
		h.sh("systemctl start microvm@web")
		h.interfaces("vm0-web", "vm1-web")
		h.eventually("pgrep qemu")
		inUse := func() {
			h.Helper()
			h.eventually("cat /proc/$(pgrep qemu)/fdinfo/* | grep ^iff: | sort | uniq -c | tr -s ' '", prints("2 iff:\tvm0-web"))
			h.sh("tr '\\0' ' ' </proc/$(pgrep qemu)/cmdline", says("fds="))
		}
		inUse()
		h.eventually("journalctl -u microvm@web -o cat --no-pager", says("it has 0 files and 0 names\n"))
		h.sh("ampoule verify web", ends, says("interface vm0-web"))
		h.sh("ampoule list", says("  vm0-web,vm1-web  "))
		h.sh("ampoule status web", says("tap vm0-web on the bridge br0", "macvtap vm1-web above up0"), not("NOT THERE"))

		h.sh("kill -KILL $(pgrep qemu)")
		h.eventually("systemctl show -P NRestarts microvm@web && systemctl is-active microvm@web", prints("1", "active"))
		h.interfaces("vm0-web", "vm1-web")
		inUse()
		h.sh("systemctl stop microvm@web")
		h.interfaces()
		h.sh("find /run/ampoule/privileged -mindepth 1; pgrep -a qemu || true", prints(""))
	})
}

// TestNamedTap: Firecracker itself, in the sandbox of its unit, opens a tap by its
// name, which only the VM's user may. The tap is removed when the VM has ended,
// whatever has ended it. The guest is a few instructions, for the reason that TestKVM
// gives.
func TestNamedTap(t *testing.T) {
	need.All(t, need.VM, need.Root, need.Nspawn, need.Tun)
	program := os.Getenv("AMPOULE_TEST_FIRECRACKER")
	if program == "" {
		t.Skip("AMPOULE_TEST_FIRECRACKER names no binary")
	}
	if _, err := os.Stat("/dev/kvm"); err != nil {
		t.Skipf("there is no KVM to open: %v", err)
	}
	onEachWith(t, func(t *testing.T, version int) {
		kvm := device(t, "0660", "10", "232")
		h := newNetHost(t, version, "--bind-ro="+program+":/usr/bin/firecracker", "--bind="+kvm+":/dev/kvm")
		h.sh("getent group kvm || groupadd --system kvm; chgrp kvm /dev/kvm")
		h.sh("sed 's/^flags.*/& vmx/' /proc/cpuinfo >/etc/cpuinfo")
		if err := os.WriteFile(h.Path("/etc/guest.elf"), tinykernel.ELF(tinykernel.Word+tinykernel.Halt), 0o644); err != nil {
			t.Fatal(err)
		}
		h.file("/etc/ampoule/web.microvm", "[MicroVM]\nHypervisor=firecracker\nKernel=/etc/guest.elf\nMemory=128M\nReadiness=console:OK\nDisk=data.raw:size=16M\n"+
			"KernelCommandLine=root=/dev/vda\nNetwork=bridge:br0\n[Service]\nTimeoutStopSec=2s\nBindReadOnlyPaths=/etc/cpuinfo:/proc/cpuinfo\n")
		h.sh("ampoule check web; systemctl daemon-reload")
		h.sh("systemd-analyze verify --man=no /run/systemd/generator/microvm@web.service", prints(""))
		h.sh("systemd-analyze security --no-pager microvm@web", exposed(1.5))
		pid := "$(pgrep -x firecracker)"
		opened := func() {
			h.Helper()
			h.interfaces("vm0-web")
			h.eventually("cat /proc/"+pid+"/fdinfo/* | grep ^iff:", prints("iff:\tvm0-web"))
			h.sh("grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/"+pid+"/status", says("CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"))
		}
		h.sh("systemctl start microvm@web")
		h.sh("systemctl show -P StatusText microvm@web", prints("ready"))
		opened()
		shown := h.ip("-d link show vm0-web")
		user := strings.TrimSpace(h.sh("stat -c %u /proc/" + pid))
		if user == "0" || !strings.Contains(shown, "master br0") || !strings.Contains(shown, "alias ampoule web") || !strings.Contains(shown, "user "+user+" ") {
			h.Errorf("the VM's user is %s, and the tap\n%s", user, shown)
		}
		h.sh("ampoule verify web", ends, says("interface vm0-web"))

		h.sh("kill -KILL " + pid)
		h.eventually("systemctl show -P NRestarts microvm@web && systemctl is-active microvm@web", prints("1", "active"))
		opened()
		h.sh("kill -KILL $(systemctl show -P MainPID microvm@web)")
		h.eventually("systemctl show -P NRestarts microvm@web && systemctl is-active microvm@web", prints("2", "active"))
		opened()
		h.sh("systemctl stop microvm@web")
		h.interfaces()
		h.sh("find /run/ampoule/privileged -mindepth 1; pgrep -a firecracker || true", prints(""))
	})
}
