package compare

import (
	"regexp"
	"slices"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/explain"
	"github.com/ampoule-vm/ampoule/internal/spec"
	"github.com/ampoule-vm/ampoule/internal/systemdkeys"
	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

// Units lists how the user's own lines differ that stand in a unit and in no
// plan: those of [Unit] and [Install], and of [Service] what systemd takes at
// daemon-reload. Both are texts as Ampoule writes them; an empty one has no lines.
func Units(before, after []byte) []Change {
	old, now := passed(before), passed(after)
	var out []Change
	for _, key := range keysIn(old, now) {
		a, b := linesOf(old, key), linesOf(now, key)
		a, b = without(a, b), without(b, a)
		for i := range max(len(a), len(b)) {
			section, name, _ := strings.Cut(key, ".")
			ch := Change{Where: "[" + section + "] " + name, Key: key, Needs: Reload}
			if i < len(a) {
				ch.From, ch.Before = a[i].show(), &a[i].origin
			}
			if i < len(b) {
				ch.To, ch.After = b[i].show(), &b[i].origin
			}
			if ch.From != nil && ch.To != nil && *ch.From == *ch.To {
				*ch.To += " (changed)"
			}
			out = append(out, ch)
		}
	}
	return out
}

// line is a user's line in a unit.
type line struct {
	key, value string
	origin     diag.Origin
}

func (l line) show() *string {
	section, name, _ := strings.Cut(l.key, ".")
	text := spec.Show(unitfile.Assignment{Section: section, Key: name, Value: l.value})
	return &text
}

// written is the place of a line in the user's files, as the comment above it has it.
var written = regexp.MustCompile(`^(.+):([0-9]+)$`)

// passed are the user's lines of a unit that no plan has.
func passed(text []byte) []line {
	var out []line
	for _, l := range explain.Lines(text) {
		place := written.FindStringSubmatch(l.Comment)
		if place == nil {
			continue // Ampoule's own, or what it made of a line of [MicroVM]
		}
		known, ok := systemdkeys.Lookup(l.Section, l.Key)
		credential := strings.Contains(l.Key, "Credential")
		if l.Section == "Service" && (ok && (known.Restart || known.Cgroup) || credential) {
			continue
		}
		n := 0
		for _, digit := range place[2] {
			n = min(n*10+int(digit-'0'), 1<<30)
		}
		out = append(out, line{l.Section + "." + l.Key, l.Value, diag.Origin{File: place[1], Line: n}})
	}
	return out
}

func keysIn(lists ...[]line) []string {
	var out []string
	for _, list := range lists {
		for _, l := range list {
			if !slices.Contains(out, l.key) {
				out = append(out, l.key)
			}
		}
	}
	return out
}

func linesOf(list []line, key string) []line {
	return slices.DeleteFunc(slices.Clone(list), func(l line) bool { return l.key != key })
}

// without takes from a list what stands in another too.
func without(list, other []line) []line {
	other = slices.Clone(other)
	var out []line
	for _, l := range list {
		if i := slices.IndexFunc(other, func(o line) bool { return o.value == l.value }); i >= 0 {
			other = slices.Delete(other, i, i+1)
			continue
		}
		out = append(out, l)
	}
	return out
}
