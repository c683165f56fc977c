package preflight

import (
	"github.com/ampoule-vm/ampoule/internal/devices"
)

// devices judges whether the guest may have the devices of the host.
func (j *judge) devices() {
	for _, d := range j.plan.VM.Devices {
		if p := devices.Host().Judge(d, j.plan.VM.Devices); p != nil {
			j.fail(d.From, d.String(), p.Cure, "%s", p.What)
		}
	}
}
