package apply

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/emit"
	"github.com/ampoule-vm/ampoule/internal/generator"
	"github.com/ampoule-vm/ampoule/internal/hostfiles"
	"github.com/ampoule-vm/ampoule/internal/inventory"
	"github.com/ampoule-vm/ampoule/internal/pipeline"
	"github.com/ampoule-vm/ampoule/internal/spec"
	"github.com/ampoule-vm/ampoule/internal/systemd"
)

// Host is all that is known.
type Host struct {
	// Steps are those of all VMs, or of those that were named, by name.
	Steps []Step
	// Notes belong to no VM.
	Notes diag.List
	// Managed: there is a service manager that can be asked.
	Managed bool
}

// Look says what is to be done about VMs: about those that are named, or about
// all. The generator is one of the same place. The error is an inventory.UnknownError for a name that nothing has.
func Look(ctx context.Context, p inventory.Place, g *generator.Generator, names []string) (*Host, error) {
	runs, managed, err := inventory.Runs(ctx, p)
	if err != nil {
		return nil, err
	}
	s := &survey{root: p.Root, facts: map[string]*Facts{}, links: map[string][]spec.Link{}, managed: managed, version: hostfiles.Root(p.Root).SystemdVersion()}
	for _, st := range runs {
		s.at(st.Name).Status = st
	}
	s.leftOver()
	for _, name := range names {
		if _, known := slices.BinarySearch(g.VMs(), name); !known && s.facts[name] == nil {
			return nil, &inventory.UnknownError{Name: name, Near: diag.Nearest(name, g.VMs())}
		}
	}
	s.files(g, names)
	for _, f := range s.facts {
		f.settle(p.Drivers)
	}
	if managed {
		if err := s.ask(ctx); err != nil {
			return nil, err
		}
	}
	h := &Host{Managed: managed}
	if len(names) == 0 {
		h.Notes = g.Notes()
	}
	for name, f := range s.facts {
		if len(names) == 0 || slices.Contains(names, name) {
			h.Steps = append(h.Steps, Judge(f))
		}
	}
	slices.SortFunc(h.Steps, func(a, b Step) int { return strings.Compare(a.Name, b.Name) })
	return h, nil
}

// survey is what is known of the host.
type survey struct {
	root    string
	managed bool
	version int
	facts   map[string]*Facts
	links   map[string][]spec.Link
}

func (s *survey) at(name string) *Facts {
	f := s.facts[name]
	if f == nil {
		f = &Facts{Name: name, Linked: true, Managed: s.managed, Version: s.version}
		s.facts[name] = f
	}
	return f
}

// fragment is where the generator's unit lies that was loaded.
func (s *survey) fragment(unit string) string {
	return filepath.Join(s.root, generator.Directory, unit)
}

// leftOver finds the VMs that have a unit since the last daemon-reload.
func (s *survey) leftOver() {
	entries, err := os.ReadDir(s.fragment(""))
	if err != nil {
		return // there are no generated units
	}
	for _, e := range entries {
		name, ok := spec.VMOf(e.Name())
		if !ok {
			continue
		}
		f := s.at(name)
		if target, err := os.Readlink(s.fragment(e.Name())); err == nil {
			f.LoadedText = []byte(target)
			continue
		}
		if text, err := os.ReadFile(s.fragment(e.Name())); err == nil && len(text) > 0 {
			f.LoadedText, f.Loaded, f.Ours = text, emit.PlanOf(text), true
		}
	}
}

// files asks the generator what it would make now.
func (s *survey) files(g *generator.Generator, names []string) {
	vms := g.VMs()
	if len(names) > 0 {
		vms = slices.DeleteFunc(slices.Clone(vms), func(vm string) bool { return !slices.Contains(names, vm) })
	}
	for _, vm := range vms {
		s.at(vm)
	}
	var mu sync.Mutex
	g.Each(vms, nil, func(_ int, u generator.Unit) {
		text := bytes.Clone(u.Text)
		mu.Lock()
		defer mu.Unlock()
		f := s.facts[u.VM]
		f.Made, f.Problems, f.Text = u.State, u.Problems, text
		f.Masked = u.Masked
		if u.State == generator.Masked {
			f.Text = []byte(os.DevNull)
		}
		if u.State == generator.Made {
			f.Declared, s.links[u.VM] = u.Files.Plan, u.Links
		}
		for _, l := range u.Symlinks() {
			target, err := os.Readlink(s.fragment(l.Path))
			f.Linked = f.Linked && err == nil && target == l.Target
		}
	})
}

// settle completes the loaded plan where it waited for an image that is there now,
// and the files come to one that does not wait.
func (f *Facts) settle(drivers []driver.Driver) {
	if f.Loaded == nil || f.Declared == nil || !f.Loaded.VM.Waits() || f.Declared.VM.Waits() {
		return
	}
	if p, _ := pipeline.AtStart(f.Loaded, drivers); p != nil {
		f.Loaded, f.Settled = p, true
	}
}

// ask asks the service manager who wants the VMs that do not run, and whether
// they ever did.
func (s *survey) ask(ctx context.Context) error {
	client, err := systemd.Connect(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	targets := map[string]*systemd.Unit{}
	services := map[string]*systemd.Unit{}
	var asked, own []*systemd.Unit
	for name, f := range s.facts {
		if f.Made != generator.Made || f.Status != nil && f.Status.Running || len(s.links[name]) == 0 {
			continue
		}
		services[name] = &systemd.Unit{Name: f.unit()}
		own = append(own, services[name])
		for _, l := range s.links[name] {
			if target := wanting(l); target != "" && targets[target] == nil {
				targets[target] = &systemd.Unit{Name: target}
				asked = append(asked, targets[target])
			}
		}
	}
	if err := client.Ask(asked, "ActiveState"); err != nil {
		return err
	}
	if err := client.Ask(own, "InvocationID"); err != nil {
		return err
	}
	for name, u := range services {
		f := s.facts[name]
		f.Fresh = u.Invocation == "" || strings.Trim(u.Invocation, "0") == ""
		for _, l := range s.links[name] {
			if t := targets[wanting(l)]; t != nil && f.Wanted == "" && (t.ActiveState == "active" || t.ActiveState == "activating") {
				f.Wanted = t.Name
			}
		}
	}
	return nil
}

// wanting is the unit on which a link hangs the VM's; empty: none.
func wanting(l spec.Link) string {
	return strings.TrimSuffix(l.Directory, filepath.Ext(l.Directory))
}
