// Package nixstore reads what Nix and NixOS leave on a disk: the store, its
// database, profiles and garbage-collection roots, on this host or in a tree that
// is mounted elsewhere. It reads files and nothing else: no Nix is called, no lock is
// taken, and nothing is written.
//
// What lives here: a [Tree], in which every link is followed as the host to which the
// tree belongs would follow it; names and references of store paths; the [Database].
// What must not: what microvm.nix makes of it, and what follows from it.
package nixstore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Tree is a host's files below a directory of this machine. Links are followed
// inside: an absolute one begins at the tree's root, and ".." does not lead out of it.
// A tree is for one goroutine.
type Tree struct {
	root string
	// kinds remembers directories that were found to be no links, which nearly all
	// of a path is: 50 VMs ask for the same ones thousands of times.
	plain map[string]bool
}

// NewTree returns the tree below a directory; "" and "/" are this host. The error
// says that there is no such directory.
func NewTree(root string) (*Tree, error) {
	if root == "" {
		root = "/"
	}
	absolute, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(absolute)
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: root, Err: Reason(err)}
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%s is no directory", root)
	}
	return &Tree{root: absolute, plain: map[string]bool{}}, nil
}

// Live reports whether the tree is this host's own.
func (t *Tree) Live() bool { return t.root == "/" }

// Host is where a resolved path of the tree lies on this machine.
func (t *Tree) Host(p string) string { return filepath.Join(t.root, path.Clean("/"+p)) }

// Info is what is known of a file.
type Info struct {
	Mode     fs.FileMode
	Size     int64
	Modified time.Time
	// UID and GID are its owners.
	UID, GID uint32
}

// ErrLoop is what is wrong with a path that leads through too many links.
var ErrLoop error = syscall.ELOOP

// maxLinks is how many links one path may lead through, as in Linux.
const maxLinks = 40

// Resolve returns the path behind all links. All errors of this type's methods
// are [fs.PathError]s with the path as the tree's host has it.
func (t *Tree) Resolve(p string) (string, error) { return t.walk(p, true) }

// Parent returns the path with all links followed but that of its last element.
func (t *Tree) Parent(p string) (string, error) { return t.walk(p, false) }

// walk follows the links of a path, element by element.
func (t *Tree) walk(p string, last bool) (string, error) {
	rest, done, links := path.Clean("/" + p)[1:], "/", 0
	for rest != "" {
		element, behind, _ := strings.Cut(rest, "/")
		rest = behind
		switch element {
		case "", ".":
			continue
		case "..":
			done = path.Dir(done)
			continue
		}
		next := path.Join(done, element)
		if rest == "" && !last {
			return next, nil
		}
		if t.plain[next] {
			done = next
			continue
		}
		target, err := os.Readlink(t.Host(next))
		switch {
		case errors.Is(err, syscall.EINVAL): // no link
			if rest != "" {
				t.plain[next] = true
			}
			done = next
			continue
		case err != nil:
			return "", &fs.PathError{Op: "open", Path: p, Err: Reason(err)}
		}
		if links++; links > maxLinks {
			return "", &fs.PathError{Op: "open", Path: p, Err: ErrLoop}
		}
		if path.IsAbs(target) {
			done = "/"
		}
		rest = target + "/" + rest
	}
	return done, nil
}

// Reason is the cause in an error of package os, without its path.
func Reason(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// Stat returns what is behind a path, links followed.
func (t *Tree) Stat(p string) (Info, error) { return t.stat(p, true) }

// Lstat is Stat of a link itself.
func (t *Tree) Lstat(p string) (Info, error) { return t.stat(p, false) }

func (t *Tree) stat(p string, follow bool) (Info, error) {
	at, err := t.walk(p, follow)
	if err != nil {
		return Info{}, err
	}
	info, err := os.Lstat(t.Host(at))
	if err != nil {
		return Info{}, &fs.PathError{Op: "stat", Path: p, Err: Reason(err)}
	}
	out := Info{Mode: info.Mode(), Size: info.Size(), Modified: info.ModTime()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		out.UID, out.GID = sys.Uid, sys.Gid
	}
	return out, nil
}

// Exists reports whether there is something behind a path, links followed. What
// may not be looked at does not exist.
func (t *Tree) Exists(p string) bool {
	_, err := t.Stat(p)
	return err == nil
}

// Readlink returns what a link says, as it is written.
func (t *Tree) Readlink(p string) (string, error) {
	at, err := t.Parent(p)
	if err != nil {
		return "", err
	}
	target, err := os.Readlink(t.Host(at))
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: p, Err: Reason(err)}
	}
	return target, nil
}

// errSpecial and errLarge are what is wrong with files that are not read.
var (
	errSpecial = errors.New("not a regular file")
	errLarge   = errors.New("the file is too large")
)

// Open opens a regular file for reading. Nothing else is opened: a FIFO would hang
// the reader, and a device may do anything.
func (t *Tree) Open(p string) (*os.File, error) {
	at, err := t.Resolve(p)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(t.Host(at), os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: p, Err: Reason(err)}
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errSpecial
	}
	if err != nil {
		f.Close()
		return nil, &fs.PathError{Op: "open", Path: p, Err: err}
	}
	return f, nil
}

// ReadFile returns a regular file of at most so many bytes.
func (t *Tree) ReadFile(p string, most int64) ([]byte, error) {
	f, err := t.Open(p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		err = errLarge
	}
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: p, Err: Reason(err)}
	}
	return data, nil
}

// Names lists a directory, sorted.
func (t *Tree) Names(dir string) ([]string, error) {
	var names []string
	err := t.EachName(dir, func(name string) { names = append(names, name) })
	slices.Sort(names)
	return names, err
}

// EachName calls back for each entry of a directory, in no order: a store may have
// hundreds of thousands, of which few are wanted.
func (t *Tree) EachName(dir string, each func(string)) error {
	at, err := t.Resolve(dir)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(t.Host(at), os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: dir, Err: Reason(err)}
	}
	defer f.Close()
	for {
		names, err := f.Readdirnames(4096)
		for _, name := range names {
			each(name)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return &fs.PathError{Op: "read", Path: dir, Err: Reason(err)}
		}
	}
}
