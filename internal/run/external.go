package run

import (
	"fmt"
	"os"

	"github.com/ampoule-vm/ampoule/internal/devices"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/host"
	"github.com/ampoule-vm/ampoule/internal/netdev"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/preflight"
	"github.com/ampoule-vm/ampoule/internal/spec"
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

// unprepared names the lines of the plan for which root should have done something that
// is not handed over: in a unit that was not made for the plan nobody has.
func (r *runner) unprepared() diag.List {
	var problems diag.List
	const unit = "the unit needs its ExecStartPre=+… unit prepare"
	for _, s := range r.Plan.VM.Served() {
		if err := host.MayOpen(plan.ShareSocket(r.Plan.VM.Name, s.Tag)); err != nil {
			problems = append(problems, r.about(s.From, fmt.Sprintf("nobody serves it for uid %d (%v)", os.Geteuid(), err),
				unit+", and "+spec.ShareUnitName(r.Plan.VM.Name, s.Tag)+"; or socket=, for what somebody else serves"))
		}
	}
	for i := range r.Plan.VM.Networks {
		n := &r.Plan.VM.Networks[i]
		if !n.Made() || !n.ByName {
			continue
		}
		if _, found, err := (netdev.Seen{}).Find(n.Name); err == nil && !found {
			problems = append(problems, r.about(n.From, "nobody has made the interface "+n.Name, unit+orExternal))
		}
	}
	for _, d := range r.Plan.VM.Devices {
		node, wrong := devices.Host().Given(d)
		if d.External || wrong == nil && (node == "" || host.MayOpen(node) == nil) {
			continue
		}
		problems = append(problems, r.about(d.From, fmt.Sprintf("nobody has given it to uid %d", os.Geteuid()), unit+orExternal))
	}
	return problems
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
