package verify

import (
	"errors"
	"os"

	"github.com/ampoule-vm/ampoule/internal/devices"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// lostDevices are those of a plan that runs which the guest does not have.
func lostDevices(t devices.Tree, p *plan.Plan) []Lost {
	var out []Lost
	for _, d := range p.VM.Devices {
		if what := whatBecame(t, d); what != "" {
			out = append(out, Lost{d, p.Origin(d.From), what})
		}
	}
	return out
}

// whatBecame says what became of a device; empty: it is where it was put.
func whatBecame(t devices.Tree, d plan.Device) string {
	if d.Bus == spec.USB {
		if found, err := t.FindUSB(d.Address); err == nil && len(found) == 0 {
			return "it is not plugged in any more"
		}
		return ""
	}
	p, err := t.FindPCI(d.Address)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "the host does not have it any more"
	case err != nil || p.Driver == devices.VFIO:
		return ""
	case p.Driver == "":
		return "it was taken from vfio-pci, and has no driver"
	}
	return "the host uses it by its driver " + p.Driver
}
