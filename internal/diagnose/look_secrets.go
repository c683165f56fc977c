package diagnose

import (
	"encoding/json"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/layer"
	"github.com/ampoule-vm/ampoule/internal/microvmnix"
	"github.com/ampoule-vm/ampoule/internal/nixstore"
)

// stores are where systemd looks for a credential that is given by a name.
func stores() []string {
	return []string{"/run/credentials/@system", "/etc/credstore", "/run/credstore", "/usr/local/lib/credstore", "/usr/lib/credstore",
		"/run/credentials/@encrypted", "/etc/credstore.encrypted", "/run/credstore.encrypted", "/usr/lib/credstore.encrypted"}
}

// credentials reads those of a VM's unit.
func (l *looker) credentials(vm *VM) {
	u := vm.Unit
	set := map[string]bool{}
	for _, e := range u.values("Service", "SetCredential") {
		id, _, _ := strings.Cut(e.Value, ":")
		set[id] = true
	}
	for _, e := range u.values("Service", "LoadCredential") {
		id, source, _ := strings.Cut(e.Value, ":")
		id, source = specifiers(id, u.Name), specifiers(source, u.Name)
		if ours(id) {
			continue
		}
		c := &Credential{ID: id, Key: e.Key, Source: source, At: line(e, id), In: u.real(e.Origin.File), Default: set[id]}
		l.source(vm, c)
	}
	for _, e := range u.values("Service", "ImportCredential") {
		if ours(e.Value) {
			continue
		}
		vm.Credentials = append(vm.Credentials, &Credential{ID: e.Value, Key: e.Key, At: line(e, e.Value), In: u.real(e.Origin.File), Unseen: true})
	}
}

// line is the place of a credential. Its value, or what a path may tell, is not
// repeated beyond the path.
func line(e layer.Entry, id string) Evidence { return at(e, e.Key+"="+id) }

// ours reports whether a credential is Ampoule's own.
func ours(id string) bool { return strings.HasPrefix(id, "ampoule.") }

// source looks at where a credential comes from, and appends it; for a directory,
// one for each file in it.
func (l *looker) source(vm *VM, c *Credential) {
	vm.Credentials = append(vm.Credentials, c)
	p := c.Source
	if !path.IsAbs(p) {
		name := p
		if name == "" {
			name = c.ID
		}
		for _, dir := range stores() {
			if l.tree.Exists(path.Join(dir, name)) {
				p = path.Join(dir, name)
				break
			}
		}
		if !path.IsAbs(p) {
			c.Absent = l.host.Running
			c.Unseen = !l.host.Running
			return
		}
	}
	c.Makers = l.makersOf(vm, p)
	info, err := l.tree.Stat(p)
	switch {
	case err == nil:
	case nixstore.Missing(err) && strings.HasPrefix(p, "/run/") && !l.host.Running:
		c.Unseen = true
		l.partial("/run", errorOf("this is no running host"), "whether the sources of credentials in it are there")
		return
	case nixstore.Missing(err):
		c.Absent = true
		return
	default:
		c.Unseen = true
		l.partial(p, err, "the source of the credential "+c.ID+" of "+vm.Name)
		return
	}
	real, err := l.tree.Resolve(p)
	if err != nil {
		real = p
	}
	c.File = &SourceFile{Path: real, Info: info, Open: l.open(real, info)}
	if !info.Mode.IsDir() {
		return
	}
	// A directory stands for its files; links in it are not followed.
	names, _ := l.names(real, "the credentials of "+vm.Name)
	vm.Credentials = vm.Credentials[:len(vm.Credentials)-1]
	for _, n := range names {
		file := path.Join(real, n)
		info, err := l.tree.Lstat(file)
		if err != nil || !regular(info) {
			continue
		}
		each := *c
		each.ID, each.File = c.ID+"_"+n, &SourceFile{Path: file, Info: info, Open: l.open(file, info)}
		vm.Credentials = append(vm.Credentials, &each)
	}
}

