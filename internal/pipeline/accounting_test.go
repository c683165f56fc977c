package pipeline

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/driver/all"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// accountant tries assignments and keeps the accounts.
type accountant struct {
	*world
	outcomes map[outcome]int
	// taken are the keys of which a value has changed what runs.
	taken map[string]bool
	cases int
	// about says how to come here again.
	about string
	lost  map[string]bool
}

func newAccountant(t testing.TB, about string) *accountant {
	return &accountant{world: newWorld(t), outcomes: map[outcome]int{}, taken: map[string]bool{}, about: about, lost: map[string]bool{}}
}

// try counts what became of an assignment, and fails where it was lost.
func (a *accountant) try(before *loaded, tr trial) {
	a.cases++
	after := a.load(tr.files)
	got, _ := tr.account(before, after)
	a.outcomes[got]++
	if got == changes {
		a.taken[tr.target.section+"."+tr.target.key] = true
	}
	if got != lost {
		return
	}
	// Of the many ways to lose one thing, the first is told.
	kind := tr.target.key + fmt.Sprint(after.res.Plan == nil)
	if a.lost[kind] {
		a.t.Fail()
		return
	}
	a.lost[kind] = true
	tr = a.shrink(tr)
	before = a.load(tr.before())
	_, why := tr.account(before, a.load(tr.files))
	a.t.Errorf("%s: [%s] %s=%s is neither in what runs, nor shadowed by a line that is named, nor refused: %s\nbefore:\n%safter:\n%s",
		a.about, tr.target.section, tr.target.key, tr.target.value, why, describeFiles(tr.before()), describeFiles(tr.files))
}

// shrink takes out all that is not needed to lose the assignment.
func (a *accountant) shrink(tr trial) trial {
	for again := true; again; {
		again = false
		for _, w := range assignments(tr.files) {
			if w == tr.target {
				continue
			}
			less := trial{files: replaced(tr.files, w, nil), target: tr.target, old: tr.old}
			before := a.load(less.before())
			if before.res.Plan == nil {
				continue
			}
			if got, _ := less.account(before, a.load(less.files)); got == lost {
				tr, again = less, true
			}
		}
	}
	return tr
}

// report logs the accounts.
func (a *accountant) report() {
	a.t.Helper()
	a.t.Logf("%d cases", a.cases)
	for _, o := range slices.Sorted(maps.Keys(a.outcomes)) {
		a.t.Logf("%7d %s", a.outcomes[o], o)
	}
}

// everything reports whether the long run is wanted.
func everything() bool { return os.Getenv("AMPOULE_VM") == "all" }

// TestAccounting: each assignment in each layer either changes what runs, or is
// shadowed by a later one that is named, or is an error with file and line.
// Every key is tried in every layer with every hypervisor.
func TestAccounting(t *testing.T) {
	ours := microVMKeys(t)
	theirs, sample := systemdKeys(t)
	if t.Failed() {
		t.FailNow()
	}
	a := newAccountant(t, "every key in every layer")
	for i, hypervisor := range driver.Names(all.Drivers()) {
		if i == 0 || everything() {
			a.everyLayer(hypervisor, slices.Concat(ours, strayKeys()), sample, theirs)
			continue
		}
		a.everyLayer(hypervisor, ours, nil, nil) // systemd's keys have nothing to do with it
	}
	for _, key := range slices.Concat(ours, theirs) {
		if len(key.good) > 0 && !a.taken[key.section+"."+key.name] && key.name != "Hypervisor" {
			t.Errorf("no value of %s= in [%s] has changed what runs: its values are no good", key.name, key.section)
		}
	}
	a.report()
}

