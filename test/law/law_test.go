// Package law keeps what holds for the source as a whole and no compiler sees:
// which package may import what, how long a file may be, where a hypervisor may
// be named, what a program may be linked with. Every exception stands in a table
// with its reason, and one that nothing needs any more is a failure too.
//
// What a linter can say of one file is left to the linter.
package law

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// root is that of the module, as seen from this folder.
const root = "../.."

// module is the path before every package of ours.
const module = "github.com/ampoule-vm/ampoule/"

// file is one Go file of the module.
type file struct {
	// path is below the root, dir the package's.
	path, dir string
	test      bool
	generated bool
	lines     int
	fset      *token.FileSet
	ast       *ast.File
}

// imports lists what the file imports, ours without the module's path.
func (f file) imports() []string {
	var out []string
	for _, spec := range f.ast.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue // the parser would have said so
		}
		out = append(out, strings.TrimPrefix(p, module))
	}
	return out
}

// at names the line of a node.
func (f file) at(n ast.Node) string {
	return f.path + ":" + strconv.Itoa(f.fset.Position(n.Pos()).Line)
}

var parsed = sync.OnceValues(parse)

// files parses every Go file of the module, whatever its build constraints.
func files(t *testing.T) []file {
	t.Helper()
	all, err := parsed()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 100 {
		t.Fatalf("only %d files below %s: this is not the module", len(all), root)
	}
	return all
}

func parse() ([]file, error) {
	var out []file
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		if d.IsDir() {
			name := d.Name()
			// tools is a module of its own; bin and dist hold what was made.
			if rel != "." && (strings.HasPrefix(name, ".") || name == "testdata" || rel == "tools" || rel == "bin" || rel == "dist") {
				return fs.SkipDir
			}
			return nil
		}
		if path.Ext(rel) != ".go" {
			return nil
		}
		f, err := parseFile(p, filepath.ToSlash(rel))
		if err != nil {
			return err
		}
		out = append(out, f)
		return nil
	})
	return out, err
}

func parseFile(p, rel string) (file, error) {
	data, err := os.ReadFile(p)
	if err != nil {
		return file{}, err
	}
	f := file{path: rel, dir: path.Dir(rel), test: strings.HasSuffix(rel, "_test.go"), lines: strings.Count(string(data), "\n"), fset: token.NewFileSet()}
	f.ast, err = parser.ParseFile(f.fset, rel, data, parser.ParseComments)
	if err != nil {
		return file{}, err
	}
	f.generated = ast.IsGenerated(f.ast)
	return f, nil
}

// matches reports whether a package is the one that a table names, or below it
// where the table says so with /*. A * in the middle is one name, whichever.
func matches(pattern, dir string) bool {
	prefix, below := strings.CutSuffix(pattern, "/*")
	want, has := strings.Split(prefix, "/"), strings.Split(dir, "/")
	if below && len(has) <= len(want) || !below && len(has) != len(want) {
		return false
	}
	for i, name := range want {
		if name != "*" && name != has[i] {
			return false
		}
	}
	return true
}

// forTests reports whether a package is for tests alone, though its files are not
// called so: it may do anything, and no program is linked with it.
func forTests(dir string) bool {
	return slices.ContainsFunc([]string{"internal/testkit/*", "internal/driver/*/fake", "internal/driver/*/conformance", "test/*"},
		func(pattern string) bool { return matches(pattern, dir) })
}

// exceptions are allowed deviations with their reasons.
type exceptions map[string]string

// allow reports whether a deviation is allowed, and remembers that it was
// needed.
func (e exceptions) allow(used map[string]bool, name string) bool {
	used[name] = true
	_, ok := e[name]
	return ok
}

// stale fails for every exception that nothing needed.
func (e exceptions) stale(t *testing.T, used map[string]bool) {
	t.Helper()
	for name, reason := range e {
		if !used[name] {
			t.Errorf("the exception for %s (%s) is not needed any more", name, reason)
		}
		if reason == "" {
			t.Errorf("the exception for %s has no reason", name)
		}
	}
}

// TestMatches: the tables mean what their readers take them to mean.
func TestMatches(t *testing.T) {
	for _, c := range []struct {
		pattern, dir string
		want         bool
	}{
		{"internal/plan", "internal/plan", true}, {"internal/plan", "internal/plan/x", false},
		{"test/*", "test/law", true}, {"test/*", "test/shim/probe", true}, {"test/*", "test", false}, {"test/*", "tests/x", false},
		{"internal/driver/*/fake", "internal/driver/one/fake", true}, {"internal/driver/*/fake", "internal/driver/fake", false},
		{"internal/driver/*/fake", "internal/driver/one/fake/more", false}, {"internal/driver/*/fake", "internal/driver/one", false},
	} {
		if got := matches(c.pattern, c.dir); got != c.want {
			t.Errorf("%s matches %s: %v", c.pattern, c.dir, got)
		}
	}
	below := func(dir, other string) {
		a, ok := rank(dir)
		b, okToo := rank(other)
		if !ok || !okToo || a >= b {
			t.Errorf("%s stands on line %d and %s on line %d", dir, a, other, b)
		}
	}
	below("internal/driver", "internal/driver/one")
	below("internal/driver/one", "internal/driver/all")
	below("internal/cli", "internal/driver/one/fake") // no program may have it
	below("internal/cli", "internal/driver/one/conformance")
	if _, ok := rank("internal/nowhere"); ok {
		t.Error("a package that is in no table has a place")
	}
}
