package adopt

import (
	"slices"

	"github.com/ampoule-vm/ampoule/internal/microvmnix"
)

// intent is a difference that is meant.
type intent struct {
	// key is that of the setting, with [] for an index; hypervisor the only one that
	// it is for, empty for all.
	key        string
	hypervisor string
	// when says for which values; nil for all.
	when   func(script, plan string) bool
	reason string
	// warn: the guest can notice it, and the operator is told.
	warn bool
}

func is(script ...string) func(string, string) bool {
	return func(s, _ string) bool { return slices.Contains(script, s) }
}

func becomes(script, plan string) func(string, string) bool {
	return func(s, p string) bool { return s == script && p == plan }
}

// intents are the differences between a runner of microvm.nix and what Ampoule
// starts that are meant, with their reasons.
func intents() []intent {
	const (
		socket    = "Ampoule makes it, where nobody else reaches it"
		isDefault = "the hypervisor's default, without a word"
	)
	return []intent{
		// The VM as a whole.
		{key: "name", reason: "the VM has the name of its file"},
		{key: "api-socket", reason: socket},
		{key: "qmp", reason: socket},
		{key: "config-file", reason: "Ampoule hands the VM over by the API"},
		{key: "run-with", reason: "the service has a user of its own for each VM"},
		{key: "no-reboot", reason: "a guest that reboots is started again with its credentials, by Ampoule"},
		{key: "platform", when: is(""), reason: "it says nothing"},
		{key: "platform.oem_strings", when: is("made when it runs"), reason: "the credentials that the script puts there come by Ampoule's channel"},
		{key: "cpu", when: func(s, _ string) bool { return defaultCPU(s) }, reason: "Ampoule takes the host's processor with KVM, and all that QEMU has with emulation"},
		{key: "accel", hypervisor: microvmnix.QEMU, when: becomes("kvm", "kvm:tcg"), reason: "KVM where it is truly usable, and emulation with a warning elsewhere"},
		{key: "accel", hypervisor: microvmnix.QEMU, when: becomes("kvm:tcg", "kvm"), reason: "the script demands KVM with -enable-kvm"},
		{key: "cpus.smt", hypervisor: microvmnix.Firecracker, when: is("yes", "no"), reason: "one processor has no second thread, and an odd number no pairs"},
		{key: "memory.mergeable", reason: "pages that VMs have in common tell each what the others hold; Ampoule's are not merged"},
		{key: "memory.hotplugged_size", when: is("0"), reason: isDefault},
		{key: "memory.hotplug_size", when: is("0"), reason: isDefault},
		{key: "memory.hugepages", when: becomes("no", ""), reason: isDefault},
		{key: "memory.hugepages", when: is("None"), reason: isDefault},
		{key: "memory.backend", when: is("memory-backend-memfd"), reason: "9p is served by QEMU itself, and needs no memory that others map"},
		{key: "memory.shared", hypervisor: microvmnix.QEMU, when: is("yes"), reason: "9p is served by QEMU itself, and needs no memory that others map"},
		// The machine of QEMU.
		{key: "machine.pcie", when: is("yes", "no"), reason: "microvm of Ampoule's has its devices on virtio-mmio; --machine q35 is one with PCI"},
		{key: "machine.pic", when: is("no"), reason: "an interrupt controller more, which a guest with a local APIC does not use"},
		{key: "machine.pit", when: is("no"), reason: "a timer more, by which the guest can calibrate its clock"},
		{key: "machine.rtc", when: is("yes"), reason: "q35 always has one"},
		{key: "machine.usb", when: is("yes", "no"), reason: "Ampoule makes a controller for the devices that there are"},
		{key: "bus", when: is("pci", "device"), reason: "the bus of virtio devices is that of the machine"},
		{key: "i8042", reason: "microvm-shutdown types Ctrl-Alt-Del on it; Ampoule presses the power button"},
		{key: "display", when: is("none"), reason: isDefault},
		// Disks.
		{key: "disk[].format", when: becomes("", "raw"), reason: "said, and not guessed from what a guest can write"},
		{key: "disk[].num_queues", reason: "one queue; more are an optimisation"},
		{key: "disk[].aio", reason: "QEMU's default, threads; another is an optimisation"},
		{key: "disk[].disable-legacy", when: is("yes"), reason: "the device is on PCI Express or virtio-mmio, where it is so by itself"},
		{key: "disk[].io_engine", reason: "Firecracker's default, synchronous; another is an optimisation"},
		{key: "disk[].drive_id", reason: "a name within the hypervisor"},
		{key: "volume[]", reason: "the disk is there, or is made by size= and fs= of Disk= in Ampoule's own directory"},
		// Networks.
		{key: "net[].iface_id", reason: "a name within the hypervisor"},
		{key: "net[].vhost", when: is("no"), reason: "the host's kernel moves packets where it can"},
		// Shares.
		{key: "share[].socket", reason: socket},
		{key: "share[].virtiofsd-socket-group", reason: "the socket belongs to the VM's own user"},
		{key: "share[].virtiofsd-thread-pool-size", reason: "virtiofsd's default; more are an optimisation"},
		{key: "share[].virtiofsd-inode-file-handles", when: is("prefer", "never"), reason: "virtiofsd is not root there, and keeps files open instead"},
		{key: "share[].virtiofsd-log-level", reason: "warnings go to the journal"},
		{key: "share[].virtiofsd-posix-acl", when: is(""), reason: "the guest sees no POSIX ACLs on Ampoule's shares", warn: true},
		{key: "share[].virtiofsd-xattr", when: is(""), reason: "the guest sees no extended attributes on Ampoule's shares", warn: true},
		{key: "device[].multifunction", when: is("yes"), reason: "each function is a device of its own"},
		// The guest.
		{key: "console", when: becomes("null", "off"), reason: "a console that leads nowhere, or none"},
		{key: "serial.chardev", when: is(standardStreams), reason: "ampoule console and the journal have it"},
		{key: "vsock.socket", reason: socket},
		{key: "notify", reason: "Ampoule gives the guest the address of its own socket, and waits for it (Readiness=guest)"},
		{key: "balloon.deflate_on_oom", when: is("no"), reason: "a guest that runs out of memory always takes it back"},
		{key: "balloon.free_page_reporting", when: is("no"), reason: "what the guest does not use the host always has"},
		{key: "balloon.stats_polling_interval_s", reason: "Ampoule asks as seldom as can be"},
	}
}

