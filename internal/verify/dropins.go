package verify

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
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
		at := filepath.Join(s.Root, path)
		d := DropIn{Path: path, Shared: shared, Changed: newer(at, f.Fragment)}
		data, err := os.ReadFile(at)
		if err != nil {
			continue
		}
		lines := unitfile.Parse(path, "", data).Assignments
		for i := range lines {
			d.take(f, &lines[i])
		}
		f.DropIns = append(f.DropIns, d)
	}
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
	a, ok := changed(path)
	b, ok2 := changed(than)
	return ok && ok2 && a.After(b)
}

// changed is when a file last changed, by the clock as it was then.
func changed(path string) (time.Time, bool) {
	if path == "" {
		return time.Time{}, false
	}
	info, err := os.Stat(path)
	if err != nil {
		return time.Time{}, false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return time.Time{}, false
	}
	return time.Unix(st.Ctim.Unix()), true
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
			at, ok := changed(d.Path)
			d.Late = ok && !f.Unit.Started.IsZero() && at.After(f.Unit.Started)
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
