package spec

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/layer"
)

// HotplugStep is what MemoryHotplug= is a multiple of: a block of Linux's memory
// hotplug on x86-64, of which virtio-mem makes a region.
const HotplugStep = 128 << 20

// HugePage2M and HugePage1G are the sizes of huge pages, in bytes.
const (
	HugePage2M = 2 << 20
	HugePage1G = 1 << 30
)

const acceptedBoolean = "accepted: yes, no, true, false, on, off, 1, 0"

// CPUTopology is how a guest's processors are put together.
type CPUTopology struct {
	Sockets, Cores, Threads int
}

// Processors is how many there are in all.
func (t CPUTopology) Processors() int { return t.Sockets * t.Cores * t.Threads }

// String returns the value as it is written in a file.
func (t CPUTopology) String() string {
	return fmt.Sprintf("%d:%d:%d", t.Sockets, t.Cores, t.Threads)
}

// topologyRow belongs to VCPU=.
func topologyRow() Row {
	return Row{
		Name: "CPUTopology", Image: true, Form: "SOCKETS:CORES:THREADS", Default: "the hypervisor's own",
		Accepted: "accepted: SOCKETS:CORES:THREADS, three whole numbers such as 1:2:2 that multiply to VCPU=",
		Help:     "How the virtual processors are put together: sockets, cores in each, threads on each core. Their product must be VCPU=. A guest schedules by it, and some software is licensed by it.",
		apply:    setScalar(func(vm *VM) *Setting[CPUTopology] { return &vm.CPUTopology }, parseTopology),
	}
}

// memoryRows are what there is to say of memory beside how much.
func memoryRows() []Row {
	return []Row{
		{
			Name: "HugePages", Form: "no|2M|1G", Default: "no", Words: []string{"no", "2M", "1G"}, Accepted: "accepted: no, 2M, 1G",
			Help: "Takes the guest's memory from the host's huge pages of this size, which the host must have set aside (vm.nr_hugepages), " +
				"all of them when the VM starts. Memory= must be a multiple.",
			apply: setScalar(func(vm *VM) *Setting[int64] { return &vm.HugePages }, parseHugePages),
		},
		{
			Name: "MemoryHotplug", Form: "SIZE", Default: "none", Accepted: "accepted: a size to the base 1024 such as 512M or 2G, in whole steps of 128M",
			Help: "How much memory can be added to Memory= while the VM runs, by ampoule memory. It starts without any of it. The guest needs a driver for virtio-mem (Linux 5.16 or later), " +
				"and is told by kernel parameters, which can be overridden in KernelCommandLine=, to put what is added to use at once.",
			apply: setScalar(func(vm *VM) *Setting[int64] { return &vm.MemoryHotplug }, parseHotplug),
		},
		{
			Name: "Balloon", Form: "BOOLEAN", Default: "no", Words: []string{"yes", "no"}, Accepted: acceptedBoolean,
			Help: "Gives the guest a balloon, by which ampoule memory takes memory from it while it runs, and gives it back. A guest that runs out of memory takes it back by itself, " +
				"and one that has no use for some of it lets the host have that in the meantime. It does not go with HugePages=, of which a guest gives back only parts, too small for the host, nor with a PCI Device=, for which all of its memory stays with the guest.",
			apply: setScalar(func(vm *VM) *Setting[bool] { return &vm.Balloon }, ParseBoolean),
		},
	}
}

// watchdogRows are about the guest's watchdog, not that of the service.
func watchdogRows() []Row {
	return []Row{{
		Name: "Watchdog", Image: true, Form: "BOOLEAN", Default: "no", Words: []string{"yes", "no"},
		Accepted: acceptedBoolean,
		Help: "Gives the guest a watchdog. Once the guest has opened it (RuntimeWatchdogSec= in its systemd-system.conf(5)) and then falls silent, the guest is reset, " +
			"which is a reboot like any other. The guest needs the driver for what the hypervisor has, see docs/hypervisors.md.",
		apply: setScalar(func(vm *VM) *Setting[bool] { return &vm.Watchdog }, ParseBoolean),
	}}
}

