package verify

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/ampoule-vm/ampoule/internal/credential"
	"github.com/ampoule-vm/ampoule/internal/credential/rule"
	"github.com/ampoule-vm/ampoule/internal/devices"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/generator"
	"github.com/ampoule-vm/ampoule/internal/hostfiles"
	"github.com/ampoule-vm/ampoule/internal/inventory"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/preflight"
	"github.com/ampoule-vm/ampoule/internal/spec"
	"github.com/ampoule-vm/ampoule/internal/state"
	"github.com/ampoule-vm/ampoule/internal/systemd"
	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

// survey is what is known of the host.
type survey struct {
	inventory.Place
	generator *generator.Generator
	host      hostfiles.Root
	systemd   int // the version
	root      bool
	managed   bool
	facts     map[string]*Facts
	parsed    map[string][]unitfile.Assignment // drop-ins by their paths
}

// Look gathers the facts of VMs: of those that are named, or of all. The generator
// is one of the same place. The facts come sorted by name, with what there is to say
// of no VM. The error is an inventory.UnknownError for a name that nothing has.
func Look(ctx context.Context, p inventory.Place, g *generator.Generator, names []string) ([]*Facts, diag.List, error) {
	s := &survey{Place: p, generator: g, host: hostfiles.Root(p.Root), root: os.Geteuid() == 0, facts: map[string]*Facts{}, parsed: map[string][]unitfile.Assignment{}}
	s.systemd = s.host.SystemdVersion()
	if err := s.collect(ctx, names); err != nil {
		return nil, nil, err
	}
	out := make([]*Facts, 0, len(s.facts))
	for _, f := range s.facts {
		if !f.nothing() {
			out = append(out, f)
		}
	}
	slices.SortFunc(out, func(a, b *Facts) int { return strings.Compare(a.Name, b.Name) })
	if err := s.known(names); err != nil {
		return nil, nil, err
	}
	notes := s.generator.Notes()
	if len(names) > 0 {
		notes = nil
	}
	return out, notes, nil
}

// nothing: there is no such VM.
func (f *Facts) nothing() bool {
	return f.Made == "" && f.Fragment == "" && !f.runs() && len(f.DropIns) == 0 && (f.Unit == nil || f.Unit.LoadState == "not-found")
}

// known refuses names that nothing has.
func (s *survey) known(names []string) error {
	for _, name := range names {
		if f := s.facts[name]; f == nil || f.nothing() {
			return &inventory.UnknownError{Name: name, Near: diag.Nearest(name, s.generator.VMs())}
		}
	}
	return nil
}

// at returns the facts of a VM; nil for one that nobody asks about.
func (s *survey) at(name string, wanted []string) *Facts {
	if len(wanted) > 0 && !slices.Contains(wanted, name) {
		return nil
	}
	f := s.facts[name]
	if f == nil {
		f = &Facts{Name: name, Root: s.root, Managed: s.managed, Elsewhere: s.Root != ""}
		s.facts[name] = f
	}
	return f
}

func (s *survey) collect(ctx context.Context, names []string) error {
	var client *systemd.Client
	if s.Root == "" {
		var err error
		client, err = systemd.Connect(ctx)
		if err != nil && !errors.Is(err, systemd.ErrAbsent) {
			return err
		}
		if client != nil {
			s.managed = true
			defer client.Close()
		}
	}
	s.files(names)
	if err := s.runs(names); err != nil {
		return err
	}
	s.leftOver(names)
	s.dropIns(names)
	if client != nil {
		if err := s.units(client); err != nil {
			return err
		}
	}
	for _, f := range s.facts {
		s.processes(ctx, f)
	}
	return nil
}

