package qemu

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/driver/drivertest"
)

func TestContract(t *testing.T) {
	drivertest.Run(t, Driver{}, []drivertest.Case{
		{Name: "q35", Lines: []string{"Machine=q35"}},
		{Name: "microvm", Lines: []string{"Machine=microvm"}},
		{Name: "everything", Lines: []string{
			"Initrd=/i", "VCPU=4", "Memory=2G", "MachineID=0123456789abcdef0123456789abcdef", "Disk=a.raw:size=1G,serial=s",
			`Disk=/dev/disk/by-path/pci-0\:1:ro,direct`, "Disk=v:vhd", "Disk=w:vhdx,ro", "Disk=n:size=300M,fs=xfs,label=data", "Disk=/x,y.qcow2:qcow2", "HypervisorArgs=-device usb-ehci -cpu host", "Console=none", "CredentialChannel=fw_cfg",
		}},
		{Name: "newer guest", Lines: []string{"GuestSystemd=257"}},
		{Name: "tcg", Lines: []string{"Machine=microvm", "Accelerator=tcg"}},
		{Name: "initrd", Lines: []string{"Initrd=/i", "CredentialChannel=initrd"}},
		{Name: "root without an initrd", Lines: []string{"Machine=microvm", "CredentialChannel=initrd", "KernelCommandLine=root=PARTUUID=1"}},
		{Name: "kvm", Lines: []string{"Accelerator=kvm"}},
		{Name: "vsock", Lines: []string{"VSockCID=auto", "GuestSystemd=257"}},
		{Name: "vsock with a number on microvm", Lines: []string{"Machine=microvm", "VSockCID=42", "Readiness=guest"}},
		{Name: "memory and processors", Lines: []string{"VCPU=4", "CPUTopology=1:2:2", "HugePages=1G", "Memory=2G", "Watchdog=yes"}},
		{Name: "memory on microvm", Lines: []string{"Machine=microvm", "VCPU=2", "CPUTopology=2:1:1", "HugePages=2M"}},
		{Name: "memory that changes", Lines: []string{"MemoryHotplug=1G", "Balloon=yes"}},
		{Name: "huge pages that come", Lines: []string{"MemoryHotplug=1G", "HugePages=2M"}},
		{Name: "balloon on microvm", Lines: []string{"Machine=microvm", "Balloon=yes"}},
		{Name: "hotplug on microvm", Lines: []string{"Machine=microvm", "MemoryHotplug=1G"}, Refused: "no memory while it runs"},
		{Name: "watchdog on microvm", Lines: []string{"Machine=microvm", "Watchdog=yes"}, Refused: "use Machine=q35"},
		{Name: "user network", Lines: []string{"Network=user", "PublishPort=127.0.0.1:8080-8082:80-82", "PublishPort=53:53/udp", "HypervisorArgs=-netdev user,id=other -device virtio-net-pci,netdev=other"}},
		{Name: "user network on microvm", Lines: []string{"Machine=microvm", "Network=user:mac=02:00:00:00:00:01,mtu=1400"}},
		{Name: "shares", Lines: []string{"Share=/srv/x:x", "Share=/srv/y,z:y:9p", "Share=/srv/ro:ro:/mnt:9p,ro", "GuestSystemd=257"}},
		{Name: "shares on microvm", Lines: []string{"Machine=microvm", "Share=/srv/x:x:ro,cache=always", "Share=/srv/y:y:9p,security=none"}},
		{Name: "too many shares", Lines: append(append([]string{"Machine=microvm"}, manyDisks(16)...), "Share=/srv/x:x"), Refused: "at most 16 disks, networks and shares together"},
		{Name: "share by argument", Lines: []string{"Share=/srv/x:x", "HypervisorArgs=-chardev socket,path=/x,id=fs0"}, Refused: "this is what Share= sets"},
		{Name: "interfaces", Lines: []string{"Network=tap:queues=4,mtu=9000", "Network=bridge:br0,vhost=no", "Network=macvtap:eth0,mode=passthru", "Network=user"}},
		{Name: "others' interfaces", Lines: []string{"Network=tap:name=lan0,external,queues=2", "Network=macvtap:eth0,name=lan1,external,mac=02:00:00:00:00:01"}},
		{Name: "others' share", Lines: []string{"Share=/srv/x:x:socket=/run/x,y.sock"}, Refused: "unknown option"},
		{Name: "share served by others", Lines: []string{"Share=/srv/x:x:/mnt:ro,socket=/run/x:y.sock", "GuestSystemd=257"}},
		{Name: "others' device", Lines: []string{"Device=pci:0000:01:00.0,external", "Device=usb:1-2.3,external"}},
		{Name: "interfaces on microvm", Lines: []string{"Machine=microvm", "Network=tap:queues=2,vhost=yes"}},
		{Name: "own binary", Lines: []string{"HypervisorPath=/opt/qemu"}},

		{Name: "devices", Lines: []string{"Device=pci:0000:01:00.0", "Device=usb:046D:c077", "Device=usb:1-2.3"}},
		{Name: "devices on microvm", Lines: []string{"Machine=microvm", "Device=usb:1-2"}, Refused: "has no PCI"},
		{Name: "device by argument", Lines: []string{"Device=pci:0000:01:00.0", "HypervisorArgs=-device vfio-pci,host=0000:02:00.0"}, Refused: "use Device="},
		{Name: "machine", Lines: []string{"Machine=q53"}, Refused: "did you mean q35?"},
		{Name: "smbios on microvm", Lines: []string{"Machine=microvm", "CredentialChannel=smbios"}, Refused: "has no SMBIOS"},
		{Name: "initrd channel without an initrd", Lines: []string{"CredentialChannel=initrd"}, Refused: "has no root="},
		{Name: "initrd channel for a root by UUID", Lines: []string{"CredentialChannel=initrd", "KernelCommandLine=root=UUID=1"}, Refused: "only an initrd can find a file system by its UUID="},
		{Name: "initrd that stays", Lines: []string{"Initrd=/i", "CredentialChannel=initrd", "KernelCommandLine=retain_initrd"}, Refused: "keeps the initial RAM disk"},
		{Name: "init without a path", Lines: []string{"Initrd=/i", "CredentialChannel=initrd", "KernelCommandLine=rdinit=sh"}, Refused: "not an absolute path"},
		{Name: "too many processors", Lines: []string{"VCPU=256"}, Refused: "1 to 255"},
		{Name: "too many disks", Lines: append([]string{"Machine=microvm"}, manyDisks(17)...), Refused: "at most 16 disks"},
		{Name: "too many networks", Lines: append([]string{"Machine=microvm", "Network=user"}, manyDisks(16)...), Refused: "at most 16 disks and networks together"},
		{Name: "port of IPv6", Lines: []string{"Network=user", "PublishPort=[::1]:8080:80"}, Refused: "an address of IPv4", Feature: "port ipv6"},
		{Name: "backend with the id of a network", Lines: []string{"Network=user", "HypervisorArgs=-netdev user,restrict=on,id=net0"}, Refused: "has this id"},
		{Name: "backend in JSON", Lines: []string{"Network=user", `HypervisorArgs=-netdev '{"type":"user","id":"net0"}'`}, Refused: "has this id"},
		{Name: "device on a network", Lines: []string{"Network=user", "HypervisorArgs=-device e1000,netdev=net0"}, Refused: "has this id"},
		{Name: "argument of a key", Lines: []string{"HypervisorArgs=-m 4G"}, Refused: "use Memory="},
		{Name: "argument with two dashes", Lines: []string{"HypervisorArgs=--machine pc"}, Refused: "use Machine="},
		{Name: "credential by argument", Lines: []string{"HypervisorArgs=-smbios type=11,value=io.systemd.credential:x=hush"}, Refused: "carries the credentials"},
		{Name: "credential by fw_cfg", Lines: []string{"HypervisorArgs=-fw_cfg name=opt/io.systemd.credentials/x,string=hush"}, Refused: "is a credential"},
		{Name: "smbios argument on microvm", Lines: []string{"Machine=microvm", "HypervisorArgs=-smbios type=1,serial=x"}, Refused: "drops the option"},
		{Name: "slots", Lines: []string{"HypervisorArgs=-global fw_cfg_io.x-file-slots=32"}, Refused: "fw_cfg device"},
		{Name: "leaving", Lines: []string{"HypervisorArgs=-daemonize"}, Refused: "supervision"},
	})
}

