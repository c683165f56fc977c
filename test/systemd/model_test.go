package systemd

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

// model is what systemd must have made of a unit if our parser is right: the
// values of a few D-Bus properties, and the syntax warnings in its log. It
// knows just enough of the settings to tell.
type model struct {
	unit       string // full name
	sections   []string
	properties map[string]*property
	// knows tells whether a key of a section is one of systemd's. Where it is
	// nil nobody knows, and warnings about unknown keys are not predicted.
	knows func(section, key string) bool
	// dropIn is set while a drop-in is read: what is fatal there does not fail
	// the unit.
	dropIn  bool
	failed  bool // LoadState=error
	stopped int  // line at which the last file was given up for a bad setting
}

// property is the expected value of one D-Bus property, elements as text.
type property struct {
	values []string
	// subset is set where systemd adds elements of its own.
	subset bool
	// unordered is set where systemd keeps a hash table.
	unordered bool
	// unpredictable is set where the value depends on the host.
	unpredictable bool
}

// event is one warning about syntax, with the first physical line of what it
// is about.
type event struct {
	line int
	text string
}

func newModel(unit string) *model {
	kind := unit[strings.LastIndexByte(unit, '.')+1:]
	m := &model{unit: unit, properties: map[string]*property{}, sections: []string{"Unit", "Install"}}
	if kind != "target" {
		m.sections = append(m.sections, strings.ToUpper(kind[:1])+kind[1:])
	}
	return m
}

// known lists the settings whose values are compared, by the last part of
// their section and name; "*" is the section of the unit's type.
var known = map[string]func(m *model, p *property, key, value string) (stop bool){
	"Unit.Description":      scalar,
	"Unit.ConditionHost":    condition,
	"*.SyslogIdentifier":    scalar,
	"*.User":                scalar,
	"*.Group":               scalar,
	"*.Environment":         environment,
	"*.SetCredential":       credential,
	"*.ExecCondition":       command,
	"*.ExecStart":           command,
	"*.ExecStartPre":        command,
	"*.ExecStartPost":       command,
	"*.ExecReload":          command,
	"*.ExecStop":            command,
	"*.ExecStopPost":        command,
	"Unit.Documentation":    list,
	"Unit.After":            unitNames,
	"Unit.Before":           unitNames,
	"Unit.Wants":            unitNames,
	"Unit.Requires":         unitNames,
	"Unit.Conflicts":        unitNames,
	"Unit.BindsTo":          unitNames,
	"Unit.PartOf":           unitNames,
	"Unit.OnFailure":        unitNames,
	"*.PassEnvironment":     list,
	"*.SupplementaryGroups": list,
	"*.BusName":             scalar,
	"*.Type":                scalar,
	"*.Restart":             scalar,
	"*.KillMode":            scalar,
}

// lookup returns the name of the property that a key sets, and how.
func (m *model) lookup(section, key string) (string, func(*model, *property, string, string) bool) {
	switch {
	case m.knows != nil && !m.knows(section, key):
		return "", nil
	case section == "Unit" && strings.HasPrefix(key, "Condition"):
		return "Conditions", condition
	case section == "Unit" && strings.HasPrefix(key, "Assert"):
		return "Asserts", condition
	case section == "Unit":
		return key, known["Unit."+key]
	case len(m.sections) > 2 && section == m.sections[2]:
		return key, known["*."+key]
	}
	return "", nil
}

// apply plays a file on top of what was there and returns the warnings.
func (m *model) apply(f *unitfile.File) []event {
	var events []event
	add := func(line int, text string) { events = append(events, event{line, text}) }
	known := func(section string) bool { return slices.Contains(m.sections, section) }
	m.stopped = 0
	s, a, p := f.Sections, f.Assignments, f.Problems
	// A problem may share its line with nothing else; a header and the
	// assignments below it never share one.
	for len(s)+len(a)+len(p) > 0 {
		switch {
		case len(p) > 0 && (len(s) == 0 || p[0].Origin.Line < s[0].Origin.Line) && (len(a) == 0 || p[0].Origin.Line < a[0].Origin.Line) || len(s)+len(a) == 0:
			if text := problemText(p[0], known); text != "" {
				add(p[0].Origin.Line, text)
			}
			m.failed = m.failed || p[0].Fatal && !m.dropIn
			p = p[1:]
		case len(s) > 0 && (len(a) == 0 || s[0].Origin.Line < a[0].Origin.Line):
			if !known(s[0].Name) && !strings.HasPrefix(s[0].Name, "X-") {
				add(s[0].Origin.Line, "Unknown section '"+s[0].Name+"'. Ignoring.")
			}
			s = s[1:]
		default:
			if known(a[0].Section) && m.assign(a[0], add) {
				m.stopped = a[0].Origin.Line // systemd drops the rest of the file
				return events
			}
			a = a[1:]
		}
	}
	return events
}

