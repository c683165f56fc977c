package adopt

import (
	"encoding/base64"
	"slices"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/microvmnix"
	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

// The prefixes by which a guest's systemd knows a credential among OEM strings.
const (
	oemText   = "io.systemd.credential:"
	oemBinary = "io.systemd.credential.binary:"
)

// notifySocket is the credential that says where the guest reports to, which
// Ampoule gives it by itself.
const notifySocket = "vmm.notify_socket"

func credentialKey(name string) string { return "credential[" + name + "]" }

func (set Setting) origin() diag.Origin { return diag.Origin{File: set.File, Line: set.Line} }

// refuse is an error about a word.
func (s *sheet) refuse(at argument, key, what, accepted string) {
	s.problems.Errorf(diag.Origin{File: s.file, Line: at.line}, key, "", accepted, "%s: %s", what, microvmnix.Shown(at.text))
}

// oemStrings are those of --platform oem_strings=[A,B].
func (s *sheet) oemStrings(value string, words ...argument) {
	for _, element := range list(value) {
		s.oemString(element, words...)
	}
}

// oemString is one: a credential, with its value in clear, or a text for whoever
// looks.
func (s *sheet) oemString(element string, words ...argument) {
	rest, text := strings.CutPrefix(element, oemText)
	binary := false
	if !text {
		rest, binary = strings.CutPrefix(element, oemBinary)
	}
	name, value, ok := strings.Cut(rest, "=")
	switch {
	case !text && !binary:
		name, _, has := strings.Cut(element, "=")
		if has {
			name += "=" + diag.Elided
		}
		s.add(s.next("oem_string"), name, words...)
	case ok && name == notifySocket:
		s.add("notify", value, words...)
	default:
		s.add(credentialKey(name), "", words...)
		set := &s.settings[len(s.settings)-1]
		set.secret, set.public = true, value
		if binary {
			if decoded, err := base64.StdEncoding.DecodeString(value); err == nil {
				set.public = string(decoded)
			}
		}
	}
}

// openStrings are those of a script that makes them when it runs, out of the
// credentials that it reads: what it puts there besides them is known from the
// texts that it sets its variables to.
func (s *sheet) openStrings(words ...argument) {
	at := words[len(words)-1]
	var known []string
	for _, text := range at.maybe {
		for _, p := range parameters(text) {
			if p.key != "oem_strings" {
				s.add("platform."+p.key, p.value, words...)
				continue
			}
			for _, element := range list(p.value) {
				if !slices.Contains(known, element) {
					known = append(known, element)
				}
			}
		}
	}
	s.add("platform.oem_strings", "made when it runs", words...)
	s.known = append(s.known, at.index)
	for _, element := range known {
		name, value, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(element, oemText), oemBinary), "=")
		isCredential := strings.HasPrefix(element, oemText) || strings.HasPrefix(element, oemBinary)
		switch {
		case element == microvmnix.Unknown: // the variable before it was set
		case isCredential && strings.Contains(value, microvmnix.Unknown) && !strings.Contains(name, microvmnix.Unknown):
			if s.find(credentialKey(name)) == nil {
				s.add(credentialKey(name), "", words...)
			}
		case strings.Contains(element, microvmnix.Unknown):
			s.refuse(at, "platform", "an OEM string that is made when the script runs", "strings io.systemd.credential[.binary]:NAME=VALUE with names that the script has as words; or --without platform")
		default:
			s.oemString(element, words...)
		}
	}
}

// credentials adds those that the script reads itself, and those of the units.
func (s *sheet) credentials(o Options) {
	for _, c := range s.runner.Script.Credentials {
		at := Setting{Key: credentialKey(c.Name), File: s.file, Line: c.Line, Shown: "reads credential " + c.Name}
		switch {
		case c.Name == "" || c.Name == "*":
			at.Key = "credential"
			if len(o.Units) == 0 && len(o.Credentials) == 0 && !o.without(at) {
				s.problems.Errorf(at.origin(), at.Key, "", "name them with --unit FILE, the unit that loads them, or --credential NAME:SOURCE",
					"the script reads credentials whose names it makes up when it runs")
			}
		case s.find(at.Key) == nil:
			s.settings = append(s.settings, at)
		}
	}
}

// provenance is where a credential comes from.
type provenance struct {
	key, value string
	// from says who says so, for a comment; at is the unit's line.
	from string
	at   diag.Origin
}

// sources are those of the command line and of the units, by name; the command line
// wins, and of two lines of the units the last.
func (o Options) sources(problems *diag.List) (map[string]provenance, []string) {
	out, order := map[string]provenance{}, []string{}
	put := func(name string, src provenance) {
		if _, ok := out[name]; !ok {
			order = append(order, name)
		}
		out[name] = src
	}
	keys := []string{"LoadCredential", "LoadCredentialEncrypted", "SetCredential", "SetCredentialEncrypted", "ImportCredential"}
	for _, unit := range o.Units {
		parsed := unitfile.Parse(unit.File, "unit", unit.Text)
		if bad := parsed.Fatal(); bad != nil {
			problems.Errorf(bad.Origin, "", "", "a unit file that systemd takes", "systemd refuses the unit: %s", bad.Kind)
		}
		for _, a := range parsed.Assignments {
			if a.Section != "Service" || !slices.Contains(keys, a.Key) {
				continue
			}
			if a.Value == "" {
				for name, src := range out {
					if src.key == a.Key {
						delete(out, name)
						order = slices.DeleteFunc(order, func(n string) bool { return n == name })
					}
				}
				continue
			}
			name, _, _ := strings.Cut(a.Value, ":")
			if a.Key == "SetCredential" {
				if have, ok := out[name]; ok && strings.HasPrefix(have.key, "Load") {
					name += ":default" // beside it, for a source that is missing
				}
			}
			put(name, provenance{key: a.Key, value: a.Value, from: a.Origin.String(), at: a.Origin})
		}
	}
	for i, c := range o.Credentials {
		name, path, ok := strings.Cut(c, ":")
		at := diag.Origin{File: "--credential", Line: i + 1}
		if !ok || name == "" || path == "" {
			problems.Errorf(at, "", "", "accepted: --credential NAME:SOURCE, with SOURCE as LoadCredential= has it", "not a credential with its source")
			continue
		}
		delete(out, name+":default")
		order = slices.DeleteFunc(order, func(n string) bool { return n == name+":default" })
		put(name, provenance{key: "LoadCredential", value: c, from: "--credential", at: at})
	}
	return out, order
}

// publicValue is a SetCredential= line's.
func publicValue(name, value string) string { return name + ":" + unitfile.EscapeValue(value) }