func manyDisks(n int) []string {
	var out []string
	for i := range n {
		out = append(out, "Disk=/d"+string(rune('a'+i)))
	}
	return out
}

// TestRefusalHidesCredentials: a credential on the command line is refused
// without being repeated.
func TestRefusalHidesCredentials(t *testing.T) {
	vm, err := drivertest.Read(t, Driver{}, []string{"HypervisorArgs=-smbios type=11,value=io.systemd.credential:x=hush-hush"})
	if err != nil {
		t.Fatal(err)
	}
	_, problems := Driver{}.Compose(vm, "x86-64")
	if text := problems.Err().Error(); strings.Contains(text, "hush") {
		t.Error(text)
	}
}

func TestOtherArchitecture(t *testing.T) {
	vm, err := drivertest.Read(t, Driver{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, problems := (Driver{}).Compose(vm, "arm64"); !problems.HasErrors() {
		t.Error("arm64 is accepted")
	}
}

// TestDiskJSON: paths need no escapes of QEMU's own.
func TestDiskJSON(t *testing.T) {
	vm, err := drivertest.Read(t, Driver{}, []string{`Disk=/srv/a,b"c<d>.raw`})
	if err != nil {
		t.Fatal(err)
	}
	words := machines()[0].disk(0, vm.Disks[0])
	var got struct{ File struct{ Filename string } }
	if err := json.Unmarshal([]byte(words[1]), &got); err != nil || got.File.Filename != `/srv/a,b"c<d>.raw` {
		t.Errorf("%v: %+v", err, got)
	}
}

func TestReadVersion(t *testing.T) {
	v, warning, err := readVersion("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright …\n")
	if v != "7.2.22" || warning != "" || err != nil {
		t.Errorf("%q %q %v", v, warning, err)
	}
	if _, warning, err = readVersion("QEMU emulator version 99.0.0\n"); warning == "" || err != nil {
		t.Errorf("no warning for a version from the future: %v", err)
	}
	if _, _, err = readVersion("QEMU emulator version 4.2.1\n"); err == nil {
		t.Error("an old version is accepted")
	}
}

func TestEnded(t *testing.T) {
	for words, want := range map[string]string{
		"qemu-system-x86_64: -frobnicate: invalid option\n":                                               "-frobnicate",
		"warning: x\nqemu-system-x86_64: -device nonsense: 'nonsense' is not a valid device model name\n": "-device nonsense",
		"qemu-system-x86_64: cannot set up guest memory 'pc.ram': Cannot allocate memory\n":               "",
		"": "",
	} {
		if got := (Driver{}).Ended(1, words); got.Argument != want || got.PoweredOff {
			t.Errorf("Ended(%q) = %+v, want %q", words, got, want)
		}
	}
}
