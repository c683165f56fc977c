package diagnose

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ampoule-vm/ampoule/internal/nixstore"
)

// Where NixOS has what runs.
const (
	currentSystem = "/run/current-system"
	bootedSystem  = "/run/booted-system"
	// defaultState is microvm.nix's state directory where no unit says another.
	defaultState = "/var/lib/microvms"
	// microvmRoots are the roots that microvm.nix's own command makes.
	microvmRoots = "/nix/var/nix/gcroots/microvm"
)

// maxFile bounds what is read of a file.
const maxFile = 4 << 20

// pattern compiles an expression when it is first used.
func pattern(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}

// looker gathers facts from a tree.
type looker struct {
	tree  *nixstore.Tree
	host  *Host
	units *units
	// db is nil where there is none that can be read.
	db *nixstore.Database
	// store is what of the store is of interest; storeKnown: it could be listed.
	store      nixstore.Listing
	storeKnown bool
	// roots are the store paths that roots lead to, rootsKnown: all could be read.
	roots      map[string]bool
	rootsKnown bool
	groups     map[uint32]string
	makers     []maker
	guests     map[string][]Wanted
	said       map[string]bool
	// config are the files of the sources.
	config []sourceFile
}

// Look gathers the facts of a host in a tree. program is Ampoule's own path, which
// cures name. There is no error: what cannot be known is in Host.Partial.
func Look(tree *nixstore.Tree, program string) *Host {
	l := &looker{tree: tree, host: &Host{Root: tree.Host("/"), Program: program}, said: map[string]bool{}, guests: map[string][]Wanted{}}
	h := l.host
	l.system()
	l.unitDir()
	l.units = newUnits(l, l.ownUnits())
	if !slices.Contains(l.units.dirs, h.UnitDir) {
		h.UnitDir = "" // it is there, and may not be looked into
	}
	l.stateDir()
	l.openStore()
	defer l.db.Close()
	processes := l.processes()
	for _, name := range l.vmNames(processes) {
		if vm := l.vm(name, processes); !vm.generated() {
			h.VMs = append(h.VMs, vm)
		}
	}
	l.sources()
	for _, vm := range h.VMs {
		l.leaks(vm)
	}
	l.rootUnits()
	if l.db != nil {
		if err := l.db.Steady(); err != nil {
			l.partial(nixstore.DatabaseDir+"/db.sqlite", err, "whether the references between store paths are of one moment")
		}
	}
	return h
}

// partial notes, once for each path, that something is not known.
func (l *looker) partial(p string, err error, unknown string) {
	if l.said[p] {
		return
	}
	l.said[p] = true
	var at *fs.PathError
	if errors.As(err, &at) {
		err = at.Err
	}
	l.host.Partial = append(l.host.Partial, Partial{Path: p, Why: why(err), Unknown: unknown})
}

// why is an error in words.
func why(err error) string {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "permission denied"
	case errors.Is(err, fs.ErrNotExist):
		return "it is not there"
	case errors.Is(err, nixstore.ErrLoop):
		return "links that lead in a circle"
	}
	return err.Error()
}

// read returns a file; false where it is not there, or, which is noted, could not be
// read.
func (l *looker) read(p, unknown string) ([]byte, bool) {
	text, err := l.tree.ReadFile(p, maxFile)
	if err != nil {
		if !nixstore.Missing(err) {
			l.partial(p, err, unknown)
		}
		return nil, false
	}
	return text, true
}

// names lists a directory, as read does.
func (l *looker) names(dir, unknown string) ([]string, bool) {
	names, err := l.tree.Names(dir)
	if err != nil {
		if !nixstore.Missing(err) {
			l.partial(dir, err, unknown)
		}
		return nil, false
	}
	return names, true
}

// stat is what is behind a path; nil where nothing is, or, which is noted, it could
// not be seen.
func (l *looker) stat(p, unknown string) *nixstore.Info {
	info, err := l.tree.Stat(p)
	if err != nil {
		if !nixstore.Missing(err) {
			l.partial(p, err, unknown)
		}
		return nil
	}
	return &info
}

// storePath is the store path behind a link, or in it where there is nothing.
func (l *looker) storePath(link string) string {
	if p, err := l.tree.Resolve(link); err == nil {
		return nixstore.Of(p)
	}
	target, err := l.tree.Readlink(link)
	if err != nil {
		return ""
	}
	return nixstore.Of(target)
}

