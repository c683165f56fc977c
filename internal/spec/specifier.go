package spec

import (
	"fmt"
	"path"
	"strconv"
	"strings"
)

// Paths are the directories of a service manager. They travel as a value, so
// that the user manager needs no second code path.
type Paths struct {
	State, Cache, Logs, Config, Runtime, Temporary, PersistentTemporary string
}

// SystemPaths are those of the system manager (systemd.unit(5), "Specifiers").
var SystemPaths = Paths{
	State: "/var/lib", Cache: "/var/cache", Logs: "/var/log", Config: "/etc",
	Runtime: "/run", Temporary: "/tmp", PersistentTemporary: "/var/tmp",
}

// Identity is what specifiers are made from: all of it is known from files,
// architecture and service manager alone, so that a plan is too.
type Identity struct {
	// Name is the VM's name, the instance of its unit.
	Name string
	// Fragment is the path of NAME.microvm.
	Fragment string
	// Architecture is systemd's word for it ("x86-64", "arm64").
	Architecture string
	Paths        Paths
}

// Unit returns the name of the VM's service.
func (id Identity) Unit() string { return UnitName(id.Name) }

// ShareUnitName returns the service that serves a share of the VM.
func ShareUnitName(vm, tag string) string { return "microvm-share@" + vm + ":" + tag + ".service" }

// VMOf is the VM of a service of that name; false: it is none that UnitName gives.
func VMOf(unit string) (name string, ok bool) {
	name, begins := strings.CutPrefix(unit, "microvm@")
	name, ends := strings.CutSuffix(name, ".service")
	return name, begins && ends && CheckName(name) == nil
}

// UnitName returns the service of the VM of that name.
func UnitName(name string) string { return "microvm@" + name + ".service" }

// CredentialsDirectory returns the directory that systemd gives the service.
func (id Identity) CredentialsDirectory() string {
	return path.Join(id.Paths.Runtime, "credentials", id.Unit())
}

// specifier is one letter and what it stands for.
type specifier struct {
	Letter byte
	Help   string
	Value  func(Identity) string
}

// Specifiers lists those that are expanded, in the order of the manual.
func Specifiers() []specifier {
	return []specifier{
		{'i', "name of the VM", func(id Identity) string { return id.Name }},
		{'I', "name of the VM, unescaped as systemd does (- becomes /)", func(id Identity) string { return unescapeName(id.Name) }},
		{'n', "name of the unit, microvm@NAME.service", Identity.Unit},
		{'N', "name of the unit without its type, microvm@NAME", func(id Identity) string { return strings.TrimSuffix(id.Unit(), ".service") }},
		{'p', "prefix of the unit's name, microvm", func(Identity) string { return "microvm" }},
		{'P', "the same", func(Identity) string { return "microvm" }},
		{'f', "name of the VM, unescaped, with / before it", func(id Identity) string { return "/" + strings.TrimPrefix(unescapeName(id.Name), "/") }},
		{'d', "the unit's credentials directory", Identity.CredentialsDirectory},
		{'y', "path of the .microvm file", func(id Identity) string { return id.Fragment }},
		{'Y', "directory of the .microvm file", func(id Identity) string { return path.Dir(id.Fragment) }},
		{'S', "state directory, /var/lib", func(id Identity) string { return id.Paths.State }},
		{'C', "cache directory, /var/cache", func(id Identity) string { return id.Paths.Cache }},
		{'L', "log directory, /var/log", func(id Identity) string { return id.Paths.Logs }},
		{'E', "configuration directory, /etc", func(id Identity) string { return id.Paths.Config }},
		{'t', "runtime directory, /run", func(id Identity) string { return id.Paths.Runtime }},
		{'T', "directory for temporary files, /tmp", func(id Identity) string { return id.Paths.Temporary }},
		{'V', "directory for larger temporary files, /var/tmp", func(id Identity) string { return id.Paths.PersistentTemporary }},
		{'a', "architecture, such as x86-64", func(id Identity) string { return id.Architecture }},
		{'%', "a percent sign", func(Identity) string { return "%" }},
	}
}

// refusedSpecifiers are systemd's others, with the reason why not.
func refusedSpecifier(letter byte) string {
	switch {
	case strings.IndexByte("HlqmbvowWBAM", letter) >= 0:
		return "depends on the host, and a plan does not"
	case strings.IndexByte("uUgGhs", letter) >= 0:
		return "names a user, and every VM has a user of its own that is known only at start"
	case strings.IndexByte("jJ", letter) >= 0:
		return "is always microvm here"
	}
	return "is not a specifier"
}

// Expand replaces the specifiers of s. The error names the letter and the
// reason; an unknown one is never left in silence, as systemd does.
func (id Identity) Expand(s string) (string, error) {
	if strings.IndexByte(s, '%') < 0 {
		return s, nil
	}
	table := Specifiers()
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		i++
		if i == len(s) {
			return "", &valueError{"a single % at the end", "write %% for a percent sign"}
		}
		found := false
		for _, sp := range table {
			if sp.Letter == s[i] {
				b.WriteString(sp.Value(id))
				found = true
				break
			}
		}
		if !found {
			return "", &valueError{fmt.Sprintf("%%%s %s", printableLetter(s[i]), refusedSpecifier(s[i])), "accepted: " + letters(table)}
		}
	}
	return b.String(), nil
}

func printableLetter(c byte) string {
	if c > 0x20 && c < 0x7f {
		return string(c)
	}
	return fmt.Sprintf("\\x%02x", c)
}

func letters(table []specifier) string {
	words := make([]string, len(table))
	for i, sp := range table {
		words[i] = "%" + string(sp.Letter)
	}
	return strings.Join(words, " ")
}

// unescapeName undoes systemd's escaping of names: "-" is "/", "\x2d" is "-".
func unescapeName(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '-':
			b.WriteByte('/')
		case s[i] == '\\' && i+3 < len(s) && s[i+1] == 'x':
			if n, err := strconv.ParseUint(s[i+2:i+4], 16, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
			b.WriteByte(s[i])
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String()
}
