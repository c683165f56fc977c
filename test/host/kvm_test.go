package host

import (
	"os"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// kvmLines are all in which the unit of a VM with KVM differs from that of one
// that is emulated, beside the VM's own lines, its plan and the plan's digest.
var kvmLines = []string{
	"-# Accelerator=tcg may be emulation, which writes the code that it executes", "-MemoryDenyWriteExecute=no",
	"+# Accelerator=kvm may be KVM", "+DeviceAllow=/dev/kvm rw",
	"+# who may open /dev/kvm", "+SupplementaryGroups=kvm",
	"+MemoryDenyWriteExecute=yes",
}

// TestKVM: the sandbox of a VM with KVM is as closed as it is said to be, and
// the hypervisor runs in it, with the processor's virtualisation. The guest's
// boot is shown with emulation, from whose unit this one differs in kvmLines.
//
// This machine's processor shows no vmx, and a kernel hangs where its KVM is
// used. QEMU creates the virtual machine all the same, with /dev/kvm and every
// call of it that comes before the first instruction; and what ampoule looks at
// to decide for KVM is the text of /proc/cpuinfo, which the unit gets from a file
// here. So the sandbox is that of a host with vmx. The processor model is a plain
// one, since this KVM refuses registers of the host's own.
func TestKVM(t *testing.T) {
	need.All(t, need.VMAll)
	if _, err := os.Stat("/dev/kvm"); err != nil {
		t.Skipf("there is no KVM to open: %v", err)
	}
	onEachWith(t, func(t *testing.T, version int) {
		// A device of the host's own, since its group is the host's.
		kvm := device(t, "0660", "10", "232")
		h := newHost(t, version, "--bind="+kvm+":/dev/kvm")
		h.sh("getent group kvm || groupadd --system kvm; chgrp kvm /dev/kvm")
		h.sh("sed 's/^flags.*/& vmx/' /proc/cpuinfo >/etc/cpuinfo")
		for _, accelerator := range []string{"kvm", "tcg"} {
			h.file("/etc/ampoule/"+accelerator+".microvm", "[MicroVM]\nKernel=/var/lib/guest/vmlinuz\nInitrd=/var/lib/guest/initrd\nReadiness=started\n"+
				"Accelerator="+accelerator+"\nHypervisorArgs=-cpu qemu64\n[Service]\nBindReadOnlyPaths=/etc/cpuinfo:/proc/cpuinfo\n")
		}
		h.sh("systemctl daemon-reload")
		h.sh("systemd-analyze verify --man=no /run/systemd/generator/microvm@kvm.service", prints(""))
		h.sh("systemd-analyze security --no-pager --threshold=10 microvm@kvm.service", exposed(1.0))
		checkDifference(h)

		h.sh("systemctl start microvm@kvm")
		h.sh("systemctl show -P StatusText microvm@kvm", prints("started, guest not observed"))
		h.sh("tr '\\0' ' ' </proc/$(pgrep qemu-system)/cmdline", says(" -accel kvm"))
		h.sh("ls -l /proc/$(pgrep qemu-system)/fd", says("/dev/kvm", "anon_inode:kvm-vm", "anon_inode:kvm-vcpu:0"))
		h.sh("grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/$(pgrep qemu-system)/status", prints("CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"))
		h.sh("systemctl kill --signal=KILL microvm@kvm; systemctl stop microvm@kvm")
		// The condition is what /proc says: without the flag KVM is refused.
		h.sh("cp /proc/cpuinfo /etc/cpuinfo; systemctl reset-failed; systemctl start microvm@kvm", fails)
		h.sh(cat+"microvm@kvm | tail -n 8", says("Accelerator=kvm"))
	})
}

// checkDifference compares the two units line by line.
func checkDifference(h *host) {
	h.Helper()
	const plain = "sed -e /ampoule.plan/d -e /^Description=/d -e s/tcg.microvm/kvm.microvm/ -e s,vm/tcg,vm/kvm, -e s/@tcg/@kvm/ -e s/User=vm-tcg/User=vm-kvm/ -e s/sha256:.*// "
	out := h.sh("cd /run/systemd/generator; "+plain+"microvm@tcg.service >/tmp/tcg; "+plain+"microvm@kvm.service >/tmp/kvm; diff -U 0 /tmp/tcg /tmp/kvm", exits(1))
	var lines []string
	for line := range strings.Lines(out) {
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "@@") && !strings.HasPrefix(line, "---") && !strings.HasPrefix(line, "+++") {
			lines = append(lines, line)
		}
	}
	if got, want := strings.Join(lines, "\n"), strings.Join(kvmLines, "\n"); got != want {
		h.Errorf("the units differ in\n%s\nwant\n%s", got, want)
	}
}
