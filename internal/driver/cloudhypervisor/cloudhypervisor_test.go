package cloudhypervisor

import (
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/driver/drivertest"
	"github.com/ampoule-vm/ampoule/internal/plan"
)

func TestContract(t *testing.T) {
	drivertest.Run(t, Driver{}, []drivertest.Case{
		{Name: "plain"},
		{Name: "everything", Lines: []string{
			"Initrd=/i", "VCPU=4", "Memory=2G", "MachineID=0123456789abcdef0123456789abcdef", "Disk=a.raw:size=1G,serial=s",
			"Disk=/x,y.qcow2:qcow2,ro", "Disk=v:vhd", "Disk=w:vhdx,ro,direct", "HypervisorArgs=--seccomp log --log-file=/run/x", "Console=none", "VSockCID=auto", "GuestSystemd=257",
		}},
		{Name: "vsock with a number", Lines: []string{"VSockCID=77", "Readiness=guest"}},
		{Name: "smbios", Lines: []string{"CredentialChannel=smbios"}},
		{Name: "initrd", Lines: []string{"Initrd=/i", "CredentialChannel=initrd"}},
		{Name: "kvm", Lines: []string{"Accelerator=kvm"}},
		{Name: "own binary", Lines: []string{"HypervisorPath=/opt/ch"}},

		{Name: "memory and processors", Lines: []string{"VCPU=4", "CPUTopology=1:2:2", "HugePages=1G", "Memory=2G", "Watchdog=yes"}},
		{Name: "memory that changes", Lines: []string{"MemoryHotplug=1G", "Balloon=yes"}},
		{Name: "three threads", Lines: []string{"VCPU=3", "CPUTopology=1:1:3"}, Refused: "one or two threads"},
		{Name: "interfaces", Lines: []string{"VCPU=4", "Network=tap:queues=4", "Network=bridge:br0,vhost=no", "Network=macvtap:eth0,mode=passthru"}},
		{Name: "queues for an image's processors", Lines: []string{"Image=/srv/image", "Network=tap:queues=4"}},
		{Name: "more queues than processors", Lines: []string{"VCPU=2", "Network=tap:queues=4"}, Refused: "queues=1 to 2"},
		{Name: "vhost", Lines: []string{"Network=tap:vhost=yes"}, Refused: "moves the packets itself", Feature: "network vhost"},
		{Name: "MTU", Lines: []string{"Network=bridge:br0,mtu=9000"}, Refused: "has no right to", Feature: "network mtu"},
		{Name: "user network", Lines: []string{"Network=user"}, Refused: "no network of its own", Feature: "network user"},
		{Name: "devices", Lines: []string{"Device=pci:0000:01:00.0", "Device=pci:0000:01:00.1"}},
		{Name: "usb", Lines: []string{"Device=usb:046d:c077"}, Refused: "has no USB", Feature: "device usb"},
		{Name: "machine", Lines: []string{"Machine=q35"}, Refused: "no types of it", Feature: "machine type"},
		{Name: "emulation", Lines: []string{"Accelerator=tcg"}, Refused: "needs KVM", Feature: "emulation"},
		{Name: "fw_cfg", Lines: []string{"CredentialChannel=fw_cfg"}, Refused: "no fw_cfg", Feature: "channel fw_cfg"},
		{Name: "initrd channel without an initrd", Lines: []string{"CredentialChannel=initrd"}, Refused: "has no root="},
		{Name: "kernel command line beyond ASCII", Lines: []string{"KernelCommandLine=quiet a=ü"}, Refused: "KernelCommandLine=a=…: cloud-hypervisor takes a kernel command line of printable ASCII"},
		{Name: "kernel command line with a tab", Lines: []string{`KernelCommandLine="a\tb"`}, Refused: "KernelCommandLine=…: cloud-hypervisor takes"},
		{Name: "others' interfaces", Lines: []string{"VCPU=2", "Network=tap:name=lan0,external,queues=2", "Network=macvtap:eth0,name=lan1,external,mac=02:00:00:00:00:01"}},
		{Name: "share served by others", Lines: []string{"Share=/srv/x:x:socket=/run/x.sock"}},
		{Name: "shares", Lines: []string{"Share=/srv/x:x", "Share=/srv/y:y:ro"}},
		{Name: "9p", Lines: []string{"Share=/srv/x:x:9p"}, Refused: "has no 9p", Feature: "share 9p"},
		{Name: "share by argument", Lines: []string{"HypervisorArgs=--fs tag=a,socket=/b"}, Refused: "use Share="},
		{Name: "too many processors", Lines: []string{"VCPU=255"}, Refused: "1 to 254"},
		{Name: "serial", Lines: []string{"Disk=/a:serial=" + strings.Repeat("s", 21)}, Refused: "20 bytes"},
		{Name: "verbose", Lines: []string{"HypervisorArgs=-v"}, Refused: "the credentials included"},
		{Name: "argument of a key", Lines: []string{"HypervisorArgs=--memory size=4G"}, Refused: "use Memory="},
		{Name: "credential by argument", Lines: []string{"HypervisorArgs=--platform oem_strings=[io.systemd.credential:x=hush]"}, Refused: "carries the credentials"},
		{Name: "other argument", Lines: []string{"HypervisorArgs=--watchdog"}, Refused: "by the API"},
		{Name: "no argument", Lines: []string{"HypervisorArgs=watchdog"}, Refused: "no option"},
		{Name: "argument without its value", Lines: []string{"HypervisorArgs=--seccomp"}, Refused: "is missing"},
	})
}