// system finds the current system, the booted one, and the profile.
func (l *looker) system() {
	h := l.host
	profile, err := nixstore.ReadProfile(l.tree, "system")
	if err != nil && !nixstore.Missing(err) {
		l.partial(profile.Link, err, "which system the profile names, and its generations")
	}
	h.Profile = profile
	if info, err := l.tree.Lstat(currentSystem); err == nil {
		h.Running, h.System, h.Activated = true, l.storePath(currentSystem), info.Modified
	} else if !nixstore.Missing(err) {
		l.partial(currentSystem, err, "which system runs")
	}
	if h.System == "" && !h.Running {
		h.System = profile.Target
	}
	variants, _ := l.names(path.Join(profile.Target, "specialisation"), "which variants the system has")
	for _, v := range variants {
		if h.System != "" && l.storePath(path.Join(profile.Target, "specialisation", v)) == h.System {
			h.Specialisation = v
		}
	}
	for _, g := range profile.Of(h.System) {
		if g.Made.After(h.Activated) {
			h.Activated = g.Made
		}
	}
	if !h.Running {
		return
	}
	if h.Booted = l.storePath(bootedSystem); h.Booted == "" {
		return
	}
	for _, part := range []string{"kernel", "initrd", "kernel-modules"} {
		before, err1 := l.tree.Resolve(path.Join(bootedSystem, part))
		after, err2 := l.tree.Resolve(path.Join(currentSystem, part))
		if err1 == nil && err2 == nil && before != after {
			h.Stale = append(h.Stale, Difference{part, before, after})
		}
	}
}

// ownUnits is the directory of the units that NixOS makes.
func (l *looker) ownUnits() string {
	if l.host.UnitDir == "" {
		return etcUnits
	}
	return l.host.UnitDir
}

// unitDir finds it: linked into /etc on a host that was activated, else in the
// system itself.
func (l *looker) unitDir() {
	candidates := []string{etcUnits}
	if l.host.System != "" {
		candidates = append(candidates, path.Join(l.host.System, etcUnits))
	}
	for _, dir := range candidates {
		info, err := l.tree.Stat(dir)
		if err == nil && info.Mode.IsDir() {
			l.host.UnitDir = dir
			return
		}
		if err != nil && !nixstore.Missing(err) {
			l.partial(dir, err, "the units of the host")
			return
		}
	}
	l.partial(candidates[len(candidates)-1], fs.ErrNotExist, "the units of the host, and so which VMs are declared")
}

// inInstance finds the directory of a VM in a line of a template.
var inInstance = pattern(`(/[^\s"'%]*)/%i(?:/|$|[\s"'])`)

// stateDir takes the state directory from the units.
func (l *looker) stateDir() {
	h := l.host
	h.StateDir = defaultState
	unit := l.units.find("microvm@.service")
	for _, key := range [][2]string{{"Service", "WorkingDirectory"}, {"Unit", "ConditionPathExists"}, {"Service", "ExecStart"}, {"Service", "ExecStop"}} {
		for _, e := range unit.values(key[0], key[1]) {
			if m := inInstance().FindStringSubmatch(e.Value); m != nil {
				h.StateDir = path.Clean(m[1])
				goto found
			}
		}
	}
found:
	h.State = l.stat(h.StateDir, "which VMs are installed")
	_, err := l.tree.Names(h.StateDir)
	h.stateUnseen = err != nil && !nixstore.Missing(err)
	if text, ok := l.read("/etc/group", "which group is called kvm"); ok {
		l.groups = map[uint32]string{}
		for line := range strings.Lines(string(text)) {
			f := strings.Split(strings.TrimSpace(line), ":")
			if len(f) < 3 {
				continue
			}
			if n, err := strconv.ParseUint(f[2], 10, 32); err == nil {
				l.groups[uint32(n)] = f[0]
			}
		}
	}
}

// openStore lists the store, opens its database and reads the roots.
func (l *looker) openStore() {
	var err error
	l.store, err = nixstore.List(l.tree)
	noNix := err != nil && nixstore.Missing(err)
	switch {
	case noNix:
		l.partial(nixstore.StoreDir, errorOf("it is not there: this is no host with Nix"), "which runners, run scripts and sources there are")
	case err != nil:
		l.partial(nixstore.StoreDir, err, "which other run scripts and sources there are")
	default:
		l.storeKnown = true
	}
	if l.db, err = nixstore.OpenDatabase(l.tree); err != nil && !(noNix && nixstore.Missing(err)) {
		p := nixstore.DatabaseDir + "/db.sqlite"
		l.partial(p, trimPath(err, p), "which store path refers to which; scripts and units were searched for their names instead")
	}
	roots, problems := nixstore.Roots(l.tree)
	l.roots, l.rootsKnown = map[string]bool{}, len(problems) == 0
	for _, r := range roots {
		l.roots[r.Path] = true
	}
	for _, p := range problems {
		var at *fs.PathError
		if errors.As(p, &at) {
			l.partial(at.Path, p, "which store paths are kept from garbage collection")
		}
	}
	if l.host.System != "" {
		l.roots[l.host.System] = true
	}
}

