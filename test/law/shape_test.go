package law

import (
	"go/ast"
	"path"
	"slices"
	"testing"
)

const (
	maxFile     = 700
	maxFunction = 100
)

// long are functions that may be longer, by FILE:NAME.
func long() exceptions {
	return exceptions{
		"internal/testkit/leak/scanner_test.go:TestPlantedLeaksAreFound": "one row for each place in which a secret can lie",
	}
}

// TestLength counts lines. What a program wrote is not read by people.
func TestLength(t *testing.T) {
	allowed, used := long(), map[string]bool{}
	for _, f := range files(t) {
		if f.generated {
			continue
		}
		if f.lines > maxFile {
			t.Errorf("%s has %d lines, more than %d", f.path, f.lines, maxFile)
		}
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			n := f.fset.Position(fn.End()).Line - f.fset.Position(fn.Pos()).Line + 1
			if n > maxFunction && !allowed.allow(used, f.path+":"+fn.Name.Name) {
				t.Errorf("%s: %s has %d lines, more than %d", f.at(fn), fn.Name.Name, n, maxFunction)
			}
		}
	}
	allowed.stale(t, used)
}

// TestPackages: a package says once what it is for, and its name says it too.
func TestPackages(t *testing.T) {
	type pkg struct {
		name       string
		docs, code int
	}
	packages := map[string]*pkg{}
	for _, f := range files(t) {
		p := packages[f.dir]
		if p == nil {
			p = &pkg{}
			packages[f.dir] = p
		}
		if !f.test {
			p.code++
			p.name = f.ast.Name.Name
		}
	}
	for _, f := range files(t) {
		// Where there is nothing but tests, one of them has the doc.
		if f.test != (packages[f.dir].code == 0) {
			continue
		}
		packages[f.dir].name = f.ast.Name.Name
		if f.ast.Doc != nil {
			packages[f.dir].docs++
		}
	}
	for dir, p := range packages {
		if p.docs != 1 {
			t.Errorf("%s has %d package comments, not one", dir, p.docs)
		}
		for _, name := range []string{p.name, path.Base(dir)} {
			if slices.Contains([]string{"util", "utils", "common", "helper", "helpers", "base", "misc", "types", "shared", "lib"}, name) {
				t.Errorf("%s: the name %s says nothing", dir, name)
			}
		}
		if p.name != "main" && p.name != path.Base(dir) {
			t.Errorf("%s: the package is called %s", dir, p.name)
		}
	}
}
