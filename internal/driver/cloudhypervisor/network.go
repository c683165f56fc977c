package cloudhypervisor

import (
	"fmt"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// checkNetworks refuses networks that Cloud Hypervisor does not have.
func checkNetworks(vm *spec.VM, problems *diag.List) {
	no := refusals()
	for _, n := range vm.Networks {
		switch {
		case n.Kind == spec.UserNetwork:
			n.From.Errorf(problems, "accepted: tap, bridge:BRIDGE, macvtap:LINK", "%s", no["network user"])
		case n.VHost == "yes":
			n.From.Errorf(problems, "accepted: vhost=auto, vhost=no", "%s", no["network vhost"])
		case n.MTU > 0:
			n.From.Errorf(problems, "remove mtu=, and have the guest set it", "%s", no["network mtu"])
		case n.Queues > vm.VCPU.Value && (vm.VCPU.Set || !vm.Image.Set):
			// NetConfig::validate in vmm/src/config.rs. An image that is not there yet
			// may still say how many processors there are.
			n.From.Errorf(problems, fmt.Sprintf("accepted: queues=1 to %d, or more VCPU=", vm.VCPU.Value), "cloud-hypervisor takes no more queues than processors")
		}
	}
}

// networks are requests of their own, behind the VM and before its start: an
// interface comes as descriptors, which it takes with this request alone
// (vmm/src/api/http/http_endpoint.rs) and nowhere out of a body.
func networks(vm *spec.VM, request func(method, name string) plan.Request) []plan.Request {
	var out []plan.Request
	for i, n := range vm.Networks {
		r := request("PUT", "vm.add-net")
		r.Ask, r.From = plan.AskNetwork, n.From.ID
		r.Body = []plan.Field{
			plan.TextAt("/id", fmt.Sprintf("net%d", i), n.From.ID),
			plan.TextAt("/mac", n.MAC, n.From.ID),
			// One for each direction.
			plan.NumberAt("/num_queues", int64(2*n.Queues), n.From.ID),
		}
		out = append(out, r)
	}
	return out
}