// additions are what only Ampoule has.
func additions() []intent {
	return []intent{
		{key: "cmdline", reason: "Ampoule's own words"},
		{key: "pvpanic", reason: "by which a panic of the guest is seen"},
		{key: "landlock", reason: "the hypervisor locks itself in where the host's kernel lets it"},
		{key: "level", reason: "its log would have the VM's configuration in it"},
		{key: "control", reason: "the control socket is an inherited descriptor"},
		{key: "name", reason: "the VM has the name of its file"},
		{key: "S", reason: "the guest's processors start when the credentials are handed over"},
		{key: "action", reason: "Ampoule decides what follows a reboot, a panic and a power-off"},
		{key: "rng", reason: "a source of randomness, which the guest's keys need"},
		{key: "accel", reason: "KVM, without which the hypervisor does not run"},
		{key: "no-user-config", reason: "no file of the host's changes the VM"},
		{key: "nodefaults", reason: "no device that nobody asked for"},
		{key: "display", reason: "no graphics"},
		{key: "bus", reason: "the bus of virtio devices is that of the machine"},
		{key: "serial.chardev", reason: "ampoule console and the journal have it"},
		{key: "qemu-xhci", reason: "the controller of USB devices"},
		{key: "machine.usb", reason: "no controller beside those of devices"}, {key: "machine.dump-guest-core", reason: "the guest's memory is in no core dump"},
		{key: "machine.acpi", reason: "by which the power button is pressed"}, {key: "machine.rtc", reason: "a clock"}, {key: "machine.mem-merge", reason: "QEMU's default"}, {key: "machine.pcie", reason: "the devices are on virtio-mmio"},
		{key: "memory.hugepage_size", reason: "2M, what hosts have by default"},
		{key: "memory.shared", reason: "huge pages are mapped once"}, {key: "memory.backend", reason: "memory that is a file without a name, for huge pages or a share's server"}, {key: "memory.hugepages", reason: "the file is on huge pages"},
		{key: "memory.hotplug_method", reason: "virtio-mem"}, {key: "memory.hotplug.reserve", reason: "not set aside before it is asked for"},
		{key: "cpus.topology", reason: "as the lines of the file have it"}, {key: "cpus.sockets", reason: "of the topology"}, {key: "cpus.cores", reason: "of the topology"}, {key: "cpus.threads", reason: "of the topology"},
		{key: "disk[].format", reason: "said, and not guessed from what a guest can write"}, {key: "disk[].discard", reason: "blocks that the guest frees are the host's again"},
		{key: "disk[].cache_type", reason: "what the guest has flushed is on the host's disk"}, {key: "disk[].is_root_device", reason: "the guest's command line names its root"}, {key: "disk[].direct", reason: "by the host's page cache"},
		{key: "share[].multidevs", reason: "files of several file systems of the host keep numbers of their own"}, {key: "share[].cache", reason: "virtiofsd's default"},
		{key: "net[].name", reason: "Ampoule makes the tap, and gives it a name"},
		{key: "balloon.size", when: func(_, p string) bool { return p == "0" }, reason: "nothing is taken at first"}, {key: "balloon.deflate_on_oom", reason: "a guest that runs out of memory always takes it back"},
		{key: "balloon.free_page_reporting", reason: "what the guest does not use the host always has"}, {key: "balloon.stats_polling_interval_s", reason: "Ampoule asks as seldom as can be"},
	}
}

// cures are what to do with settings that no key has, by their keys.
func cures() map[string]string {
	return map[string]string{
		"memory.hotplugged_size": "give the memory with ampoule memory NAME SIZE when the guest runs",
		"balloon.size":           "take the memory with ampoule memory NAME SIZE when the guest runs",
		"cpus.max":               "give VCPU= as many processors as the guest shall ever have",
		"graphics":               "remove microvm.graphics from the VM",
		"device[].bus":           "have the device on a port that the machine chooses",
		"oem_string[]":           "hand the text over as a credential, by SetCredential=",
		"port[]":                 "let the guest reach the host's port at 10.0.2.2",
	}
}
