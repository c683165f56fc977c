package driver

import (
	"slices"

	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// features are all that a driver answers for, with how each is asked for; those
// for which no line of a file asks are told to the reader of the manual alone.
func features() []Feature {
	return []Feature{
		{Name: "channel smbios"}, {Name: "channel fw_cfg"}, {Name: "channel initrd"},
		{Name: "console"}, {Name: "disk raw"}, {Name: "disk qcow2"}, {Name: "disk vhd"}, {Name: "disk vhdx"},
		{Name: "disk direct"}, {Name: "disk serial"}, {Name: "share virtiofs"}, {Name: "share 9p"},
		{Name: "device pci"}, {Name: "device usb"},
		{Name: "readiness started"}, {Name: "readiness console"}, {Name: "readiness guest"},
		{Name: "huge pages 2M"}, {Name: "huge pages 1G"}, {Name: "cpu topology"}, {Name: "watchdog"},
		{Name: "network user"}, {Name: "network tap"}, {Name: "network macvtap"}, {Name: "network queues"}, {Name: "network vhost"}, {Name: "network mtu"},
		{Name: "memory hotplug"}, {Name: "balloon"},
		{Name: "vsock"}, {Name: "machine type"}, {Name: "emulation"},
		{Name: "power button", Unasked: true}, {Name: "reboot", Unasked: true},
	}
}

// FeatureNames lists the features of the contract.
func FeatureNames() []string {
	var names []string
	for _, f := range features() {
		names = append(names, f.Name)
	}
	return names
}

// Answer makes a driver's table of its refusals: the others it has. A refusal of
// something that is no feature stands in the table too, where the contract's test
// finds it.
func Answer(refusals map[string]string) []Feature {
	out := features()
	for i := range out {
		out[i].Refusal = refusals[out[i].Name]
	}
	var others []string
	for name := range refusals {
		if !slices.Contains(FeatureNames(), name) {
			others = append(others, name)
		}
	}
	slices.Sort(others)
	for _, name := range others {
		out = append(out, Feature{Name: name, Refusal: refusals[name]})
	}
	return out
}

// UserArguments are the words of HypervisorArgs=, those of a line together.
func UserArguments(vm *spec.VM) []plan.Part {
	var parts []plan.Part
	for i := 0; i < len(vm.HypervisorArgs); {
		part := plan.Part{From: vm.HypervisorArgs[i].From.ID, Words: []string{}}
		for ; i < len(vm.HypervisorArgs) && vm.HypervisorArgs[i].From.ID == part.From; i++ {
			part.Words = append(part.Words, vm.HypervisorArgs[i].Text)
		}
		parts = append(parts, part)
	}
	return parts
}

// UUID writes a machine ID, 32 hexadecimal digits, as firmware has it.
func UUID(id string) string {
	return id[:8] + "-" + id[8:12] + "-" + id[12:16] + "-" + id[16:20] + "-" + id[20:]
}
