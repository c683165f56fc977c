package firecracker

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/driver/drivertest"
	"github.com/ampoule-vm/ampoule/internal/plan"
)

func TestContract(t *testing.T) {
	drivertest.Run(t, Driver{}, []drivertest.Case{
		{Name: "plain", Lines: []string{"Initrd=/i"}},
		{Name: "everything", Lines: []string{
			"Initrd=/i", "VCPU=32", "Memory=2G", "MachineID=0123456789abcdef0123456789abcdef", "Disk=a.raw:size=1G", "Disk=/x,y.raw:ro",
			"HypervisorArgs=--id web --enable-pci", "Console=none", "VSockCID=auto", "GuestSystemd=257",
		}},
		{Name: "vsock with a number", Lines: []string{"Initrd=/i", "VSockCID=77", "Readiness=guest"}},
		{Name: "root without an initrd", Lines: []string{"KernelCommandLine=root=/dev/vda", "CredentialChannel=initrd"}},
		{Name: "kernel command line beyond ASCII", Lines: []string{"Initrd=/i", "KernelCommandLine=a=ü"}},
		{Name: "own binary", Lines: []string{"Initrd=/i", "HypervisorPath=/opt/fc"}},

		{Name: "interfaces", Lines: []string{"Initrd=/i", "Network=tap:mtu=1400,vhost=no", "Network=bridge:br0,mac=02:00:00:00:00:01"}},
		{Name: "others' interface", Lines: []string{"Initrd=/i", "Network=tap:name=lan0,external"}},
		{Name: "macvtap", Lines: []string{"Network=macvtap:eth0"}, Refused: "opens an interface by its name", Feature: "network macvtap"},
		{Name: "queues", Lines: []string{"Network=tap:queues=2"}, Refused: "queues=1", Feature: "network queues"},
		{Name: "vhost", Lines: []string{"Network=bridge:br0,vhost=yes"}, Refused: "moves the packets itself", Feature: "network vhost"},
		{Name: "too many networks", Lines: append([]string{"Network=tap"}, manyDisks(14)...), Refused: "at most 14 disks and networks together"},
		{Name: "user network", Lines: []string{"Network=user"}, Refused: "no network of its own", Feature: "network user"},
		{Name: "machine", Lines: []string{"Machine=q35"}, Refused: "no types of it", Feature: "machine type"},
		{Name: "emulation", Lines: []string{"Accelerator=tcg"}, Refused: "needs KVM", Feature: "emulation"},
		{Name: "smbios", Lines: []string{"CredentialChannel=smbios"}, Refused: "no SMBIOS", Feature: "channel smbios"},
		{Name: "fw_cfg", Lines: []string{"CredentialChannel=fw_cfg"}, Refused: "no fw_cfg", Feature: "channel fw_cfg"},
		{Name: "initrd channel without an initrd", Lines: []string{"CredentialChannel=initrd"}, Refused: "has no root="},
		{Name: "huge pages of 1G", Lines: []string{"HugePages=1G", "Memory=1G"}, Refused: "of 2M only", Feature: "huge pages 1G"},
		{Name: "two sockets", Lines: []string{"VCPU=2", "CPUTopology=2:1:1"}, Refused: "one socket", Feature: "cpu topology"},
		{Name: "three threads", Lines: []string{"VCPU=3", "CPUTopology=1:1:3"}, Refused: "one socket", Feature: "cpu topology"},
		{Name: "watchdog", Lines: []string{"Watchdog=yes"}, Refused: "no watchdog", Feature: "watchdog"},
		{Name: "memory that changes", Lines: []string{"Initrd=/i", "MemoryHotplug=1G", "Balloon=yes"}},
		{Name: "two threads and huge pages", Lines: []string{"Initrd=/i", "VCPU=4", "CPUTopology=1:2:2", "HugePages=2M"}},
		{Name: "qcow2", Lines: []string{"Disk=/a:qcow2"}, Refused: "raw disks only", Feature: "disk qcow2"},
		{Name: "pci", Lines: []string{"Device=pci:0000:01:00.0"}, Refused: "passes no devices", Feature: "device pci"},
		{Name: "usb", Lines: []string{"Device=usb:1-2"}, Refused: "passes no devices", Feature: "device usb"},
		{Name: "vhd", Lines: []string{"Disk=/a:vhd"}, Refused: "raw disks only", Feature: "disk vhd"},
		{Name: "vhdx", Lines: []string{"Disk=/a:vhdx,ro"}, Refused: "raw disks only", Feature: "disk vhdx"},
		{Name: "direct", Lines: []string{"Disk=/a:direct"}, Refused: "page cache", Feature: "disk direct"},
		{Name: "virtiofs", Lines: []string{"Share=/srv/x:x"}, Refused: "connects no file systems", Feature: "share virtiofs"},
		{Name: "9p", Lines: []string{"Share=/srv/x:x:9p"}, Refused: "has no 9p", Feature: "share 9p"},
		{Name: "serial", Lines: []string{"Disk=/a:serial=s"}, Refused: "no serial numbers", Feature: "disk serial"},
		{Name: "too many processors", Lines: []string{"VCPU=33"}, Refused: "1 to 32"},
		{Name: "too many disks", Lines: manyDisks(15), Refused: "at most 14 disks"},
		{Name: "log", Lines: []string{"HypervisorArgs=--level Debug"}, Refused: "to its log"},
		{Name: "file", Lines: []string{"HypervisorArgs=--config-file /x"}, Refused: "unseen"},
		{Name: "id", Lines: []string{"HypervisorArgs=--id a_b"}, Refused: "64 letters, digits and dashes"},
		{Name: "id behind a sign", Lines: []string{"HypervisorArgs=--id="}, Refused: "64 letters, digits and dashes"},
		{Name: "other argument", Lines: []string{"HypervisorArgs=--frobnicate"}, Refused: "by the API"},
	})
}

