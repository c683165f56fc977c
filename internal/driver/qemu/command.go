package qemu

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// command is QEMU's command line without its first word.
func (m machine) command(vm *spec.VM) []plan.Part {
	literal := func(from string, words ...string) plan.Part { return plan.Part{Words: words, From: from} }
	parts := []plan.Part{
		literal("", "-nodefaults", "-no-user-config", "-display", "none"),
		literal("", "-name", vm.Identity.Name),
		literal(vm.Machine.From.ID, "-machine", m.name+m.options),
		{Ask: plan.AskAccelerator, From: vm.Accelerator.From.ID},
	}
	parts = append(parts, processors(vm)...)
	parts = append(parts, m.memory(vm)...)
	parts = append(parts,
		// Every end of the guest stops QEMU with a SHUTDOWN event that gives
		// the reason; what comes next is decided by ampoule.
		literal("", "-S", "-action", "reboot=shutdown,shutdown=pause,panic=shutdown"),
		plan.Part{Ask: plan.AskControl, Words: []string{"-chardev", "socket,id=control,fd={fd}", "-mon", "chardev=control,mode=control"}},
	)
	if vm.Console.Value != "none" {
		parts = append(parts, plan.Part{
			Ask: plan.AskConsole, From: vm.Console.From.ID,
			Words: []string{"-chardev", "socket,id=console,fd={fd}", "-serial", "chardev:console"},
		})
	}
	if m.panicDevice != "" {
		parts = append(parts, literal("", "-device", m.panicDevice))
	}
	if vm.Watchdog.Value {
		parts = append(parts, literal(vm.Watchdog.From.ID, "-device", "i6300esb", "-action", "watchdog=reset"))
	}
	parts = append(parts, literal("", "-object", "rng-builtin,id=rng", "-device", "virtio-rng-"+m.bus+",rng=rng"))
	if vm.MachineID.Set {
		parts = append(parts, literal(vm.MachineID.From.ID, "-uuid", driver.UUID(vm.MachineID.Value)))
	}
	parts = append(parts, literal(vm.Kernel.From.ID, "-kernel", vm.Kernel.Value))
	parts = append(parts,
		plan.Part{Ask: plan.AskInitrd, From: vm.Initrd.From.ID, Words: []string{"-initrd"}},
		plan.Part{Ask: plan.AskCommandLine, Words: []string{"-append"}})
	// Before the disks: a disk more does not change the place of an interface, by
	// which the guest may call it.
	parts = append(parts, m.networks(vm)...)
	for i, d := range vm.Disks {
		parts = append(parts, literal(d.From.ID, m.disk(i, d)...))
	}
	parts = append(parts, devices(vm)...)
	for i, s := range vm.Shares {
		parts = append(parts, literal(s.From.ID, m.share(vm, i, s)...))
	}
	parts = append(parts, plan.Part{Ask: plan.AskChannel})
	if vm.VSockCID.Set {
		parts = append(parts, plan.Part{
			Ask: plan.AskVSock, From: vm.VSockCID.From.ID,
			Words: []string{"-device", "vhost-vsock-" + m.bus + ",guest-cid={cid},vhostfd={fd}"},
		})
	}
	return append(parts, driver.UserArguments(vm)...)
}

// disk attaches disk number i. -blockdev takes JSON, in which a path needs no
// escapes of QEMU's own; a relative path lies in the state directory, where
// QEMU is started.
func (m machine) disk(i int, d spec.Disk) []string {
	type file struct {
		Driver   string `json:"driver"`
		Filename string `json:"filename"`
		Locking  string `json:"locking,omitempty"`
	}
	// The file below takes it over.
	type cache struct {
		Direct bool `json:"direct"`
	}
	type blockdev struct {
		NodeName string `json:"node-name"`
		Driver   string `json:"driver"`
		ReadOnly bool   `json:"read-only"`
		Discard  string `json:"discard"`
		Cache    *cache `json:"cache,omitempty"`
		File     file   `json:"file"`
	}
	node := fmt.Sprintf("disk%d", i)
	name, protocol, locking := d.Path, "file", "auto"
	switch {
	case d.Relative():
		name = "./" + d.Path
	case spec.IsDevice(d.Path):
		protocol = "host_device"
	}
	var direct *cache
	if d.Direct {
		direct = &cache{true}
	}
	var text strings.Builder
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	// Strings and booleans always encode.
	_ = enc.Encode(blockdev{NodeName: node, Driver: blockDriver(d.Format), ReadOnly: d.ReadOnly, Discard: "unmap", Cache: direct, File: file{protocol, name, locking}})
	device := "virtio-blk-" + m.bus + ",drive=" + node
	if d.Serial != "" {
		device += ",serial=" + d.Serial
	}
	return []string{"-blockdev", strings.TrimSuffix(text.String(), "\n"), "-device", device}
}

// blockDriver is what QEMU calls a format.
func blockDriver(format string) string {
	if format == spec.VHD {
		return "vpc"
	}
	return format
}
