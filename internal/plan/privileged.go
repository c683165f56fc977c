package plan

// Privileged names the assignments for which root has to do something before the
// VM starts, or after it has ended: each is a name in Origins.
func (vm *VM) Privileged() []string {
	var ids []string
	for _, d := range vm.Devices {
		ids = append(ids, d.From)
	}
	for _, s := range vm.Served() {
		ids = append(ids, s.From)
	}
	return ids
}

// Handed is an open file that root hands to whoever starts the VM.
type Handed struct {
	// Name is that of the file for the service manager (LISTEN_FDNAMES). Several
	// can have it.
	Name string
	// Least is how many there must be, Most how many there can be.
	Least, Most int
	// From names the assignment behind it.
	From string
}

// Needs lists the files that are to be handed over.
func (vm *VM) Needs() []Handed { return nil }
