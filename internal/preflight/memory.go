package preflight

import (
	"fmt"

	"github.com/ampoule-vm/ampoule/internal/spec"
)

// memory judges whether this host has as much, of the kind that is asked for.
func (j *judge) memory() {
	vm := j.plan.VM
	total, err := j.host.Memory()
	switch {
	case err != nil:
	case vm.Memory > total:
		j.fail("Memory", spec.FormatSize(vm.Memory), fmt.Sprintf("accepted: at most %dM", total>>20), "this host has only %d MiB of memory", total>>20)
		return
	case vm.Memory+vm.MemoryHotplug > total:
		j.fail("MemoryHotplug", spec.FormatSize(vm.MemoryHotplug), "accepted: less, or a smaller Memory=",
			"with Memory=%s (%s) the VM could come to have %d MiB, and this host has only %d MiB", spec.FormatSize(vm.Memory), j.plan.Origin("Memory"), (vm.Memory+vm.MemoryHotplug)>>20, total>>20)
		return
	}
	j.hugePages()
}

// hugePages judges whether enough of them are set aside and free. A hypervisor
// that finds too few ends without a word of the line, or gets a signal later.
func (j *judge) hugePages() {
	vm := j.plan.VM
	page := vm.HugePages
	if page == 0 {
		return
	}
	size, need := spec.FormatSize(page), vm.Memory/page
	free, known := j.host.HugePages(page)
	switch {
	case !known:
		j.fail("HugePages", size, "accepted: no, or a size that "+j.host.HugePageDir+" has", "this host's kernel has no huge pages of %s", size)
	case free < need:
		j.fail("HugePages", size, fmt.Sprintf("set aside %d more: echo N > %s/hugepages-%dkB/nr_hugepages, or at boot hugepagesz=%s hugepages=N", need-free, j.host.HugePageDir, page>>10, size),
			"Memory=%s (%s) needs %d huge pages of %s, and on this host %d are free", spec.FormatSize(vm.Memory), j.plan.Origin("Memory"), need, size, free)
	}
}