// open says why a file may be read by those who should not: by everybody, or by the
// groups that all VMs share.
func (l *looker) open(p string, info nixstore.Info) string {
	if info.Mode&fs.ModeSocket != 0 || nixstore.Of(p) != "" {
		return ""
	}
	if info.Mode.Perm()&0o004 != 0 && l.walkable(p, nil) {
		return "everybody may read it (mode " + mode(info.Mode) + ")"
	}
	group := l.groups[info.GID]
	if info.Mode.Perm()&0o040 != 0 && (group == "kvm" || group == "microvm") && l.walkable(p, &info.GID) {
		return "the group " + group + ", of all VMs, may read it (mode " + mode(info.Mode) + ")"
	}
	return ""
}

// walkable reports whether everybody, or a group, may pass through all directories
// above a path.
func (l *looker) walkable(p string, group *uint32) bool {
	for dir := path.Dir(p); dir != "/"; dir = path.Dir(dir) {
		info, err := l.tree.Stat(dir)
		if err != nil {
			return false
		}
		byGroup := group != nil && info.GID == *group && info.Mode.Perm()&0o010 != 0
		if info.Mode.Perm()&0o001 == 0 && !byGroup {
			return false
		}
	}
	return true
}

// maker is a unit that may make secrets.
type maker struct {
	name string
	unit *Unit
	// dirs are directories whose files it makes; installs are the paths and names of
	// these, nil where that could not be read.
	dirs     []string
	installs map[string]bool
}

// installers are the units of sops-nix and agenix, and the directories that they fill.
func installers() map[string][]string {
	return map[string][]string{
		"sops-install-secrets.service":           {"/run/secrets", "/run/secrets.d"},
		"sops-install-secrets-for-users.service": {"/run/secrets-for-users", "/run/secrets-for-users.d"},
		"agenix-install-secrets.service":         {"/run/agenix", "/run/agenix.d"},
	}
}

// allMakers lists the services of the host that may make a secret, once.
func (l *looker) allMakers() []maker {
	if l.makers != nil {
		return l.makers
	}
	l.makers = []maker{}
	seen := map[string]bool{}
	for _, set := range l.units.listed {
		for name := range set {
			if seen[name] || !strings.HasSuffix(name, ".service") || strings.Contains(name, "microvm") || strings.Contains(name, "@.") {
				continue
			}
			seen[name] = true
			u := l.units.find(name)
			if u == nil || u.Fragment == "" || u.Masked {
				continue
			}
			m := maker{name: name, unit: u, dirs: installers()[name]}
			if m.dirs != nil {
				m.installs = l.manifest(u)
			}
			l.makers = append(l.makers, m)
		}
	}
	slices.SortFunc(l.makers, func(a, b maker) int { return strings.Compare(a.name, b.name) })
	return l.makers
}

// manifest reads what sops-nix tells its program of the secrets and templates that it
// installs; nil where the unit names no such file.
func (l *looker) manifest(u *Unit) map[string]bool {
	type installed struct{ Name, Path string }
	var out map[string]bool
	for _, e := range u.values("Service", "ExecStart") {
		words, _ := program(e.Value)
		for _, w := range words {
			if nixstore.Of(w) == "" || !strings.HasSuffix(w, ".json") {
				continue
			}
			text, ok := l.read(w, "which secrets "+u.Name+" installs")
			var m struct{ Secrets, Templates []installed }
			if !ok || json.Unmarshal(text, &m) != nil || m.Secrets == nil {
				continue
			}
			if out == nil {
				out = map[string]bool{}
			}
			for _, s := range append(m.Secrets, m.Templates...) {
				out[s.Name], out[s.Path] = true, true
			}
		}
	}
	return out
}

// consumes are the settings that name a file which is there already.
func consumes(key string) bool {
	switch key {
	case "LoadCredential", "LoadCredentialEncrypted", "EnvironmentFile", "BindPaths", "BindReadOnlyPaths", "ReadOnlyPaths", "ReadWritePaths", "InaccessiblePaths", "Description", "Documentation":
		return true
	}
	return strings.HasPrefix(key, "Condition") || strings.HasPrefix(key, "Assert") || strings.HasPrefix(key, "Requires") || strings.HasPrefix(key, "X-")
}

// makersOf lists the units that make a file.
func (l *looker) makersOf(vm *VM, source string) []Maker {
	if nixstore.Of(source) != "" {
		return nil
	}
	var out []Maker
	for _, m := range l.allMakers() {
		if at, ok := m.makes(l, source); ok {
			out = append(out, Maker{Unit: m.name, At: at, Ordered: l.ordered(vm, &m)})
		}
	}
	return out
}

