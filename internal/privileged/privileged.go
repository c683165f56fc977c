// Package privileged is what root does for a VM, from its plan alone: before it
// starts (Prepare), and after it has ended (Release). The VM's own user can do
// none of it, and nothing that this user may have written is read here.
//
// What was done is remembered in a directory of root's alone, with the plan by
// which it was done: the unit may carry another one by the time the VM ends.
//
// A feature is a step in a file of its own.
package privileged

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/hostfiles"
	"github.com/ampoule-vm/ampoule/internal/plan"
)

// VM is one that is prepared or released.
type VM struct {
	Plan *plan.Plan
	// User and Group are those that the hypervisor will have.
	User, Group int
	// Dir is a directory of root's alone, where a step keeps what it must know
	// when the VM has ended. It is there from Prepare to Release.
	Dir string
	// Network is the file of the host's network namespace; empty: our own.
	Network string

	// next is the plan by which the VM is about to start, where that is why an earlier
	// start is undone.
	next   *plan.Plan
	handed []*os.File
}

// Hand gives an open file to whoever starts the hypervisor, who finds it by its
// name. It is not the step's to close any more.
func (vm *VM) Hand(f *os.File) { vm.handed = append(vm.handed, f) }

// step is what a feature has root do. Each is called for every VM that has root
// do anything, and does nothing for one that does not use the feature.
type step struct {
	// prepare is all or nothing; it finds all of its problems. What a VM of that
	// name has left that was killed is in its way no more afterwards.
	prepare func(context.Context, *VM) diag.List
	// release undoes prepare, also one that ended half-way, and twice.
	release func(*VM) error
}

// steps are carried out in this order, and undone in the opposite one.
func steps() []step {
	return []step{networks(), newHostDevices().step(), {prepareShares, releaseShares}}
}

// Request is who wants a VM prepared.
type Request struct {
	Plan        *plan.Plan
	User, Group int
	// Owner tells one start of the VM from another: an invocation of its service,
	// a process of somebody who runs it by hand.
	Owner string
	// Network is the file of the network namespace in which the VM's interfaces
	// are; empty: our own.
	Network string
	// Dir is where to remember what was done; empty: hostfiles.Prepared.
	Dir string

	steps []step // for tests
}

// Prepare does what the plan needs. The open files are for whoever starts the
// hypervisor, by their names; they are the caller's to close. On problems nothing
// is left of it, and there are none. What an earlier start has left is removed
// first.
func Prepare(ctx context.Context, r Request) ([]*os.File, diag.List) {
	r = r.complete()
	whole := func(err error) diag.List {
		return diag.List{{Origin: r.Plan.Origin(plan.Whole), What: err.Error()}}
	}
	unlock, err := lock(r.Dir)
	if err != nil {
		return nil, whole(fmt.Errorf("preparing the host for the VM: %w", err))
	}
	defer unlock()
	if _, err := r.release("", r.Plan); err != nil {
		return nil, whole(fmt.Errorf("removing what an earlier start has left: %w", err))
	}
	vm := &VM{Plan: r.Plan, User: r.User, Group: r.Group, Dir: r.memory(), Network: r.Network}
	if err := remember(vm, r.Owner); err != nil {
		return nil, whole(fmt.Errorf("preparing the host for the VM: %w", err))
	}
	var problems diag.List
	for _, s := range r.steps {
		problems = append(problems, s.prepare(ctx, vm)...)
	}
	problems.Sort()
	if !problems.HasErrors() {
		return vm.handed, problems
	}
	for _, f := range vm.handed {
		f.Close()
	}
	if _, err := r.release(r.Owner, nil); err != nil {
		problems = append(problems, whole(err)...)
	}
	return nil, problems
}

// Forgotten is what a start had root do that is over.
type Forgotten struct {
	// Names are those of the open files that were handed on, each once.
	Names []string
}

// Release undoes what Prepare did for a start of a VM; empty: whichever it was.
// Where nothing was done for it, or something for another start of the VM since,
// it does nothing. A Request for it need not have more than a Plan with the VM's
// name.
func Release(r Request) (Forgotten, error) {
	r = r.complete()
	if _, err := os.Lstat(r.memory()); errors.Is(err, os.ErrNotExist) {
		return Forgotten{}, nil
	}
	unlock, err := lock(r.Dir)
	if err != nil {
		return Forgotten{}, err
	}
	defer unlock()
	return r.release(r.Owner, nil)
}

func (r Request) complete() Request {
	if r.Dir == "" {
		r.Dir = hostfiles.Prepared
	}
	if r.steps == nil {
		r.steps = steps()
	}
	return r
}

// memory is where it is remembered what was done for the VM.
func (r Request) memory() string { return filepath.Join(r.Dir, r.Plan.VM.Name) }

func (r Request) release(owner string, next *plan.Plan) (Forgotten, error) {
	done, err := recall(r.memory())
	if errors.Is(err, os.ErrNotExist) {
		// Nothing was done before this was written.
		return Forgotten{}, os.RemoveAll(r.memory())
	}
	if err != nil {
		return Forgotten{}, err
	}
	if owner != "" && owner != done.Owner {
		return Forgotten{}, nil
	}
	vm := &VM{Plan: done.Plan, User: done.User, Group: done.Group, Dir: r.memory(), Network: r.Network, next: next}
	var wrong []error
	for _, s := range slices.Backward(r.steps) {
		wrong = append(wrong, s.release(vm))
	}
	if err := errors.Join(wrong...); err != nil {
		return Forgotten{}, err // it is tried again at the next start
	}
	return Forgotten{Names: namesOf(done.Plan)}, os.RemoveAll(r.memory())
}

// namesOf are the names under which files are handed on for a VM.
func namesOf(p *plan.Plan) []string {
	names := []string{ProblemsName}
	for _, h := range p.VM.Needs() {
		names = append(names, h.Name)
	}
	return names
}

// lock keeps others from preparing and releasing VMs, until the result is called.
// It makes the directory. The lock ends with the process too.
func lock(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	return func() { f.Close() }, nil
}
