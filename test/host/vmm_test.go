package host

import (
	"os"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
	"github.com/ampoule-vm/ampoule/internal/testkit/tinykernel"
)

// vmms are the hypervisors that get their VM by an API, each with the variable
// that names a binary, and what its VM needs here.
func vmms() []struct{ name, variable, lines string } {
	return []struct{ name, variable, lines string }{
		{"cloud-hypervisor", "AMPOULE_TEST_CLOUD_HYPERVISOR", ""},
		{"firecracker", "AMPOULE_TEST_FIRECRACKER", "KernelCommandLine=root=/dev/vda\n"},
	}
}

// TestAPIHypervisors: the services of VMs whose hypervisors are told of them by
// their APIs, with those hypervisors themselves in the sandbox. Their guest is a
// few instructions, for the reason that TestKVM gives.
func TestAPIHypervisors(t *testing.T) {
	need.All(t, need.VM, need.Root, need.Nspawn)
	if _, err := os.Stat("/dev/kvm"); err != nil {
		t.Skipf("there is no KVM to open: %v", err)
	}
	onEachWith(t, func(t *testing.T, version int) {
		var args []string
		var tried []struct{ name, variable, lines string }
		for _, v := range vmms() {
			if program := os.Getenv(v.variable); program != "" {
				args = append(args, "--bind-ro="+program+":/usr/bin/"+v.name)
				tried = append(tried, v)
			}
		}
		if len(tried) == 0 {
			t.Skip("no variable AMPOULE_TEST_CLOUD_HYPERVISOR or AMPOULE_TEST_FIRECRACKER names a binary")
		}
		kvm := device(t, "0660", "10", "232")
		h := newHost(t, version, append(args, "--bind="+kvm+":/dev/kvm")...)
		h.sh("getent group kvm || groupadd --system kvm; chgrp kvm /dev/kvm")
		h.sh("sed 's/^flags.*/& vmx/' /proc/cpuinfo >/etc/cpuinfo")
		if err := os.WriteFile(h.Path("/etc/guest.elf"), tinykernel.ELF(tinykernel.Word+tinykernel.Loop), 0o644); err != nil {
			t.Fatal(err)
		}
		h.file("/etc/secrets/key", "api-secret-0123456789")
		for _, v := range tried {
			h.file("/etc/ampoule/"+v.name+".microvm", "[MicroVM]\nHypervisor="+v.name+"\nKernel=/etc/guest.elf\nMemory=128M\nVSockCID=auto\nReadiness=console:OK\n"+
				"Disk=data.raw:size=16M\nLoadCredential=KEY:/etc/secrets/key\n"+v.lines+"[Service]\nTimeoutStopSec=2s\nBindReadOnlyPaths=/etc/cpuinfo:/proc/cpuinfo\n")
		}
		h.sh("systemctl daemon-reload")
		for _, v := range tried {
			playAPI(h, v.name)
		}
	})
}

// playAPI is the life of one service.
func playAPI(h *host, name string) {
	h.Helper()
	unit := "microvm@" + name
	h.sh("systemd-analyze verify --man=no /run/systemd/generator/"+unit+".service", prints(""))
	h.sh("systemd-analyze security --no-pager --threshold=10 "+unit+".service", exposed(1.0))
	h.sh("systemctl start "+unit+"; journalctl --no-pager -n 5 -u "+unit, within(time.Minute))
	h.sh("systemctl show -P StatusText "+unit, prints("ready"))
	pid := "$(pgrep -x -f '^/usr/bin/" + name + " .*')"
	h.sh("grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/"+pid+"/status", says("CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"))
	h.sh("cat /proc/"+pid+"/environ | wc -c", prints("0"))
	h.sh("tr '\\0' ' ' </proc/"+pid+"/cmdline", says("--api-sock"))
	// The key is in the process that is the guest, and nowhere that others can
	// look: no argument, no file, no log, no unit, and nobody can reach the API.
	h.sh("grep -l [a]pi-secret-0123456789 /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null", exits(1))
	h.sh("grep -rl api-secret-0123456789 /run/ampoule /var/lib/private/ampoule /run/systemd/generator /var/log 2>/dev/null", exits(1))
	h.sh("journalctl --no-pager | grep -c api-secret-0123456789", fails)
	h.sh("ls -A /run/ampoule/vm/"+name, says("console", "run.json", "vsock"))
	h.sh("ls -A /run/ampoule/vm/"+name+" | grep api", exits(1))
	h.sh("ampoule status "+name, says("KEY"))
	h.sh("ampoule verify "+name, says(name+":"))
	h.sh("systemctl stop "+unit+"; systemctl is-active "+unit, exits(3), within(time.Minute))
	h.sh("journalctl --no-pager -n 5 -u "+unit, says("the guest did not power off within 2s and was killed"))
	h.sh("systemctl reset-failed; pgrep -x -f '^/usr/bin/"+name+" .*'", exits(1))
	h.sh("find /run/ampoule/vm/"+name+"/ 2>/dev/null", exits(1))
}
