package cli

import (
	"github.com/ampoule-vm/ampoule/internal/clash"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/driver/all"
	"github.com/ampoule-vm/ampoule/internal/pipeline"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/source"
)

// neighbours are the plans of all VMs of this host, and of those that are looked
// at, each name once: what is looked at goes before what else has its name. Files
// with mistakes make no plan.
func (sel *selection) neighbours(looked []pipeline.Result) []*plan.Plan {
	var out []*plan.Plan
	known := map[string]bool{}
	add := func(res pipeline.Result) {
		if res.Plan != nil {
			out = append(out, res.Plan)
		}
	}
	for _, res := range looked {
		if !known[res.Source.Name] {
			known[res.Source.Name] = true
			add(res)
		}
	}
	for _, name := range source.Names(sel.root, source.SearchPath()) {
		if !known[name] {
			// --set is for what is looked at alone.
			add(pipeline.Load(pipeline.Input{Argument: name, Root: sel.root, Dirs: source.SearchPath(), Drivers: all.Drivers()}))
		}
	}
	return out
}

// clashes are what a VM cannot have beside its neighbours.
func clashes(res pipeline.Result, neighbours []*plan.Plan) diag.List {
	if res.Plan == nil {
		return nil
	}
	return clash.Find(res.Plan, neighbours)
}
