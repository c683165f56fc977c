package diagnose

import (
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/microvmnix"
	"github.com/ampoule-vm/ampoule/internal/nixstore"
)

// vm gathers what is known of one.
func (l *looker) vm(name string, processes map[string][]Process) *VM {
	vm := &VM{Name: name, Dir: path.Join(l.host.StateDir, name)}
	vm.DirInfo = l.stat(vm.Dir, "the VM "+name)
	if _, err := l.tree.Stat(vm.Dir); err != nil && !nixstore.Missing(err) {
		vm.dirUnseen = true
	}
	vm.Install = l.install(name)
	vm.Current, vm.Booted = l.link(path.Join(vm.Dir, "current")), l.link(path.Join(vm.Dir, "booted"))
	if text, ok := l.read(path.Join(vm.Dir, "flake"), "which flake the VM "+name+" is from"); ok {
		vm.FlakeThere = true
		first, _, _ := strings.Cut(string(text), "\n")
		vm.Flake = strings.TrimSpace(first)
	}
	if target, err := l.tree.Readlink(path.Join(vm.Dir, "toplevel")); err == nil {
		vm.Toplevel = nixstore.Of(target)
	}
	if info, err := l.tree.Lstat(path.Join(microvmRoots, name)); err == nil {
		vm.Rooted = info.Mode&fs.ModeSymlink != 0
	}
	vm.Unit = l.units.find("microvm@" + name + ".service")
	vm.Deployed = l.runner(vm.Current)
	if vm.Started = vm.Deployed; vm.Booted.Target != vm.Current.Target {
		vm.Started = l.runner(vm.Booted)
	}
	l.forced(vm)
	l.preReads(vm)
	l.credentials(vm)
	vm.Process = l.mainProcess(vm, processes[name])
	if vm.Deployed != nil {
		for _, tap := range vm.Deployed.Taps {
			l.interfaceOf(vm, tap)
		}
		for _, m := range vm.Deployed.MacVTaps {
			l.interfaceOf(vm, m.ID)
		}
		l.guest(vm)
	}
	l.lost(vm)
	l.unrooted(vm)
	return vm
}

func (l *looker) interfaceOf(vm *VM, name string) {
	if strings.ContainsAny(name, "/\x00") || name == "" {
		return
	}
	if _, err := l.tree.Lstat(path.Join("/sys/class/net", name)); err == nil {
		vm.Taps = append(vm.Taps, name)
	}
}

// The lines of an install script that are of interest. Older versions quote less. No
// pattern of this package is compiled before it is needed: most calls of the program
// need none.
var (
	makesLink  = pattern(`^\s*ln\s+-\S+\s+(\S+)\s+(current|toplevel)\s*$`)
	writesFile = pattern(`^\s*echo\s+'?([^'>]*?)'?\s*>\s*flake\s*$`)
)

// install reads the unit that installs a VM, and the script that it executes; nil
// where the current system has none.
func (l *looker) install(name string) *Install {
	u := l.units.find("install-microvm-" + name + ".service")
	if u == nil || u.Fragment == "" {
		return nil
	}
	in := &Install{Unit: u.Fragment}
	for _, e := range u.values("Unit", "ConditionPathExists") {
		if p, ok := strings.CutPrefix(strings.TrimSpace(e.Value), "!"); ok && path.Clean(p) == path.Join(l.host.StateDir, name) {
			once := at(e, "it is executed only while there is no "+path.Clean(p))
			in.Once = &once
		}
	}
	e, ok := u.last("Service", "ExecStart")
	if !ok {
		return in
	}
	words, _ := program(e.Value)
	if len(words) == 0 {
		return in
	}
	in.Script = words[0]
	in.read(l)
	return in
}

func (in *Install) read(l *looker) {
	text, ok := l.read(in.Script, "which runner the system installs")
	if !ok {
		l.partial(in.Script, fs.ErrNotExist, "which runner the system installs")
		return
	}
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		if m := makesLink().FindStringSubmatch(strings.TrimRight(line, "\n")); m != nil {
			target := strings.Trim(m[1], `'"`)
			if m[2] == "current" {
				in.Runner, in.RunnerLine = target, number
			} else {
				in.Toplevel = target
			}
		} else if m := writesFile().FindStringSubmatch(strings.TrimRight(line, "\n")); m != nil {
			in.Flake = m[1]
		}
	}
}

