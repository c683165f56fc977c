package qemu

import (
	"fmt"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// checkDevices refuses devices of the host on a machine without PCI: USB hangs on a
// controller there too.
func (m machine) checkDevices(vm *spec.VM, problems *diag.List) {
	if m.bus == "pci" {
		return
	}
	for _, d := range vm.Devices {
		d.From.Errorf(problems, "use Machine=q35, or remove it", "the machine type %s (%s) has no PCI, and takes no devices of the host", m.name, vm.Machine.From.Origin)
	}
}

// devices are the devices of the host, those of USB behind a controller of their own.
func devices(vm *spec.VM) []plan.Part {
	var parts []plan.Part
	controller := false
	for i, d := range vm.Devices {
		id := fmt.Sprintf(",id=device%d", i)
		if d.Bus == spec.PCI {
			parts = append(parts, plan.Part{From: d.From.ID, Words: []string{"-device", "vfio-pci,host=" + d.Address + id}})
			continue
		}
		if !controller {
			controller = true
			parts = append(parts, plan.Part{From: d.From.ID, Words: []string{"-device", "qemu-xhci,id=usb"}})
		}
		parts = append(parts, plan.Part{From: d.From.ID, Words: []string{"-device", "usb-host,bus=usb.0," + usb(d.Address) + id}})
	}
	return parts
}

// usb says which device it is.
func usb(address string) string {
	if vendor, product, ok := strings.Cut(address, ":"); ok {
		return "vendorid=0x" + vendor + ",productid=0x" + product
	}
	bus, port, _ := strings.Cut(address, "-")
	return "hostbus=" + bus + ",hostport=" + port
}
