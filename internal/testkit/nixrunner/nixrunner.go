// Package nixrunner lays out the runners of microvm.nix that are fixtures
// (internal/microvmnix/testdata/runner, whose README says what they are) as they lie in
// the store of a host. It is for tests alone.
package nixrunner

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

// Dir is the directory of the fixtures.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "internal/microvmnix/testdata/runner")
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal(errors.New("no go.mod above the working directory"))
		}
		dir = parent
	}
}

// Names lists the fixtures, each HYPERVISOR-CONFIGURATION.
func Names(t testing.TB) []string {
	t.Helper()
	entries, err := os.ReadDir(Dir(t))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

// Older lists those of older versions of microvm.nix, VERSION/HYPERVISOR-CONFIGURATION, by
// names that the other functions take.
func Older(t testing.TB) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(Dir(t), "../older/*/*/paths"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range found {
		dir := filepath.Dir(f)
		names = append(names, filepath.Join("../older", filepath.Base(filepath.Dir(dir)), filepath.Base(dir)))
	}
	return names
}

// Paths are the files of a fixture, with their paths in the store; "." is the runner.
func Paths(t testing.TB, name string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(Dir(t), name, "paths"))
	if err != nil {
		t.Fatal(err)
	}
	paths := map[string]string{}
	for line := range strings.Lines(string(text)) {
		file, stored, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if !ok {
			t.Fatalf("%s/paths: %q is not FILE, a tab, PATH", name, line)
		}
		paths[file] = stored
	}
	return paths
}

// Write writes a fixture into the store of a tree, with bin/ as links to scripts of
// their own, as Nix has it, and returns the runner's path in the store.
func Write(t testing.TB, root, name string) string {
	t.Helper()
	source, paths := filepath.Join(Dir(t), name), Paths(t, name)
	runner := filepath.Join(root, paths["."])
	must(t, os.MkdirAll(filepath.Join(runner, "bin"), 0o755))
	for file, stored := range paths {
		if directory, _, _ := strings.Cut(file, "/"); directory != "bin" && directory != "store" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(source, file))
		must(t, err)
		target := filepath.Join(root, stored)
		must(t, os.MkdirAll(filepath.Dir(target), 0o755))
		must(t, os.WriteFile(target, text, 0o755))
		must(t, os.Chmod(target, 0o555))
		if strings.HasPrefix(file, "bin/") {
			must(t, os.Symlink(stored, filepath.Join(runner, file)))
		}
	}
	must(t, os.CopyFS(filepath.Join(runner, "share"), os.DirFS(filepath.Join(source, "share"))))
	return paths["."]
}

// FS reads a tree whose absolute links stay in it, as they do where the tree is a root.
func FS(root string) fs.FS { return within{os.DirFS(root)} }

type within struct{ fs.FS }

func (w within) Open(name string) (fs.File, error) {
	rest, done := strings.Split(name, "/"), "."
	for links := 0; len(rest) > 0; {
		next := path.Join(done, rest[0])
		target, err := fs.ReadLink(w.FS, next)
		if err != nil { // no link
			rest, done = rest[1:], next
			continue
		}
		if links++; links > 40 {
			return nil, &fs.PathError{Op: "open", Path: name, Err: errors.New("too many links")}
		}
		if path.IsAbs(target) {
			done = "."
		}
		rest = append(strings.Split(strings.Trim(target, "/"), "/"), rest[1:]...)
	}
	return w.FS.Open(done)
}

func (w within) ReadLink(name string) (string, error) { return fs.ReadLink(w.FS, name) }

func (w within) Lstat(name string) (fs.FileInfo, error) { return fs.Lstat(w.FS, name) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
