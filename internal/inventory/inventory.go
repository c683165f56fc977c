// Package inventory knows every VM of a host once: from the files that declare
// it, from the service manager that has loaded it, and from the directory of
// the run, which also finds what was started by hand. It changes nothing.
//
// What lives here: looking at the three, what they come to in words, and
// whether they agree. What must not: tables and JSON, the service manager's
// protocol, what the files mean.
package inventory

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/pipeline"
	"github.com/ampoule-vm/ampoule/internal/source"
	"github.com/ampoule-vm/ampoule/internal/spec"
	"github.com/ampoule-vm/ampoule/internal/state"
	"github.com/ampoule-vm/ampoule/internal/systemd"
)

// Place is where to look.
type Place struct {
	// Root is the directory below which files are looked for; "" is this host,
	// which alone has a service manager to be asked.
	Root string
	// Dirs are those of the search path, the strongest first.
	Dirs    []string
	Drivers []driver.Driver
	Getenv  func(string) string
}

// declaration is a VM of the search path, or drop-ins without one.
type declaration struct {
	file   string
	masked bool
	orphan bool
}

// facts is all that is known of one VM.
type facts struct {
	name     string
	declared *declaration
	unit     *systemd.Unit
	run      *state.Instance
	// runs is the digest of the plan that runs, if known.
	runs string
	// mistakes is whether the files have some; it is looked up where nothing
	// else tells what the VM is.
	mistakes func() bool
}

// survey collects the facts of all VMs.
type survey struct {
	Place
	tree *source.Tree
	vms  map[string]*facts
	// managed is false where there is no service manager to be asked.
	managed bool
}

func (p Place) survey() (*survey, error) {
	s := &survey{Place: p, tree: source.Scan(p.Root, p.Dirs), vms: map[string]*facts{}}
	for name, d := range p.declared(s.tree) {
		s.at(name).declared = &d
	}
	runs, err := p.Runs()
	if err != nil {
		return nil, err
	}
	for i := range runs {
		if f := s.at(runs[i].Name); f.run == nil || !f.run.Running {
			f.run = &runs[i]
		}
	}
	return s, nil
}

// at returns the facts of a VM.
func (s *survey) at(name string) *facts {
	f := s.vms[name]
	if f == nil {
		f = &facts{name: name, mistakes: func() bool { return s.load(s.tree, name).Problems.HasErrors() }}
		s.vms[name] = f
	}
	return f
}

// connect finds the service manager; nil where there is none to be asked.
func (s *survey) connect(ctx context.Context) (*systemd.Client, error) {
	if s.Root != "" {
		return nil, nil
	}
	client, err := systemd.Connect(ctx)
	if errors.Is(err, systemd.ErrAbsent) {
		return nil, nil
	}
	s.managed = true
	return client, err
}

// List returns all VMs, by name.
func List(ctx context.Context, p Place) ([]VM, error) {
	s, err := p.all(ctx)
	if err != nil {
		return nil, err
	}
	var vms []VM
	all := interfaces(p.Root, s.vms)
	for _, f := range s.vms {
		if vm, ok := f.judge(s.managed); ok {
			vm.Interfaces = of(all, vm.Name)
			vms = append(vms, vm)
		}
	}
	slices.SortFunc(vms, func(a, b VM) int { return strings.Compare(a.Name, b.Name) })
	return vms, nil
}

// all collects the facts of all VMs, those of the service manager included.
func (p Place) all(ctx context.Context) (*survey, error) {
	s, err := p.survey()
	if err != nil {
		return nil, err
	}
	client, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	if client != nil {
		defer client.Close()
		if err := s.units(client); err != nil {
			return nil, err
		}
	}
	for _, f := range s.vms {
		f.runs = runningDigest(f)
	}
	return s, nil
}

func (p Place) load(tree *source.Tree, name string) pipeline.Result {
	return pipeline.Load(pipeline.Input{Argument: name, Tree: tree, Drivers: p.Drivers})
}

// declared lists what the files declare.
func (p Place) declared(tree *source.Tree) map[string]declaration {
	out := map[string]declaration{}
	for _, name := range tree.Names() {
		file, masked := tree.Masked(name)
		out[name] = declaration{file: file, masked: masked}
	}
	orphans, _ := tree.Orphans()
	for _, name := range orphans {
		out[name] = declaration{file: tree.DropIns(name), orphan: true}
	}
	return out
}

// Runs lists the directories of runs: the system's, and those of this user.
func (p Place) Runs() ([]state.Instance, error) {
	out, err := state.List(p.Root)
	if err != nil || p.Root != "" {
		return out, err
	}
	own := filepath.Dir(state.ByHandDirectories("x", p.Getenv).Runtime)
	if own == "." || own == filepath.Join("/", state.ByHand) {
		return out, nil
	}
	entries, err := os.ReadDir(own)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("looking for running VMs: %w", err)
	}
	for _, e := range entries {
		if i, ok := state.Look(filepath.Join(own, e.Name())); ok && spec.CheckName(i.Name) == nil {
			out = append(out, i)
		}
	}
	return out, nil
}

// units asks the service manager about everything known, and what else it has.
func (s *survey) units(client *systemd.Client) error {
	var names []string
	for name := range s.vms {
		if spec.CheckName(name) == nil {
			names = append(names, spec.UnitName(name))
		}
	}
	units, err := client.Units(spec.UnitName("*"), names)
	if err != nil {
		return err
	}
	for i := range units {
		u := &units[i]
		name := vmOf(u)
		if !isOurs(u) && s.vms[name] == nil {
			continue
		}
		// A copy of a unit names the same file. The VM's own counts, or else one
		// that is up.
		if old := s.at(name).unit; old == nil || old.Name != spec.UnitName(name) && (u.Name == spec.UnitName(name) || IsUp(u)) {
			s.at(name).unit = u
		}
	}
	for _, f := range s.vms {
		if err := f.custom(client); err != nil {
			return err
		}
	}
	return nil
}

// custom finds the service of a VM that runs under a unit of another name.
func (f *facts) custom(client *systemd.Client) (err error) {
	f.unit, err = ServiceOf(client, f.unit, f.run)
	return err
}

// ServiceOf is the service in which a VM runs: its own unit if that is up, else the
// one of another name to which the process of the run belongs. Where there is none
// it is the VM's own, which may be nil.
func ServiceOf(client *systemd.Client, own *systemd.Unit, run *state.Instance) (*systemd.Unit, error) {
	if run == nil || !run.Running || !run.Service || run.Pid == 0 || own != nil && IsUp(own) {
		return own, nil
	}
	name, err := client.UnitOfPID(run.Pid)
	if err != nil || !strings.HasSuffix(name, ".service") {
		return own, nil // it has just ended, or is in no service after all
	}
	u, err := client.Unit(name)
	if err == nil && u.MainPID == run.Pid {
		return &u, nil
	}
	return own, err
}

// isOurs tells our units from others of the same pattern.
func isOurs(u *systemd.Unit) bool { return strings.HasSuffix(u.SourcePath, source.Suffix) }

// vmOf is the VM of a unit: by the file that it was made from, since the name of
// a unit may be escaped.
func vmOf(u *systemd.Unit) string {
	if name, ok := strings.CutSuffix(path.Base(u.SourcePath), source.Suffix); ok && name != "" {
		return name
	}
	return strings.TrimSuffix(strings.TrimPrefix(u.Name, "microvm@"), ".service")
}
