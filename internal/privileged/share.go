package privileged

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/share"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// prepareShares gives the sockets on which shares are served to the VM's user, and
// to nobody else. They were made by root, in directories of root's alone.
func prepareShares(_ context.Context, vm *VM) diag.List {
	var problems diag.List
	for _, s := range vm.Plan.VM.Served() {
		// What keeps it from being served is found here again, and said of the VM.
		if wrong := share.Judge(vm.Plan, []plan.Share{s}); wrong.HasErrors() {
			problems = append(problems, wrong...)
			continue
		}
		if err := giveSocket(plan.ShareSocket(vm.Plan.VM.Name, s.Tag), vm.User, vm.Group); err != nil {
			unit := spec.ShareUnitName(vm.Plan.VM.Name, s.Tag)
			problems.Add(diag.Problem{
				Origin: vm.Plan.Origin(s.From), Key: plan.KeyOf(s.From), Value: share.Line(s),
				What: fmt.Sprintf("nobody serves it (%v)", err), Accepted: "journalctl -u " + unit + " says why",
			})
		}
	}
	return problems
}

// releaseShares takes them back: the number of a user that is gone can become
// another's.
func releaseShares(vm *VM) error {
	var wrong []error
	for _, s := range vm.Plan.VM.Served() {
		if err := giveSocket(plan.ShareSocket(vm.Plan.VM.Name, s.Tag), 0, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			wrong = append(wrong, err)
		}
	}
	return errors.Join(wrong...)
}

// giveSocket changes the owner of a socket, and of nothing in its place. Whatever the
// last one has made of it, it is open to the owner alone.
func giveSocket(path string, user, group int) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return &os.PathError{Op: "open", Path: path, Err: errors.New("this is not a socket")}
	}
	// It is root's first, so that whoever had it does not open it to others meanwhile.
	err = unix.Fchownat(fd, "", 0, 0, unix.AT_EMPTY_PATH)
	if err == nil {
		err = unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), 0o600)
	}
	if err == nil {
		err = unix.Fchownat(fd, "", user, group, unix.AT_EMPTY_PATH)
	}
	if err != nil {
		return &os.PathError{Op: "chown", Path: path, Err: err}
	}
	return nil
}
