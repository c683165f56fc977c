package run

import (
	"path"

	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
	"github.com/ampoule-vm/ampoule/internal/state"
)

// identify looks at the files of the host from which a VM is started, by which
// somebody can see later that others lie there. In a sandbox they are the same
// files: what is mounted there has their device and inode. One that is not there
// is found by whoever opens it.
func identify(vm *plan.VM, binary string) []state.File {
	files := []struct {
		role state.Role
		path string
	}{{state.KernelFile, vm.Kernel}, {state.InitrdFile, vm.Initrd}, {state.RunnerFile, vm.Runner}, {state.HypervisorFile, binary}}
	if vm.Image != nil {
		files = append(files, struct {
			role state.Role
			path string
		}{state.ImageFile, path.Join(vm.Image.Path, spec.ImageFile)})
	}
	var out []state.File
	for _, f := range files {
		if f.path == "" {
			continue
		}
		if seen, err := state.Identify(f.role, f.path); err == nil {
			out = append(out, seen)
		}
	}
	return out
}
