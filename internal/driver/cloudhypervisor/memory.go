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
	if add := vm.MemoryHotplug; add.Value > 0 {
		fields = append(fields, plan.TextAt("/memory/hotplug_method", "VirtioMem", add.From.ID), plan.NumberAt("/memory/hotplug_size", add.Value, add.From.ID))
	}
	if from := vm.Balloon.From.ID; vm.Balloon.Value {
		fields = append(fields, plan.NumberAt("/balloon/size", 0, from), plan.TrueAt("/balloon/deflate_on_oom", from), plan.TrueAt("/balloon/free_page_reporting", from))
	}
	if vm.Watchdog.Value {
		fields = append(fields, plan.TrueAt("/watchdog", vm.Watchdog.From.ID))
	}
	return fields
}

// maxThreads is what it takes on a core (vmm/src/config.rs).
const maxThreads = 2

// resize is how the memory is changed: one request for either device, and one
// number for what the guest has in all (vmm/src/vm.rs, vmm/src/lib.rs). The answer
// that has the number has the whole configuration, credentials included.
func resize(vm *spec.VM) *plan.Resize {
	if vm.MemoryHotplug.Value == 0 && !vm.Balloon.Value {
		return nil
	}
	lever := func(at string, counts plan.Quantity, from string) *plan.Lever {
		return &plan.Lever{Request: plan.Request{Method: "PUT", Path: "/api/v1/vm.resize", Body: []plan.Field{plan.AskAt(at, plan.AskAmount, from)}}, Counts: counts, Unit: 1}
	}
	r := &plan.Resize{Step: max(spec.HugePage2M, vm.HugePages.Value), Gauges: []plan.Gauge{
		{Request: plan.Request{Method: "GET", Path: "/api/v1/vm.info"}, At: "/memory_actual_size", Counts: plan.Has, Unit: 1},
	}}
	if vm.MemoryHotplug.Value > 0 {
		r.Add = lever("/desired_ram", plan.Total, vm.MemoryHotplug.From.ID)
	}
	if vm.Balloon.Value {
		r.Balloon = lever("/desired_balloon", plan.Taken, vm.Balloon.From.ID)
	}
	return r
}
