package driver

import (
	"strings"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// CheckASCII refuses words for the kernel that are not all of printable ASCII, for
// a hypervisor that takes no others. It would say so only at the start, and not
// which word it is.
func CheckASCII(vm *spec.VM, problems *diag.List) {
	for _, w := range vm.KernelCommandLine {
		if !strings.ContainsFunc(w.Text, func(r rune) bool { return r < ' ' || r > '~' }) {
			continue
		}
		at := w.From
		at.Shown = diag.Elided
		if name, _, ok := strings.Cut(w.Text, "="); ok {
			at.Shown = name + "=" + diag.Elided
		}
		at.Errorf(problems, "accepted: words of printable ASCII characters", "%s takes a kernel command line of printable ASCII characters alone", vm.Hypervisor.Value)
	}
}
