// Package layer puts assignments from several files into one order, says which
// of them count, and keeps the others together with the reason why they do
// not. Nothing that was written is dropped here: assignments in = entries out.
//
// It knows how keys merge (a [Rule] per key, given by the caller) and nothing
// of what they mean. It reads no files.
package layer

import (
	"fmt"
	"iter"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

// Merge says what a later assignment does to an earlier one of its key.
type Merge int

const (
	// Scalar: the last one wins; an empty one returns to the default.
	Scalar Merge = iota
	// List: all count, in order; an empty one clears what came before.
	List
	// ByID: a list whose elements have a name; a later element of the same name
	// replaces the earlier one and stands where it is written. An empty
	// assignment clears.
	ByID
	// Additive: a list that nothing clears (systemd's dependencies).
	Additive
)

// Rule is how one key merges.
type Rule struct {
	Merge Merge
	// Group joins keys that share one list ("LoadCredential" and
	// "LoadCredentialEncrypted"); empty: the key stands alone.
	Group string
	// ID gives the name of an element, for ByID.
	ID func(value string) string
	// Once refuses a second live assignment (Scalar) or element of one name
	// (ByID) within one file.
	Once bool
	// Show shortens the value of an assignment for messages; nil shows it whole.
	Show func(unitfile.Assignment) string
}

// Fate is what became of an assignment.
type Fate string

const (
	// Effective: it counts.
	Effective Fate = "effective"
	// Shadowed: a later assignment of the key, or element of the name, replaced it.
	Shadowed Fate = "shadowed"
	// Reset: a later empty assignment cleared it.
	Reset Fate = "reset"
	// Clears: it is itself an empty assignment.
	Clears Fate = "clears"
)

// Entry is an assignment with its fate.
type Entry struct {
	unitfile.Assignment
	// Order counts the assignments of all files from 0: the order in which
	// they would be read, across keys.
	Order int
	Fate  Fate
	// By is the assignment that shadowed or reset this one.
	By diag.Origin
}

// Group is all that was assigned to one key, or to several keys of one list,
// in the order of the layers.
type Group struct {
	Section, Name string
	Rule          Rule
	Entries       []Entry
}

// Effective returns the entries that count, in order.
func (g *Group) Effective() []Entry {
	var out []Entry
	for e := range g.Live() {
		out = append(out, *e)
	}
	return out
}

// Live yields the entries that count, in order, without a copy: they are not to
// be changed.
func (g *Group) Live() iter.Seq[*Entry] {
	return func(yield func(*Entry) bool) {
		if g == nil {
			return
		}
		for i := range g.Entries {
			if e := &g.Entries[i]; e.Fate == Effective && !yield(e) {
				return
			}
		}
	}
}

// Resolved is the outcome for a whole VM.
type Resolved struct {
	// Groups stand in the order in which their first assignment was seen.
	Groups []*Group
	index  map[[2]string]*Group
}

// Group returns the group of a key or group name, or nil.
func (r *Resolved) Group(section, name string) *Group { return r.index[[2]string{section, name}] }

// Resolve merges files, the weakest first, by the rule of each key. The list
// holds the keys that are assigned twice in one file.
func Resolve(files []*unitfile.File, rule func(section, key string) Rule) (*Resolved, diag.List) {
	r := &Resolved{index: map[[2]string]*Group{}}
	var problems diag.List
	order := 0
	for _, f := range files {
		for i := range f.Assignments {
			a := &f.Assignments[i]
			r.add(a, order, rule(a.Section, a.Key), &problems)
			order++
		}
	}
	return r, problems
}

func (r *Resolved) add(a *unitfile.Assignment, order int, rule Rule, problems *diag.List) {
	name := rule.Group
	if name == "" {
		name = a.Key
	}
	at := [2]string{a.Section, name}
	g := r.index[at]
	if g == nil {
		g = &Group{Section: a.Section, Name: name, Rule: rule}
		r.index[at] = g
		r.Groups = append(r.Groups, g)
	}
	e := Entry{Assignment: *a, Order: order, Fate: Effective}
	switch {
	case a.Value == "" && rule.Merge != Additive:
		e.Fate = Clears
		g.end(Reset, a.Origin, func(*Entry) bool { return true })
	case rule.Merge == Scalar:
		g.refuseTwice(a, problems, func(*Entry) bool { return true })
		g.end(Shadowed, a.Origin, func(*Entry) bool { return true })
	case rule.Merge == ByID:
		id := rule.ID(a.Value)
		same := func(old *Entry) bool { return rule.ID(old.Value) == id }
		g.refuseTwice(a, problems, same)
		g.end(Shadowed, a.Origin, same)
	}
	g.Entries = append(g.Entries, e)
}

// end gives every live entry that match accepts its fate.
func (g *Group) end(fate Fate, by diag.Origin, match func(*Entry) bool) {
	for i := range g.Entries {
		if e := &g.Entries[i]; e.Fate == Effective && match(e) {
			e.Fate, e.By = fate, by
		}
	}
}

// refuseTwice reports an assignment that would shadow one of its own file:
// between files that is an override, within one it is a mistake.
func (g *Group) refuseTwice(a *unitfile.Assignment, problems *diag.List, match func(*Entry) bool) {
	if !g.Rule.Once {
		return
	}
	for i := range g.Entries {
		old := &g.Entries[i]
		if old.Fate != Effective || old.Origin.File != a.Origin.File || old.Origin.Layer != a.Origin.Layer || !match(old) {
			continue
		}
		shown := a.Value
		if g.Rule.Show != nil {
			shown = g.Rule.Show(*a)
		}
		where, accepted := "in one file", "keep one of the two lines, or put the override into a drop-in"
		if a.Origin.Layer == "set" {
			where, accepted = "on the command line", "keep one of the two"
		}
		problems.Add(diag.Problem{
			Origin: a.Origin, Key: a.Key, Value: shown,
			What: fmt.Sprintf("set twice %s, first at %s", where, old.Origin), Accepted: accepted,
		})
		return
	}
}
