package qemu

import (
	"fmt"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

const (
	// smbiosTable is the largest table that a 32-bit entry point describes;
	// QEMU refuses more, or with a 64-bit one SeaBIOS cuts it in silence.
	smbiosTable = 65535
	// smbiosOwn is what QEMU's own structures need, and smbiosPerDIMM what it
	// adds for every 16 GiB of memory (types 17 and 20 with their strings).
	smbiosOwn     = 2 << 10
	smbiosPerDIMM = 128
	dimm          = 16 << 30
	// oldStructure is what a guest's systemd below 257 reads of a structure:
	// one page, and the rest is lost without a word.
	oldStructure = 4096
	// fwCfgName is QEMU's limit of 55 bytes less "opt/io.systemd.credentials/".
	fwCfgName = 55 - len("opt/io.systemd.credentials/")
	// fwCfgCount keeps the number of fw_cfg files well within what was
	// measured to work.
	fwCfgCount = 200
)

// channels lists the ways into the guest that the VM may take, the preferred
// first: SMBIOS needs nothing of the guest but its systemd, fw_cfg a kernel
// module, the initrd an init that leaves what was delivered in its place, and
// a copy of itself in memory. A channel that is named and that the machine or
// the VM lacks is an error.
func (m machine) channels(vm *spec.VM, problems *diag.List) []plan.Channel {
	asked := vm.CredentialChannel
	if asked.Value == "smbios" && !m.smbios {
		asked.From.Errorf(problems, "accepted: auto, fw_cfg, initrd; or Machine=q35",
			"the machine type %s (%s) has no SMBIOS: QEMU takes the option and drops the credentials", m.name, vm.Machine.From.Origin)
		return nil
	}
	var out []plan.Channel
	if m.smbios {
		out = append(out, smbiosChannel(vm))
	}
	out = append(out, fwCfgChannel(), driver.InitrdChannel(vm))
	return driver.AskedChannels(vm, out, problems)
}

func smbiosChannel(vm *spec.VM) plan.Channel {
	dimms := int((vm.Memory.Value + dimm - 1) / dimm)
	total := max(smbiosTable-smbiosOwn-dimms*smbiosPerDIMM, 0)
	c := plan.Channel{
		Name: "smbios", Encoding: plan.SMBIOS,
		// The guest ends a credential's name at the first "=".
		RefuseInName: "=",
		MaxStructure: oldStructure, MaxTotal: total,
		Each: []string{"-smbios", "file=/proc/self/fd/{fd}"},
		Why: fmt.Sprintf(`smbios takes structures of %d bytes, since a guest systemd below 257 reads no more of one (GuestSystemd=257 lifts that), `+
			`%d bytes in all, since its tables end at 64 KiB, and names without "="`, oldStructure, total),
	}
	if vm.GuestSystemd.Value >= 257 {
		c.MaxStructure = total
		c.Why = fmt.Sprintf(`smbios takes %d bytes in all, since its tables end at 64 KiB, and names without "="`, total)
	}
	return c
}

func fwCfgChannel() plan.Channel {
	return plan.Channel{
		Name: "fw_cfg", Encoding: plan.Raw,
		MaxName: fwCfgName, MaxCount: fwCfgCount,
		Once:    []string{"-global", "fw_cfg_io.x-file-slots={slots}"},
		Each:    []string{"-fw_cfg", "name=opt/io.systemd.credentials/{name},file=/proc/self/fd/{fd}"},
		Doubled: ",",
		Why: fmt.Sprintf("fw_cfg takes %d credentials with names of at most %d bytes, since QEMU takes names of 55 bytes and %d are the prefix",
			fwCfgCount, fwCfgName, 55-fwCfgName),
	}
}
