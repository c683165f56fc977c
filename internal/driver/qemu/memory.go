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
func memory(vm *spec.VM) []plan.Part {
	parts := []plan.Part{{Words: []string{"-m", fmt.Sprintf("%dM", vm.Memory.Value>>20)}, From: vm.Memory.From.ID}}
	if from, ok := inFile(vm); ok {
		parts = append(parts, plan.Part{
			Words: []string{"-object", backend(vm, "memory", vm.Memory.Value), "-machine", "memory-backend=memory"}, From: from,
		})
	}
	return parts
}

// inFile reports whether the memory is a file without a name, and names the
// assignment that wants it.
func inFile(vm *spec.VM) (from string, ok bool) {
	return vm.HugePages.From.ID, vm.HugePages.Value > 0
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
}
