// Package explain answers where everything in a VM comes from: for a key, the
// lines that set it, which of them counts and why the others do not, and what it
// became; for a piece of the plan or of the unit, the lines that caused it.
//
// It is pure: it reads no file and prints nothing. What a key means is the key
// table's (package spec), which line counts is package layer's.
package explain

import (
	"slices"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/layer"
	"github.com/ampoule-vm/ampoule/internal/pipeline"
	"github.com/ampoule-vm/ampoule/internal/spec"
	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

// Answer is all about one key.
type Answer struct {
	Section string `json:"section"`
	Key     string `json:"key"`
	// Set: a line counts. Without one, Default is what holds.
	Set     bool   `json:"set"`
	Default string `json:"default"`
	// Lines are all that assign the key, the weakest first. A list that several
	// keys share has those of the others too, since they clear and replace each
	// other.
	Lines []Line `json:"lines"`
	// Plan and Unit are what the key became: fields of the plan, and lines of the
	// unit.
	Plan []Field `json:"plan"`
	Unit []Field `json:"unit"`
	// Help is the paragraph of the manual; empty for systemd's keys.
	Help string `json:"help"`
}

// Line is an assignment with its fate.
type Line struct {
	Origin diag.Origin `json:"origin"`
	Key    string      `json:"key"`
	// Value is shortened where it may be secret.
	Value string     `json:"value"`
	Fate  layer.Fate `json:"fate"`
	// By is the line that took its place, or cleared it; nil: none did.
	By *diag.Origin `json:"by"`
	// Rule says why, in words.
	Rule string `json:"rule"`
}

// Counts reports whether the line is in what runs.
func (l Line) Counts() bool { return l.Fate == layer.Effective }

// Clears reports whether the line is an empty assignment.
func (l Line) Clears() bool { return l.Fate == layer.Clears }

// Field is a piece of the plan or of the unit, with what caused it.
type Field struct {
	// Where is the path of a field of the plan, such as vm.disks[0].path, or
	// "[Service] KEY" for a line of the unit.
	Where string `json:"where"`
	Value string `json:"value"`
	// Causes is never empty.
	Causes []Cause `json:"causes"`
}

// Cause is a key with the line that set it, or whatever else is behind a field.
type Cause struct {
	// Key is empty where no key has a say.
	Key string `json:"key"`
	// Origin is nil for a default, and where no key has a say.
	Origin *diag.Origin `json:"origin"`
	// Why says what an Origin does not.
	Why string `json:"why"`
}

// Explainer knows one VM.
type Explainer struct {
	res    pipeline.Result
	fields []Field
	unit   []Field
}

// New takes a VM whose files could be read, res.Draft is there, and the text of
// its unit.
func New(res pipeline.Result, unit []byte) *Explainer {
	x := &Explainer{res: res}
	x.fields = x.planFields()
	x.unit = x.unitFields(unit)
	return x
}

// Keys answers for every key of ours in the order of the manual, and then for
// every key of systemd's that a file assigns.
func (x *Explainer) Keys() []Answer {
	var out []Answer
	for _, row := range spec.Table() {
		out = append(out, x.own(row))
	}
	for _, g := range x.res.Resolved.Groups {
		if g.Section == spec.Section {
			continue
		}
		// Several keys may share a list.
		var keys []string
		for _, e := range g.Entries {
			if !slices.Contains(keys, e.Key) {
				keys = append(keys, e.Key)
				out = append(out, x.passed(g, e.Key))
			}
		}
	}
	return out
}

// Key answers for one key: KEY, which may be one of ours or one that a file
// assigns, or SECTION.KEY. There are several answers where several sections have
// the key; none where nothing knows it.
func (x *Explainer) Key(name string) []Answer {
	section, key, dotted := strings.Cut(name, ".")
	if !dotted {
		section, key = "", name
	}
	return slices.DeleteFunc(x.Keys(), func(a Answer) bool {
		return a.Key != key || dotted && a.Section != section
	})
}

func (x *Explainer) own(row spec.Row) Answer {
	a := Answer{Section: spec.Section, Key: row.Name, Default: row.Default, Help: row.Help}
	if a.Default == "" {
		a.Default = "none"
	}
	x.lines(&a, x.res.Resolved.Group(spec.Section, row.List()))
	return a
}

func (x *Explainer) passed(g *layer.Group, key string) Answer {
	a := Answer{Section: g.Section, Key: key, Default: "systemd's, or what ampoule plan --unit shows"}
	x.lines(&a, g)
	return a
}

// lines adds the assignments of a group, and what came of the key.
func (x *Explainer) lines(a *Answer, g *layer.Group) {
	a.Lines, a.Plan, a.Unit = []Line{}, []Field{}, []Field{}
	if g != nil {
		for _, e := range g.Entries {
			l := Line{Origin: e.Origin, Key: e.Key, Value: spec.Show(e.Assignment), Fate: e.Fate, Rule: rule(g.Rule.Merge, e)}
			if e.Fate == layer.Shadowed || e.Fate == layer.Reset {
				by := e.By
				l.By = &by
			}
			a.Set = a.Set || e.Fate == layer.Effective && e.Key == a.Key
			a.Lines = append(a.Lines, l)
		}
	}
	id := keyID(a.Section, a.Key)
	because := func(f Field) bool {
		return slices.ContainsFunc(f.Causes, func(c Cause) bool { return c.Key == id })
	}
	for _, f := range x.fields {
		if because(f) {
			a.Plan = append(a.Plan, f)
		}
	}
	for _, f := range x.unit {
		if because(f) {
			a.Unit = append(a.Unit, f)
		}
	}
}

// keyID is how a Cause names a key: one of ours by itself, one of systemd's with
// its section.
func keyID(section, key string) string {
	if section == spec.Section {
		return key
	}
	return section + "." + key
}

// rule says why an assignment counts, or does not.
func rule(merge layer.Merge, e layer.Entry) string {
	switch e.Fate {
	case layer.Shadowed:
		if merge == layer.ByID {
			return "a later line has the same name"
		}
		return "a later line wins"
	case layer.Reset:
		return "a later empty assignment clears it"
	case layer.Clears:
		if merge == layer.Scalar {
			return "an empty assignment returns to the default"
		}
		return "an empty assignment clears the list"
	}
	if merge == layer.Scalar {
		return "the last line wins"
	}
	return "lines of a list add up"
}

// Find returns the pieces of plan and unit that a query means: the path of a
// field, with or without "vm." before it and "[…]" behind it, a word of the
// hypervisor's command line, a request or a field of one by its name, or KEY or
// KEY=VALUE of the unit.
func (x *Explainer) Find(query string) []Field {
	var out []Field
	for _, f := range x.fields {
		if matchesPath(f.Where, query) || isWords(f.Where) && hasWord(f.Value, query) || x.names(f.Where, query) {
			out = append(out, f)
		}
	}
	for _, f := range x.unit {
		_, key, _ := strings.Cut(f.Where, " ")
		if query == key || query == key+"="+f.Value || query == f.Where {
			out = append(out, f)
		}
	}
	return out
}

// matchesPath reports whether a query names a field, or something that it is a
// part of.
func matchesPath(path, query string) bool {
	return isWithin(path, query) || isWithin(strings.TrimPrefix(path, "vm."), query)
}

// isWithin reports whether a path is that of a whole, or of something in it.
func isWithin(path, whole string) bool {
	rest, ok := strings.CutPrefix(path, whole)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// isWords reports whether a field of the plan is a list of words for a command
// line.
func isWords(path string) bool {
	return slices.Contains([]string{"words", "once", "each", "kernel_command_line"}, lastOf(path))
}

// hasWord reports whether a word stands in a list of them.
func hasWord(list, word string) bool {
	words, err := unitfile.SplitWords(list)
	return err == nil && slices.Contains(words, word)
}
