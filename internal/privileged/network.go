package privileged

import (
	"context"
	"errors"
	"net"
	"os"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/netdev"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/preflight"
)

// networks makes the interfaces of the VM. A tap that is handed over as files is
// gone by itself with the last of them, whatever ends the VM; one that a hypervisor
// opens by its name, and a macvtap, are removed.
func networks() step {
	return step{
		prepare: func(_ context.Context, vm *VM) diag.List {
			if !makesInterfaces(&vm.Plan.VM) {
				return nil
			}
			var problems diag.List
			err := netdev.In(vm.Network, func(l *netdev.Links) error {
				problems = makeNetworks(vm, l)
				return nil
			})
			if err != nil {
				problems.Add(diag.Problem{Origin: vm.Plan.Origin(plan.Whole), What: err.Error()})
			}
			return problems
		},
		release: func(vm *VM) error {
			if !makesInterfaces(&vm.Plan.VM) {
				return nil
			}
			return netdev.In(vm.Network, func(l *netdev.Links) error { return removeNetworks(vm.Plan, l) })
		},
	}
}

func makesInterfaces(vm *plan.VM) bool {
	for i := range vm.Networks {
		if vm.Networks[i].Made() {
			return true
		}
	}
	return false
}

// makeNetworks looks at all of them before it makes the first.
func makeNetworks(vm *VM, l *netdev.Links) diag.List {
	problems := preflight.Networks(vm.Plan, l)
	if problems.HasErrors() {
		return problems
	}
	if err := removeNetworks(vm.Plan, l); err != nil {
		return append(problems, diag.Problem{Origin: vm.Plan.Origin(plan.Whole), What: err.Error()})
	}
	for i := range vm.Plan.VM.Networks {
		n := &vm.Plan.VM.Networks[i]
		if !n.Made() {
			continue
		}
		if what, accepted := makeNetwork(vm, l, i); what != "" {
			problems.Add(preflight.NetworkProblem(vm.Plan, n, accepted, what))
		}
	}
	return problems
}

// makeNetwork makes an interface and hands its files over. It returns what is
// wrong, and what would be accepted.
func makeNetwork(vm *VM, l *netdev.Links, i int) (what, accepted string) {
	n := &vm.Plan.VM.Networks[i]
	mac, err := net.ParseMAC(n.MAC)
	if err != nil {
		return err.Error(), ""
	}
	var files []*os.File
	if n.Kind == plan.MacVTap {
		files, err = l.MakeMacVTap(netdev.MacVTap{
			Name: n.Name, Alias: preflight.Alias(vm.Plan.VM.Name), Parent: n.Link, Mode: n.Mode, MAC: mac, MTU: n.MTU, Queues: n.Queues, FileName: vm.Plan.VM.TapName(i),
		})
	} else {
		files, err = l.MakeTap(netdev.Tap{
			Name: n.Name, Alias: preflight.Alias(vm.Plan.VM.Name), MAC: hostEnd(mac), MTU: n.MTU, Bridge: n.Bridge, Queues: n.Queues,
			Lasting: n.ByName, Owner: vm.User, FileName: vm.Plan.VM.TapName(i),
		})
	}
	for _, f := range files {
		vm.Hand(f)
	}
	if err != nil {
		return err.Error(), preflight.InterfaceCure(err)
	}
	if n.ByName || n.VHost == "no" {
		return "", ""
	}
	return openVHost(vm, n, i)
}

// hostEnd is the address of a tap's end on this host. It is not the guest's, and so
// high that no bridge takes it for its own, which is the lowest of its ports'.
func hostEnd(guest net.HardwareAddr) net.HardwareAddr {
	out := append(net.HardwareAddr{0xfe}, guest[1:]...)
	if guest[0] == out[0] {
		out[0] = 0xfa
	}
	return out
}

// openVHost opens it for each queue: all or none.
func openVHost(vm *VM, n *plan.Network, i int) (what, accepted string) {
	files, err := netdev.OpenVHost(n.Queues, vm.Plan.VM.VHostName(i))
	if err != nil && n.VHost != "auto" {
		return preflight.NoVHost(err)
	}
	for _, f := range files {
		vm.Hand(f)
	}
	return "", ""
}

// removeNetworks removes the interfaces of the VM that are there, and none of
// anybody else's.
func removeNetworks(p *plan.Plan, l *netdev.Links) error {
	var wrong []error
	for i := range p.VM.Networks {
		n := &p.VM.Networks[i]
		if !n.Made() {
			continue
		}
		found, ok, err := l.Find(n.Name)
		if err == nil && ok && preflight.Ours(found, p.VM.Name) {
			err = l.Remove(n.Name)
		}
		wrong = append(wrong, err)
	}
	return errors.Join(wrong...)
}