func (m *maker) makes(l *looker, source string) (Evidence, bool) {
	for _, dir := range m.dirs {
		if strings.HasPrefix(source, dir+"/") {
			what := "it makes what is in " + dir
			name := strings.TrimPrefix(source, dir+"/")
			if m.installs == nil || m.installs[source] || m.installs[name] || m.installs[strings.TrimPrefix(name, "rendered/")] {
				return Evidence{Path: m.unit.Fragment, What: what}, true
			}
			return Evidence{}, false
		}
	}
	for _, g := range m.unit.Groups {
		if g.Section != "Service" || consumes(g.Name) {
			continue
		}
		for e := range g.Live() {
			if names(e.Value, source) {
				return Evidence{Path: e.Origin.File, Line: e.Origin.Line, What: e.Key + "= names " + source}, true
			}
			if !strings.HasPrefix(e.Key, "ExecStart") {
				continue
			}
			words, _ := program(e.Value)
			if len(words) == 0 || !strings.Contains(words[0], "-unit-script-") {
				continue
			}
			text, err := l.tree.ReadFile(words[0], maxFile)
			if err != nil {
				continue
			}
			if n := writes(string(text), source); n > 0 {
				return Evidence{Path: words[0], Line: n, What: "it writes " + source}, true
			}
		}
	}
	return Evidence{}, false
}

// names reports whether a text has a path, or a name, that does not go on in front or
// behind.
func names(text, what string) bool {
	for rest := text; ; {
		i := strings.Index(rest, what)
		if i < 0 {
			return false
		}
		before, after := byte(' '), byte(' ')
		if i > 0 {
			before = rest[i-1]
		}
		if end := i + len(what); end < len(rest) {
			after = rest[end]
		}
		if !inWord(before) && !inWord(after) {
			return true
		}
		rest = rest[i+1:]
	}
}

func inWord(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.' || c == '/'
}

// writes returns the line of a script that makes a file, 0 where none does: it is
// named behind ">", or in a command that makes files.
func writes(text, file string) int {
	number := 0
	for line := range strings.Lines(text) {
		number++
		if !names(line, file) {
			continue
		}
		before, _, _ := strings.Cut(line, file)
		if strings.HasSuffix(strings.TrimRight(before, ` '"`), ">") {
			return number
		}
		for word := range strings.FieldsSeq(before) {
			switch path.Base(word) {
			case "install", "cp", "mv", "ln", "tee", "touch", "-o", "--output", "-out":
				return number
			}
		}
	}
	return 0
}

// ordered reports whether a VM starts after a unit: its own line says so or the
// unit's, or a target or service stands between them.
func (l *looker) ordered(vm *VM, m *maker) bool {
	if vm.Unit.lists("After", m.name) || m.unit.lists("Before", vm.Unit.Name) {
		return true
	}
	between := []string{}
	for _, e := range vm.Unit.values("Unit", "After") {
		between = append(between, strings.Fields(e.Value)...)
	}
	if vm.Unit.hasDefaults() {
		between = append(between, "sysinit.target", "basic.target")
	}
	for _, b := range between {
		if m.unit.lists("Before", b) || strings.HasSuffix(b, ".target") && m.unit.hasDefaults() && l.wantedBy(m, b) {
			return true
		}
		if strings.HasSuffix(b, ".service") && !strings.Contains(b, "%") && !strings.HasPrefix(b, "microvm-") && l.units.find(b).lists("After", m.name) {
			return true
		}
	}
	return false
}

// wantedBy reports whether a target pulls a unit in. It waits for one that has
// systemd's default dependencies.
func (l *looker) wantedBy(m *maker, target string) bool {
	for _, kind := range []string{".wants", ".requires"} {
		for i, dir := range l.units.dirs {
			if !l.units.listed[i][target+kind] {
				continue
			}
			if _, err := l.tree.Lstat(path.Join(dir, target+kind, m.name)); err == nil {
				return true
			}
		}
	}
	for _, key := range []string{"WantedBy", "RequiredBy"} {
		for _, e := range m.unit.values("Install", key) {
			if slices.Contains(strings.Fields(e.Value), target) {
				return true
			}
		}
	}
	return false
}

