package pipeline

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/layer"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/source"
	"github.com/ampoule-vm/ampoule/internal/spec"
	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

// imageOf is the directory that the host's lines name; empty: there is none, or
// the line has a mistake, which is found where the VM is read.
func imageOf(id spec.Identity, resolved *layer.Resolved) string {
	for e := range resolved.Group(spec.Section, "Image").Live() {
		dir, err := id.Expand(e.Value)
		if err != nil {
			return ""
		}
		if dir, err = spec.ParseAbsolutePath(dir); err == nil {
			return dir
		}
	}
	return ""
}

// parseImage makes the weakest layer of an image's file.
func parseImage(image source.Image) (*unitfile.File, diag.List) {
	f := unitfile.Parse(image.File.Path, spec.ImageLayer, image.File.Data)
	problems := spec.CheckFile(f)
	return f, append(problems, spec.CheckImage(f)...)
}

// judgeImage reports what is wrong with an image beyond its lines: with the
// directory, and with where its links lead.
func judgeImage(root string, image source.Image, vm *spec.VM) diag.List {
	var problems diag.List
	if image.What != "" {
		problems.Add(vm.ImageError(image.Accepted, "%s", image.What))
		return problems
	}
	for _, p := range vm.ImagePaths() {
		if !spec.Within(p.Path, image.Dir) && !spec.Within(p.Path, spec.Store) {
			continue // refused by its text
		}
		if target, ok := source.Leads(root, p.Path, image.Dir, spec.Store); !ok {
			p.From.Errorf(&problems, "accepted: links within the image, or to "+spec.Store, "%s leads out of the image, to %s", p.Path, target)
		}
	}
	return problems
}

// frozen are the host's lines of a VM whose image is not there yet.
func frozen(image source.Image, resolved *layer.Resolved, origins map[string]diag.Origin) *plan.Image {
	var lines []layer.Entry
	for _, g := range resolved.Groups {
		if g.Section != spec.Section {
			continue
		}
		for i := range g.Entries {
			e := &g.Entries[i]
			// What an image may not set, there is nothing below to clear of.
			clears := e.Fate == layer.Clears && spec.InImage(e.Key)
			if (e.Fate == layer.Effective || clears) && !strings.HasPrefix(e.Key, "X-") {
				lines = append(lines, *e)
			}
		}
	}
	slices.SortFunc(lines, func(a, b layer.Entry) int { return cmp.Compare(a.Order, b.Order) })
	out := &plan.Image{Path: image.Dir, AtStart: true}
	counts := map[string]int{}
	for _, e := range lines {
		id := e.Key
		if e.Fate == layer.Clears {
			id = e.Key + "[cleared]"
		} else if _, scalar := origins[id]; !scalar {
			id = fmt.Sprintf("%s[%d]", e.Key, counts[e.Key])
			counts[e.Key]++
		}
		origins[id] = e.Origin
		out.Lines = append(out.Lines, plan.ImageLine{Key: e.Key, Value: e.Value, From: id})
	}
	return out
}

// AtStart makes the plan of a VM whose image was not there when its plan was
// frozen: the host's frozen lines go over what the image says now. A plan that
// does not wait for an image is returned as it is.
func AtStart(p *plan.Plan, drivers []driver.Driver) (*plan.Plan, diag.List) {
	if p == nil || !p.VM.Waits() {
		return p, nil
	}
	host := &unitfile.File{}
	for _, l := range p.VM.Image.Lines {
		host.Assignments = append(host.Assignments, unitfile.Assignment{Section: spec.Section, Key: l.Key, Value: l.Value, Origin: p.Origin(l.From)})
	}
	for _, a := range p.Unit.Service {
		// What [Service] loads, the VM's own lines may pass on.
		if strings.Contains(a.Key, "Credential") {
			host.Assignments = append(host.Assignments, unitfile.Assignment{Section: "Service", Key: a.Key, Value: a.Value, Origin: p.Origin(a.From)})
		}
	}
	main := p.Origin(plan.Whole)
	id := spec.Identity{Name: p.VM.Name, Fragment: main.File, Architecture: p.VM.Architecture, Paths: spec.SystemPaths}
	image := source.ReadImage("", p.VM.Image.Path, spec.ImageFile, spec.Store)
	var problems diag.List
	if image.Absent {
		problems.Add(diag.Problem{Origin: p.Origin("Image"), Key: "Image", Value: image.Dir, What: "nothing is there",
			Accepted: "accepted: a directory with a file " + spec.ImageFile + ", there when the VM starts"})
		return nil, problems
	}
	own, wrong := parseImage(image)
	resolved, twice := layer.Resolve([]*unitfile.File{own, host}, spec.Rules(id))
	ctx := spec.Context{Identity: id, Main: main, Image: image.Dir, Hypervisors: driver.Names(drivers)}
	_, merged, refused := decide(ctx, resolved, "", image, drivers)
	problems = slices.Concat(wrong, twice, refused)
	problems.Sort()
	if problems.HasErrors() {
		return nil, problems
	}
	merged.VM.StopTimeout, merged.Unit, merged.Ampoule = p.VM.StopTimeout, p.Unit, p.Ampoule
	for id, o := range p.Origins {
		if _, ok := merged.Origins[id]; !ok {
			merged.Origins[id] = o
		}
	}
	merged.Seal()
	return merged, problems
}
