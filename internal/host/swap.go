package host

import (
	"os"
	"path"
	"path/filepath"
	"strings"
)

// HasSwap reports whether the machine has swap space in use by the kernel.
func (h Host) HasSwap() bool {
	data, err := os.ReadFile(h.Swaps)
	return err == nil && strings.Count(string(data), "\n") > 1
}

// MaySwap reports whether memory of this process and its children can be
// swapped: there is swap, and no control group above forbids it
// (MemorySwapMax=0). Where that cannot be learnt, it may.
func (h Host) MaySwap() bool {
	if !h.HasSwap() {
		return false
	}
	data, err := os.ReadFile(h.Cgroup)
	if err != nil {
		return true
	}
	for line := range strings.Lines(string(data)) {
		// cgroup v2 is hierarchy 0 (cgroups(7)).
		group, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::")
		if !ok {
			continue
		}
		// The root group has no limits.
		for group = path.Clean("/" + group); group != "/"; group = path.Dir(group) {
			limit, err := os.ReadFile(filepath.Join(h.CgroupRoot, group, "memory.swap.max"))
			if err == nil && strings.TrimSpace(string(limit)) == "0" {
				return false
			}
		}
	}
	return true
}