func manyDisks(n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("Disk=/d%d", i))
	}
	return out
}

// TestArchitectures: on arm64 nobody can press a button, and others are refused.
func TestArchitectures(t *testing.T) {
	vm, err := drivertest.Read(t, Driver{}, []string{"Initrd=/i"})
	if err != nil {
		t.Fatal(err)
	}
	part, problems := Driver{}.Compose(vm, "arm64")
	if problems.HasErrors() || part.API.Power != nil || part.KernelFormats[0] != plan.ArmImage {
		t.Errorf("%v: %+v", problems, part)
	}
	if _, problems := (Driver{}).Compose(vm, "riscv64"); !problems.HasErrors() {
		t.Error("riscv64 is accepted")
	}
}

// TestCommandLine: what firecracker appends to the kernel's command line has room.
func TestCommandLine(t *testing.T) {
	for _, c := range []struct {
		lines []string
		want  int
	}{
		{nil, 2047 - 8 - 48}, {[]string{"Disk=/a", "Disk=/b", "VSockCID=auto"}, 2047 - 8 - 4*48},
	} {
		vm, err := drivertest.Read(t, Driver{}, c.lines)
		if err != nil {
			t.Fatal(err)
		}
		if part, _ := (Driver{}).Compose(vm, "x86-64"); part.CommandLineMax != c.want {
			t.Errorf("%v: %d, want %d", c.lines, part.CommandLineMax, c.want)
		}
	}
}

func TestReadVersion(t *testing.T) {
	if v, warning, err := readVersion("Firecracker v1.16.1\n\nSupported snapshot data format versions: …\n"); v != "1.16.1" || warning != "" || err != nil {
		t.Errorf("%q %q %v", v, warning, err)
	}
	for _, newer := range []string{"Firecracker v1.17.0\n", "Firecracker v2.0.0\n"} {
		if _, warning, err := readVersion(newer); warning == "" || err != nil {
			t.Errorf("%s: no warning: %v", newer, err)
		}
	}
	for _, older := range []string{"Firecracker v1.9.1\n", "Firecracker v0.25.2\n"} {
		if _, _, err := readVersion(older); err == nil {
			t.Errorf("%s is accepted", older)
		}
	}
}

func TestEnded(t *testing.T) {
	if e := (Driver{}).Ended(0, ""); !e.PoweredOff || !strings.Contains(e.What, "rebooted") {
		t.Errorf("%+v", e)
	}
	for code, want := range map[int]string{148: "its own filter", 153: "argument", 77: "", -1: ""} {
		if e := (Driver{}).Ended(code, ""); e.PoweredOff || !strings.Contains(e.What, want) || want == "" && e.What != "" {
			t.Errorf("%d: %+v", code, e)
		}
	}
}
