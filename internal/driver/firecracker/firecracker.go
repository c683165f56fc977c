// Package firecracker drives Firecracker by its API. It has neither SMBIOS nor
// fw_cfg; credentials travel in front of the initial RAM disk.
//
// Judged with version 1.16.1; docs/hypervisors.md says what was tried. The facts
// are those of its sources: src/firecracker/src/api_server for the requests,
// src/vmm/src/vmm_config for the names of the fields.
package firecracker

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// Driver is Firecracker. It holds no state.
type Driver struct{}

var _ driver.Driver = Driver{}

// Name is the value of Hypervisor=.
func (Driver) Name() string { return "firecracker" }

const (
	maxVCPU = 32
	// maxDevices keeps the devices well within the interrupts that it has for
	// them, of which x86 has the fewest.
	maxDevices = 16
	// commandLine is its limit, CMDLINE_MAX_SIZE, without the NUL; deviceWord is
	// what it appends for a device on x86 (" virtio_mmio.device=4K@0x…:NN"), and
	// pciWord that its guest has no PCI.
	commandLine = 2047
	deviceWord  = 48
	pciWord     = len(" pci=off")
)

// platform is what the architecture decides.
type platform struct {
	formats []string
	words   []string
	// button: Ctrl-Alt-Del can be typed.
	button bool
	// announced: devices are announced on the kernel's command line.
	announced bool
	// threads: a core can have two.
	threads bool
}

func platforms() map[string]platform {
	return map[string]platform{
		"x86-64": {
			formats: []string{plan.ELF}, button: true, announced: true, threads: true,
			// A reset through the keyboard's controller is the end of the machine;
			// what it does not have besides that controller takes a second to look for.
			words: []string{"reboot=k", "panic=-1", "i8042.noaux", "i8042.nomux", "i8042.dumbkbd"},
		},
		"arm64": {formats: []string{plan.ArmImage}, words: []string{"reboot=k", "panic=-1"}},
	}
}

// Compose fills Firecracker's part of the plan.
func (Driver) Compose(vm *spec.VM, architecture string) (plan.VM, diag.List) {
	var problems diag.List
	p, ok := platforms()[architecture]
	if !ok {
		vm.Hypervisor.From.Errorf(&problems, "accepted on x86-64 and arm64", "firecracker does not run on %s", architecture)
		p = platforms()["x86-64"]
	}
	check(vm, p, &problems)
	out := plan.VM{
		Binary:            driver.Binary(vm, "firecracker"),
		Machine:           "default",
		CommandLineMax:    commandLineMax(vm, p),
		KernelCommandLine: driver.KernelWords(vm, "ttyS0", p.words...),
		VSock:             driver.OwnVSock(vm),
		Networks:          driver.Networks(vm, driver.Interfaces{ByName: true}),
		Control:           plan.HTTP,
		API:               api(vm, p),
		Resize:            resize(vm),
		Command:           command(vm),
		Accelerator:       []plan.Accelerator{{Name: "kvm", Words: []string{}}},
		Channels:          channels(vm, &problems),
		KernelFormats:     p.formats,
		SystemCalls:       []string{"seccomp"}, // its threads lock themselves in
		LockDisks:         true,
	}
	return out, problems
}

// devices counts those of the guest: disks, networks, a source of randomness, vsock,
// and what changes its memory.
func devices(vm *spec.VM) int {
	n := len(vm.Disks) + len(vm.Networks) + 1 + len(memoryDevices(vm))
	if vm.VSockCID.Set {
		n++
	}
	return n
}

// commandLineMax is what is left of its limit for Ampoule's words and the user's.
func commandLineMax(vm *spec.VM, p platform) int {
	if !p.announced {
		return commandLine
	}
	return commandLine - pciWord - devices(vm)*deviceWord
}

// check refuses what Firecracker cannot do, at the line that asks for it.
func check(vm *spec.VM, p platform, problems *diag.List) {
	no := refusals()
	if vm.Machine.Set {
		vm.Machine.From.Errorf(problems, "remove it", "%s", no["machine type"])
	}
	if vm.Accelerator.Value == "tcg" {
		vm.Accelerator.From.Errorf(problems, "accepted: auto, kvm; or Hypervisor=qemu", "%s", no["emulation"])
	}
	if n := vm.VCPU.Value; n > maxVCPU {
		vm.VCPU.From.Errorf(problems, fmt.Sprintf("accepted: 1 to %d", maxVCPU), "more virtual processors than firecracker takes")
	}
	for i, d := range vm.Disks {
		switch {
		case d.Format != spec.Raw:
			d.From.Errorf(problems, "convert it with qemu-img convert -O raw", "%s", no["disk "+d.Format])
		case d.Direct:
			d.From.Errorf(problems, "remove direct, or use another hypervisor", "%s", no["disk direct"])
		case d.Serial != "":
			d.From.Errorf(problems, "remove serial=, and find the file system by its label or UUID", "%s", no["disk serial"])
		case i >= maxDevices-2:
			d.From.Errorf(problems, fmt.Sprintf("accepted: at most %d disks", maxDevices-2), "more disks than firecracker takes")
		}
	}
	checkMemory(vm, p, problems)
	checkNetworks(vm, problems)
	for _, d := range vm.Devices {
		d.From.Errorf(problems, "remove it, or use another hypervisor", "%s", no["device "+d.Bus])
	}
	for _, s := range vm.Shares {
		s.From.Errorf(problems, "remove it, or use another hypervisor", "%s", no["share "+s.Protocol])
	}
	checkID(vm, problems)
	driver.CheckArguments(vm, arguments(), "Ampoule hands the VM over by the API, and passes on only what does not concern it", problems)
}