// trimPath removes a path that a message begins with.
func trimPath(err error, p string) error {
	if rest, ok := strings.CutPrefix(err.Error(), p+": "); ok {
		return errors.New(rest)
	}
	return err
}

// instances are the names behind the @ of drop-in directories and units.
func (l *looker) instances(add func(string)) {
	for _, set := range l.units.listed {
		for entry := range set {
			if name, ok := strings.CutPrefix(entry, "install-microvm-"); ok {
				if name, ok = strings.CutSuffix(name, ".service"); ok && name != "" {
					add(name)
				}
				continue
			}
			name, ok := strings.CutPrefix(entry, "microvm@")
			if !ok {
				continue
			}
			name = strings.TrimSuffix(name, ".d")
			if name, ok = strings.CutSuffix(name, ".service"); ok && name != "" {
				add(name)
			}
		}
	}
}

// vmNames lists the VMs: those that are declared, installed, or running.
func (l *looker) vmNames(processes map[string][]Process) []string {
	var names []string
	add := func(name string) {
		if !strings.ContainsAny(name, "/\n\x00") && name != "." && name != ".." {
			names = append(names, name)
		}
	}
	l.instances(add)
	entries, _ := l.names(l.host.StateDir, "which VMs are installed")
	for _, e := range entries {
		dir := path.Join(l.host.StateDir, e)
		for _, file := range []string{"current", "booted", "flake", "toplevel"} {
			if _, err := l.tree.Lstat(path.Join(dir, file)); err == nil {
				add(e)
				break
			} else if !nixstore.Missing(err) {
				l.partial(dir, err, "the VM "+e)
				add(e)
				break
			}
		}
	}
	for name := range processes {
		add(name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// generated reports whether a VM has nothing but a unit that a generator makes: it is
// Ampoule's own, of which verify tells.
func (vm *VM) generated() bool {
	return vm.Unit != nil && strings.HasPrefix(vm.Unit.Fragment, "/run/systemd/generator") && vm.Install == nil && vm.DirInfo == nil && !vm.dirUnseen
}

// rootUnits looks for units that execute as root what lies in a VM's directory.
func (l *looker) rootUnits() {
	h := l.host
	inside := path.Join(h.StateDir, "%i") + "/"
	for _, name := range []string{"microvm-tap-interfaces@.service", "microvm-macvtap-interfaces@.service", "microvm-pci-devices@.service", "microvm-virtiofsd@.service", "microvm@.service"} {
		u := l.units.find(name)
		user, _ := u.last("Service", "User")
		asRoot := user.Value == "" || user.Value == "root" || user.Value == "0"
		var found *Evidence
		for _, key := range []string{"ExecStartPre", "ExecStart", "ExecStartPost", "ExecStop", "ExecStopPost"} {
			for _, e := range u.values("Service", key) {
				_, forced := program(e.Value)
				if !(asRoot || forced) || !strings.Contains(e.Value, inside) {
					continue
				}
				if found == nil {
					first := at(e, "root executes what is in the VM's directory by "+key+"=")
					found = &first
				} else if !strings.Contains(found.What, key+"=") {
					found.What += ", " + key + "="
				}
			}
		}
		if found != nil {
			h.RootUnits = append(h.RootUnits, *found)
		}
	}
}

// link reads one of a VM's links to a runner.
func (l *looker) link(p string) Link {
	k := Link{Path: p}
	info, err := l.tree.Lstat(p)
	if err != nil {
		if !nixstore.Missing(err) {
			k.Unseen = true
			l.partial(p, err, "which runner the VM has")
		}
		return k
	}
	k.There, k.Made = true, info.Modified
	real, err := l.tree.Resolve(p)
	if err == nil {
		_, err = l.tree.Lstat(real)
	}
	switch {
	case err == nil:
		k.Target = real
		if s := nixstore.Of(real); s != "" {
			k.Target = s
		}
	case nixstore.Missing(err) || errors.Is(err, nixstore.ErrLoop):
		k.Dangling = true
		if target, err := l.tree.Readlink(p); err == nil {
			k.Target = path.Clean(path.Join("/", target))
			if !path.IsAbs(target) {
				k.Target = path.Join(path.Dir(p), target)
			}
		}
	default:
		l.partial(p, err, "which runner the VM has")
	}
	return k
}

// later reports whether a moment is after another, both known. The clock of a file
// system is coarse.
func later(a, b time.Time) bool { return !a.IsZero() && !b.IsZero() && a.After(b) }

// built is when a store path came into the store, zero where that is not known.
func (l *looker) built(p string) time.Time {
	if l.db == nil {
		return time.Time{}
	}
	v, _, _ := l.db.Look(p)
	return v.Registered
}

// count is a number with a word.
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
