package driver

import (
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// Networks are the VM's, as the plan has them. byName: the hypervisor opens taps by
// their names, and takes no descriptors.
func Networks(vm *spec.VM, byName bool) []plan.Network {
	var out []plan.Network
	for _, n := range vm.Networks {
		p := plan.Network{Kind: plan.UserNetwork, MAC: n.MAC, MTU: n.MTU, From: n.From.ID}
		switch n.Kind {
		case spec.UserNetwork:
			out = append(out, p)
			continue
		case "macvtap":
			p.Kind, p.Link, p.Mode = plan.MacVTap, n.Parent, n.Mode
		default:
			p.Kind, p.Bridge, p.ByName = plan.Tap, n.Parent, byName
		}
		p.Name, p.Queues, p.VHost = n.Name, n.Queues, n.VHost
		out = append(out, p)
	}
	return out
}
