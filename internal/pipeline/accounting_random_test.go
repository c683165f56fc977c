package pipeline

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/driver/all"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// maker makes VMs and trials by chance.
type maker struct {
	*rand.Rand
	ours, theirs, sample []accountedKey
	// few are the keys that a VM has most lines of, so that they meet.
	few []accountedKey
}

func pick[T any](m *maker, from []T) T { return from[m.IntN(len(from))] }

// key is mostly ours.
func (m *maker) key() accountedKey {
	switch m.IntN(8) {
	case 0:
		return pick(m, m.theirs)
	case 1, 2:
		return pick(m, m.sample)
	}
	return pick(m, m.ours)
}

// assignment is mostly good.
func (m *maker) assignment() *written {
	key := pick(m, m.few)
	if m.IntN(4) == 0 {
		key = m.key()
	}
	value := pick(m, key.all())
	if len(key.good) > 0 && m.IntN(2) > 0 {
		value = pick(m, key.good)
	}
	return &written{key.section, key.name, value}
}

// place is a file of any layer; some have the same name and hide each other.
func (m *maker) place() string {
	switch m.IntN(6) {
	case 0:
		return commandLine
	case 1:
		return pick(m, mains()).path()
	}
	name := pick(m, []string{"10", "50", "90"})
	if i := m.IntN(16); m.IntN(4) > 0 {
		return dropIns(fmt.Sprintf("%s-%d.conf", name, i))[i].path()
	}
	return pick(m, dropIns(name+".conf")).path()
}

// files are those of a VM with some layers, masks among them.
func (m *maker) files() []*layerFile {
	m.few = nil
	for range 2 + m.IntN(6) {
		m.few = append(m.few, m.key())
	}
	files := plainVM(m.IntN(len(mains())), pick(m, driver.Names(all.Drivers())))
	if m.IntN(3) == 0 {
		files = append(files, &layerFile{path: pick(m, dropIns("50.conf")).path(), masked: true})
	}
	if m.IntN(3) == 0 {
		files = withImage(files, m.assignment(), m.assignment(), m.assignment())
	}
	for range 2 + m.IntN(20) {
		w, p := m.assignment(), m.place()
		if m.fits(files, p, w) {
			files = with(files, p, w, m.IntN(2) == 0)
		}
	}
	return files
}

// fits: a mask has no lines, the command line one section, and what is to be
// changed is the VM's own file and not which of several that is.
func (m *maker) fits(files []*layerFile, p string, w *written) bool {
	if p == commandLine {
		return w.section == spec.Section
	}
	own := slices.IndexFunc(mains(), func(q place) bool { return q.path() == p })
	strongest := slices.IndexFunc(mains(), func(q place) bool { return q.path() == files[0].path })
	return (own < 0 || own >= strongest) &&
		!slices.ContainsFunc(files, func(f *layerFile) bool { return f.path == p && f.masked })
}

// trial adds an assignment to a VM, or changes one of its assignments.
func (m *maker) trial(before *loaded) (trial, bool) {
	target := m.assignment()
	if m.IntN(3) == 0 {
		old := pick(m, assignments(before.files))
		target.section, target.key = old.section, old.key
		for _, key := range slices.Concat(m.ours, m.theirs) {
			if key.section == old.section && key.name == old.key {
				target.value = pick(m, key.all())
			}
		}
		return trial{files: replaced(before.files, old, target), target: target, old: old}, target.value != old.value
	}
	p := m.place()
	if before.res.Image != nil && before.res.Image.Path == ownImage && m.IntN(4) == 0 {
		p = ownImage
	}
	if !m.fits(before.files, p, target) {
		return trial{}, false
	}
	if strings.HasSuffix(p, ".conf") && !slices.ContainsFunc(before.files, func(f *layerFile) bool { return f.path == p }) && before.wouldHide(p) {
		return trial{}, false
	}
	return trial{files: with(before.files, p, target, m.IntN(2) == 0), target: target}, true
}

// wouldHide reports whether a new file might take the place of another, whose
// lines then are what changes.
func (l *loaded) wouldHide(p string) bool {
	return slices.ContainsFunc(l.files, func(f *layerFile) bool { return strings.HasSuffix(f.path, p[strings.LastIndexByte(p, '/'):]) })
}
