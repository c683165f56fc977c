package initrd

import (
	"strings"

	"github.com/ampoule-vm/ampoule/internal/initrd/cpio"
)

// maxLinks is how many symbolic links Linux follows in one path.
const maxLinks = 40

// node is a file of whatever type. Two names may share it.
type node struct {
	mode     uint32
	size     int64
	target   string           // of a symbolic link
	children map[string]*node // of a directory
	parent   *node            // of a directory
	content  content          // of a regular file
	links    int
}

func (n *node) is(kind uint32) bool { return n.mode&cpio.TypeMask == kind }

// tree is the root file system as it grows. It does what the system calls do
// that Linux makes for each entry, as far as names and types go.
type tree struct {
	root  *node
	pages int64 // of the contents of all files, in bytes
	// hard is by what file an entry is a name of; trailers empty it.
	hard map[identity]string
	// orphans counts the entries that were not made for lack of a directory.
	orphans     int64
	firstOrphan string
	// steps counts what walking along paths has cost so far, in parts of a path
	// that were looked at or moved. A small archive of long chains of links can
	// make it large: who adds entries must stop at maxSteps.
	steps int64
}

// maxSteps is some seconds' worth. A million entries in directories of a depth of
// twenty take half of it.
const maxSteps = 40 << 20

type identity struct{ ino, major, minor, kind uint32 }

func newTree() *tree {
	t := &tree{hard: map[identity]string{}}
	t.root = &node{mode: cpio.TypeDir | 0o755, children: map[string]*node{}}
	t.root.parent = t.root
	// The kernel's own archive comes first. This is its content where nobody
	// has changed it.
	for name, mode := range map[string]uint32{"dev": 0o755, "root": 0o700} {
		t.root.children[name] = &node{mode: cpio.TypeDir | mode, children: map[string]*node{}, parent: t.root, links: 1}
	}
	t.root.children["dev"].children["console"] = &node{mode: cpio.TypeChar | 0o600, links: 1}
	return t
}

func pages(n int64) int64 { return (n + 4095) &^ 4095 }

// add makes what an entry says and returns the node that takes the content, if
// there is one: nil, where Linux would not make a file.
func (t *tree) add(h cpio.Header, target string) *node {
	dir, name, found := t.parentOf(h.Name)
	if !found {
		if t.orphans++; t.orphans == 1 {
			t.firstOrphan = h.Name
		}
		return nil
	}
	kind := h.Mode & cpio.TypeMask
	switch kind {
	case cpio.TypeDir:
		t.directory(dir, name, h.Mode)
	case cpio.TypeRegular:
		return t.file(dir, name, h)
	case cpio.TypeSymlink:
		t.clear(dir, name, ^uint32(0))
		t.put(dir, name, &node{mode: h.Mode, target: target})
	case cpio.TypeBlock, cpio.TypeChar, cpio.TypeFIFO, cpio.TypeSocket:
		t.clear(dir, name, kind)
		if linked, _ := t.link(dir, name, h); !linked {
			t.put(dir, name, &node{mode: h.Mode})
		}
	}
	return nil
}

func (t *tree) directory(dir *node, name string, mode uint32) {
	if name == "" { // the root, or a path that ends with ".."
		dir.mode = mode
		return
	}
	t.clear(dir, name, cpio.TypeDir)
	if old := dir.children[name]; old != nil {
		old.mode = mode
		return
	}
	t.put(dir, name, &node{mode: mode, children: map[string]*node{}, parent: dir})
}

func (t *tree) file(dir *node, name string, h cpio.Header) *node {
	if name == "" {
		return nil
	}
	t.clear(dir, name, cpio.TypeRegular)
	linked, ok := t.link(dir, name, h)
	if !ok {
		return nil
	}
	n := dir.children[name]
	switch {
	case n == nil:
		n = &node{}
		t.put(dir, name, n)
	case !n.is(cpio.TypeRegular):
		return nil // a directory with something in it stays
	}
	n.mode = h.Mode
	if linked && h.Size == 0 {
		return n // the content came with another name
	}
	t.pages += pages(int64(h.Size)) - pages(n.size)
	n.size, n.content = int64(h.Size), content{}
	return n
}

