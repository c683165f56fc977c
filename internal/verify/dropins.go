package verify

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
	"github.com/ampoule-vm/ampoule/internal/state"
	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

// dropIns finds those of systemd's, and what of their lines matters.
func (s *survey) dropIns(names []string) {
	all, providers := s.host.DropIns(), s.generator.Providers()
	const template = "microvm@.service"
	for unit, paths := range all {
		if unit == template {
			continue
		}
		name := vmOf(unit)
		f := s.facts[name]
		if f == nil && providers.Of(unit) == "" && providers.Template() == "" {
			if f = s.at(name, names); f != nil {
				f.Near = diag.Nearest(name, s.generator.VMs())
			}
		}
		if f != nil {
			s.read(f, paths, false)
		}
	}
	for _, f := range s.facts {
		if f.Made != "" || f.Fragment != "" {
			s.read(f, all[template], true)
		}
	}
}

func (s *survey) read(f *Facts, paths []string, shared bool) {
	for _, path := range paths {
		lines, ok := s.lines(path)
		if !ok {
			continue
		}
		d := DropIn{Path: path, Shared: shared, Changed: newer(filepath.Join(s.Root, path), f.Fragment)}
		for i := range lines {
			d.take(f, &lines[i])
		}
		f.DropIns = append(f.DropIns, d)
	}
}

// lines are those of a drop-in, which may be of a thousand VMs and is read once.
func (s *survey) lines(path string) (lines []unitfile.Assignment, ok bool) {
	if lines, ok = s.parsed[path]; ok {
		return lines, true
	}
	data, err := os.ReadFile(filepath.Join(s.Root, path))
	if err != nil {
		return nil, false
	}
	lines = unitfile.Parse(path, "", data).Assignments
	s.parsed[path] = lines
	return lines, true
}

// take looks at one line.
func (d *DropIn) take(f *Facts, line *unitfile.Assignment) {
	if line.Section != "Service" {
		return
	}
	a := Assignment{Origin: line.Origin, Key: line.Key}
	switch {
	case line.Key == "ExecStart" && line.Value != "":
		d.Command = &a
	case !strings.HasSuffix(line.Key, "Credential") && !strings.HasSuffix(line.Key, "CredentialEncrypted"):
	case line.Value == "":
		d.Clears = append(d.Clears, a)
	default:
		a.ID, _, _ = strings.Cut(line.Value, ":")
		if p := f.declaredPlan(); p != nil && replaces(p, a) {
			d.Replaces = append(d.Replaces, a)
		}
	}
}

// replaces: systemd would give the VM's credential of that name from this line.
// A default beside a source changes nothing, as long as the source is there.
func replaces(p *plan.Plan, a Assignment) bool {
	return slices.ContainsFunc(p.VM.Credentials, func(c plan.Credential) bool {
		loads := c.Kind == string(spec.Load) || c.Kind == string(spec.LoadEncrypted)
		return c.ID == a.ID && c.Kind != string(spec.Pass) && !(loads && strings.HasPrefix(a.Key, "SetCredential"))
	})
}

// newer: the file was written, or came to its place, after the other one.
func newer(path, than string) bool {
	a, err := state.Identify("", path)
	if err != nil {
		return false
	}
	b, err := state.Identify("", than)
	return err == nil && a.Changed > b.Changed
}

// gone settles which drop-ins are of the loaded unit: one that is not in memory
// is read when it is needed, and one that was loaded may be there no more.
func (s *survey) gone(f *Facts) {
	for i := range f.DropIns {
		d := &f.DropIns[i]
		switch {
		case f.Unit == nil:
			d.Changed = false
		case f.up():
			file, err := state.Identify("", d.Path)
			d.Late = err == nil && !f.Unit.Started.IsZero() && time.Unix(0, file.Changed).After(f.Unit.Started)
		}
	}
	if f.Unit == nil {
		return
	}
	for _, path := range f.Unit.DropInPaths {
		if _, err := os.Lstat(path); err != nil && !strings.HasPrefix(path, "/run/systemd/transient/") {
			f.DropIns = append(f.DropIns, DropIn{Path: path, Changed: true})
		}
	}
}
