package source

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/ampoule-vm/ampoule/internal/diag"
)

// Tree is the search path as it was at one moment: one listing for each of its
// directories, from which thousands of VMs are found without a look at each.
// It may be used by several goroutines at once.
type Tree struct {
	root string
	dirs []string
	// found has an element for each of dirs.
	found []listing
	// names are those of the VMs, sorted.
	names []string
}

// listing is what one directory holds, or why that is not known.
type listing struct {
	types map[string]fs.FileMode
	err   error
}

// Scan lists the directories of a search path below root, the strongest first.
// One that does not exist is empty; one that cannot be read is a problem of
// every VM that is looked for.
func Scan(root string, dirs []string) *Tree {
	t := &Tree{root: root, dirs: dirs, found: make([]listing, len(dirs))}
	for i, dir := range dirs {
		entries, err := os.ReadDir(filepath.Join(root, dir))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			err = nil
		}
		types := make(map[string]fs.FileMode, len(entries))
		for _, e := range entries {
			types[e.Name()] = e.Type()
		}
		t.found[i] = listing{types, err}
		for entry := range types {
			if name, ok := strings.CutSuffix(entry, Suffix); ok && name != "" {
				t.names = append(t.names, name)
			}
		}
	}
	slices.Sort(t.names)
	t.names = slices.Compact(t.names)
	return t
}

// Problems tells which directories could not be read.
func (t *Tree) Problems() diag.List {
	var out diag.List
	for i, l := range t.found {
		if l.err != nil {
			out.Add(diag.Problem{Origin: diag.Origin{File: t.dirs[i], Line: 1}, What: reason(l.err), Accepted: "accepted: a readable directory"})
		}
	}
	return out
}

// Find reads the VM of that name, as the function Find does.
func (t *Tree) Find(name string) (Set, diag.List) {
	f := &finder{argument: name, root: t.root, tree: t}
	return f.name(name, t.dirs), f.problems
}

// Root is the directory below which the search path was looked at; "" is the host.
func (t *Tree) Root() string { return t.root }

// Names lists the VMs, sorted. They are not the caller's to change.
func (t *Tree) Names() []string { return t.names }

// DropIns returns the strongest directory of drop-ins for one VM alone, or "".
func (t *Tree) DropIns(name string) string {
	for i, dir := range t.dirs {
		if _, ok := t.found[i].types[name+Suffix+".d"]; ok {
			return path.Join(dir, name+Suffix+".d")
		}
	}
	return ""
}

// Masked reports whether the file that counts for a VM is a link to /dev/null.
func (t *Tree) Masked(name string) (file string, masked bool) {
	for i, dir := range t.dirs {
		typ, ok := t.found[i].types[name+Suffix]
		if !ok {
			continue
		}
		file = path.Join(dir, name+Suffix)
		if typ&fs.ModeSymlink == 0 {
			return file, false
		}
		f := finder{root: t.root}
		return file, f.masked(file)
	}
	return "", false
}

// Orphans lists the names for which there are drop-ins and no VM, sorted: those
// that can only be meant for one VM, and as notes the directories for names with
// a common beginning that no VM has.
func (t *Tree) Orphans() (names []string, notes diag.List) {
	for i, dir := range t.dirs {
		for entry := range t.found[i].types {
			name, ok := strings.CutSuffix(entry, Suffix+".d")
			_, isVM := slices.BinarySearch(t.names, name)
			switch {
			case !ok || name == "" || isVM:
			case !strings.HasSuffix(name, "-"):
				names = append(names, name)
			case !slices.ContainsFunc(t.names, func(vm string) bool { return len(vm) > len(name) && strings.HasPrefix(vm, name) }):
				notes.Add(diag.Problem{Origin: diag.Origin{File: path.Join(dir, entry), Line: 1}, Severity: diag.Note, What: "drop-ins for no VM: no name begins with " + name})
			}
		}
	}
	slices.Sort(names)
	notes.Sort()
	return slices.Compact(names), notes
}

func (t *Tree) lookUp(dir, name string) error {
	i := slices.Index(t.dirs, dir)
	if i < 0 {
		return syscall.ENOENT
	}
	if err := t.found[i].err; err != nil {
		return err
	}
	if _, ok := t.found[i].types[name]; !ok {
		return syscall.ENOENT
	}
	return nil
}

// regular reports whether a path is known to be a file, and no link.
func (t *Tree) regular(p string) bool {
	dir, name := path.Split(p)
	i := slices.Index(t.dirs, strings.TrimSuffix(dir, "/"))
	if i < 0 {
		return false
	}
	typ, ok := t.found[i].types[name]
	return ok && typ.IsRegular()
}