// files asks the generator what it would make now, and compares.
func (s *survey) files(names []string) {
	vms := s.generator.VMs()
	if len(names) > 0 {
		vms = slices.DeleteFunc(slices.Clone(vms), func(vm string) bool { return !slices.Contains(names, vm) })
	}
	for _, vm := range vms {
		s.at(vm, nil)
	}
	var mu sync.Mutex
	s.generator.Each(vms, nil, func(_ int, u generator.Unit) {
		mu.Lock()
		f := s.facts[u.VM]
		mu.Unlock()
		f.Made, f.Problems, f.Files = u.State, u.Problems, u.Files
		f.Masked = u.Masked
		if f.Files != nil {
			f.Files.JSON = nil // memory of the generator's
		}
		s.change(f, u)
	})
}

func isMask(path string) bool {
	target, err := os.Readlink(path)
	return err == nil && target == os.DevNull
}

// fragment is where the generator's unit of a VM lies.
func (s *survey) fragment(unit string) string {
	return filepath.Join(s.Root, generator.Directory, unit)
}

// change compares the unit that the generator would write with the one that the
// last daemon-reload brought.
func (s *survey) change(f *Facts, u generator.Unit) {
	if u.State == generator.Hidden {
		return
	}
	path := s.fragment(u.Name)
	loaded, err := os.ReadFile(path)
	switch {
	case isMask(path) && u.State == generator.Masked:
		f.Fragment = path
		return
	case err != nil || len(loaded) == 0:
		f.Change.Added = u.State == generator.Made || u.State == generator.Failing
		f.Change.Removed = u.State == generator.Masked && err == nil
		return
	case u.State == generator.Masked:
		f.Fragment, f.Change.Removed = path, true
		return
	}
	f.Fragment = path
	if u.State == generator.Kept || u.State == generator.Gone {
		return // it goes on as it was
	}
	f.Change = changeOf(loaded, u.Text, s.systemd, s.Drivers)
	for _, l := range u.Symlinks() {
		if target, err := os.Readlink(filepath.Join(s.Root, generator.Directory, l.Path)); err != nil || target != l.Target {
			// A link is missing: the lines of [Install] were others.
			f.Change.Touched = false
			if key := "Install.WantedBy"; !slices.Contains(f.Change.Lines, key) {
				f.Change.Lines = append(f.Change.Lines, key)
			}
		}
	}
}

// leftOver finds units of the last daemon-reload whose VM is not there any more.
func (s *survey) leftOver(names []string) {
	entries, err := os.ReadDir(s.fragment(""))
	if err != nil {
		return
	}
	for _, e := range entries {
		name, ok := spec.VMOf(e.Name())
		if !ok || s.facts[name] != nil && s.facts[name].Made != "" {
			continue
		}
		if f := s.at(name, names); f != nil {
			f.Fragment = s.fragment(e.Name())
			f.Change.Removed = true
		}
	}
}

// runs takes what the directories of runs say.
func (s *survey) runs(names []string) error {
	runs, err := s.Runs()
	if err != nil {
		return err
	}
	for i := range runs {
		if f := s.at(runs[i].Name, names); f != nil && (f.Run == nil || !f.Run.Running) {
			f.Run = &runs[i]
		}
	}
	return nil
}

// units asks the service manager: once for all, and about each that does
// something or has drop-ins.
func (s *survey) units(client *systemd.Client) error {
	units, err := client.List(spec.UnitName("*"))
	if err != nil {
		return err
	}
	var loaded, busy, failed, changed []*systemd.Unit
	for i := range units {
		u := &units[i]
		f := s.facts[vmOf(u.Name)]
		if f == nil {
			continue
		}
		f.Unit = u
		loaded = append(loaded, u)
		if f.up() {
			busy = append(busy, u)
		}
		if u.ActiveState == "failed" || u.ActiveState == "deactivating" || strings.HasPrefix(u.SubState, "auto-restart") {
			failed = append(failed, u)
		}
		if len(f.DropIns) > 0 {
			changed = append(changed, u)
		}
	}
	for _, q := range []struct {
		units []*systemd.Unit
		names []string
	}{
		{loaded, []string{"DropInPaths"}}, {busy, []string{"MainPID", "InvocationID", "StatusText", "ExecStart", "ExecMainStartTimestamp"}},
		{failed, []string{"Result", "ExecMainCode", "ExecMainStatus"}}, {changed, []string{"ExecStart", "SetCredential"}},
	} {
		if err := client.Ask(q.units, q.names...); err != nil {
			return err
		}
	}
	for _, f := range s.facts {
		s.gone(f)
		if f.Unit, err = inventory.ServiceOf(client, f.Unit, f.Run); err != nil {
			return err
		}
	}
	return nil
}