func (m *model) assign(a unitfile.Assignment, add func(int, string)) (stop bool) {
	name, set := m.lookup(a.Section, a.Key)
	if set != nil {
		p := m.properties[name]
		if p == nil {
			p = &property{}
			m.properties[name] = p
		}
		return set(m, p, a.Key, a.Value)
	}
	if m.knows != nil && !m.knows(a.Section, a.Key) && !strings.HasPrefix(a.Key, "X-") {
		add(a.Origin.Line, "Unknown key '"+a.Key+"' in section ["+a.Section+"], ignoring.")
	}
	return false
}

// problemText is systemd's message, cut where it repeats the line.
func problemText(p unitfile.Problem, known func(string) bool) string {
	switch p.Kind {
	case unitfile.MissingEquals, unitfile.EmptyKey:
		if !known(p.Section) {
			return ""
		}
		if p.Kind == unitfile.EmptyKey {
			return "Missing key name before '=', ignoring line."
		}
		return "Missing '=', ignoring line."
	case unitfile.OutsideSection:
		return "Assignment outside of section. Ignoring."
	case unitfile.HeaderNotClosed:
		return "Invalid section header"
	case unitfile.HeaderBadCharacter:
		return "Bad characters in section header"
	case unitfile.BadUTF8:
		return "String is not UTF-8 clean"
	default: // systemd says nothing
		return ""
	}
}

// expand undoes the specifiers that depend on the unit's name alone. Others
// make the value unpredictable.
func (m *model) expand(s string) (string, bool) {
	if !strings.Contains(s, "%") {
		return s, true
	}
	stem := m.unit[:strings.LastIndexByte(m.unit, '.')]
	prefix, instance, _ := strings.Cut(stem, "@")
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		switch c := s[i]; {
		case c == '%':
			b.WriteByte('%')
		case c == 'n':
			b.WriteString(m.unit)
		case c == 'N':
			b.WriteString(stem)
		case c == 'p':
			b.WriteString(prefix)
		case c == 'i', c == 'I': // the instances used here need no unescaping
			b.WriteString(instance)
		case c == 't':
			b.WriteString("/run")
		case c == 'S':
			b.WriteString("/var/lib")
		case c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z':
			return "", false
		default:
			b.WriteByte('%')
			b.WriteByte(c)
		}
	}
	return b.String(), true
}

func scalar(m *model, p *property, key, value string) bool {
	text, ok := m.expand(value)
	*p = property{values: []string{text}, unpredictable: !ok}
	if key == "Description" && value == "" {
		p.values = []string{m.unit}
	}
	return false
}

func list(m *model, p *property, _, value string) bool {
	if value == "" {
		*p = property{}
		return false
	}
	words, err := unitfile.SplitWords(value)
	for _, w := range words {
		text, ok := m.expand(w)
		p.unpredictable = p.unpredictable || !ok
		p.values = append(p.values, text)
	}
	p.unpredictable = p.unpredictable || err != nil
	return false
}

// unitNames are lists that systemd adds to and that nothing empties.
func unitNames(m *model, p *property, _, value string) bool {
	p.subset = true
	if value == "" {
		return false
	}
	list(m, p, "", value)
	// What systemd knows under another name, or not at all, is left out.
	p.values = slices.DeleteFunc(p.values, func(s string) bool {
		return s == m.unit || strings.HasSuffix(s, ".device") || s == "default.target" || strings.HasPrefix(s, "runlevel")
	})
	return false
}

// condition values are told apart by their names: all conditions share one
// property. systemd prepends.
func condition(m *model, p *property, key, value string) bool {
	if value == "" {
		*p = property{}
		return false
	}
	text := key
	for _, flag := range []string{"|", "!"} {
		if rest, ok := strings.CutPrefix(value, flag); ok {
			value = strings.TrimLeft(rest, " \t")
			text += " " + flag
		}
	}
	value, ok := m.expand(value)
	p.unpredictable = p.unpredictable || !ok
	if strings.HasPrefix(value, "/") {
		value = path.Clean(value)
	}
	p.values = slices.Insert(p.values, 0, text+" "+strconv.Quote(value))
	return false
}

func environment(m *model, p *property, _, value string) bool {
	if value == "" {
		*p = property{}
		return false
	}
	words, _ := unitfile.SplitWords(value) // what precedes an error counts
	for _, w := range words {
		w, ok := m.expand(w)
		if !ok {
			p.unpredictable = true
			continue
		}
		name, text, found := strings.Cut(w, "=")
		if !found || !variableName(name) || !validText(text) {
			continue
		}
		same := func(s string) bool { return strings.HasPrefix(s, name+"=") }
		if i := slices.IndexFunc(p.values, same); i >= 0 {
			p.values[i] = w
		} else {
			p.values = append(p.values, w)
		}
	}
	return false
}

