package driver

import (
	"slices"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// Binary is the program that the user named, or the first of these names.
func Binary(vm *spec.VM, names ...string) plan.Binary {
	if path := vm.HypervisorPath.Value; path != "" {
		return plan.Binary{Path: path}
	}
	return plan.Binary{Search: names}
}

// KernelWords is the kernel's command line: ours first, so that the user's word
// wins where the kernel takes the last one. console is the device of the console.
func KernelWords(vm *spec.VM, console string, ours ...string) []string {
	words := []string{}
	if vm.Console.Value != "none" {
		words = append(words, "console="+console)
	}
	words = append(words, ours...)
	if vm.MemoryHotplug.Value > 0 {
		// What is added would lie idle until somebody in the guest puts it to use.
		// By this policy Linux can mostly give it back, and never has too much that
		// its kernel cannot use.
		words = append(words, "memhp_default_state=online", "memory_hotplug.online_policy=auto-movable")
	}
	if vm.MachineID.Set {
		words = append(words, "systemd.machine_id="+vm.MachineID.Value)
	}
	for _, w := range vm.KernelCommandLine {
		words = append(words, w.Text)
	}
	return words
}

// AskedChannels keeps the channel that CredentialChannel= names, and refuses it at
// that line where the VM cannot take it; with auto it keeps them all.
func AskedChannels(vm *spec.VM, channels []plan.Channel, problems *diag.List) []plan.Channel {
	asked := vm.CredentialChannel
	if asked.Value == "auto" {
		return channels
	}
	channels = slices.DeleteFunc(channels, func(c plan.Channel) bool { return c.Name != asked.Value })
	for _, c := range channels {
		if c.Refused != "" {
			asked.From.Errorf(problems, c.Cure, "%s", c.Refused)
		}
	}
	return channels
}

// privateCID is the guest's number on a vsock that is its hypervisor's own. Nobody
// but that process knows it, so that all VMs may have the same.
const privateCID = 3

// OwnVSock is a vsock that the hypervisor's process connects itself; nil where the
// VM has none.
func OwnVSock(vm *spec.VM) *plan.VSock {
	switch {
	case !vm.VSockCID.Set:
		return nil
	case vm.VSockCID.Value == spec.AnyCID:
		return &plan.VSock{CID: privateCID, Multiplexed: true}
	}
	return &plan.VSock{CID: vm.VSockCID.Value, Multiplexed: true}
}