// checkID refuses a value of --id that firecracker aborts on, with a core dump.
func checkID(vm *spec.VM, problems *diag.List) {
	for i, w := range vm.HypervisorArgs {
		id, ok := strings.CutPrefix(w.Text, "--id=")
		if w.Text == "--id" && i+1 < len(vm.HypervisorArgs) {
			id, ok = vm.HypervisorArgs[i+1].Text, true
		}
		if ok && !isID.MatchString(id) {
			w.From.Errorf(problems, "accepted: 1 to 64 letters, digits and dashes", "not an ID that firecracker takes")
		}
	}
}

var isID = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)

// channels has the one that there is.
func channels(vm *spec.VM, problems *diag.List) []plan.Channel {
	asked := vm.CredentialChannel
	if asked.Value != "auto" && asked.Value != "initrd" {
		asked.From.Errorf(problems, "accepted: auto, initrd", "%s", refusals()["channel "+asked.Value])
		return nil
	}
	return driver.AskedChannels(vm, []plan.Channel{driver.InitrdChannel(vm)}, problems)
}

// command is its command line without the first word. Its log goes to standard
// output, which is the guest's console, and has the bodies of requests in it from
// level Info on, which is the default. What ends it is on standard error all the
// same.
func command(vm *spec.VM) []plan.Part {
	parts := []plan.Part{
		{Ask: plan.AskControl, Words: []string{"--api-sock", "{path}"}},
		{Words: []string{"--level", "Off"}},
		{Ask: plan.AskAccelerator, From: vm.Accelerator.From.ID},
		{Ask: plan.AskChannel, From: vm.CredentialChannel.From.ID},
	}
	if vm.Console.Value != "none" {
		parts = append(parts, plan.Part{Ask: plan.AskStdio, From: vm.Console.From.ID})
	}
	return append(parts, driver.UserArguments(vm)...)
}

// api is the VM as requests.
func api(vm *spec.VM, p platform) *plan.API {
	put := func(path string, body ...plan.Field) plan.Request {
		return plan.Request{Method: "PUT", Path: path, Body: body}
	}
	start := []plan.Request{
		put("/machine-config", machineConfig(vm)...),
		put("/boot-source",
			plan.TextAt("/kernel_image_path", vm.Kernel.Value, vm.Kernel.From.ID),
			plan.AskAt("/initrd_path", plan.AskInitrd, vm.Initrd.From.ID),
			plan.AskAt("/boot_args", plan.AskCommandLine, "")),
	}
	for i, d := range vm.Disks {
		id := fmt.Sprintf("disk%d", i)
		body := []plan.Field{
			plan.TextAt("/drive_id", id, d.From.ID), plan.TextAt("/path_on_host", d.Path, d.From.ID), plan.FalseAt("/is_root_device", d.From.ID),
			// By default what the guest has flushed may still be lost.
			plan.TextAt("/cache_type", "Writeback", d.From.ID),
		}
		if d.ReadOnly {
			body = append(body, plan.TrueAt("/is_read_only", d.From.ID))
		}
		start = append(start, put("/drives/"+id, body...))
	}
	start = append(start, memoryDevices(vm)...)
	start = append(start, networks(vm, put)...)
	if v := driver.OwnVSock(vm); v != nil {
		start = append(start, put("/vsock",
			plan.NumberAt("/guest_cid", v.CID, vm.VSockCID.From.ID), plan.AskAt("/uds_path", plan.AskVSock, vm.VSockCID.From.ID)))
	}
	action := func(name string) plan.Request { return put("/actions", plan.TextAt("/action_type", name, "")) }
	start = append(start, put("/entropy", plan.Empty()), action("InstanceStart"))
	a := &plan.API{
		Alive: plan.Request{Method: "GET", Path: "/"}, Version: "/vmm_version", Oldest: oldest,
		Start: start,
		// It has no power management: a guest that powers off halts for ever.
		Halted: `reboot: (Power down|System halted|Power off not available)`,
	}
	if vm.MemoryHotplug.Value > 0 || vm.Balloon.Value {
		a.Oldest = withMemory
	}
	if p.button {
		power := action("SendCtrlAltDel")
		a.Power = &power
	}
	return a
}
