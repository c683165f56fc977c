package pipeline

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/layer"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// breakage makes of what came of a trial what a broken Ampoule would have made
// of it, or nil where this trial does not show it.
type breakage struct {
	name string
	make func(w *world, tr trial, got outcome, before, after *loaded) *loaded
}

func breakages() []breakage {
	counted := func(got outcome) bool { return got == changes || got == repeats }
	return []breakage{
		{"a layer loses a line", func(w *world, tr trial, got outcome, _, _ *loaded) *loaded {
			// Where the next line says the same, nothing is lost with the first.
			twice := slices.ContainsFunc(assignments(tr.files), func(a *written) bool { return a != tr.target && *a == *tr.target })
			if got == hidden || twice {
				return nil
			}
			w.lose = tr.target
			defer func() { w.lose = nil }()
			return w.load(tr.files)
		}},
		{"what counts does not reach the plan", func(_ *world, tr trial, got outcome, before, after *loaded) *loaded {
			e, g := after.entry(after.where(tr.target))
			if got != changes || e.Fate != layer.Effective || before.said(e, g) {
				return nil // what says what was so before may be missing
			}
			after.runs = before.runs
			return after
		}},
		{"what counts is called shadowed by some line", func(_ *world, tr trial, got outcome, _, after *loaded) *loaded {
			e := after.entryOf(tr.target)
			if !counted(got) || e.Fate != layer.Effective {
				return nil
			}
			others := assignments(after.files)
			e.Fate = layer.Shadowed
			e.By.File, e.By.Line = after.where(others[len(tr.target.value)%len(others)])
			return after
		}},
		{"what is shadowed or reset is so by a line that is not there", func(_ *world, tr trial, got outcome, _, after *loaded) *loaded {
			if got != shadowed && got != reset {
				return nil
			}
			e := after.entryOf(tr.target)
			e.By = diag.Origin{File: e.By.File, Line: e.By.Line + 1000}
			return after
		}},
		{"an error names no line", func(_ *world, _ trial, got outcome, _, after *loaded) *loaded {
			if got != refused {
				return nil
			}
			for i := range after.res.Problems {
				after.res.Problems[i] = diag.Problem{Origin: diag.Origin{File: "x"}, What: "x"}
			}
			return after
		}},
	}
}

func (l *loaded) entryOf(w *written) *layer.Entry {
	e, _ := l.entry(l.where(w))
	return e
}

// TestAccountingNotices: were an assignment of any kind of key lost, in a layer
// or behind it, the account of it would say so.
func TestAccountingNotices(t *testing.T) {
	merges := []string{layer.Scalar: "scalar", layer.List: "list", layer.ByID: "by ID", layer.Additive: "additive"}
	ours := microVMKeys(t)
	theirs, _ := systemdKeys(t)
	rule := spec.Rules(spec.Identity{Name: accountedVM})
	for merge, name := range merges {
		t.Run(name, func(t *testing.T) {
			keys := slices.DeleteFunc(slices.Concat(ours, theirs), func(k accountedKey) bool {
				return rule(k.section, k.name).Merge != layer.Merge(merge)
			})
			m := &maker{Rand: rand.New(rand.NewPCG(3, uint64(merge))), ours: keys, theirs: keys, sample: keys}
			shown := notices(t, m)
			for _, b := range breakages() {
				// Nothing shadows or clears what is additive.
				if shown[b.name] == 0 && layer.Merge(merge) != layer.Additive {
					t.Errorf("%s: there was no case of it", b.name)
				}
			}
			if shown[breakages()[0].name] == 0 || shown[breakages()[1].name] == 0 {
				t.Error("nothing was lost")
			}
			t.Log(shown)
		})
	}
}

// notices breaks trials in every way, and fails where the account of one does
// not say that the assignment is lost. It returns the number of cases of each.
func notices(t *testing.T, m *maker) map[string]int {
	w := newWorld(t)
	shown := map[string]int{}
	for range 8 {
		before := w.valid(m.files())
		for range 25 {
			tr, ok := m.trial(before)
			if !ok {
				continue
			}
			after := w.load(tr.files)
			got, _ := tr.account(before, after)
			for _, b := range breakages() {
				broken := b.make(w, tr, got, before, after)
				if broken == nil {
					continue
				}
				shown[b.name]++
				if now, _ := tr.account(before, broken); now != lost {
					t.Errorf("%s: the account of [%s] %s=%s was %q and is %q:\n%s",
						b.name, tr.target.section, tr.target.key, tr.target.value, got, now, describeFiles(tr.files))
				}
				after = w.load(tr.files) // whole again
			}
		}
	}
	return shown
}
