package firecracker

import (
	"fmt"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// checkNetworks refuses networks that Firecracker does not have.
func checkNetworks(vm *spec.VM, problems *diag.List) {
	no := refusals()
	for i, n := range vm.Networks {
		switch {
		case n.Kind == spec.UserNetwork:
			n.From.Errorf(problems, "accepted: tap, bridge:BRIDGE", "%s", no["network user"])
		case n.Kind == "macvtap":
			n.From.Errorf(problems, "accepted: tap, bridge:BRIDGE", "%s", no["network macvtap"])
		case n.Queues > 1:
			n.From.Errorf(problems, "accepted: queues=1", "%s", no["network queues"])
		case n.VHost == "yes":
			n.From.Errorf(problems, "accepted: vhost=auto, vhost=no", "%s", no["network vhost"])
		case len(vm.Disks)+i >= maxDevices-2:
			n.From.Errorf(problems, fmt.Sprintf("accepted: at most %d disks and networks together", maxDevices-2), "more devices than firecracker takes")
		}
	}
}

// networks are requests of their own. An interface is opened by its name: it takes
// no descriptors.
func networks(vm *spec.VM, put func(path string, body ...plan.Field) plan.Request) []plan.Request {
	var out []plan.Request
	for i, n := range vm.Networks {
		id := fmt.Sprintf("net%d", i)
		body := []plan.Field{
			plan.TextAt("/iface_id", id, n.From.ID), plan.TextAt("/host_dev_name", n.Name, n.From.ID), plan.TextAt("/guest_mac", n.MAC, n.From.ID),
		}
		if n.MTU > 0 {
			body = append(body, plan.NumberAt("/mtu", int64(n.MTU), n.From.ID))
		}
		out = append(out, put("/network-interfaces/"+id, body...))
	}
	return out
}
