package nixstore

import (
	"io/fs"
	"os"
	"path"
)

// FS is the tree as package io/fs has it: names without the slash in front, links
// followed inside the tree.
func (t *Tree) FS() fs.FS { return treeFS{t} }

type treeFS struct{ tree *Tree }

func (f treeFS) name(op, name string) (string, error) {
	if !fs.ValidPath(name) {
		return "", &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	return "/" + name, nil
}

// Open opens a regular file.
func (f treeFS) Open(name string) (fs.File, error) {
	p, err := f.name("open", name)
	if err != nil {
		return nil, err
	}
	file, err := f.tree.Open(p)
	if err != nil {
		return nil, err // not a nil file in an interface
	}
	return file, nil
}

// ReadDir lists a directory; its entries' own links are not followed.
func (f treeFS) ReadDir(name string) ([]fs.DirEntry, error) {
	p, err := f.name("readdir", name)
	if err != nil {
		return nil, err
	}
	at, err := f.tree.Resolve(p)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(f.tree.Host(at))
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: p, Err: Reason(err)}
	}
	return entries, nil
}

// ReadLink returns what a link says.
func (f treeFS) ReadLink(name string) (string, error) {
	p, err := f.name("readlink", name)
	if err != nil {
		return "", err
	}
	return f.tree.Readlink(p)
}

// Lstat tells of a link itself.
func (f treeFS) Lstat(name string) (fs.FileInfo, error) {
	p, err := f.name("lstat", name)
	if err != nil {
		return nil, err
	}
	at, err := f.tree.Parent(p)
	if err != nil {
		return nil, err
	}
	return os.Lstat(f.tree.Host(path.Clean(at)))
}
