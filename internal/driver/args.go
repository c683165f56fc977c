package driver

import (
	"strings"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// Argument is an option that a user may pass by HypervisorArgs= to a hypervisor
// whose command line says nothing of the VM, or one that is worth a reason of its
// own.
type Argument struct {
	// Name is the option with its dashes; Value: a word follows it.
	Name  string
	Value bool
	// Refused says why it may not be passed, and Use what to do.
	Refused, Use string
}

// CheckArguments refuses what is not among the arguments, at its line. other is
// the reason for an option that is not in the table.
func CheckArguments(vm *spec.VM, known []Argument, other string, problems *diag.List) {
	var names []string
	for _, a := range known {
		if a.Refused == "" {
			names = append(names, a.Name)
		}
	}
	accepted := "accepted: " + strings.Join(names, ", ")
	for i := 0; i < len(vm.HypervisorArgs); i++ {
		w := vm.HypervisorArgs[i]
		name, _, joined := strings.Cut(w.Text, "=")
		at := w.From
		at.Shown = name // what follows may be a password
		if joined {
			at.Shown += "=" + diag.Elided
		}
		a := find(known, name)
		// What follows an option that is not taken is its value, and no mistake more.
		skip := !joined && i+1 < len(vm.HypervisorArgs) && !strings.HasPrefix(vm.HypervisorArgs[i+1].Text, "-")
		switch {
		case !strings.HasPrefix(name, "-"):
			at.Shown = diag.Elided
			at.Errorf(problems, accepted, "a word that is no option")
			skip = false
		case a == nil:
			at.Errorf(problems, accepted, "%s", other)
		case a.Refused != "":
			at.Errorf(problems, a.Use, "%s", a.Refused)
		case a.Value && !joined:
			if skip = i+1 < len(vm.HypervisorArgs); !skip {
				at.Errorf(problems, accepted, "the value of this option is missing")
			}
		default:
			skip = false
		}
		if skip {
			i++
		}
	}
}

func find(known []Argument, name string) *Argument {
	for i := range known {
		if known[i].Name == name {
			return &known[i]
		}
	}
	return nil
}