func variableName(s string) bool {
	rest := strings.TrimLeft(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789")
	return s != "" && rest == "" && (s[0] < '0' || s[0] > '9')
}

// validText reports whether systemd takes a string for UTF-8.
func validText(s string) bool {
	for i, r := range s {
		if r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD") ||
			r >= 0xFDD0 && r <= 0xFDEF || r&0xFFFE == 0xFFFE {
			return false
		}
	}
	return true
}

func credential(m *model, p *property, _, value string) bool {
	p.unordered = true
	if value == "" {
		p.values = nil
		return false
	}
	// The name ends at the first colon; a backslash in it goes, and makes the
	// next character ordinary.
	var name []byte
	i := 0
	for ; i < len(value) && value[i] != ':'; i++ {
		if value[i] == '\\' {
			if i++; i == len(value) {
				return false
			}
		}
		name = append(name, value[i])
	}
	id, ok := m.expand(string(name))
	if !ok {
		p.unpredictable = true
		return false
	}
	if i+1 >= len(value) || !credentialName(id) {
		return false
	}
	text, err := unitfile.Unescape(value[i+1:], true)
	if err != nil {
		return false
	}
	prefix := strconv.Quote(id) + ":"
	p.values = slices.DeleteFunc(p.values, func(s string) bool { return strings.HasPrefix(s, prefix) })
	p.values = append(p.values, prefix+strconv.Quote(text))
	return false
}

func credentialName(s string) bool {
	return s != "" && s != "." && s != ".." && len(s) < 256 &&
		!strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r >= 0x7F || r == ':' || r == '/' })
}

// command follows what systemd does with the first word of each command.
func command(m *model, p *property, _, value string) (stop bool) {
	if value == "" {
		*p = property{}
		return false
	}
	commands, _, err := unitfile.SplitCommands(value)
	for _, words := range commands {
		argv, ignore, ok := m.argv(words)
		if argv == nil {
			p.unpredictable = p.unpredictable || !ok
			// A bad command is fatal unless it is prefixed with "-", and even
			// then it takes the rest of the line with it.
			return !ignore && ok
		}
		p.values = append(p.values, quoteAll(argv))
	}
	if err != nil {
		return !m.unbalancedIsHarmless(value, commands, err)
	}
	return false
}

// argv returns nil if systemd refuses the command. ok is false if that cannot
// be told.
func (m *model) argv(words []string) (argv []string, ignore, ok bool) {
	path := words[0]
	separate := false
	for path != "" && strings.IndexByte("-@:+!", path[0]) >= 0 {
		ignore = ignore || path[0] == '-'
		separate = separate || path[0] == '@'
		path = path[1:]
	}
	if path, ok = m.expand(path); !ok {
		return nil, ignore, false
	}
	if path == "" || strings.HasSuffix(path, "/") || path[0] != '/' && strings.Contains(path, "/") ||
		strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || strings.ContainsRune("\"'\\\x7f", r) }) {
		return nil, ignore, true
	}
	if !separate {
		argv = append(argv, path)
	}
	for _, w := range words[1:] {
		if w, ok = m.expand(w); !ok {
			return nil, ignore, false
		}
		argv = append(argv, w)
	}
	if len(argv) == 0 { // "@" and nothing behind the path
		return nil, ignore, true
	}
	return argv, ignore, true
}

// unbalancedIsHarmless tells whether systemd goes on with the file behind a
// command line with an open quote: it does if the quote is in the first word
// of a command, or if that word begins with "-".
func (m *model) unbalancedIsHarmless(value string, complete [][]string, err error) bool {
	bad := err.(*unitfile.SyntaxError)
	before, _, _ := unitfile.SplitCommands(value[:bad.Offset])
	if len(before) == len(complete) {
		return true // nothing of the command precedes the quote
	}
	words := before[len(before)-1]
	inside := bad.Offset > 0 && strings.IndexByte(" \t", value[bad.Offset-1]) < 0
	if inside && len(words) == 1 {
		return true
	}
	_, ignore, _ := m.argv(words)
	return ignore
}

func quoteAll(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = strconv.Quote(w)
	}
	return strings.Join(quoted, " ")
}

// compare returns "" if what systemd reports is what was expected.
func (p *property) compare(got []string) string {
	if p.unpredictable {
		return ""
	}
	want := p.values
	if p.unordered {
		want, got = slices.Sorted(slices.Values(want)), slices.Sorted(slices.Values(got))
	}
	if p.subset {
		for _, w := range want {
			if !slices.Contains(got, w) {
				return fmt.Sprintf("systemd has %q, without our %q", got, w)
			}
		}
		return ""
	}
	if !slices.Equal(want, got) {
		return fmt.Sprintf("systemd has %q, we have %q", got, want)
	}
	return ""
}
