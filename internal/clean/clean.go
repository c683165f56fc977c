// Package clean finds what VMs have left behind that nothing declares any more,
// and removes it when it is asked to: of one VM at a time, by its name.
//
// What lives here: where such things lie, how large they are, who still has a use
// for them, and the removal, which leads nowhere else, whatever a VM's user has
// put there. What must not: which VMs there are, and printing.
package clean

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/ampoule-vm/ampoule/internal/generator"
	"github.com/ampoule-vm/ampoule/internal/hostfiles"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// Kind says what lies there.
type Kind string

// The kinds.
const (
	State Kind = "state" // disks
	Cache Kind = "cache" // what can be found again
	Unit  Kind = "unit"  // the last good one of a VM that ran
	// Runtime is what a run has left that did not end in order, or whose unit was
	// masked while it ran.
	Runtime Kind = "runtime"
	// Prepared is what root has written down of what it did for a VM, and did not
	// come to undo. Undoing it comes before removing it (package privileged).
	Prepared Kind = "prepared"
)

// Item is one thing that a VM has left.
type Item struct {
	Kind Kind `json:"kind"`
	// Path is absolute. Below it nothing belongs to anybody else.
	Path string `json:"path"`
	// Bytes is what it takes on the disk.
	Bytes int64 `json:"bytes"`
	// Link: it is a link to another item, as systemd makes them for DynamicUser=.
	Link bool `json:"link"`

	dir, name string
}

// places are the directories in which each VM has something by its own name, with a
// share's tag behind it where it is a share's.
func places() []struct {
	kind Kind
	dir  string
} {
	type place = struct {
		kind Kind
		dir  string
	}
	return []place{
		{State, "/var/lib/ampoule/vm"}, {State, "/var/lib/private/ampoule/vm"},
		{Cache, "/var/cache/ampoule/vm"}, {Cache, "/var/cache/private/ampoule/vm"},
		{Runtime, "/run/ampoule/vm"}, {Runtime, "/run/private/ampoule/vm"},
		{Runtime, plan.ShareRoot},
		{Prepared, hostfiles.Prepared}, {Unit, generator.StoreDirectory},
	}
}

// Find returns what VMs have left below root, by their names, except those that
// known accepts. What cannot be looked into is in the error; the rest is found
// all the same.
func Find(root string, known func(name string) bool) (map[string][]Item, error) {
	out := map[string][]Item{}
	var problems []error
	for _, p := range places() {
		dir := filepath.Join(root, p.dir)
		r, err := os.OpenRoot(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("looking for what VMs have left: %w", err))
			continue
		}
		entries, err := fs.ReadDir(r.FS(), ".")
		if err != nil {
			problems = append(problems, fmt.Errorf("looking for what VMs have left in %s: %w", dir, err))
		}
		for _, e := range entries {
			vm, _, _ := strings.Cut(e.Name(), "@") // no name of a VM has one
			if spec.CheckName(vm) != nil || vm != e.Name() && p.dir != plan.ShareRoot || known(vm) {
				continue
			}
			item := Item{Kind: p.kind, Path: path.Join(p.dir, e.Name()), Link: e.Type()&fs.ModeSymlink != 0, dir: dir, name: e.Name()}
			if !item.Link { // what it leads to is another item, or nobody's business
				if item.Bytes, err = sizeOf(r, e.Name()); err != nil {
					problems = append(problems, fmt.Errorf("looking into %s: %w", item.Path, err))
				}
			}
			out[vm] = append(out[vm], item)
		}
		_ = r.Close()
	}
	return out, errors.Join(problems...)
}

// sizeOf adds up what a file, or all below a directory, takes on the disk. It
// follows no link, and counts a file with several names once.
func sizeOf(r *os.Root, name string) (int64, error) {
	var sum int64
	seen := map[uint64]bool{}
	err := fs.WalkDir(r.FS(), name, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && !seen[st.Ino] {
			seen[st.Ino] = true
			sum += st.Blocks * 512
		}
		return nil
	})
	return sum, err
}

// Remove removes an item for good. It goes through no link and into no file
// system that is mounted below it.
func Remove(item Item) error {
	if at, err := mountBelow(filepath.Join(item.dir, item.name)); err != nil {
		return err
	} else if at != "" {
		return fmt.Errorf("%s is not removed: %s is mounted there; unmount it first", item.Path, at)
	}
	r, err := os.OpenRoot(item.dir)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	if err := r.RemoveAll(item.name); err != nil {
		return fmt.Errorf("removing %s: %w", item.Path, err)
	}
	return nil
}

// mountBelow returns a mount point at a path or below it, or "".
func mountBelow(of string) (string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("looking for mounts: %w", err)
	}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		if at := unescape.Replace(fields[4]); at == of || strings.HasPrefix(at, of+"/") {
			return at, nil
		}
	}
	return "", nil
}

// Users are the unit files by which somebody may still have a use for what a VM
// has left: those that mask its service, and those of units of somebody's own
// that carry its plan or have its directory.
type Users struct {
	masked []string
	texts  map[string]string
}

// FindUsers reads the unit files of administrator and packages below root.
func FindUsers(root string) Users {
	u := Users{texts: map[string]string{}}
	for _, dir := range hostfiles.UnitDirectories() {
		_ = filepath.WalkDir(filepath.Join(root, dir), func(p string, d fs.DirEntry, err error) error {
			name := strings.TrimPrefix(p, filepath.Clean(root))
			switch {
			case err != nil:
				return nil // it cannot be read, and nothing can be said of it
			case d.Type()&fs.ModeSymlink != 0:
				if target, err := os.Readlink(p); err == nil && path.Clean(target) == os.DevNull {
					u.masked = append(u.masked, d.Name())
				}
			case d.Type().IsRegular() && (strings.HasSuffix(name, ".service") || strings.HasSuffix(name, ".conf")):
				if text, err := os.ReadFile(p); err == nil && strings.Contains(string(text), "ampoule") {
					u.texts[path.Clean("/"+name)] = string(text)
				}
			}
			return nil
		})
	}
	return u
}

// Of says who has a use for what a VM has left; empty: nobody that is known of.
func (u Users) Of(name string) string {
	if slices.Contains(u.masked, spec.UnitName(name)) {
		return spec.UnitName(name) + " is masked"
	}
	var files []string
	for file, text := range u.texts {
		if mentions(text, "ampoule/vm/"+name) || strings.Contains(text, `"name":"`+name+`"`) || strings.Contains(text, " run "+name+"\n") {
			files = append(files, file)
		}
	}
	if len(files) == 0 {
		return ""
	}
	return slices.Min(files) + " uses it"
}

// mentions reports whether a word stands in a text and does not go on.
func mentions(text, word string) bool {
	const goesOn = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-"
	for {
		_, rest, ok := strings.Cut(text, word)
		if !ok {
			return false
		}
		if rest == "" || !strings.ContainsRune(goesOn, rune(rest[0])) {
			return true
		}
		text = rest
	}
}
