package firecracker

import (
	"math"

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

// devices that change the memory, as requests before the start. What the balloon
// has is in its statistics alone, which the guest is asked for as seldom as can be
// said: the number itself needs no asking.
func memoryDevices(vm *spec.VM) []plan.Request {
	var out []plan.Request
	if from := vm.Balloon.From.ID; vm.Balloon.Value {
		out = append(out, plan.Request{Method: "PUT", Path: "/balloon", Body: []plan.Field{
			plan.NumberAt("/amount_mib", 0, from), plan.TrueAt("/deflate_on_oom", from), plan.TrueAt("/free_page_reporting", from),
			plan.NumberAt("/stats_polling_interval_s", math.MaxUint16, from),
		}})
	}
	if add := vm.MemoryHotplug; add.Value > 0 {
		out = append(out, plan.Request{Method: "PUT", Path: "/hotplug/memory", Body: []plan.Field{plan.NumberAt("/total_size_mib", add.Value>>20, add.From.ID)}})
	}
	return out
}

// withMemory is the first version that has memory hotplug, and a balloon that the
// guest reports free pages to.
const withMemory = "1.14"

// resize is how they are told (src/firecracker/src/api_server/request).
func resize(vm *spec.VM) *plan.Resize {
	if vm.MemoryHotplug.Value == 0 && !vm.Balloon.Value {
		return nil
	}
	const mib = 1 << 20
	patch := func(path, at string, counts plan.Quantity, from string) *plan.Lever {
		return &plan.Lever{Request: plan.Request{Method: "PATCH", Path: path, Body: []plan.Field{plan.AskAt(at, plan.AskAmount, from)}}, Counts: counts, Unit: mib}
	}
	gauge := func(path, at string, counts plan.Quantity) plan.Gauge {
		return plan.Gauge{Request: plan.Request{Method: "GET", Path: path}, At: at, Counts: counts, Unit: mib}
	}
	r := &plan.Resize{Step: spec.HugePage2M}
	if vm.MemoryHotplug.Value > 0 {
		r.Add = patch("/hotplug/memory", "/requested_size_mib", plan.Added, vm.MemoryHotplug.From.ID)
		r.Gauges = append(r.Gauges, gauge("/hotplug/memory", "/plugged_size_mib", plan.Added))
	}
	if vm.Balloon.Value {
		r.Balloon = patch("/balloon", "/amount_mib", plan.Taken, vm.Balloon.From.ID)
		r.Gauges = append(r.Gauges, gauge("/balloon/statistics", "/actual_mib", plan.Taken))
	}
	return r
}
