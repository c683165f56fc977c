// Package compare says how two plans of a VM differ, and two units: field by
// field, each with the key behind it, where that was written before and is
// written now, and what it takes for a VM that runs to have it.
//
// It is pure. Which plan runs and what is to be done about a difference is for
// others.
package compare

import (
	"slices"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/explain"
	"github.com/ampoule-vm/ampoule/internal/plan"
)

// Need is what it takes for a change to reach a VM that runs.
type Need string

// The needs, the least first.
const (
	// Nothing: it is about words.
	Nothing Need = "nothing"
	// Reload: systemd takes it at daemon-reload.
	Reload Need = "daemon-reload"
	// Restart: what runs was made with the old value.
	Restart Need = "restart"
)

// Change is one difference.
type Change struct {
	// Where is the path of a field of the plan, such as vm.disks[0].path, by its
	// place in the new plan, or in the old one where it is gone; or "[Unit] KEY"
	// for a line that stands in the unit alone.
	Where string `json:"where"`
	// Key is what to look for in the files: KEY of [MicroVM], or SECTION.KEY;
	// empty where no key is behind it.
	Key string `json:"key"`
	// From and To are the values, shortened where they may be secret; nil: there
	// is none.
	From *string `json:"from"`
	To   *string `json:"to"`
	// Before and After are where the key was written and is written now; nil: by
	// default, or not known.
	Before *diag.Origin `json:"origin_before"`
	After  *diag.Origin `json:"origin_after"`
	Needs  Need         `json:"needs"`
	// Follows: another of the changes brings it about.
	Follows bool `json:"follows"`
}

// Plans lists how a plan differs from the one before, in the order of their
// fields. Either may be nil: then all of the other is new, or gone. Version is
// that of the host's systemd, 0 where it is not known.
func Plans(before, after *plan.Plan, version int) []Change {
	c := &comparison{before: before, after: after, version: version}
	old, now := treeOf(before), treeOf(after)
	for _, part := range []string{"vm", "unit"} {
		c.node(place{part, part}, old[part], now[part])
	}
	c.follow()
	return c.changes
}

// Keys names the keys behind those changes that need one of these, each once; what
// follows from another change is left out.
func Keys(changes []Change, needs ...Need) []string {
	var out []string
	for _, c := range changes {
		if c.Key != "" && !c.Follows && slices.Contains(needs, c.Needs) && !slices.Contains(out, c.Key) {
			out = append(out, c.Key)
		}
	}
	return out
}

// comparison collects the changes.
type comparison struct {
	before, after *plan.Plan
	version       int
	changes       []Change
	keys          [][]string // all that have a say in each
}

// place is where a field stands in both plans; empty where one does not have it.
type place struct{ old, now string }

// in is the place of a part.
func (p place) in(name string) place {
	join := func(path string) string {
		if path == "" {
			return ""
		}
		return path + name
	}
	return place{join(p.old), join(p.now)}
}

// path is that in the new plan, or in the old one.
func (p place) path() string {
	if p.now != "" {
		return p.now
	}
	return p.old
}

// add notes a change.
func (c *comparison) add(at place, from, to *string) {
	ch := Change{Where: at.path(), From: from, To: to, Needs: c.needs(at.path())}
	// Of several keys it is the first that is not written where it was.
	before, after := keysOf(c.before, at.old, at.now), keysOf(c.after, at.now, at.old)
	switch { // one line was added, or removed
	case at.old == "" && after.id != "":
		before = behind{}
	case at.now == "" && before.id != "":
		after = behind{}
	}
	keys := slices.Concat(after.names, before.names)
	best := -1
	for _, key := range keys {
		b, a := before.origin(c.before, key), after.origin(c.after, key)
		rank := 0
		switch {
		case b == nil && a == nil:
		case b == nil || a == nil, key == hypervisor && c.other():
			rank = 3
		case *b != *a: // perhaps only further down
			rank = 2
		default:
			rank = 1
		}
		if rank > best {
			best, ch.Key, ch.Before, ch.After = rank, key, b, a
		}
	}
	if from != nil && to != nil && *from == *to {
		*ch.To += " (changed)" // in what is not shown
	}
	c.changes, c.keys = append(c.changes, ch), append(c.keys, keys)
}

// hypervisor is the key that has a say in more than any other.
const hypervisor = "Hypervisor"

// other reports whether the VM has another hypervisor.
func (c *comparison) other() bool {
	return c.before != nil && c.after != nil && c.before.VM.Hypervisor != c.after.VM.Hypervisor
}

// behind are the keys of a field in one plan. Where one assignment is meant, id
// is its own.
type behind struct {
	names []string
	id    string
}

// keysOf are those of the field at a path, or, where the plan does not have it,
// of the list in which the other has it.
func keysOf(p *plan.Plan, path, other string) behind {
	if p == nil {
		return behind{}
	}
	if path == "" {
		path, _, _ = strings.Cut(other, "[")
	}
	id, keys, _ := explain.Behind(p, path)
	if id != "" {
		return behind{[]string{plan.KeyOf(id)}, id}
	}
	return behind{names: keys}
}

// origin is where a key was written; nil: nowhere. Of a list the last line counts.
func (b behind) origin(p *plan.Plan, key string) *diag.Origin {
	if p == nil || len(b.names) == 0 {
		return nil
	}
	if b.id != "" && plan.KeyOf(b.id) == key {
		if o, ok := p.Origins[b.id]; ok {
			return &o
		}
		return nil
	}
	var found *diag.Origin
	var foundID string
	for id, o := range p.Origins {
		later := len(id) > len(foundID) || len(id) == len(foundID) && id > foundID
		if id != plan.Whole && plan.KeyOf(id) == key && later {
			found, foundID = &o, id
		}
	}
	return found
}

// needs says what it takes for a field to change in what runs.
func (c *comparison) needs(path string) Need {
	name := path[strings.LastIndexByte(path, '.')+1:]
	switch {
	case name == "why", name == "cure":
		return Nothing
	case path == "unit.keep_running":
		return Nothing // whoever applies reads the files
	case strings.HasPrefix(path, "unit.resources"):
		if c.version == 256 || c.version == 257 {
			return Restart
		}
		return Reload
	case c.before == nil || c.after == nil:
		return Restart
	case strings.HasPrefix(path, "vm.") && c.before.Digest.VM == c.after.Digest.VM:
		return Nothing // in a channel that is refused, before and now
	}
	return Restart
}
