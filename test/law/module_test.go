package law

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// maxModules bounds the modules that are imported, those of tests included.
const maxModules = 12

// TestModules: every module that is imported stands in docs/dependencies.md
// with its reason, and none there that is not imported.
func TestModules(t *testing.T) {
	required := requirements(t)
	direct := map[string]string{} // by module, a file that imports it
	for _, f := range files(t) {
		for _, imported := range f.imports() {
			first, _, _ := strings.Cut(imported, "/")
			if !strings.Contains(first, ".") {
				continue // the standard library, or ours
			}
			if m := owner(required, imported); m != "" {
				direct[m] = f.path
			} else {
				t.Errorf("%s imports %s, of a module that go.mod does not have", f.path, imported)
			}
		}
	}
	if len(direct) == 0 || len(direct) > maxModules {
		t.Errorf("%d modules are imported, at most %d are wanted", len(direct), maxModules)
	}
	data, err := os.ReadFile(filepath.Join(root, "docs/dependencies.md"))
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, row := range regexp.MustCompile(`(?m)^\| ([a-z0-9.]+\.[a-z]+/\S+) \| .+ \| .+ \|$`).FindAllStringSubmatch(string(data), -1) {
		documented[row[1]] = true
	}
	major := regexp.MustCompile(`/v[0-9]+$`)
	for m, by := range direct {
		name := major.ReplaceAllString(m, "")
		if !documented[name] {
			t.Errorf("%s is imported by %s and not explained in docs/dependencies.md", name, by)
		}
		delete(documented, name)
	}
	for name := range documented {
		t.Errorf("docs/dependencies.md explains %s, which nothing imports", name)
	}
}

// requirements lists the modules of go.mod.
func requirements(t *testing.T) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range regexp.MustCompile(`(?m)^(?:require )?\t?([a-z0-9.]+\.[a-z]+/\S+) v\S+`).FindAllStringSubmatch(string(data), -1) {
		out = append(out, m[1])
	}
	if len(out) == 0 {
		t.Fatal("go.mod requires nothing")
	}
	return out
}

// owner returns the module that a package is in: the longest that fits.
func owner(modules []string, imported string) string {
	best := ""
	for _, m := range modules {
		if (imported == m || strings.HasPrefix(imported, m+"/")) && len(m) > len(best) {
			best = m
		}
	}
	return best
}