// put makes a new name, unless there is one already.
func (t *tree) put(dir *node, name string, n *node) {
	if name == "" || dir.children[name] != nil {
		return
	}
	n.links = 1
	dir.children[name] = n
}

// clear takes a name away whose type is not the given one, as far as that is
// possible: a directory must be empty.
func (t *tree) clear(dir *node, name string, kind uint32) {
	old := dir.children[name]
	if old == nil || old.is(kind) || len(old.children) != 0 {
		return
	}
	t.unlink(dir, name)
}

func (t *tree) unlink(dir *node, name string) {
	old := dir.children[name]
	delete(dir.children, name)
	if old.links--; old.links == 0 && old.is(cpio.TypeRegular) {
		t.pages -= pages(old.size)
	}
}

// link makes a name of a file that has another name already. ok is false where
// Linux would give up on the entry.
func (t *tree) link(dir *node, name string, h cpio.Header) (linked, ok bool) {
	if h.NLink < 2 {
		return false, true
	}
	id := identity{h.Ino, h.DevMajor, h.DevMinor, h.Mode & cpio.TypeMask}
	first, seen := t.hard[id]
	if !seen {
		t.hard[id] = h.Name
		return false, true
	}
	t.clear(dir, name, ^uint32(0))
	oldDir, oldName, found := t.parentOf(first)
	if !found || oldDir.children[oldName] == nil || oldDir.children[oldName].is(cpio.TypeDir) || dir.children[name] != nil || name == "" {
		return false, false
	}
	n := oldDir.children[oldName]
	n.links++
	dir.children[name] = n
	return true, true
}

// parentOf returns the directory in which a path of an archive lies and its name
// in there, "" where it is that directory. Symbolic links on the way are
// followed.
func (t *tree) parentOf(path string) (dir *node, name string, found bool) {
	links := 0
	dir, rest := t.root, t.split(path)
	if path == "" {
		return nil, "", false
	}
	for i, part := range rest {
		if i == len(rest)-1 && part != ".." {
			return dir, part, true
		}
		n, _ := t.walk(dir, nil, []string{part}, &links)
		if n == nil || !n.is(cpio.TypeDir) {
			return nil, "", false
		}
		dir = n
	}
	return dir, "", true
}

// split is the function of that name, and counts what it costs at most.
func (t *tree) split(path string) []string {
	t.steps += int64(strings.Count(path, "/") + len(path)/64 + 1)
	return split(path)
}

// split returns the parts of a path without those that mean nothing.
func split(path string) []string {
	parts := strings.Split(path, "/")
	out := parts[:0]
	for _, p := range parts {
		if p != "" && p != "." {
			out = append(out, p)
		}
	}
	return out
}

// walk goes along parts, beginning in dir, which at is the path of, and follows
// symbolic links, also the last one. It returns nil and where it came to an end
// for whatever reason.
func (t *tree) walk(dir *node, at, parts []string, links *int) (*node, []string) {
	for len(parts) > 0 {
		t.steps++
		part := parts[0]
		parts = parts[1:]
		if !dir.is(cpio.TypeDir) {
			return nil, at
		}
		if part == ".." {
			dir, at = dir.parent, at[:max(len(at)-1, 0)]
			continue
		}
		at = append(at, part)
		n := dir.children[part]
		if n == nil {
			return nil, at
		}
		if !n.is(cpio.TypeSymlink) {
			dir = n
			continue
		}
		if *links++; *links > maxLinks || n.target == "" {
			return nil, at
		}
		at = at[:len(at)-1]
		if strings.HasPrefix(n.target, "/") {
			dir, at = t.root, at[:0]
		}
		t.steps += int64(len(parts))
		parts = append(t.split(n.target), parts...)
	}
	return dir, at
}

// find returns what is at a path, all links followed, and the path without them;
// or nil, where it came to an end, and whether that is for too many links.
func (t *tree) find(path string) (n *node, at string, loop bool) {
	links := 0
	n, parts := t.walk(t.root, nil, t.split(path), &links)
	return n, "/" + strings.Join(parts, "/"), links > maxLinks
}

// has reports whether there is something at a path.
func (t *tree) has(path string) bool {
	n, _, _ := t.find(path)
	return n != nil
}
