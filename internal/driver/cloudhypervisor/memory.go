package cloudhypervisor

import (
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// memory is what a VM says of processors and memory beside how much there is.
func memory(vm *spec.VM) []plan.Field {
	var fields []plan.Field
	if t := vm.CPUTopology; t.Set {
		from := t.From.ID
		fields = append(fields,
			plan.NumberAt("/cpus/topology/threads_per_core", int64(t.Value.Threads), from),
			plan.NumberAt("/cpus/topology/cores_per_die", int64(t.Value.Cores), from),
			plan.NumberAt("/cpus/topology/dies_per_package", 1, from),
			plan.NumberAt("/cpus/topology/packages", int64(t.Value.Sockets), from))
	}
	if page := vm.HugePages; page.Value > 0 {
		fields = append(fields, plan.TrueAt("/memory/hugepages", page.From.ID), plan.NumberAt("/memory/hugepage_size", page.Value, page.From.ID))
	}
	if vm.Watchdog.Value {
		fields = append(fields, plan.TrueAt("/watchdog", vm.Watchdog.From.ID))
	}
	return fields
}

// maxThreads is what it takes on a core (vmm/src/config.rs).
const maxThreads = 2
