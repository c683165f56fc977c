package main

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// name is a key as systemd's key table spells it.
type name struct{ section, key string }

func (n name) String() string { return n.section + "." + n.key }

// group is the part of systemd's key table that a key stands in. It decides
// which table of ours the key goes to.
type group string

// The groups.
const (
	groupUnit    group = "unit"
	groupInstall group = "install"
	groupService group = "service"
	groupExec    group = "exec"
	groupCgroup  group = "cgroup"
	groupKill    group = "kill"
)

// entry is what one version says of a key.
type entry struct {
	group group
	// parser is the C function that reads the value.
	parser string
	// legacy is true where that function does nothing but warn, in whatever
	// way systemd was built.
	legacy bool
}

// legacyParser warns that a key has no effect. It stands where a key has been
// given up, and where a build lacks what the key needs.
const legacyParser = "config_parse_warn_compat"

var (
	// row is one key: SECTION.KEY, PARSER, … The section is a macro's
	// parameter where several unit types share the key ($1 in m4, {{type}} in
	// Jinja), and an m4 quote may stand before it. The comma after the key is
	// demanded, for systemd's own reader demands it: versions 187 to 197 lack
	// one, and with it NoNewPrivileges=.
	row = regexp.MustCompile("^[`\\s]*(\\$1|\\{\\{type\\}\\}|Unit|Service|Install)\\.([A-Za-z0-9]+)\\s*,\\s*(NULL|config_parse_\\w+)\\s*,")
	// begin and end are the macros that hold the shared keys.
	begin = regexp.MustCompile("m4_define\\(`([A-Z]+)_CONTEXT_CONFIG_ITEMS'|macro ([A-Z]+)_CONTEXT_CONFIG_ITEMS\\(")
	end   = regexp.MustCompile(`^\)m4_dnl|endmacro`)
	// uses is a macro put to use for services.
	uses = regexp.MustCompile(`([A-Z]+)_CONTEXT_CONFIG_ITEMS\('?Service'?\)`)
)

// parseKeyTable reads one version of systemd's key table. Where the build
// decides between two rows for one key, the one with an effect counts.
func parseKeyTable(text string) (map[name]entry, error) {
	keys := make(map[name]entry)
	macro, used, sections := "", "", ""
	for line := range strings.Lines(text) {
		if m := uses.FindStringSubmatch(line); m != nil {
			used += " " + m[1]
			continue
		}
		if m := begin.FindStringSubmatch(line); m != nil {
			macro = m[1] + m[2]
			line = line[strings.Index(line, m[0])+len(m[0]):]
		}
		if end.MatchString(line) {
			macro = ""
		}
		m := row.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		n, e := name{m[1], m[2]}, entry{group: group(strings.ToLower(m[1])), parser: m[3], legacy: m[3] == legacyParser}
		if strings.ContainsAny(m[1], "${") {
			if macro == "" {
				return nil, fmt.Errorf("the row of %s stands in no macro that is known", m[2])
			}
			n.section, e.group = "Service", group(strings.ToLower(macro))
			if !strings.Contains(sections, macro) {
				sections += " " + macro
			}
		}
		if old, ok := keys[n]; !ok || old.legacy {
			keys[n] = e
		}
	}
	for m := range strings.FieldsSeq(sections) {
		if !strings.Contains(used, m) {
			return nil, fmt.Errorf("the keys of the macro %s are not those of a service", m)
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("no key found")
	}
	return keys, nil
}
