// Package generator turns all .microvm files of a host into units. It decides
// unit by unit, and writes them; what a unit looks like is emit's, and what the
// files mean is pipeline's.
//
// It asks nobody: no bus, no program, no network. It needs the files of the
// search path and of systemd's directories, and a place in /run.
package generator

import (
	"fmt"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/emit"
	"github.com/ampoule-vm/ampoule/internal/hostfiles"
	"github.com/ampoule-vm/ampoule/internal/pipeline"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/source"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// Input is what the units are made from.
type Input struct {
	// Root is the directory below which the host's files lie; "" is the host.
	Root    string
	Dirs    []string
	Drivers []driver.Driver
	// Program is the absolute path of ampoule, as the units have it.
	Program string
	// Running names the VMs that a service runs, sorted.
	Running []string
	// Last returns the last good unit of a VM, or nil.
	Last func(vm string) []byte
}

// State says what kind of unit a VM has.
type State string

// The states.
const (
	// Made: the files are in order.
	Made State = "made"
	// Failing: they are not, and the unit says so when it is started.
	Failing State = "failing"
	// Kept: they are not, but the VM runs; its last good unit goes on.
	Kept State = "kept"
	// Gone: the VM runs and is not declared any more.
	Gone State = "gone"
	// Masked: the VM's file is a link to /dev/null.
	Masked State = "masked"
	// Hidden: somebody else provides the unit, and it is left to them.
	Hidden State = "hidden"
)

// Orphaned is what is wrong with drop-ins of Ampoule's without a VM.
const Orphaned = source.Orphaned

// Unit is what becomes of one VM.
type Unit struct {
	VM, Name string
	State    State
	// Masked: the VM's file is a link to /dev/null, whether the VM runs or not. It
	// is not said of a unit that is hidden.
	Masked bool
	// Text is that of the unit; nil where it is masked or hidden.
	Text  []byte
	Links []spec.Link
	// Shares are the units of what serves the VM's shares.
	Shares   []emit.ShareUnit
	Problems diag.List
	// Files is what the VM's files came to, whatever state they are in; nil where
	// they were not read.
	Files *pipeline.Result
}

// Link is a symbolic link beside a unit, by its path from there.
type Link struct {
	Path   string `json:"path"`
	Target string `json:"target"`
}

// Symlinks are those that hang the unit on others and give it further names; of
// one that is masked, the unit itself.
func (u Unit) Symlinks() []Link {
	if u.State == Masked {
		return []Link{{u.Name, "/dev/null"}}
	}
	var out []Link
	for _, l := range u.Links {
		if l.Directory == "" {
			out = append(out, Link{l.Name, u.Name})
		} else {
			out = append(out, Link{l.Directory + "/" + l.Name, "../" + u.Name})
		}
	}
	return out
}

// Generator knows the host's files as they were when it was made.
type Generator struct {
	in        Input
	tree      *source.Tree
	providers hostfiles.Providers
	kvmGroup  string
	prepared  []string
	systemd   int
	orphans   []string
	notes     diag.List
}

// New looks at the host.
func New(in Input) *Generator {
	host := hostfiles.Root(in.Root)
	g := &Generator{in: in, tree: source.Scan(in.Root, in.Dirs), providers: host.Providers(), systemd: host.SystemdVersion(), prepared: host.Prepared()}
	if host.HasGroup(kvmGroup) {
		g.kvmGroup = kvmGroup
	}
	g.orphans, g.notes = g.tree.Orphans()
	g.notes = append(g.notes, g.tree.Problems()...)
	return g
}

// kvmGroup is the group of /dev/kvm by systemd's own rules (50-udev-default.rules).
const kvmGroup = "kvm"

// Notes are the findings that belong to no VM.
func (g *Generator) Notes() diag.List { return g.notes }

// Providers are the files of others that provide units.
func (g *Generator) Providers() hostfiles.Providers { return g.providers }

// VMs lists all that get a unit: what is declared, drop-ins without a VM, and
// what runs in a unit of ours, sorted.
func (g *Generator) VMs() []string {
	vms := slices.Concat(g.tree.Names(), g.orphans)
	for _, vm := range g.in.Running {
		if _, declared := slices.BinarySearch(g.tree.Names(), vm); declared {
			continue
		}
		// One without a last good unit runs in a unit of somebody else's
		// (ampoule plan --unit), or is what a killed run by hand left.
		if g.in.Last(vm) != nil {
			vms = append(vms, vm)
		}
	}
	slices.Sort(vms)
	return slices.Compact(vms)
}

// Each makes the units of VMs and hands each to do, from several goroutines at
// once and in no order, but that those of first come first: should a file of
// another hang, they have their units. The text of a unit is good until do
// returns.
func (g *Generator) Each(vms, first []string, do func(i int, u Unit)) {
	order := make([]int, 0, len(vms))
	for _, wanted := range []bool{true, false} {
		for i, vm := range vms {
			if _, ok := slices.BinarySearch(first, vm); ok == wanted {
				order = append(order, i)
			}
		}
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(vms)) {
		wg.Go(func() {
			var room emit.Room
			for {
				n := int(next.Add(1)) - 1
				if n >= len(order) {
					return
				}
				i := order[n]
				do(i, g.Unit(vms[i], &room))
			}
		})
	}
	wg.Wait()
}

// Unit decides what becomes of a VM. Its text may lie in room.
func (g *Generator) Unit(vm string, room *emit.Room) Unit {
	u := Unit{VM: vm, Name: unitName(vm)}
	_, running := slices.BinarySearch(g.in.Running, vm)
	file, masked := g.tree.Masked(vm)
	by := g.providers.Of(u.Name)
	u.Masked = masked && by == ""
	switch {
	case by != "":
		g.hide(&u, file, by)
	case masked && running:
		g.gone(&u, file, "the VM is masked")
	case masked:
		u.State = Masked
	case file == "" && running && !slices.Contains(g.orphans, vm):
		g.gone(&u, path.Join(g.in.Dirs[0], vm+source.Suffix), "the file was removed")
	default:
		g.load(&u, running, room)
	}
	return u
}

// unitName is that of the VM's service. A name that no VM may have is escaped as
// systemd does, so that the unit which says so can have it.
func unitName(vm string) string {
	if spec.CheckName(vm) == nil {
		return spec.UnitName(vm)
	}
	var b strings.Builder
	for i := range len(vm) {
		switch c := vm[i]; {
		case c >= '0' && c <= '9', c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z', c == '_', c == '.' && i > 0, c == '-':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, `\x%02x`, c)
		}
	}
	return spec.UnitName(b.String())
}

// hide leaves the unit to whoever provides it.
func (g *Generator) hide(u *Unit, file, by string) {
	u.State = Hidden
	if file == "" {
		file = by
	}
	u.Problems.Add(clash(u.Name, file, by))
}

// clash is what is wrong with a VM whose unit somebody else provides.
func clash(unit, file, by string) diag.Problem {
	return diag.Problem{
		Origin: diag.Origin{File: file, Line: 1},
		What:   fmt.Sprintf("%s is provided by %s, and is left as it is", unit, by), Accepted: "give the VM another name, or remove that unit",
	}
}

// CheckUnit says what would keep the files of a VM, which are in order as far as
// a run by hand goes, from becoming a unit of the host below root.
func CheckUnit(root string, res pipeline.Result) diag.List {
	var problems diag.List
	host := hostfiles.Root(root)
	if by := host.Providers().Of(spec.UnitName(res.Source.Name)); by != "" {
		problems.Add(clash(spec.UnitName(res.Source.Name), res.Source.Main, by))
	}
	if version := host.SystemdVersion(); version > 0 && res.VM != nil {
		problems = append(problems, spec.CheckUnitVersion(res.VM, version)...)
	}
	return problems
}

// load makes a unit of the VM's files, whatever state they are in.
func (g *Generator) load(u *Unit, running bool, room *emit.Room) {
	res := pipeline.Load(pipeline.Input{Argument: u.VM, Tree: g.tree, Drivers: g.in.Drivers, JSON: room.JSON})
	room.JSON = res.JSON
	u.Problems, u.Files = res.Problems, &res
	if g.systemd > 0 && res.Resolved != nil {
		u.Problems = append(u.Problems, spec.CheckHostVersion(res.Resolved, g.systemd)...)
		u.Problems = append(u.Problems, spec.CheckUnitVersion(res.VM, g.systemd)...)
	}
	if res.VM != nil {
		u.Links = slices.Clone(res.VM.Install)
		for i := range u.Links {
			if u.Links[i].Directory != "" {
				u.Links[i].Name = u.Name // also where it had to be escaped
			}
		}
	}
	if !u.Problems.HasErrors() {
		var err error
		if u.Text, u.Shares, err = g.unit(res, room); err == nil {
			u.State = Made
			return
		}
		u.Problems.Add(diag.Problem{Origin: diag.Origin{File: res.Source.Main, Line: 1}, What: fmt.Sprintf("this cannot be written as a unit: %v", err)})
	}
	u.Problems.Sort()
	if running && g.keep(u, emit.Broken) {
		u.State = Kept
		return
	}
	g.fail(u, res)
}

// unit writes the unit of a plan, and those of its shares.
func (g *Generator) unit(res pipeline.Result, room *emit.Room) ([]byte, []emit.ShareUnit, error) {
	_, prepared := slices.BinarySearch(g.prepared, res.Source.Name)
	source := emit.UnitSource{
		Room: room, Plan: res.Plan, JSON: res.JSON, Resolved: res.Resolved, Main: res.Source.Main, Files: res.Files(), Program: g.in.Program, KVMGroup: g.kvmGroup,
		Prepared: prepared,
	}
	shares, err := emit.ShareUnits(source)
	if err != nil {
		return nil, nil, err
	}
	text, err := emit.Unit(source)
	return text, shares, err
}

// fail writes the unit that says what is wrong.
func (g *Generator) fail(u *Unit, res pipeline.Result) {
	u.State = Failing
	s := emit.FailingSource{
		Name: u.VM, Main: g.sourceOf(u.VM, res.Source), Program: g.in.Program, Problems: u.Problems, Resolved: res.Resolved,
		StopTimeout: plan.Milliseconds(spec.DefaultStopTimeout.Milliseconds()),
	}
	if res.Draft != nil {
		s.StopTimeout = res.Draft.VM.StopTimeout
	}
	var err error
	if u.Text, err = emit.Failing(s); err != nil {
		u.Problems.Add(diag.Problem{Origin: diag.Origin{File: res.Source.Main, Line: 1}, What: fmt.Sprintf("its unit cannot be written: %v", err)})
	}
}

// sourceOf is the file by which systemd sees that a daemon-reload is due: one
// that is there.
func (g *Generator) sourceOf(vm string, set source.Set) string {
	if slices.Contains(g.orphans, vm) {
		return g.tree.DropIns(vm)
	}
	return path.Clean(set.Main)
}

// gone keeps the unit of a VM that runs and is not declared.
func (g *Generator) gone(u *Unit, file, why string) {
	u.State = Gone
	u.Problems.Add(diag.Problem{Origin: diag.Origin{File: file, Line: 1}, What: why, Accepted: "the VM runs on, and does not start again"})
	if !g.keep(u, emit.Gone) {
		g.fail(u, pipeline.Result{Source: source.Set{Main: file}})
		u.State = Gone
	}
}

// keep makes the unit of the last good one, if there is one.
func (g *Generator) keep(u *Unit, fate emit.Fate) bool {
	last := g.in.Last(u.VM)
	if last == nil {
		return false
	}
	text, err := emit.Kept(last, u.VM, g.in.Program, fate, u.Problems)
	if err == nil {
		u.Shares, err = emit.KeptShares(last, g.in.Program)
	}
	if err != nil {
		return false
	}
	u.Text = text
	if fate == emit.Gone {
		u.Links = nil
	}
	return true
}
