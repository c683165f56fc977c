// Package driver is the contract between Ampoule and a hypervisor. A driver is
// a stateless value that turns a typed VM into the hypervisor's part of a
// plan, and reads what the hypervisor says back. It starts nothing, opens
// nothing and logs nothing; that is package run's work.
package driver

import (
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// Driver is one hypervisor.
type Driver interface {
	// Name is the value of Hypervisor=.
	Name() string
	// Features answers for every feature: yes, or no with the reason.
	Features() []Feature
	// Compose fills the hypervisor's part of the plan: binary, machine,
	// command, questions with their answers, channels in order of preference.
	// What the hypervisor cannot do is an error at the line that asks for it.
	Compose(vm *spec.VM, architecture string) (plan.VM, diag.List)
	// Probe returns the arguments that make the binary tell its version, and
	// reads its answer: the version, and a warning if it is none that the
	// driver was judged with.
	Probe() (args []string, read func(output string) (version, warning string, err error))
	// Blame finds in the hypervisor's dying words the argument that it did not
	// like, such as "-frobnicate"; empty if they name none.
	Blame(words string) (argument string)
}

// Feature is a row of a driver's table.
type Feature struct {
	// Name is what the feature is called in the table, such as "machine
	// microvm" or "channel initrd".
	Name string
	// Refusal is empty for yes; else a sentence that a user can act on.
	Refusal string
}

// Find returns the driver of that name, or nil.
func Find(drivers []Driver, name string) Driver {
	for _, d := range drivers {
		if d.Name() == name {
			return d
		}
	}
	return nil
}

// Names lists the drivers, in their order.
func Names(drivers []Driver) []string {
	names := make([]string, len(drivers))
	for i, d := range drivers {
		names[i] = d.Name()
	}
	return names
}
