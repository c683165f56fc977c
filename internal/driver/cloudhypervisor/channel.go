package cloudhypervisor

import (
	"fmt"

	"github.com/ampoule-vm/ampoule/internal/credential/rule"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// oemTable is the most that the OEM strings may come to. They travel in a request
// of at most 51,200 bytes, of which the rest of the VM needs some. In the guest
// they are written below 1 MiB without a look at their length: there are 64 KiB
// from 0xF0000 on, and what does not fit runs into the kernel.
const oemTable = 40 << 10

// channels lists the ways into the guest, the preferred first: SMBIOS needs
// nothing of the guest but its systemd.
func channels(vm *spec.VM, p platform, problems *diag.List) []plan.Channel {
	asked := vm.CredentialChannel
	switch {
	case asked.Value == "fw_cfg":
		asked.From.Errorf(problems, "accepted: auto, smbios, initrd", "%s", refusals()["channel fw_cfg"])
		return nil
	case asked.Value == "smbios" && !p.smbios:
		asked.From.Errorf(problems, "accepted: auto, initrd", "cloud-hypervisor has no SMBIOS on this architecture")
		return nil
	}
	var out []plan.Channel
	if p.smbios {
		out = append(out, smbiosChannel(vm))
	}
	out = append(out, driver.InitrdChannel(vm))
	return driver.AskedChannels(vm, out, problems)
}

// smbiosChannel makes one structure of all credentials, unlike that of a
// hypervisor that takes structures as they are.
func smbiosChannel(vm *spec.VM) plan.Channel {
	c := plan.Channel{
		Name: "smbios", Encoding: plan.OEMStrings,
		RefuseInName: "=", // the guest ends a credential's name there
		MaxStructure: rule.SMBIOSPage, MaxCount: rule.SMBIOSMaxStrings,
		Why: fmt.Sprintf(`smbios takes %d bytes in all, since a guest systemd below 257 reads no more of a structure and cloud-hypervisor makes only one (GuestSystemd=257 lifts that), `+
			`%d credentials, and names without "="`, rule.SMBIOSPage, rule.SMBIOSMaxStrings),
	}
	if vm.GuestSystemd.Value >= 257 {
		c.MaxStructure = oemTable
		c.Why = fmt.Sprintf(`smbios takes %d bytes in all, since cloud-hypervisor takes requests of at most 51200 bytes, %d credentials, and names without "="`, oemTable, rule.SMBIOSMaxStrings)
	}
	return c
}
