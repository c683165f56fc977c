package firecracker

import (
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// checkMemory refuses what Firecracker has not of processors and memory. Two
// threads on a core are one thing that it can be told of the topology.
func checkMemory(vm *spec.VM, p platform, problems *diag.List) {
	no := refusals()
	if t := vm.CPUTopology; t.Set && (t.Value.Sockets > 1 || t.Value.Threads > 2 || t.Value.Threads == 2 && !p.threads) {
		t.From.Errorf(problems, "accepted: 1:CORES:1, on x86-64 1:CORES:2", "%s", no["cpu topology"])
	}
	if page := vm.HugePages; page.Value > spec.HugePage2M {
		page.From.Errorf(problems, "accepted: no, 2M", "%s", no["huge pages 1G"])
	}
	if vm.Watchdog.Value {
		vm.Watchdog.From.Errorf(problems, "remove it, or use a hypervisor that has one", "%s", no["watchdog"])
	}
}

// machineConfig is the body that has processors and memory.
func machineConfig(vm *spec.VM) []plan.Field {
	body := []plan.Field{
		plan.NumberAt("/vcpu_count", int64(vm.VCPU.Value), vm.VCPU.From.ID),
		plan.NumberAt("/mem_size_mib", vm.Memory.Value>>20, vm.Memory.From.ID),
	}
	if t := vm.CPUTopology; t.Set && t.Value.Threads == 2 {
		body = append(body, plan.TrueAt("/smt", t.From.ID))
	}
	if vm.HugePages.Value > 0 {
		body = append(body, plan.TextAt("/huge_pages", "2M", vm.HugePages.From.ID))
	}
	return body
}