// vmOf is the VM of a unit's name.
func vmOf(unit string) string {
	return strings.TrimSuffix(strings.TrimPrefix(unit, "microvm@"), ".service")
}

// processes looks at what runs, and at the sources of its credentials.
func (s *survey) processes(ctx context.Context, f *Facts) {
	if s.Root != "" {
		return
	}
	if !f.runs() {
		if p := f.declaredPlan(); p != nil {
			_, f.Sources = credential.Compare(ctx, requests(p), credential.HostEnv(unitOf(f.Name), ""), "")
		}
		return
	}
	pid := 0
	if f.up() {
		pid = f.Unit.MainPID
	}
	if pid == 0 && f.Run != nil {
		pid = f.Run.Pid
	}
	rec := f.record()
	if pid != 0 {
		f.Process = lookAt(pid, rec)
	}
	f.Replaced = replacedSince(rec)
	held := ""
	if f.up() {
		held = filepath.Join("/run/credentials", f.Unit.Name)
		f.Plan = planIn(held)
		if f.Plan == nil || !s.root {
			held = ""
		}
		if f.Plan == nil && rec != nil { // in a unit that was not made for it
			f.Plan = planOfRun(f.Run.Dir, rec.PlanDigest)
		}
		if f.Plan != nil && rec != nil { // it has its hypervisor
			f.Lost = lostDevices(devices.Host(), f.Plan)
			if rec.HypervisorPid != 0 {
				f.Unserved = unserved(f.Plan, rec.HypervisorPid, plan.ShareSocket)
			}
		}
	}
	s.interfaces(f)
	if p := f.plan(); p != nil {
		f.Compared, f.Sources = credential.Compare(ctx, requests(p), credential.HostEnv(f.unitName(), ""), held)
	}
}

// interfaces looks at those that a VM which runs should have.
func (s *survey) interfaces(f *Facts) {
	p := f.Plan
	if p == nil && f.Process != nil {
		// By hand, or not for us to see: what the files come to, if that is what runs.
		if d := f.declaredPlan(); d != nil && d.Digest.VM == f.digest().VM {
			p = d
		}
	}
	if p == nil {
		return
	}
	namespace := ""
	switch {
	case s.root && f.byHand():
		namespace = proc(f.Process.Pid, "ns/net")
	case s.root:
		namespace = hostNetwork
	}
	var err error
	if f.Interfaces, err = interfacesOf(p, namespace); err != nil {
		f.Interfaces, f.InterfacesUnseen = nil, "its interfaces are not seen: "+err.Error()
	}
}

// planIn reads the plan that a service was started with.
func planIn(credentials string) *plan.Plan {
	data, err := os.ReadFile(filepath.Join(credentials, rule.PlanName))
	if err != nil {
		return nil
	}
	p, err := plan.Parse(data)
	if err != nil {
		return nil
	}
	return p
}

// planOfRun reads the plan that the run itself has left, if it is the one of that
// digest.
func planOfRun(dir, digest string) *plan.Plan {
	text, err := state.ReadPlan(dir, plan.MaxBytes)
	if err != nil {
		return nil
	}
	p, err := plan.Parse(text)
	if err != nil || p.Digest.VM != digest {
		return nil
	}
	return p
}

func requests(p *plan.Plan) []credential.Request {
	return preflight.Requests(p, slices.Concat(p.VM.Credentials, p.Unit.Credentials))
}
