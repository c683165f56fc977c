package verify

import (
	"fmt"

	"github.com/ampoule-vm/ampoule/internal/netdev"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/preflight"
)

// Interface is one that a VM which runs has on the host.
type Interface struct {
	// Network is the plan's, At the line of it.
	Network plan.Network
	At      string
	// There: the host has an interface of that name, Seen, which is attached to the
	// one with the name Master.
	There  bool
	Seen   netdev.Interface
	Master string
}

// hostNetwork is where the interfaces of services are.
const hostNetwork = "/proc/1/ns/net"

// interfacesOf looks at the interfaces that a plan has on the host. Only root is
// sure to see those of services: anybody else may be in a network of their own.
func interfacesOf(p *plan.Plan, namespace string) ([]Interface, error) {
	var out []Interface
	for i := range p.VM.Networks {
		if n := p.VM.Networks[i]; n.Kind != plan.UserNetwork {
			out = append(out, Interface{Network: n, At: p.Origin(n.From).String()})
		}
	}
	if len(out) == 0 {
		return nil, nil
	}
	err := netdev.In(namespace, func(l *netdev.Links) error {
		for i := range out {
			in := &out[i]
			var err error
			if in.Seen, in.There, err = l.Find(in.Network.Name); err != nil {
				return err
			}
			if in.Network.Bridge == "" || !in.There || in.Seen.Master == 0 {
				continue
			}
			all, err := l.All()
			if err != nil {
				return err
			}
			for _, other := range all {
				if other.Index == in.Seen.Master {
					in.Master = other.Name
				}
			}
		}
		return nil
	})
	return out, err
}

// kindOf is the kernel's name of what a network is on the host.
func kindOf(n *plan.Network) string {
	if n.Kind == plan.MacVTap {
		return netdev.MacVTapKind
	}
	return netdev.TapKind
}

// networks judges the interfaces of a VM that runs.
func (f *Facts) networks(j judge) {
	if f.InterfacesUnseen != "" {
		j.note(f.InterfacesUnseen)
	}
	for i := range f.Interfaces {
		f.network(j, &f.Interfaces[i])
	}
}

func (f *Facts) network(j judge, in *Interface) {
	n, is := &in.Network, &in.Seen
	again := Cure{Command: "systemctl restart " + f.unitName()}
	if f.byHand() {
		again = Cure{Line: fmt.Sprintf("stop and start %s: ampoule stop %s", f.Name, f.Name)}
	}
	what := fmt.Sprintf("%s: Network=: the interface %s", in.At, n.Name)
	switch {
	case !in.There:
		j.found(InterfaceMissing, again, what+" is not there any more")
	case n.External && is.Kind != kindOf(n):
		j.found(InterfaceMissing, again, what+" is another one now, and no "+n.Kind)
	case n.External && n.Kind == plan.Tap && is.Up && !is.Carrier:
		j.found(InterfaceMissing, again, what+" was made anew after the start: nobody has it open")
	case !n.External && !preflight.Ours(*is, f.Name):
		j.found(InterfaceMissing, again, what+" is another one now, which "+f.Name+" does not have")
	case !is.Up:
		j.found(InterfaceChanged, Cure{Command: "ip link set " + n.Name + " up"}, what+" is switched off")
	case n.Bridge != "" && in.Master != n.Bridge:
		where := "on no bridge any more"
		if in.Master != "" {
			where = "on " + in.Master
		}
		j.found(InterfaceChanged, Cure{Command: "ip link set " + n.Name + " master " + n.Bridge}, what+" is "+where+", and belongs on "+n.Bridge)
	case n.MTU > 0 && is.MTU != n.MTU:
		j.found(InterfaceChanged, Cure{Command: fmt.Sprintf("ip link set %s mtu %d", n.Name, n.MTU)}, fmt.Sprintf("%s has an MTU of %d, and the guest was told %d", what, is.MTU, n.MTU))
	default:
		j.saw("interface " + n.Name)
	}
}