// TestArchitectures: arm64 has no SMBIOS, and others are refused.
func TestArchitectures(t *testing.T) {
	vm, err := drivertest.Read(t, Driver{}, []string{"Initrd=/i"})
	if err != nil {
		t.Fatal(err)
	}
	part, problems := Driver{}.Compose(vm, "arm64")
	if problems.HasErrors() || len(part.Channels) != 1 || part.Channels[0].Name != "initrd" || part.KernelFormats[0] != plan.ArmImage {
		t.Errorf("%v: %+v", problems, part)
	}
	if words := strings.Join(part.KernelCommandLine, " "); !strings.HasPrefix(words, "console=ttyAMA0 ") {
		t.Error(words)
	}
	if _, problems := (Driver{}).Compose(vm, "riscv64"); !problems.HasErrors() {
		t.Error("riscv64 is accepted")
	}
	if vm, err = drivertest.Read(t, Driver{}, []string{"CredentialChannel=smbios"}); err != nil {
		t.Fatal(err)
	}
	if _, problems := (Driver{}).Compose(vm, "arm64"); !strings.Contains(problems.Err().Error(), "no SMBIOS on this architecture") {
		t.Error(problems)
	}
}

func TestReadVersion(t *testing.T) {
	for output, want := range map[string]string{
		"cloud-hypervisor v53.0.0\n":                  "53.0.0",
		"cloud-hypervisor v51.1.0\n":                  "51.1.0",
		"cloud-hypervisor v53.0-246-gae44c29-dirty\n": "53.0",
	} {
		if v, warning, err := readVersion(output); v != want || warning != "" || err != nil {
			t.Errorf("%q: %q %q %v", output, v, warning, err)
		}
	}
	if _, warning, err := readVersion("cloud-hypervisor v99.0.0\n"); warning == "" || err != nil {
		t.Errorf("no warning for a version from the future: %v", err)
	}
	if _, _, err := readVersion("cloud-hypervisor v48.0.0\n"); err == nil {
		t.Error("an old version is accepted")
	}
}

func TestEnded(t *testing.T) {
	if !(Driver{}).Ended(0, "").PoweredOff || (Driver{}).Ended(1, "Error booting VM").PoweredOff || (Driver{}).Ended(-1, "").PoweredOff {
		t.Error("0 alone is a power-off")
	}
	if e := (Driver{}).Ended(0, "… ERROR:vmm/src/cpu.rs:1460 -- VCPU generated error: VcpuRun(…)"); e.PoweredOff || e.What == "" {
		t.Errorf("%+v", e)
	}
}
