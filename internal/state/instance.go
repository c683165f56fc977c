package state

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Instance is what a VM's runtime directory says.
type Instance struct {
	Name string
	// Dir is the directory's absolute path.
	Dir string
	// Service: it is a service manager's to stop. It is not only where the run
	// itself says so and its word counts: a directory of our own user's. As
	// long as there is no record, it is taken for a service.
	Service bool
	// Running: a process holds the lock. Without it, what is here was left by
	// one that was killed, or kept by the service manager between two starts.
	Running bool
	// Pid is that process, by the kernel's word; 0 where it cannot be told (it
	// is us, or is in another PID namespace) or nothing runs.
	Pid int
	// Record is nil where there is none or it cannot be read.
	Record *Record
	// Problem is why lock or record cannot be read, nil where they can or are
	// not there.
	Problem error
}

// Root is where the services of VMs have their runtime directories, and ByHand
// where root's VMs have theirs.
const (
	Root   = "run/ampoule/vm"
	ByHand = "run/ampoule/run"
)

// List returns the system's VMs below a root, those of services before those
// that root has started by hand, each by name; root is "" or "/" for this host.
// A directory that does not exist holds none. One VM that cannot be read has its
// Problem and keeps nobody from seeing the others.
func List(root string) ([]Instance, error) {
	services, err := listDirectory(below(root, Root))
	if err != nil {
		return nil, err
	}
	byHand, err := listDirectory(below(root, ByHand))
	return append(services, byHand...), err
}

// below is where a directory lies in the tree at root; "" is the host's own. A
// relative root counts from the working directory.
func below(root, dir string) string {
	path, err := filepath.Abs(filepath.Join(cmp.Or(root, "/"), dir))
	if err != nil {
		return filepath.Join("/", root, dir) // there is no working directory
	}
	return path
}

// Services names the VMs of services below a root: those that run, and those that
// are between a crash and their next start. Nothing is read that a VM's user may
// have written.
func Services(root string) ([]string, error) {
	entries, err := os.ReadDir(below(root, Root))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("looking for running VMs: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.Type() == fs.ModeSymlink {
			// systemd leaves the link behind when it removes the directory.
			if info, err := os.Stat(filepath.Join(below(root, Root), e.Name())); err != nil || !info.IsDir() {
				continue
			}
		} else if !e.IsDir() {
			continue
		}
		names = append(names, e.Name())
	}
	return names, nil
}

func listDirectory(dir string) ([]Instance, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for running VMs: %w", err)
	}
	var out []Instance
	for _, e := range entries {
		if !e.IsDir() && e.Type() != fs.ModeSymlink || e.Name() != printable(e.Name()) {
			continue
		}
		if i, ok := Look(filepath.Join(dir, e.Name())); ok {
			out = append(out, i)
		}
	}
	return out, nil
}

// Look returns what a VM's runtime directory says; the VM is named like it. It
// is false where there is no such directory.
func Look(dir string) (Instance, bool) {
	i := Instance{Name: filepath.Base(dir), Dir: dir, Service: true}
	own, err := ownDirectory(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return Instance{}, false
	}
	if err != nil {
		i.Problem = err
		return i, true
	}
	i.Pid, i.Running, i.Problem = holder(filepath.Join(dir, lockName))
	if errors.Is(i.Problem, fs.ErrNotExist) {
		i.Problem = nil
	}
	rec, err := Read(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		i.Problem = errors.Join(i.Problem, err)
	case rec.Name != i.Name:
		i.Problem = errors.Join(i.Problem, errors.New("reading the record of the run: it is that of another VM"))
	default:
		i.Record, i.Service = &rec, !own || !rec.ByHand
	}
	return i, true
}

// Runs reports whether somebody runs the VM, in the one way or the other.
func (d Directories) Runs() bool {
	if d.Runtime != "" {
		if i, ok := Look(d.Runtime); ok && i.Running {
			return true
		}
	}
	return d.Other != "" && d.runsOtherwise()
}

// ownDirectory reports whether a VM's directory is that of a user who started it
// by hand, of whom we believe what it says: a directory in its place, not one
// that systemd keeps elsewhere for a uid of the moment, and its user is the one
// whose directory it is in.
func ownDirectory(dir string) (bool, error) {
	info, err := os.Lstat(dir)
	if err != nil {
		return false, err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		// What it leads to must be a directory, of whomever.
		target, err := os.Stat(dir)
		if err == nil && !target.IsDir() {
			err = fs.ErrNotExist
		}
		return false, err
	}
	if !info.IsDir() {
		return false, fs.ErrNotExist
	}
	above, err := os.Stat(filepath.Dir(dir))
	if err != nil {
		return false, err
	}
	mine, ok := info.Sys().(*syscall.Stat_t)
	theirs, ok2 := above.Sys().(*syscall.Stat_t)
	return ok && ok2 && mine.Uid == theirs.Uid, nil
}
