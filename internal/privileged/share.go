package privileged

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/hostfiles"
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
// another's. The directory of a share goes with its unit, as long as the service
// manager knows what the unit has; of one whose file is gone, since the VM has the
// share no more, or by another tag, it forgot that with the last daemon-reload.
func releaseShares(vm *VM) error {
	var wrong []error
	for _, s := range vm.Plan.VM.Served() {
		err := giveSocket(plan.ShareSocket(vm.Plan.VM.Name, s.Tag), 0, 0)
		if !vm.serves(s.Tag) && !hostfiles.Root("").HasUnit(spec.ShareUnitName(vm.Plan.VM.Name, s.Tag)) {
			err = removeShare(plan.ShareDirectory(vm.Plan.VM.Name, s.Tag))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			wrong = append(wrong, err)
		}
	}
	return errors.Join(wrong...)
}

// serves: the VM is about to start, and somebody serves this share for it.
func (vm *VM) serves(tag string) bool {
	return vm.next != nil && slices.ContainsFunc(vm.next.VM.Served(), func(s plan.Share) bool { return s.Tag == tag })
}

// removeShare removes the directory of a share, with what belongs there, and nothing
// else: what is served may still be mounted in it.
func removeShare(dir string) error {
	for _, name := range []string{"s", "d", ""} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
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
