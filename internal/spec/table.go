package spec

import (
	"slices"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/layer"
	"github.com/ampoule-vm/ampoule/internal/systemdkeys"
	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

// Row is one key of [MicroVM]. It is the only place where the key is known.
type Row struct {
	Name  string
	Merge layer.Merge
	// Group names the list that several keys share; see layer.Rule.
	Group string
	// Image says whether an image's own microvm.conf may set the key.
	Image bool
	// Form is the shape of the value in the manual, such as SIZE.
	Form string
	// Default is the value of a VM that does not set the key.
	Default string
	// Accepted is the end of every error message about the value.
	Accepted string
	// Words are the fixed values, for completion.
	Words []string
	// Help is the paragraph of the manual.
	Help string

	// id names an element for layer.ByID, before specifiers are expanded.
	id func(value string) string
	// shown shortens a value that may hold a secret; nil shows it whole.
	shown func(value string) string
	// inImage completes a relative path in an image's line: by the image's
	// directory, written as the value wants it. nil: the value is no path.
	inImage func(dir string) string
	apply   func(r *reader, value string, from From) error
}

// List is the name under which layer.Resolved has the key's assignments.
func (row *Row) List() string {
	if row.Group != "" {
		return row.Group
	}
	return row.Name
}

func (row *Row) show(value string) string {
	if row.shown == nil {
		return value
	}
	return row.shown(value)
}

// table has all rows and tableKeys their names, in the same order. Both are made
// once and never changed: a generator asks them about every line of every VM.
var (
	table     = slices.Concat(imageRows(), hypervisorRows(), cpuMemoryRows(), memoryRows(), watchdogRows(), bootRows(), diskRows(), shareRows(), deviceRows(), consoleRows(), vsockRows(), networkRows(), credentialRows(), runnerRows(), applyRows())
	tableKeys = namesOf(table)
)

func namesOf(rows []Row) []string {
	names := make([]string, len(rows))
	for i := range rows {
		names[i] = rows[i].Name
	}
	return names
}

// rowOf returns the row of a key, or nil.
func rowOf(key string) *Row {
	if i := slices.Index(tableKeys, key); i >= 0 {
		return &table[i]
	}
	return nil
}

// Table returns all rows in the order of the manual.
func Table() []Row { return slices.Clone(table) }

// Names returns the keys of the table.
func Names() []string { return slices.Clone(tableKeys) }

// Rules returns how every key of a .microvm file merges: ours by the table,
// the others by systemd's.
func Rules(id Identity) func(section, key string) layer.Rule {
	return func(section, key string) layer.Rule {
		if section == Section {
			if row := rowOf(key); row != nil {
				return row.rule(id)
			}
			return layer.Rule{Merge: layer.List} // unknown: reported by Read
		}
		known, ok := systemdkeys.Lookup(section, key)
		switch row := rowOf(key); {
		case section == "Service" && row != nil && row.Merge == layer.ByID && ok:
			// Of the credentials of one name systemd takes the last.
			rule := row.rule(id)
			rule.Once = false
			return rule
		case ok && known.Kind == systemdkeys.Scalar:
			return layer.Rule{Merge: layer.Scalar}
		case ok && known.Kind == systemdkeys.Dependencies:
			return layer.Rule{Merge: layer.Additive}
		}
		return layer.Rule{Merge: layer.List}
	}
}

func (row *Row) rule(id Identity) layer.Rule {
	rule := layer.Rule{
		Merge: row.Merge, Group: row.Group, Once: row.Merge == layer.Scalar || row.Merge == layer.ByID,
		Show: func(a unitfile.Assignment) string { return showJoined(a, row.show(a.Value)) },
	}
	if row.id != nil {
		rule.ID = func(value string) string {
			name := row.id(value)
			if expanded, err := id.Expand(name); err == nil {
				return expanded
			}
			return name
		}
	}
	return rule
}

// passThrough are the sections that go into the unit as they are.
func passThrough() []string { return sections[1:] }

// sections are all that a file may have, ours first; nothing changes them.
var sections = []string{Section, "Unit", "Service", "Install"}

// checkNames refuses keys that nobody knows. Sections are checked where the
// files are at hand, by [CheckFile].
func (r *reader) checkNames(resolved *layer.Resolved) {
	for _, g := range resolved.Groups {
		for i := range g.Entries {
			e := &g.Entries[i]
			if strings.HasPrefix(e.Key, "X-") || strings.HasPrefix(e.Section, "X-") {
				continue
			}
			switch e.Section {
			case Section:
				if rowOf(e.Key) == nil {
					unknownKey(r.problems, e.Assignment, tableKeys)
				}
			case "Unit", "Service", "Install":
				r.checkPassThrough(e)
			}
		}
	}
}

// isKey reports whether a section has a key of that name, and not one that is
// left alone.
func isKey(section, key string) bool {
	if section == Section {
		return rowOf(key) != nil
	}
	_, ok := systemdkeys.Lookup(section, key)
	return ok && !strings.HasPrefix(key, "X-")
}

// unknownKey reports a key with the nearest known one.
func unknownKey(problems *diag.List, a unitfile.Assignment, names []string) {
	near := diag.Nearest(a.Key, names)
	if !looksLikeKey(a.Key, a.Value, near) {
		problems.Errorf(a.Origin, "", "", "accepted: KEY=VALUE; a value goes on in the next line only behind a backslash",
			"what stands before \"=\" is no key of [%s]", a.Section)
		return
	}
	accepted := "accepted: " + list(names)
	if len(names) > 40 && a.Section != Section {
		accepted = "see systemd's manual for the keys of this section"
	}
	if near != "" {
		accepted = "did you mean " + near + "=?"
	} else if a.Section != Section {
		if n := diag.Nearest(a.Key, tableKeys); n != "" && strings.EqualFold(n, a.Key) {
			accepted = n + "= belongs into [" + Section + "]"
		}
	} else if section := sectionOf(a.Key); section != "" {
		accepted = a.Key + "= belongs into [" + section + "]"
	}
	problems.Errorf(a.Origin, a.Key, showUnknown(near, a.Value), accepted, "unknown key in [%s]", a.Section)
}

// sectionOf names the section of systemd's that has a key.
func sectionOf(key string) string {
	for _, section := range passThrough() {
		if _, ok := systemdkeys.Lookup(section, key); ok {
			return section
		}
	}
	return ""
}

// looksLikeKey tells a key that was mistyped from the torn-off rest of a value,
// which may be secret: Base64 above all, which likes to end in "=".
func looksLikeKey(key, value, near string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	if near != "" {
		return strings.Trim(key, letters+"0123456789_-") == ""
	}
	return len(key) <= 32 && strings.Trim(key, letters+"_-") == "" && strings.ContainsAny(key[:1], letters) &&
		strings.Trim(value, "=") != ""
}

// showUnknown shortens the value of a key that is in no table. It is shown only
// where the key that was meant is known, and known to hold no secret.
func showUnknown(near, value string) string {
	if value == "" {
		return ""
	}
	if row := rowOf(near); row != nil {
		if strings.Contains(near, "Credential") {
			return elideID(value)
		}
		return row.show(value)
	}
	for _, prefix := range []string{"Environment", "Exec", "LoadCredential", "SetCredential", "ImportCredential", "StandardInput"} {
		if near == "" || strings.HasPrefix(near, prefix) {
			return diag.Elided
		}
	}
	return value
}

// elideID keeps NAME: of NAME:VALUE, and nothing where there is no colon.
func elideID(value string) string {
	if value == "" {
		return ""
	}
	return diag.Elide(value, ":")
}

// list joins words for a message.
func list(words []string) string { return strings.Join(words, ", ") }
