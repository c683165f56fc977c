package script

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/explain"
)

// noOrigin is how ampoule plan ends where explain cannot say where a field of
// that plan comes from.
const noOrigin = 98

// everyOrigin asks explain, as a user would, for every field of a plan that has
// just been printed, and looks into the files whether the lines are there that
// it names. The plan is walked here on its own: explain may not forget a field.
func everyOrigin(arguments []string) error {
	arguments = slices.DeleteFunc(slices.Clone(arguments[1:]), func(a string) bool { return a == "--json" || a == "--unit" })
	// Which unit is printed is not of the plan.
	for _, flag := range []string{"--share", "--of"} {
		if i := slices.Index(arguments, flag); i >= 0 {
			arguments = slices.Delete(arguments, i, min(i+2, len(arguments)))
		}
	}
	var tree map[string]any
	if err := answer(&tree, append([]string{"plan", "--json"}, arguments...)...); err != nil {
		return err
	}
	delete(tree, "origins")
	told := map[string]bool{}
	var wrong []error
	for part := range tree {
		var said struct{ Fields []explain.Field }
		if err := answer(&said, append([]string{"explain", "--json", "--plan=" + part}, arguments...)...); err != nil {
			return err
		}
		for _, f := range said.Fields {
			told[f.Where] = true
			wrong = append(wrong, causesOf(f, arguments)...)
		}
	}
	leaves(tree, "", func(path string) {
		if !told[path] {
			wrong = append(wrong, fmt.Errorf("explain says nothing of %s", path))
		}
	})
	return errors.Join(wrong...)
}

// answer is what a command writes in JSON.
func answer(to any, arguments ...string) error {
	code, out, said := run(arguments)
	if code != 0 {
		return fmt.Errorf("%q: exit code %d: %s", arguments, code, said)
	}
	return json.Unmarshal(out, to)
}

// leaves visits what explain gives an answer of its own for: every value, every
// list of texts as a whole, every field of a request, and the request itself.
func leaves(node any, path string, visit func(path string)) {
	switch node := node.(type) {
	case map[string]any:
		_, isRequest := node["method"]
		_, isField := node["at"]
		if isRequest || isField {
			visit(path)
		}
		for name, value := range node {
			if name != "from" && !isField && (!isRequest || name == "body") {
				leaves(value, strings.TrimPrefix(path+"."+name, "."), visit)
			}
		}
		return
	case []any:
		if !slices.ContainsFunc(node, func(e any) bool { _, is := e.(string); return !is }) {
			break
		}
		for i, value := range node {
			leaves(value, fmt.Sprintf("%s[%d]", path, i), visit)
		}
		return
	}
	visit(path)
}

// causesOf finds what is wrong with the origins of a field: there must be one, a
// line that is named must set the key that it is named for, and what has no line
// must say why.
func causesOf(f explain.Field, arguments []string) (wrong []error) {
	complain := func(format string, args ...any) {
		wrong = append(wrong, fmt.Errorf("%s: %s", f.Where, fmt.Sprintf(format, args...)))
	}
	if len(f.Causes) == 0 {
		complain("no origin")
	}
	for _, c := range f.Causes {
		switch {
		case c.Origin == nil && c.Why == "":
			complain("an origin without line and without reason")
		case c.Origin == nil:
		case c.Origin.Layer == "set":
			if !slices.ContainsFunc(arguments, func(a string) bool { return strings.Contains(a, keyOf(c.Key)) }) {
				complain("--set has no %s", c.Key)
			}
		default:
			file := c.Origin.File
			if filepath.IsAbs(file) {
				file = filepath.Join(root(arguments), file)
			}
			text, err := os.ReadFile(file)
			if err != nil {
				complain("%v", err)
				continue
			}
			lines := strings.Split(strings.ReplaceAll(string(text), "\r", ""), "\n")
			if n := c.Origin.Line; n < 1 || n > len(lines) || !strings.Contains(lines[n-1], keyOf(c.Key)) {
				complain("%s does not set %s", c.Origin, c.Key)
			}
		}
	}
	return wrong
}

// keyOf is KEY of SECTION.KEY.
func keyOf(key string) string { return key[strings.LastIndexByte(key, '.')+1:] }

// root is the value of --root; empty: there is none.
func root(arguments []string) string {
	for i, a := range arguments {
		if value, ok := strings.CutPrefix(a, "--root="); ok {
			return value
		}
		if a == "--root" {
			return arguments[i+1]
		}
	}
	return ""
}
