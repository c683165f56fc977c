package run

import (
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/host"
	"github.com/ampoule-vm/ampoule/internal/netdev"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/preflight"
)

// judgeExternal looks at what the VM has of somebody else, who should have prepared it
// by now.
func (r *runner) judgeExternal(problems *diag.List) {
	if r.Control != "" {
		return // the run above has done it
	}
	user := host.Self()
	if r.checking {
		user = nil
	}
	*problems = append(*problems, preflight.External(r.Plan, netdev.Seen{}, user)...)
}

// openExternal opens the interfaces that somebody else has made, with the rights of
// this process, and puts them to the files that were handed over.
func (r *runner) openExternal() diag.List {
	var problems diag.List
	for i := range r.Plan.VM.Networks {
		n := &r.Plan.VM.Networks[i]
		if !n.External {
			continue
		}
		if what, accepted := r.openInterface(n, i); what != "" {
			problems.Add(preflight.NetworkProblem(r.Plan, n, accepted, what))
		}
	}
	return problems
}

// openInterface returns what is wrong, and what would be accepted.
func (r *runner) openInterface(n *plan.Network, i int) (what, accepted string) {
	found, ok, err := netdev.Seen{}.Find(n.Name)
	switch {
	case err != nil:
		return err.Error(), ""
	case !ok:
		return "the interface " + n.Name + " was removed just now", ""
	}
	open := netdev.OpenTap
	if n.Kind == plan.MacVTap {
		open = netdev.OpenMacVTap
	}
	files, err := open(found, n.Queues, r.Plan.VM.TapName(i))
	if err != nil {
		return err.Error(), preflight.InterfaceCure(err)
	}
	if n.ByName {
		closeAll(files) // the hypervisor opens it as we could
		return "", ""
	}
	r.Handed = append(r.Handed, files...)
	if n.VHost == "no" {
		return "", ""
	}
	vhost, err := netdev.OpenVHost(n.Queues, r.Plan.VM.VHostName(i))
	if err != nil && n.VHost != "auto" {
		return preflight.NoVHost(err)
	}
	r.Handed = append(r.Handed, vhost...)
	return "", ""
}
