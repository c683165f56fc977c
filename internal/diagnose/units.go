package diagnose

import (
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/layer"
	"github.com/ampoule-vm/ampoule/internal/nixstore"
	"github.com/ampoule-vm/ampoule/internal/spec"
	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

// etcUnits is where NixOS links the units of the current system.
const etcUnits = "/etc/systemd/system"

// unitPath lists systemd's directories of units, the strongest first. own stands
// in the place of /etc/systemd/system, which a tree may lack.
func unitPath(own string) []string {
	return []string{
		"/etc/systemd/system.control", "/run/systemd/system.control", "/run/systemd/transient", "/run/systemd/generator.early",
		own, "/etc/systemd/system.attached", "/run/systemd/system", "/run/systemd/system.attached", "/run/systemd/generator",
		"/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/run/systemd/generator.late",
	}
}

// units finds units in a tree. Each directory is listed once.
type units struct {
	look *looker
	dirs []string
	// listed are the entries of each directory, those that could not be read empty.
	listed []map[string]bool
}

func newUnits(l *looker, own string) *units {
	u := &units{look: l}
	for _, dir := range unitPath(own) {
		names, ok := l.names(dir, "units and drop-ins in it")
		if !ok {
			continue
		}
		set := make(map[string]bool, len(names))
		for _, n := range names {
			set[n] = true
		}
		u.dirs, u.listed = append(u.dirs, dir), append(u.listed, set)
	}
	return u
}

// find reads a unit by systemd's rules: the fragment of the instance, else of the
// template; drop-ins of both and of the type, of which one hides others of its name
// that stand in weaker directories, in one order by name. nil: there is nothing.
func (u *units) find(name string) *Unit {
	out := &Unit{Name: name}
	names := []string{name}
	prefix, instance, isInstance := strings.Cut(strings.TrimSuffix(name, ".service"), "@")
	if isInstance && instance != "" {
		names = append(names, prefix+"@.service")
	}
	for _, n := range names {
		if dir, ok := u.first(n); ok {
			out.Fragment = path.Join(dir, n)
			break
		}
	}
	dirs := make([]string, 0, len(names)+1)
	for _, n := range names {
		dirs = append(dirs, n+".d")
	}
	for i := len(prefix) - 1; i > 0; i-- {
		if prefix[i] == '-' && i < len(prefix)-1 {
			for _, n := range names {
				dirs = append(dirs, prefix[:i+1]+strings.TrimPrefix(n, prefix)+".d")
			}
		}
	}
	dropIns := u.dropIns(append(dirs, "service.d"))
	// Drop-ins of the type alone are for whatever there is.
	if out.Fragment == "" && !slices.ContainsFunc(dropIns, func(p string) bool { return path.Base(path.Dir(p)) != "service.d" }) {
		return nil
	}
	var files []*unitfile.File
	if out.Fragment != "" {
		if target, err := u.look.tree.Readlink(out.Fragment); err == nil && path.Clean(target) == "/dev/null" {
			out.Masked = true
		} else if f := u.parse(out, out.Fragment, "main"); f != nil {
			files = append(files, f)
		}
	}
	for _, p := range dropIns {
		if f := u.parse(out, p, "drop-in"); f != nil {
			files = append(files, f)
		}
	}
	out.Resolved, _ = layer.Resolve(files, systemdRule)
	return out
}

// first is the strongest directory that has an entry.
func (u *units) first(name string) (string, bool) {
	for i, dir := range u.dirs {
		if u.listed[i][name] {
			return dir, true
		}
	}
	return "", false
}

// dropIns lists the drop-ins that count, in their order. The rank of a directory of
// the search path goes before how specific a name is, except that those of the type
// are the weakest everywhere.
func (u *units) dropIns(names []string) []string {
	winners := map[string]string{}
	take := func(i int, name string) {
		if !u.listed[i][name] {
			return
		}
		dir := path.Join(u.dirs[i], name)
		entries, _ := u.look.names(dir, "drop-ins in it")
		for _, e := range entries {
			if _, taken := winners[e]; !taken && strings.HasSuffix(e, ".conf") {
				winners[e] = path.Join(dir, e)
			}
		}
	}
	for i := range u.dirs {
		for _, name := range names[:len(names)-1] {
			take(i, name)
		}
	}
	for i := range u.dirs {
		take(i, names[len(names)-1])
	}
	order := make([]string, 0, len(winners))
	for name := range winners {
		order = append(order, name)
	}
	slices.Sort(order)
	out := make([]string, 0, len(order))
	for _, name := range order {
		if target, err := u.look.tree.Readlink(winners[name]); err == nil && path.Clean(target) == "/dev/null" {
			continue // masked
		}
		out = append(out, winners[name])
	}
	return out
}

func (u *units) parse(unit *Unit, p, layerName string) *unitfile.File {
	text, ok := u.look.read(p, "what the unit "+unit.Name+" is")
	if !ok {
		// The entry is there, and what it leads to is not. Of a unit that has nothing to do
		// with VMs that is no loss.
		if !strings.Contains(unit.Name, "microvm") {
			return nil
		}
		u.look.partial(p, fs.ErrNotExist, "what the unit "+unit.Name+" is")
		return nil
	}
	real, err := u.look.tree.Resolve(p)
	if err != nil {
		real = p
	}
	unit.Files = append(unit.Files, UnitFile{Path: p, Real: real})
	return unitfile.Parse(p, layerName, text)
}

// systemdRule is how the keys that are looked at merge in systemd.
func systemdRule(_, key string) layer.Rule {
	id := func(value string) string {
		name, _, _ := strings.Cut(value, ":")
		return name
	}
	switch key {
	case "LoadCredential", "LoadCredentialEncrypted":
		return layer.Rule{Merge: layer.ByID, Group: "LoadCredential", ID: id}
	case "SetCredential", "SetCredentialEncrypted":
		return layer.Rule{Merge: layer.ByID, Group: "SetCredential", ID: id}
	case "After", "Before", "Wants", "Requires", "BindsTo", "PartOf", "WantedBy", "RequiredBy":
		return layer.Rule{Merge: layer.Additive}
	case "ImportCredential", "EnvironmentFile", "Environment", "ConditionPathExists", "ExecCondition", "ExecStartPre", "ExecStart", "ExecStartPost", "ExecStop", "ExecStopPost", "ExecReload", "X-Restart-Triggers", "X-Reload-Triggers":
		return layer.Rule{Merge: layer.List}
	}
	return layer.Rule{Merge: layer.Scalar}
}

// values returns the lines of a key that count. A unit that is not there has none.
func (u *Unit) values(section, key string) []layer.Entry {
	if u == nil || u.Resolved == nil {
		return nil
	}
	return u.Group(section, key).Effective()
}

// last returns the line of a key that counts for one value.
func (u *Unit) last(section, key string) (layer.Entry, bool) {
	all := u.values(section, key)
	if len(all) == 0 {
		return layer.Entry{}, false
	}
	return all[len(all)-1], true
}

// lists reports whether a list of names has one.
func (u *Unit) lists(key, name string) bool {
	for _, e := range u.values("Unit", key) {
		if slices.Contains(strings.Fields(e.Value), name) {
			return true
		}
	}
	return false
}

// hasDefaults reports whether systemd adds its default dependencies.
func (u *Unit) hasDefaults() bool {
	e, ok := u.last("Unit", "DefaultDependencies")
	value, err := spec.ParseBoolean(e.Value)
	return !ok || err != nil || value
}

// real is where the file that a line stands in lies.
func (u *Unit) real(file string) string {
	for _, f := range u.Files {
		if f.Path == file {
			return f.Real
		}
	}
	return file
}

// at is a line as evidence.
func at(e layer.Entry, what string) Evidence {
	return Evidence{Path: e.Origin.File, Line: e.Origin.Line, What: what}
}

// specifiers undoes those of systemd that stand in paths of credentials.
func specifiers(s, unit string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	full := strings.TrimSuffix(unit, ".service")
	prefix, instance, _ := strings.Cut(full, "@")
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		switch s[i] {
		case '%':
			b.WriteByte('%')
		case 'i', 'I':
			b.WriteString(instance)
		case 'n':
			b.WriteString(unit)
		case 'N':
			b.WriteString(full)
		case 'p', 'P':
			b.WriteString(prefix)
		case 't':
			b.WriteString("/run")
		case 'S':
			b.WriteString("/var/lib")
		case 'C':
			b.WriteString("/var/cache")
		case 'L':
			b.WriteString("/var/log")
		case 'E':
			b.WriteString("/etc")
		case 'd':
			b.WriteString("/run/credentials/" + unit)
		default:
			b.WriteByte('%')
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

// program returns the words of a command line of a unit, without the prefixes that
// change how it is executed; root: it runs as root whatever User= says.
func program(value string) (words []string, root bool) {
	commands, _, err := unitfile.SplitCommands(value)
	if err != nil || len(commands) == 0 {
		return nil, false
	}
	words = commands[0]
	trimmed := strings.TrimLeft(words[0], "@-:+!|")
	root = strings.Contains(words[0][:len(words[0])-len(trimmed)], "+")
	return append([]string{trimmed}, words[1:]...), root
}

// regular reports whether a file is one that may be read.
func regular(i nixstore.Info) bool { return i.Mode&fs.ModeType == 0 }
