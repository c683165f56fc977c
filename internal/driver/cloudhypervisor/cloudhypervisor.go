// Package cloudhypervisor drives Cloud Hypervisor by its API: the process is
// started with an inherited socket and nothing of the VM on its command line, and
// gets the VM by vm.create and vm.boot.
//
// Judged with version 53.0; docs/hypervisors.md says what was tried. The facts
// are those of its sources: vmm/src/vm_config.rs for the names of the fields,
// vmm/src/api for the requests, arch/src/x86_64/smbios.rs for the OEM strings.
package cloudhypervisor

import (
	"fmt"
	"slices"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// Driver is Cloud Hypervisor. It holds no state.
type Driver struct{}

var _ driver.Driver = Driver{}

// Name is the value of Hypervisor=.
func (Driver) Name() string { return "cloud-hypervisor" }

const (
	// maxVCPU is the largest number that all of its hypervisors and architectures
	// take (vmm/src/config.rs).
	maxVCPU = 254
	// maxSerial is what virtio-blk has room for, in bytes.
	maxSerial = 20
)

// platform is what the architecture decides.
type platform struct {
	console string
	formats []string
	smbios  bool
}

func platforms() map[string]platform {
	return map[string]platform{
		"x86-64": {console: "ttyS0", formats: []string{plan.BzImage, plan.PVH}, smbios: true},
		"arm64":  {console: "ttyAMA0", formats: []string{plan.ArmImage}},
	}
}

// Compose fills Cloud Hypervisor's part of the plan.
func (Driver) Compose(vm *spec.VM, architecture string) (plan.VM, diag.List) {
	var problems diag.List
	p, ok := platforms()[architecture]
	if !ok {
		vm.Hypervisor.From.Errorf(&problems, "accepted on x86-64 and arm64", "cloud-hypervisor does not run on %s", architecture)
		p = platforms()["x86-64"]
	}
	check(vm, &problems)
	out := plan.VM{
		Binary:            driver.Binary(vm, "cloud-hypervisor"),
		Machine:           "default",
		CommandLineMax:    2047, // COMMAND_LINE_SIZE of both architectures without its NUL
		KernelCommandLine: driver.KernelWords(vm, p.console, "panic=-1"),
		VSock:             driver.OwnVSock(vm),
		Networks:          driver.Networks(vm, driver.Interfaces{}),
		Control:           plan.HTTP,
		API:               api(vm),
		Resize:            resize(vm),
		Command:           command(vm),
		Accelerator:       []plan.Accelerator{{Name: "kvm", Words: []string{}}},
		Channels:          channels(vm, p, &problems),
		KernelFormats:     p.formats,
		FixedVHD:          true,
		// Its threads lock themselves in: without the first it does not start.
		SystemCalls: []string{"seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"},
	}
	return out, problems
}

// check refuses what Cloud Hypervisor cannot do, at the line that asks for it.
func check(vm *spec.VM, problems *diag.List) {
	if vm.Machine.Set {
		vm.Machine.From.Errorf(problems, "remove it", "%s", refusals()["machine type"])
	}
	if vm.Accelerator.Value == "tcg" {
		vm.Accelerator.From.Errorf(problems, "accepted: auto, kvm; or Hypervisor=qemu", "%s", refusals()["emulation"])
	}
	if n := vm.VCPU.Value; n > maxVCPU {
		vm.VCPU.From.Errorf(problems, fmt.Sprintf("accepted: 1 to %d", maxVCPU), "more virtual processors than cloud-hypervisor takes")
	}
	if t := vm.CPUTopology; t.Set && t.Value.Threads > maxThreads {
		t.From.Errorf(problems, "accepted: one or two threads", "more threads on a core than cloud-hypervisor takes")
	}
	for _, d := range vm.Disks {
		if len(d.Serial) > maxSerial {
			d.From.Errorf(problems, fmt.Sprintf("accepted: at most %d bytes", maxSerial), "the serial number is longer than a virtio disk has room for")
		}
	}
	checkNetworks(vm, problems)
	for _, d := range vm.Devices {
		if d.Bus == spec.USB {
			d.From.Errorf(problems, "accepted: pci:DDDD:BB:DD.F", "%s", refusals()["device usb"])
		}
	}
	for _, s := range vm.Shares {
		if s.Protocol != spec.VirtioFS {
			s.From.Errorf(problems, "accepted: virtiofs; or Hypervisor=qemu", "%s", refusals()["share "+s.Protocol])
		}
	}
	driver.CheckASCII(vm, problems)
	driver.CheckArguments(vm, arguments(), "cloud-hypervisor takes the options of a VM only if all of it stands on its command line, and Ampoule hands it over by the API", problems)
}

// command is its command line without the first word: two descriptors.
func command(vm *spec.VM) []plan.Part {
	parts := []plan.Part{
		{Ask: plan.AskControl, Words: []string{"--api-socket", "fd={fd}"}},
		{Ask: plan.AskEvents, Words: []string{"--event-monitor", "fd={fd}"}},
		{Ask: plan.AskAccelerator, From: vm.Accelerator.From.ID},
	}
	if vm.Console.Value != "none" {
		parts = append(parts, plan.Part{Ask: plan.AskStdio, From: vm.Console.From.ID})
	}
	return append(parts, driver.UserArguments(vm)...)
}

// api is the VM as requests.
func api(vm *spec.VM) *plan.API {
	request := func(method, name string) plan.Request {
		return plan.Request{Method: method, Path: "/api/v1/" + name}
	}
	create, power := request("PUT", "vm.create"), request("PUT", "vm.power-button")
	create.Body = config(vm)
	return &plan.API{
		Alive: request("GET", "vmm.ping"), Version: "/version", Oldest: oldest,
		Start: slices.Concat([]plan.Request{create}, networks(vm, request), []plan.Request{request("PUT", "vm.boot")}),
		Power: &power,
		Events: []plan.Event{
			{Source: "vm", Event: "rebooting", Means: plan.Rebooting},
			{Source: "vm", Event: "rebooted", Means: plan.Resumed},
			{Source: "guest", Event: "panic", Means: plan.Panicked},
		},
	}
}

// config is a VmConfig. What is not in it has the defaults of Cloud Hypervisor.
func config(vm *spec.VM) []plan.Field {
	serial := "Tty" // its standard input and output
	if vm.Console.Value == "none" {
		serial = "Null"
	}
	fields := []plan.Field{
		plan.NumberAt("/cpus/boot_vcpus", int64(vm.VCPU.Value), vm.VCPU.From.ID),
		plan.NumberAt("/cpus/max_vcpus", int64(vm.VCPU.Value), vm.VCPU.From.ID),
		plan.NumberAt("/memory/size", vm.Memory.Value, vm.Memory.From.ID),
	}
	fields = append(fields, memory(vm)...)
	fields = append(fields,
		plan.AskAt("/payload/kernel", plan.AskKernel, vm.Kernel.From.ID),
		plan.AskAt("/payload/initramfs", plan.AskInitrd, vm.Initrd.From.ID),
		plan.AskAt("/payload/cmdline", plan.AskCommandLine, ""),
		plan.TextAt("/rng/src", "/dev/urandom", ""),
		plan.TextAt("/serial/mode", serial, vm.Console.From.ID),
		plan.TextAt("/console/mode", "Off", ""),
		plan.TrueAt("/pvpanic", ""),
		plan.AskAt("/landlock_enable", plan.AskLandlock, ""),
		plan.AskAt("/platform/oem_strings", plan.AskChannel, vm.CredentialChannel.From.ID),
	)
	if vm.MachineID.Set {
		fields = append(fields, plan.TextAt("/platform/uuid", driver.UUID(vm.MachineID.Value), vm.MachineID.From.ID))
	}
	for i, d := range vm.Disks {
		at := fmt.Sprintf("/disks/%d/", i)
		fields = append(fields, plan.TextAt(at+"path", d.Path, d.From.ID), plan.TextAt(at+"image_type", imageType(d.Format), d.From.ID))
		if d.ReadOnly {
			fields = append(fields, plan.TrueAt(at+"readonly", d.From.ID))
		}
		if d.Direct {
			fields = append(fields, plan.TrueAt(at+"direct", d.From.ID))
		}
		if d.Serial != "" {
			fields = append(fields, plan.TextAt(at+"serial", d.Serial, d.From.ID))
		}
	}
	for i, d := range vm.Devices {
		fields = append(fields, plan.TextAt(fmt.Sprintf("/devices/%d/path", i), "/sys/bus/pci/devices/"+d.Address+"/", d.From.ID))
	}
	for i, s := range vm.Shares {
		if i == 0 { // whoever serves it maps the guest's memory
			fields = append(fields, plan.TrueAt("/memory/shared", s.From.ID))
		}
		at := fmt.Sprintf("/fs/%d/", i)
		fields = append(fields, plan.TextAt(at+"tag", s.Tag, s.From.ID), plan.TextAt(at+"socket", driver.ShareSocket(vm, s), s.From.ID))
	}
	if v := driver.OwnVSock(vm); v != nil {
		fields = append(fields, plan.NumberAt("/vsock/cid", v.CID, vm.VSockCID.From.ID), plan.AskAt("/vsock/socket", plan.AskVSock, vm.VSockCID.From.ID))
	}
	return fields
}

// imageType is said, and not left to be guessed: by what it guesses from, a guest
// that writes to the beginning of its disk could choose the format of the next
// start, and with it a file of the host as the one below it.
func imageType(format string) string {
	switch format {
	case spec.QCOW2:
		return "Qcow2"
	case spec.VHD:
		return "FixedVhd"
	case spec.VHDX:
		return "Vhdx"
	}
	return "Raw"
}
