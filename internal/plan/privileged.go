package plan

import "fmt"

// Privileged names the assignments for which root has to do something before the
// VM starts, or after it has ended: each is a name in Origins.
func (vm *VM) Privileged() []string {
	var ids []string
	for i := range vm.Networks {
		if n := &vm.Networks[i]; n.Made() {
			ids = append(ids, n.From)
		}
	}
	for _, d := range vm.Devices {
		if !d.External {
			ids = append(ids, d.From)
		}
	}
	for _, s := range vm.Served() {
		ids = append(ids, s.From)
	}
	return ids
}

// Handed is an open file that the hypervisor gets, which root hands to whoever starts
// the VM, or that one opens itself.
type Handed struct {
	// Name is that of the file for the service manager (LISTEN_FDNAMES). Several
	// can have it.
	Name string
	// Least is how many there must be, Most how many there can be.
	Least, Most int
	// Own: whoever starts the VM opens it.
	Own bool
	// From names the assignment behind it.
	From string
}

// Needs lists the files that the hypervisor is to be given.
func (vm *VM) Needs() []Handed {
	var out []Handed
	for i := range vm.Networks {
		n := &vm.Networks[i]
		if !n.ByDescriptor() {
			continue
		}
		out = append(out, Handed{vm.TapName(i), n.Queues, n.Queues, n.External, n.From})
		switch n.VHost {
		case "yes":
			out = append(out, Handed{vm.VHostName(i), n.Queues, n.Queues, n.External, n.From})
		case "auto":
			out = append(out, Handed{vm.VHostName(i), 0, n.Queues, n.External, n.From})
		}
	}
	return out
}

// TapName is the name of the files of a network, by its number in the plan.
func (vm *VM) TapName(i int) string { return fmt.Sprintf("ampoule.net%d", i) }

// VHostName is that of the files by which the host's kernel moves its packets.
func (vm *VM) VHostName(i int) string { return fmt.Sprintf("ampoule.vhost%d", i) }
