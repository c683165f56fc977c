package pipeline

import (
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/driver/all"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// TestRefusals: with every hypervisor every value of every key is taken, or refused
// at its own line with what to do, or at another line that names it; and whatever a
// hypervisor says that it does not have, a line shows.
func TestRefusals(t *testing.T) {
	w := newWorld(t)
	values := microVMValues()
	for _, d := range all.Drivers() {
		var said []string
		taken := 0
		for _, row := range spec.Table() {
			for _, value := range values[row.Name].good {
				target := &written{spec.Section, row.Name, value}
				l := w.load(with(plainVM(0, d.Name()), dropIns("50.conf")[0].path(), target, false))
				if l.res.Plan != nil {
					taken++
				}
				for _, p := range l.res.Problems {
					if p.Severity == diag.Error {
						said = append(said, p.What)
						l.checkRefusal(t, d.Name(), target, p)
					}
				}
			}
		}
		if taken < len(spec.Table()) {
			t.Errorf("%s takes %d values of %d keys", d.Name(), taken, len(spec.Table()))
		}
		everyRefusal(t, d, strings.Join(said, "\n"))
	}
}

// checkRefusal finds what is missing in an error because of a line.
func (l *loaded) checkRefusal(t *testing.T, hypervisor string, target *written, p diag.Problem) {
	t.Helper()
	file, line := l.where(target)
	own := p.Origin.File == file && p.Origin.Line == line
	switch {
	case p.Accepted == "":
		t.Errorf("%s: without a cure: %s", hypervisor, p.Error())
	case own && p.Key != target.key:
		t.Errorf("%s: without the key: %s", hypervisor, p.Error())
	case !own && !strings.Contains(p.What, diag.Origin{File: file, Line: line}.String()):
		t.Errorf("%s: %s=%s (%s:%d) is refused elsewhere: %s", hypervisor, target.key, target.value, file, line, p.Error())
	}
}

// everyRefusal finds the features that a hypervisor refuses and that no line has
// shown.
func everyRefusal(t *testing.T, d driver.Driver, said string) {
	t.Helper()
	for _, f := range d.Features() {
		if f.Refusal != "" && !f.Unasked && !strings.Contains(said, f.Refusal) {
			t.Errorf("%s: no value of microVMValues is refused because of %s: %s", d.Name(), f.Name, f.Refusal)
		}
	}
}
