package emit

import (
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

// firstOn is the first device of the plan on a bus, as a reason; empty: there is none.
func (s UnitSource) firstOn(bus string) string {
	for _, d := range s.Plan.VM.Devices {
		if d.Bus == bus {
			return s.Plan.Origin(d.From).String() + ", " + plan.KeyOf(d.From) + "="
		}
	}
	return ""
}

// devices opens the devices of the host that the guest gets. Which nodes they have is
// known only at the start: all of the kind are opened here, and only that which root
// gives to the VM's user can be opened by it.
func (s UnitSource) devices() []unitfile.Entry {
	var out []unitfile.Entry
	if why := s.firstOn(spec.PCI); why != "" {
		out = append(out,
			entry(why, "DeviceAllow", "/dev/vfio/vfio rw"), entry("its IOMMU group", "DeviceAllow", "char-vfio rw"),
			entry("the device writes into the guest's memory, all of which must stay where it is", "LimitMEMLOCK", "infinity"))
	}
	if why := s.firstOn(spec.USB); why != "" {
		out = append(out,
			entry(why, "DeviceAllow", "char-usb_device rw"),
			entry("by which it is told what is plugged in", "RestrictAddressFamilies", "AF_NETLINK"))
	}
	return out
}

// driverModule loads the driver for PCI devices before the sandbox looks for its nodes.
func (s UnitSource) driverModule() []unitfile.Entry {
	why := s.firstOn(spec.PCI)
	if why == "" {
		return nil
	}
	const module = "modprobe@vfio_pci.service"
	return []unitfile.Entry{entry(why, "Wants", module), entry(why, "After", module)}
}
