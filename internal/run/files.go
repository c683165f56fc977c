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
	files := []state.File{
		{Role: state.KernelFile, Path: vm.Kernel}, {Role: state.InitrdFile, Path: vm.Initrd}, {Role: state.RunnerFile, Path: vm.Runner},
		{Role: state.HypervisorFile, Path: binary},
	}
	if vm.Image != nil {
		files = append(files, state.File{Role: state.ImageFile, Path: path.Join(vm.Image.Path, spec.ImageFile)})
	}
	var out []state.File
	for _, f := range files {
		if f.Path == "" {
			continue
		}
		if seen, err := state.Identify(f.Role, f.Path); err == nil {
			out = append(out, seen)
		}
	}
	return out
}
