// Package qemu drives QEMU: machines q35 and microvm on x86-64.
//
// Judged with QEMU 7.2 (Debian 12) and SeaBIOS 1.16.2; what was measured there
// is in docs/measured.md. The definition of the VM is QEMU's command line, the
// running VM is controlled by QMP over an inherited socket, and credentials
// are files that QEMU reads from inherited descriptors.
package qemu

import (
	"fmt"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// Driver is QEMU. It holds no state.
type Driver struct{}

var _ driver.Driver = Driver{}

// Name is the value of Hypervisor=.
func (Driver) Name() string { return "qemu" }

// machine is what a machine type has and takes.
type machine struct {
	name string
	// options follow the name in -machine.
	options string
	// bus is the suffix of virtio devices.
	bus     string
	smbios  bool
	maxVCPU int
	// maxDisks counts networks too.
	maxDisks int
	// panicDevice tells QEMU of a kernel panic; empty where the machine has no
	// way to announce it to the guest.
	panicDevice string
	commandLine []string
	// noTimer: nothing to calibrate the TSC against, so that under emulation
	// the kernel must be told its rate, or one start in five hangs.
	noTimer bool
}

func machines() []machine {
	return []machine{
		{
			name: "q35", options: ",usb=off,dump-guest-core=off", bus: "pci", smbios: true,
			maxVCPU: 255, maxDisks: 24, panicDevice: "pvpanic",
			commandLine: []string{"panic=-1"},
		},
		{
			name: "microvm", options: ",acpi=on,rtc=on,pcie=off,usb=off,dump-guest-core=off", bus: "device",
			maxVCPU: 255, maxDisks: 16, noTimer: true,
			commandLine: []string{"panic=-1", "reboot=t"},
		},
	}
}

func findMachine(name string) (machine, []string) {
	var names []string
	for _, m := range machines() {
		if m.name == name {
			return m, nil
		}
		names = append(names, m.name)
	}
	return machine{}, names
}

// Compose fills QEMU's part of the plan.
func (Driver) Compose(vm *spec.VM, architecture string) (plan.VM, diag.List) {
	var problems diag.List
	if architecture != "x86-64" {
		vm.Hypervisor.From.Errorf(&problems, "run it on an x86-64 host", "qemu is carried out on x86-64 only in this version, and this is %s", architecture)
		return plan.VM{}, problems
	}
	name := "q35"
	if vm.Machine.Set {
		name = vm.Machine.Value
	}
	m, names := findMachine(name)
	if names != nil {
		accepted := fmt.Sprintf("accepted: %s, %s", names[0], names[1])
		if near := diag.Nearest(name, names); near != "" {
			accepted = "did you mean " + near + "? " + accepted
		}
		vm.Machine.From.Errorf(&problems, accepted, "qemu has no such machine type here")
		m = machines()[0]
	}
	m.check(vm, &problems)
	checkArgs(vm, m, &problems)
	out := plan.VM{
		Binary:         driver.Binary(vm, "qemu-system-x86_64", "qemu-kvm"),
		Machine:        m.name,
		CommandLineMax: 2047, // x86's COMMAND_LINE_SIZE without its NUL
		Networks:       driver.Networks(vm, driver.Interfaces{VHost: true}),
		Control:        plan.QMP,
		Accelerator:    m.accelerators(vm.Accelerator.Value),
		Channels:       m.channels(vm, &problems),
	}
	if vm.VSockCID.Set {
		out.VSock = &plan.VSock{CID: vm.VSockCID.Value}
	}
	out.KernelCommandLine = driver.KernelWords(vm, "ttyS0", m.commandLine...)
	out.Command, out.Resize = m.command(vm), resize(vm)
	return out, problems
}

// check refuses what the machine type does not take.
func (m machine) check(vm *spec.VM, problems *diag.List) {
	if n := vm.VCPU.Value; n > m.maxVCPU {
		vm.VCPU.From.Errorf(problems, fmt.Sprintf("accepted: 1 to %d", m.maxVCPU), "more virtual processors than the machine type %s takes", m.name)
	}
	m.checkMemory(vm, func(from spec.From, accepted, what string) {
		from.Errorf(problems, accepted, "the machine type %s (%s) takes %s", m.name, vm.Machine.From.Origin, what)
	})
	m.checkNetworks(vm, problems)
	m.checkDevices(vm, problems)
	for i, d := range vm.Disks {
		if i >= m.maxDisks {
			d.From.Errorf(problems, fmt.Sprintf("accepted: at most %d disks", m.maxDisks), "more disks than the machine type %s (%s) takes", m.name, vm.Machine.From.Origin)
		}
	}
	for i, s := range vm.Shares {
		if len(vm.Disks)+len(vm.Networks)+i >= m.maxDisks {
			s.From.Errorf(problems, fmt.Sprintf("accepted: at most %d disks, networks and shares together", m.maxDisks), "more devices than the machine type %s (%s) takes", m.name, vm.Machine.From.Origin)
		}
	}
}

// accelerators lists the answers to Accelerator=, the preferred first.
func (m machine) accelerators(asked string) []plan.Accelerator {
	kvm := plan.Accelerator{Name: "kvm", Words: []string{"-accel", "kvm", "-cpu", "host"}}
	tcg := plan.Accelerator{
		Name: "tcg", Words: []string{"-accel", "tcg,thread=multi", "-cpu", "max"},
		// The kernel counts on timer interrupts arriving while it loops for a
		// moment; on a busy host they come late and it panics ("IO-APIC + timer
		// doesn't work"). Under KVM it skips that check by itself.
		CommandLine: []string{"no_timer_check"},
	}
	if m.noTimer {
		tcg.CommandLine = append(tcg.CommandLine, "tsc_early_khz={tsc_khz}")
	}
	switch asked {
	case "kvm":
		return []plan.Accelerator{kvm}
	case "tcg":
		return []plan.Accelerator{tcg}
	}
	return []plan.Accelerator{kvm, tcg}
}
