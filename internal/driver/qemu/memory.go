package qemu

import (
	"fmt"
	"strconv"

	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// processors are how many there are, and how they are put together: QEMU joins
// what it is told by several options of that name.
func processors(vm *spec.VM) []plan.Part {
	parts := []plan.Part{{Words: []string{"-smp", strconv.Itoa(vm.VCPU.Value)}, From: vm.VCPU.From.ID}}
	if t := vm.CPUTopology; t.Set {
		words := fmt.Sprintf("sockets=%d,cores=%d,threads=%d", t.Value.Sockets, t.Value.Cores, t.Value.Threads)
		parts = append(parts, plan.Part{Words: []string{"-smp", words}, From: t.From.ID})
	}
	return parts
}

// memory is the guest's: private to QEMU, unless it has to be a file.
func (m machine) memory(vm *spec.VM) []plan.Part {
	parts := []plan.Part{{Words: []string{"-m", fmt.Sprintf("%dM", vm.Memory.Value>>20)}, From: vm.Memory.From.ID}}
	if from, ok := inFile(vm); ok {
		parts = append(parts, plan.Part{
			Words: []string{"-object", backend(vm, "memory", vm.Memory.Value), "-machine", "memory-backend=memory"}, From: from,
		})
	}
	if add := vm.MemoryHotplug; add.Value > 0 {
		parts = append(parts, plan.Part{Words: addable(vm), From: add.From.ID})
	}
	if vm.Balloon.Value {
		parts = append(parts, plan.Part{
			Words: []string{"-device", "virtio-balloon-" + m.bus + ",id=balloon,deflate-on-oom=on,free-page-reporting=on"}, From: vm.Balloon.From.ID,
		})
	}
	return parts
}

// addable is memory that the guest has nothing of at first. It is not set aside
// before it is asked for; huge pages that are not there then are refused to the
// guest, and not found missing by a signal.
func addable(vm *spec.VM) []string {
	add := vm.MemoryHotplug.Value
	object, device := fmt.Sprintf("memory-backend-ram,id=addable,size=%d", add), "virtio-mem-pci,id=added,memdev=addable"
	if _, ok := inFile(vm); ok {
		object = backend(vm, "addable", add)
	}
	if vm.HugePages.Value > 0 {
		device += ",prealloc=on"
	}
	return []string{"-m", fmt.Sprintf("maxmem=%dM", (vm.Memory.Value+add)>>20), "-object", object + ",reserve=off", "-device", device}
}

// resize is how all that is changed, by qapi/machine.json and the properties of
// virtio-mem (docs/interop of QEMU has none of them; hw/virtio/virtio-mem.c does).
func resize(vm *spec.VM) *plan.Resize {
	if vm.MemoryHotplug.Value == 0 && !vm.Balloon.Value {
		return nil
	}
	execute := func(command string, arguments ...plan.Field) plan.Request {
		return plan.Request{Method: plan.Execute, Path: command, Body: arguments}
	}
	r := &plan.Resize{Step: max(spec.HugePage2M, vm.HugePages.Value)}
	if from := vm.MemoryHotplug.From.ID; vm.MemoryHotplug.Value > 0 {
		const device = "/machine/peripheral/added"
		r.Add = &plan.Lever{Request: execute("qom-set", plan.TextAt("/path", device, from), plan.TextAt("/property", "requested-size", from), plan.AskAt("/value", plan.AskAmount, from)), Counts: plan.Added, Unit: 1}
		r.Gauges = append(r.Gauges, plan.Gauge{Request: execute("qom-get", plan.TextAt("/path", device, from), plan.TextAt("/property", "size", from)), Counts: plan.Added, Unit: 1})
	}
	if from := vm.Balloon.From.ID; vm.Balloon.Value {
		r.Balloon = &plan.Lever{Request: execute("balloon", plan.AskAt("/value", plan.AskAmount, from)), Counts: plan.Left, Unit: 1}
		r.Gauges = append(r.Gauges, plan.Gauge{Request: execute("query-balloon"), At: "/actual", Counts: plan.Left, Unit: 1})
	}
	return r
}

// inFile reports whether the memory is a file without a name, and names the
// assignment that wants it.
func inFile(vm *spec.VM) (from string, ok bool) {
	if vm.HugePages.Value > 0 {
		return vm.HugePages.From.ID, true
	}
	for _, s := range vm.Shares {
		if s.Protocol == spec.VirtioFS { // whoever serves it maps the guest's memory
			return s.From.ID, true
		}
	}
	return "", false
}

// backend is the word for memory that is such a file. The file is mapped shared,
// so that it is there once: a private mapping of huge pages takes them twice when
// they are written.
func backend(vm *spec.VM, id string, size int64) string {
	word := fmt.Sprintf("memory-backend-memfd,id=%s,size=%d,share=on", id, size)
	if page := vm.HugePages.Value; page > 0 {
		word += ",hugetlb=on,hugetlbsize=" + spec.FormatSize(page)
	}
	return word
}

// checkMemory refuses what the machine type does not have.
func (m machine) checkMemory(vm *spec.VM, refuse func(from spec.From, accepted, what string)) {
	if vm.Watchdog.Value && m.bus != "pci" {
		refuse(vm.Watchdog.From, "use Machine=q35, or remove it", "no watchdog that QEMU has")
	}
	if vm.MemoryHotplug.Value > 0 && m.bus != "pci" {
		refuse(vm.MemoryHotplug.From, "use Machine=q35, or remove it", "no memory while it runs")
	}
}
