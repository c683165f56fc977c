package driver

import (
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// Interfaces is how a hypervisor takes the host's.
type Interfaces struct {
	// ByName: it opens taps by their names, and takes no descriptors.
	ByName bool
	// VHost: it has the host's kernel move the packets. For others nothing is opened
	// where nobody asks for it.
	VHost bool
}

// Networks are the VM's, as the plan has them.
func Networks(vm *spec.VM, how Interfaces) []plan.Network {
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
			p.Kind, p.Bridge, p.ByName = plan.Tap, n.Parent, how.ByName
		}
		p.Name, p.Queues, p.VHost, p.External = n.Name, n.Queues, n.VHost, n.External
		if p.VHost == "auto" && !how.VHost {
			p.VHost = "no"
		}
		out = append(out, p)
	}
	return out
}
