package driver

import (
	"cmp"

	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// ShareSocket is where the hypervisor finds whoever serves a share by virtiofs: the
// socket that its line names, or that of the unit which Ampoule makes of it.
func ShareSocket(vm *spec.VM, s spec.Share) string {
	return cmp.Or(s.Socket, plan.ShareSocket(vm.Identity.Name, s.Tag))
}