// runner reads the runner behind a link; nil where there is none, or none that can
// be read.
func (l *looker) runner(k Link) *Runner {
	if !k.There || k.Dangling || k.Target == "" {
		return nil
	}
	real, err := l.tree.Resolve(k.Path)
	if err != nil {
		return nil
	}
	inner, problems := microvmnix.ReadRunner(l.tree.FS(), strings.TrimPrefix(real, "/"))
	var r *Runner
	if inner != nil {
		r = &Runner{Runner: inner, Path: k.Target}
	}
	for _, p := range problems {
		// A script that is not understood is a fact of the VM; a file that could not be
		// read is knowledge that lacks.
		if inner != nil && inner.Script != nil && p.Origin.File == inner.Script.File {
			r.Problems = append(r.Problems, Evidence{Path: p.Origin.File, Line: p.Origin.Line, What: p.What})
			continue
		}
		// How the daemons of shares are started is not looked at.
		if !strings.HasPrefix(p.What, "reading it: ") && !strings.HasPrefix(p.Origin.File, real+"/") && inner != nil {
			continue
		}
		l.partial(p.Origin.File, errorOf(p.What), "what the runner "+k.Target+" starts")
	}
	if inner == nil {
		return nil
	}
	if s := inner.Script; s != nil && len(s.Statements) == 0 && s.Exec == nil {
		// No shell at all: nothing of it is known.
		what := "it is no shell script"
		if len(r.Problems) > 0 {
			what = r.Problems[0].What
		}
		l.partial(s.File, errorOf(what), "what the runner "+k.Target+" starts")
		inner.Script = nil
	}
	run := path.Join(real, "bin/microvm-run")
	if script, err := l.tree.Resolve(run); err == nil {
		r.Script = nixstore.Of(script)
		if r.Script == nixstore.Of(real) && script != run {
			r.Script = ""
		}
		r.Altered = l.altered(script)
	}
	l.reads(r)
	return r
}

// textError is a message that is an error already.
type textError string

func (e textError) Error() string { return string(e) }

func errorOf(what string) error { return textError(strings.TrimPrefix(what, "reading it: ")) }

// altered reports whether a file that is a store path of its own has other contents
// than when it was built.
func (l *looker) altered(p string) bool {
	if l.db == nil || nixstore.Of(p) != p {
		return false
	}
	v, ok, err := l.db.Look(p)
	if err != nil || !ok || v.Hash == "" {
		return false
	}
	hash, err := nixstore.HashFile(l.tree, p, maxFile)
	return err == nil && nixstore.SHA256(v.Hash) != "" && hash != nixstore.SHA256(v.Hash)
}

// reads lists the credentials that a runner reads: in its script, and in scripts of
// the user's that it calls.
func (l *looker) reads(r *Runner) {
	if r.Runner.Script == nil {
		return
	}
	for _, c := range r.Runner.Script.Credentials {
		r.Reads = append(r.Reads, Read{File: r.Runner.Script.File, Line: c.Line, Name: c.Name})
	}
	var called []string
	if a := r.Runner.Script.RuntimeArgs; a != nil {
		called = append(called, nixstore.References([]byte(a.Command))...)
		called = append(called, strings.Fields(a.Command)...)
	}
	for _, s := range r.Runner.Script.Statements {
		if s.Kind != microvmnix.PreStart {
			continue
		}
		for word := range strings.FieldsSeq(s.Text) {
			if word = strings.Trim(word, `'"();&|`); strings.HasPrefix(word, "/") {
				called = append(called, word)
			}
		}
	}
	seen := map[string]bool{}
	for _, p := range called {
		if seen[p] || !path.IsAbs(p) {
			continue
		}
		seen[p] = true
		found, _ := l.scriptReads(p)
		r.Reads = append(r.Reads, found...)
	}
}

// scriptReads lists what a file reads, where it is text; opaque: it is not, or could
// not be read.
func (l *looker) scriptReads(p string) (found []Read, opaque bool) {
	info, err := l.tree.Stat(p)
	if err != nil || !regular(info) || info.Size > 1<<20 {
		return nil, true
	}
	text, ok := l.read(p, "which credentials it reads")
	if !ok || !strings.HasPrefix(string(text), "#!") {
		return nil, true
	}
	for _, c := range microvmnix.Credentials(text) {
		found = append(found, Read{File: p, Line: c.Line, Name: c.Name})
	}
	return found, false
}

// preReads looks into the scripts that the unit executes in front of the runner, and
// beside it.
func (l *looker) preReads(vm *VM) {
	for _, key := range []string{"ExecStartPre", "ExecStartPost"} {
		for _, e := range vm.Unit.values("Service", key) {
			words, _ := program(e.Value)
			if len(words) == 0 || !path.IsAbs(words[0]) {
				continue
			}
			found, _ := l.scriptReads(words[0])
			vm.PreReads = append(vm.PreReads, found...)
		}
	}
}

// forced looks for a command in the place of the template's.
func (l *looker) forced(vm *VM) {
	all := vm.Unit.values("Service", "ExecStart")
	if len(all) == 0 {
		return
	}
	last := all[len(all)-1]
	words, _ := program(last.Value)
	if len(words) == 0 {
		return
	}
	own := path.Join(vm.Dir, "current/bin/microvm-run")
	f := &Forced{Program: specifiers(words[0], vm.Unit.Name), At: at(last, "ExecStart="+words[0]), Second: len(all) > 1}
	if f.Program == own && !f.Second {
		return
	}
	f.Ours = path.Base(f.Program) == "ampoule"
	if f.Program == own {
		f.Program = ""
	} else if !f.Ours {
		f.Reads, f.Opaque = l.scriptReads(f.Program)
	}
	vm.Forced = f
}