// ownNames are what the names of systemd's own credentials begin with: its services
// import them where they are there, and need none.
func ownNames() []string {
	return []string{"passwd.", "firstboot.", "tmpfiles.", "sysctl.", "sysusers.", "login.", "network.", "udev.", "getty.", "agetty.", "vconsole.", "journal.", "ssh.", "home.", "userdb.", "cryptsetup.", "veritysetup.", "fstab.", "shell.", "system.", "systemd.", "vmm.", "tty.", "import.", "resolve.", "locale.", "rfkill.", "fsck.", "quotacheck.", "crypttab.", "verity.", "nvme."}
}

// guest reads which credentials the guest's services want, where its system is in
// the store.
func (l *looker) guest(vm *VM) {
	if len(vm.Credentials) == 0 && len(vm.Deployed.Reads) == 0 {
		return
	}
	top := nixstore.Of(vm.Deployed.Toplevel())
	if top == "" {
		return
	}
	dir := path.Join(top, etcUnits)
	names, ok := l.names(dir, "which credentials the guest's services want")
	if !ok {
		return
	}
	for _, n := range names {
		switch {
		case strings.HasSuffix(n, ".service"):
			vm.Wanted = append(vm.Wanted, l.wanted(path.Join(dir, n))...)
		case strings.HasSuffix(n, ".service.d"):
			entries, _ := l.names(path.Join(dir, n), "which credentials the guest's services want")
			for _, e := range entries {
				vm.Wanted = append(vm.Wanted, l.wanted(path.Join(dir, n, e))...)
			}
		}
	}
}

// wanted reads a unit of a guest. Most guests share most units, and each file is read
// once.
func (l *looker) wanted(p string) []Wanted {
	real := p
	if target, err := l.tree.Readlink(p); err == nil && path.IsAbs(target) {
		real = target
	}
	if out, ok := l.guests[real]; ok {
		return out
	}
	var out []Wanted
	// systemd's own units import credentials that nobody need give.
	if !strings.HasPrefix(nixstore.NameOf(nixstore.Of(real)), "systemd-2") {
		if text, err := l.tree.ReadFile(p, maxFile); err == nil {
			out = wantedIn(p, string(text))
		}
	}
	l.guests[real] = out
	return out
}

func wantedIn(p, text string) []Wanted {
	var out []Wanted
	defaults := map[string]bool{}
	number := 0
	for line := range strings.Lines(text) {
		number++
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok || value == "" {
			continue
		}
		name, id := "", ""
		switch key = strings.TrimSpace(key); key {
		case "LoadCredential", "LoadCredentialEncrypted":
			source, has := "", false
			if id, source, has = strings.Cut(strings.TrimSpace(value), ":"); has {
				name = source
			} else {
				name = id
			}
		case "SetCredential", "SetCredentialEncrypted":
			id, _, _ := strings.Cut(strings.TrimSpace(value), ":")
			defaults[id] = true
			continue
		case "ImportCredential":
			name, _, _ = strings.Cut(strings.TrimSpace(value), ":")
		default:
			continue
		}
		if name == "" || path.IsAbs(name) || strings.ContainsAny(name, "*?[%") ||
			slices.ContainsFunc(ownNames(), func(own string) bool { return strings.HasPrefix(name, own) }) {
			continue
		}
		out = append(out, Wanted{Name: name, At: Evidence{Path: p, Line: number, What: "a service of the guest has " + key + "=" + name}, id: id})
	}
	// What has a default is not missed.
	return slices.DeleteFunc(out, func(w Wanted) bool { return defaults[w.id] })
}

// delivers lists the credentials that a runner hands to the guest by words of its
// command line that name files.
func delivers(s *microvmnix.Script) []string {
	if s == nil || s.Exec == nil {
		return nil
	}
	var out []string
	for _, w := range s.Exec.Args {
		if _, rest, ok := strings.Cut(w.Text, "opt/io.systemd.credentials/"); ok {
			name, _, _ := strings.Cut(rest, ",")
			out = append(out, name)
		}
	}
	return out
}
