package spec

import "fmt"

// MinMemory is the smallest memory that is accepted. Debian's cloud kernel
// alone needs more; less than this boots no current Linux with systemd.
const MinMemory = 64 << 20

// MaxVCPU bounds VCPU= before the machine type's own, smaller limit.
const MaxVCPU = 4096

func cpuMemoryRows() []Row {
	return []Row{
		{
			Name: "VCPU", Image: true, Form: "N", Default: "1", Accepted: "accepted: a whole number from 1 to the machine type's limit",
			Help:  "Number of virtual processors.",
			apply: setScalar(func(vm *VM) *Setting[int] { return &vm.VCPU }, func(s string) (int, error) { return ParseInt(s, 1, MaxVCPU) }),
		},
		topologyRow(),
		{
			Name: "Memory", Image: true, Form: "SIZE", Default: "512M", Accepted: "accepted: a size to the base 1024 such as 512M or 2G, at least 64M, in whole MiB",
			Help:  "The guest's memory. Suffixes K, M, G, T to the base 1024; a number without one counts bytes.",
			apply: setScalar(func(vm *VM) *Setting[int64] { return &vm.Memory }, parseMemory),
		},
	}
}

func parseMemory(s string) (int64, error) {
	n, err := ParseSize(s)
	switch {
	case err != nil:
		return 0, err
	case n < MinMemory:
		if n < 1<<20 && decimal(s) {
			return 0, fmt.Errorf("%d bytes are less than a Linux guest boots with; a suffix such as M is missing", n)
		}
		return 0, fmt.Errorf("less than a Linux guest boots with")
	case n%(1<<20) != 0:
		return 0, fmt.Errorf("not a whole number of MiB")
	case n > 1<<52:
		return 0, fmt.Errorf("more than any machine has")
	}
	return n, nil
}