// needsLost reports whether another script is worth looking for: the unit loads
// credentials, and what is deployed reads none.
func (vm *VM) needsLost() bool {
	return len(vm.Credentials) > 0 && vm.Deployed != nil && vm.Deployed.Runner.Script != nil && len(vm.Deployed.Reads) == 0
}

// lost looks for scripts of the VM to which nothing refers.
func (l *looker) lost(vm *VM) {
	if !vm.needsLost() || !l.storeKnown {
		return
	}
	names := []string{"microvm-" + vm.Name + "-microvm-run"}
	if vm.Deployed.Script != "" {
		names = append(names, nixstore.NameOf(vm.Deployed.Script))
	}
	for _, base := range l.store.Scripts {
		p := path.Join(nixstore.StoreDir, base)
		if !slices.Contains(names, nixstore.NameOf(base)) || p == vm.Deployed.Script {
			continue
		}
		reads, opaque := l.scriptReads(p)
		if opaque || len(reads) == 0 || l.referred(p) {
			continue
		}
		found := Lost{Path: p, Reads: reads}
		if l.db != nil {
			if v, ok, err := l.db.Look(p); err == nil && ok {
				found.Built = v.Registered
			}
		}
		vm.Lost = append(vm.Lost, found)
	}
	slices.SortStableFunc(vm.Lost, func(a, b Lost) int { return b.Built.Compare(a.Built) })
	if len(vm.Lost) > 0 {
		l.generations(vm)
	}
}

// referred reports whether anything refers to a script: by the database, or, without
// one, any runner in the store.
func (l *looker) referred(script string) bool {
	if l.roots[script] {
		return true
	}
	if l.db != nil {
		users, err := l.db.Referrers(script)
		if err == nil {
			return len(users) > 0
		}
		l.partial(nixstore.DatabaseDir+"/db.sqlite", err, "which store path refers to which")
	}
	for _, base := range l.store.Runners {
		dir := path.Join(nixstore.StoreDir, base, "bin")
		programs, err := l.tree.Names(dir)
		if err != nil {
			continue
		}
		for _, p := range programs {
			if target, err := l.tree.Readlink(path.Join(dir, p)); err == nil && path.Clean(target) == script {
				return true
			}
		}
	}
	return false
}

// generations reads which runner each generation of the system has for a VM.
func (l *looker) generations(vm *VM) {
	for _, g := range l.host.Profile.Generations {
		if g.Target == "" {
			continue
		}
		runner := l.declaredBy(g.Target, vm.Name)
		if runner == "" {
			continue
		}
		vm.Generations = append(vm.Generations, GenerationRunner{Link: g.Link, System: g.Target, Runner: runner})
	}
}

// declaredBy is the runner that a system installs for a VM; "" where it installs none,
// or is not there any more.
func (l *looker) declaredBy(system, name string) string {
	unit := path.Join(system, etcUnits, "install-microvm-"+name+".service")
	text, err := l.tree.ReadFile(unit, maxFile)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		value, ok := strings.CutPrefix(strings.TrimSpace(line), "ExecStart=")
		if !ok {
			continue
		}
		if words, _ := program(value); len(words) > 0 {
			in := &Install{Script: words[0]}
			in.read(l)
			return in.Runner
		}
	}
	return ""
}

// unrooted looks for runners that nothing keeps.
func (l *looker) unrooted(vm *VM) {
	if !l.rootsKnown {
		return
	}
	seen := map[string]bool{}
	for _, k := range []Link{vm.Booted, vm.Current} {
		p := nixstore.Of(k.Target)
		if !k.There || k.Dangling || p == "" || seen[p] {
			continue
		}
		seen[p] = true
		if kept, known := l.kept(p, vm.Name); known && !kept {
			vm.Unrooted = append(vm.Unrooted, k)
		}
	}
}

// kept reports whether a root leads to a runner.
func (l *looker) kept(p, name string) (kept, known bool) {
	if l.roots[p] {
		return true, true
	}
	if l.db != nil {
		users, err := l.db.Users(p)
		if err != nil {
			l.partial(nixstore.DatabaseDir+"/db.sqlite", err, "which store path refers to which")
			return false, false
		}
		for user := range users {
			if l.roots[user] {
				return true, true
			}
		}
		if users != nil {
			return false, true
		}
	} else {
		return false, false
	}
	// The database does not know the path: what the systems that are kept install.
	for root := range l.roots {
		if strings.Contains(nixstore.NameOf(root), "nixos-system") || root == l.host.System {
			if l.declaredBy(root, name) == p {
				return true, true
			}
		}
	}
	return false, true
}
