package inventory

import (
	"context"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/credential/rule"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/state"
)

// credentialsRoot is where the service manager has the credentials of running
// services.
const credentialsRoot = "/run/credentials"

// Runs returns all VMs by name, each with its run: Record, Pid, and of Plans and
// Contents those that run. What the files come to is not looked up, nor what only
// Look asks the service manager for. managed is whether there is one.
func Runs(ctx context.Context, p Place) (vms []*Status, managed bool, err error) {
	s, err := p.all(ctx)
	if err != nil {
		return nil, false, err
	}
	for _, f := range s.vms {
		vm, ok := f.judge(s.managed)
		if !ok {
			continue
		}
		st := &Status{VM: vm}
		st.Plans.Runs.VM, st.Plans.Loaded.VM = vm.Runs, vm.Loaded
		if f.unit != nil {
			st.Pid = f.unit.MainPID
		}
		st.fromRun(p, f.run)
		st.runningPlan(f, p.Root)
		vms = append(vms, st)
	}
	slices.SortFunc(vms, func(a, b *Status) int { return strings.Compare(a.Name, b.Name) })
	return vms, s.managed, nil
}

// runningPlan finds the plan that runs, whole.
//
// Of a service it is the one that its unit was started with, which the service
// manager keeps where nobody else can write. What the run itself left counts
// where that cannot be had, if it is the plan that the record names; and always
// for a VM by hand, whose word is its user's own. A process that says it runs
// another plan than its unit has leaves it unknown.
func (st *Status) runningPlan(f *facts, root string) {
	if !st.Running {
		return
	}
	if st.Record != nil && st.Record.Merged != "" {
		if text, err := state.ReadPlan(f.run.Dir, plan.MaxBytes); err == nil {
			st.Contents.Merged = st.parse(text, plan.Digest{VM: st.Record.Merged})
		}
	}
	if !st.ByHand && f.unit != nil {
		dir := filepath.Join(root, credentialsRoot, f.unit.Name)
		if text, err := state.ReadRegular(filepath.Join(dir, rule.PlanName), plan.MaxBytes); err == nil {
			st.takeRunning(text, st.Plans.Runs)
			return
		}
	}
	if st.Record == nil {
		return
	}
	if text, err := state.ReadPlan(f.run.Dir, plan.MaxBytes); err == nil {
		st.takeRunning(text, plan.Digest{VM: st.Record.PlanDigest, Unit: st.Record.UnitDigest})
	}
}

// takeRunning takes a text for the plan that runs, if it is that.
func (st *Status) takeRunning(text []byte, known plan.Digest) {
	if p := st.parse(text, known); p != nil {
		st.Contents.Runs, st.Plans.Runs = p, p.Digest
	}
}

// parse returns a plan unless it is of another VM or has another digest than is
// known.
func (st *Status) parse(text []byte, known plan.Digest) *plan.Plan {
	p, err := plan.Parse(text)
	if err != nil || p.VM.Name != st.Name || Difference(p.Digest, known) != "" {
		return nil
	}
	return p
}
