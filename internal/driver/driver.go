// Package driver is the contract between Ampoule and a hypervisor. A driver is
// a stateless value that turns a typed VM into the hypervisor's part of a
// plan, and reads what the hypervisor says back. It starts nothing, opens
// nothing and logs nothing; that is package run's work.
//
// A driver is a folder with these files: NAME.go (what it is, what the VM
// becomes), args.go (words of HypervisorArgs=), features.go (the table), probe.go
// (versions, and what an end means), and one call of drivertest. One line in
// driver/all makes it known.
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
	// Ended reads what a hypervisor that has ended left: its exit code, or -1
	// after a signal, and its dying words. They are untrusted.
	Ended(code int, words string) Ending
}

// Ending is what there is to say of a hypervisor's end.
type Ending struct {
	// Argument is the one that it did not like, such as "-frobnicate"; empty if
	// it names none.
	Argument string
	// PoweredOff: it ended because the guest did. The reason is in What, unless
	// the guest simply powered off.
	PoweredOff bool
	// What says in words what the exit code means; empty where it means nothing
	// by itself.
	What string
}

// Feature is a row of a driver's table.
type Feature struct {
	// Name is what the feature is called in the table, such as "disk
	// qcow2" or "channel initrd".
	Name string
	// Refusal is empty for yes; else a sentence that a user can act on.
	Refusal string
	// Unasked: no line of a file asks for it, and so none is refused.
	Unasked bool
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