// everyLayer tries keys in every layer of a VM that sets little, of one that
// sets everything below, and of one that sets everything above.
func (a *accountant) everyLayer(hypervisor string, ours, sample, theirs []accountedKey) {
	crowd := func(p string, good int) *layerFile {
		f := &layerFile{path: p}
		for _, key := range slices.Concat(ours, sample) {
			if n := len(key.good); n > 0 && key.name != "Hypervisor" {
				f.lines = append(f.lines, &written{key.section, key.name, key.good[good%n]})
			}
		}
		return f
	}
	for i, main := range mains() {
		plain := a.valid(plainVM(i, hypervisor))
		below := a.valid(append(plainVM(i, hypervisor), crowd("/usr/lib/ampoule/microvm.d/00-first.conf", 0)))
		above := a.valid(append(plainVM(i, hypervisor), crowd("/etc/ampoule/"+accountedVM+".microvm.d/99-last.conf", 1)))
		stacks := []*loaded{plain, below, above}
		a.layer(stacks, main.path(), ours, sample)
		if i > 0 {
			continue
		}
		own := a.valid(with(with(plainVM(i, hypervisor), main.path(), &written{"Service", "ExecStart", ""}, false),
			main.path(), &written{"Service", "ExecStart", "/usr/bin/first"}, false))
		for _, p := range dropIns("50.conf") {
			a.layer(stacks, p.path(), ours, sample)
			if at := slices.IndexFunc(sample, func(k accountedKey) bool { return k.name == "ExecStart" }); at >= 0 {
				a.layer([]*loaded{own}, p.path(), nil, sample[at:at+1])
			}
			if everything() {
				a.layer(stacks[:1], p.path(), nil, theirs)
			}
		}
		for _, p := range append(mains()[1:], dropIns("99-last.conf")[1:4]...) {
			a.layer([]*loaded{above}, p.path(), ours, sample[:min(8, len(sample))]) // hidden
		}
		imaged := a.valid(withImage(plainVM(i, hypervisor), &written{spec.Section, "Memory", "768M"}))
		under := a.valid(withImage(append(plainVM(i, hypervisor), crowd("/etc/ampoule/"+accountedVM+".microvm.d/99-last.conf", 1)), &written{spec.Section, "Memory", "768M"}))
		a.layer([]*loaded{imaged, under}, ownImage, ours, sample)
		a.layer([]*loaded{imaged}, dropIns("50.conf")[0].path(), ours, nil)
		a.layer(stacks, commandLine, ours, nil)
		a.layer(stacks[:1], dropIns("50.conf")[0].path(), nil, theirs)
	}
}

// layer tries keys in one file: every value on the long run, else some of each
// sort, and less of them where chance will try them too.
func (a *accountant) layer(stacks []*loaded, p string, ours, theirs []accountedKey) {
	for s, before := range stacks {
		keys := ours
		if s == 0 || everything() {
			keys = slices.Concat(ours, theirs)
		}
		for _, key := range keys {
			for _, value := range key.some(s) {
				target := &written{key.section, key.name, value}
				if p != commandLine || key.section == spec.Section {
					a.try(before, trial{files: with(before.files, p, target, false), target: target})
				}
			}
		}
	}
}

// some are the values that are tried in a VM that sets little, in one that sets
// the key before, and in one that sets it behind.
func (k accountedKey) some(stack int) []string {
	good, bad := k.good[:min(len(k.good), 1)], k.bad[:min(len(k.bad), 1)]
	switch {
	case everything():
		return k.all()
	case stack == 0:
		if len(k.good) > 0 {
			good = k.good[len(k.good)-1:]
		}
		return slices.Concat(good, bad, []string{""})
	case stack == 1:
		return append(slices.Clone(good), "")
	}
	return append(slices.Clone(good), bad...)[:1]
}

// TestAccountingRandom tries assignments in VMs that chance has made.
func TestAccountingRandom(t *testing.T) {
	keys := slices.Concat(microVMKeys(t), strayKeys())
	theirs, sample := systemdKeys(t)
	cases, seed := 1500, uint64(1)
	if everything() {
		cases = 70_000
	}
	a := newAccountant(t, fmt.Sprintf("seed %d", seed))
	m := &maker{Rand: rand.New(rand.NewPCG(seed, 2)), ours: keys, theirs: theirs, sample: sample}
	for a.cases < cases {
		before := a.valid(m.files())
		for range 40 {
			if tr, ok := m.trial(before); ok {
				a.try(before, tr)
			}
		}
	}
	a.report()
}
