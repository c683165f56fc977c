package inventory

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/driver/all"
	"github.com/ampoule-vm/ampoule/internal/pipeline"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/source"
	"github.com/ampoule-vm/ampoule/internal/state"
	"github.com/ampoule-vm/ampoule/internal/systemd"
)

// planOf is that of a VM with so much memory.
func planOf(t *testing.T, name, memory string) *plan.Plan {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, source.SearchPath()[0])
	put(t, dir, name+source.Suffix, "[MicroVM]\nKernel=/k\nMemory="+memory+"\n")
	res := pipeline.Load(pipeline.Input{Argument: name, Root: root, Dirs: source.SearchPath(), Drivers: all.Drivers()})
	if res.Plan == nil {
		t.Fatal(res.Problems)
	}
	return res.Plan
}

func put(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// The plan that runs is believed by who could have written it.
func TestRunningPlan(t *testing.T) {
	small, large, other := planOf(t, "web", "256M"), planOf(t, "web", "1G"), planOf(t, "db", "256M")
	record := func(p *plan.Plan) *state.Record {
		return &state.Record{Name: "web", PlanDigest: p.Digest.VM, UnitDigest: p.Digest.Unit}
	}
	damaged := string(small.JSON()[:len(small.JSON())-9])
	for _, c := range []struct {
		name         string
		given, left  string // in the unit's credentials, and by the run
		record       *state.Record
		byHand, idle bool
		want         *plan.Plan
	}{
		{"given", string(small.JSON()), "", nil, false, false, small},
		{"given and agreed", string(small.JSON()), string(large.JSON()), record(small), false, false, small},
		{"the run says otherwise", string(small.JSON()), string(large.JSON()), record(large), false, false, nil},
		{"given, damaged", damaged, string(small.JSON()), record(small), false, false, nil},
		{"given, another VM's", string(other.JSON()), "", nil, false, false, nil},
		{"nothing given", "", string(small.JSON()), record(small), false, false, small},
		{"no record", "", string(small.JSON()), nil, false, false, nil},
		{"left, another", "", string(large.JSON()), record(small), false, false, nil},
		{"by hand", string(large.JSON()), string(small.JSON()), record(small), true, false, small},
		{"nothing runs", string(small.JSON()), string(small.JSON()), nil, false, true, nil},
		{"nothing known", "", "", record(small), false, false, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			dir := filepath.Join(root, state.Root, "web")
			if c.given != "" {
				put(t, filepath.Join(root, "run/credentials/microvm@web.service"), "ampoule.plan", c.given)
			}
			if c.left != "" {
				put(t, dir, "plan.json", c.left)
			}
			f := &facts{name: "web", unit: &systemd.Unit{Name: "microvm@web.service"}, run: &state.Instance{Dir: dir}}
			st := &Status{VM: VM{Name: "web", Running: !c.idle, ByHand: c.byHand}, Record: c.record}
			if c.record != nil {
				st.Plans.Runs = plan.Digest{VM: c.record.PlanDigest, Unit: c.record.UnitDigest}
			}
			st.runningPlan(f, root)
			switch got := st.Contents.Runs; {
			case c.want == nil && got != nil:
				t.Errorf("it believes %v", got.Digest)
			case c.want != nil && (got == nil || got.Digest != c.want.Digest || st.Plans.Runs != c.want.Digest):
				t.Errorf("%v, %v; want %v", got, st.Plans.Runs, c.want.Digest)
			case c.want != nil && got.Origin("Memory") == (diag.Origin{}):
				t.Error("its origins are lost")
			}
		})
	}
}