func parseTopology(s string) (CPUTopology, error) {
	parts := strings.Split(s, ":")
	if len(parts) != 3 {
		return CPUTopology{}, fmt.Errorf("not three numbers")
	}
	var n [3]int
	for i, what := range []string{"sockets", "cores", "threads"} {
		var err error
		if n[i], err = ParseInt(parts[i], 1, MaxVCPU); err != nil {
			return CPUTopology{}, fmt.Errorf("%s: %w", what, err)
		}
	}
	return CPUTopology{n[0], n[1], n[2]}, nil
}

func parseHugePages(s string) (int64, error) {
	switch s {
	case "no":
		return 0, nil
	case "2M":
		return HugePage2M, nil
	case "1G":
		return HugePage1G, nil
	}
	return 0, fmt.Errorf("not a size of huge pages")
}

func parseHotplug(s string) (int64, error) {
	n, err := ParseSize(s)
	switch {
	case err != nil:
		return 0, err
	case n == 0:
		return 0, fmt.Errorf("nothing could be added")
	case n%HotplugStep != 0:
		return 0, fmt.Errorf("not in whole steps of %s, in which Linux takes memory", FormatSize(HotplugStep))
	case n > 1<<50:
		return 0, fmt.Errorf("more than any machine has")
	}
	return n, nil
}

// checkMemory refuses what does not go together.
func (r *reader) checkMemory() {
	vm := r.vm
	if t := vm.CPUTopology; t.Set && t.Value.Processors() != vm.VCPU.Value {
		t.From.Errorf(r.problems, fmt.Sprintf("accepted: three numbers that multiply to %d, or VCPU=%d", vm.VCPU.Value, t.Value.Processors()),
			"these are %d processors, and VCPU=%d%s", t.Value.Processors(), vm.VCPU.Value, r.at("VCPU", vm.VCPU.From))
	}
	if page := vm.HugePages; page.Value > 0 && vm.Memory.Value%page.Value != 0 {
		page.From.Errorf(r.problems, fmt.Sprintf("use Memory=%s, or HugePages=no", FormatSize((vm.Memory.Value+page.Value-1)/page.Value*page.Value)),
			"Memory=%s%s is no multiple of such a page", FormatSize(vm.Memory.Value), r.at("Memory", vm.Memory.From))
	}
	if add := vm.MemoryHotplug; vm.HugePages.Value > 0 && add.Value%vm.HugePages.Value != 0 {
		add.From.Errorf(r.problems, "accepted: whole pages of "+FormatSize(vm.HugePages.Value), "it is no multiple of HugePages=%s%s", FormatSize(vm.HugePages.Value), r.at("HugePages", vm.HugePages.From))
	}
	if vm.Balloon.Value && vm.HugePages.Value > 0 {
		vm.Balloon.From.Errorf(r.problems, "remove one of them", "a guest gives back parts of huge pages (HugePages=%s%s), and the host gets none of them", FormatSize(vm.HugePages.Value), r.at("HugePages", vm.HugePages.From))
	}
	if i := slices.IndexFunc(vm.Devices, func(d Device) bool { return d.Bus == PCI }); vm.Balloon.Value && i >= 0 {
		d := vm.Devices[i]
		vm.Balloon.From.Errorf(r.problems, "remove one of them",
			"all of the guest's memory stays with it, for its device reaches it at any time (Device=%s (%s)), and the host gets none of it", d, d.From.Origin)
	}
}

// at is the place of a key's line in brackets, for a message about another line; of a
// default it says that it is one, and which line returned to it.
func (r *reader) at(key string, from From) string {
	if from.ID != "" {
		return " (" + from.Origin.String() + ")"
	}
	if g := r.resolved.Group(Section, key); g != nil {
		if last := g.Entries[len(g.Entries)-1]; last.Fate == layer.Clears {
			return " (the default, by " + last.Origin.String() + ")"
		}
	}
	return " (the default)"
}
