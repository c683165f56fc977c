package verify

import (
	"fmt"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/generator"
	"github.com/ampoule-vm/ampoule/internal/inventory"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/state"
)

// running judges the processes. Where an earlier link is broken, its cure takes
// what is loaded to what runs.
func (f *Facts) running(j judge, broken bool) {
	if f.byHand() {
		f.startedByHand(j)
		return
	}
	if !f.up() {
		f.inactive(j, broken)
		return
	}
	if strings.HasPrefix(f.Unit.SubState, "auto-restart") {
		j.found(Failed, Cure{Line: "mend what journalctl -u " + f.Unit.Name + " says"}, f.Unit.Name+" ended and is tried again: "+inventory.Ending(f.Unit))
		return
	}
	if f.Unit.ActiveState == "deactivating" {
		f.ending(j)
		return
	}
	if f.Unit.Name != unitOf(f.Name) {
		j.note(f.Name + " is run by " + f.Unit.Name + ", a unit of somebody else's")
	}
	digest := f.digest()
	pid := ""
	if f.Process != nil {
		pid = fmt.Sprintf("process %d", f.Process.Pid)
	}
	if digest.VM == "" && pid == "" {
		j.unseen("which plan runs is for root to see")
	} else if digest.VM == "" {
		j.unseen(pid + " carries out no plan of Ampoule's")
	} else {
		j.saw(pid, "plan "+short(digest.VM))
	}
	if !broken {
		f.oldPlan(j, digest)
	}
	f.programs(j)
	f.lost(j)
	f.networks(j)
	f.unserved(j)
	f.replaced(j, broken)
}

// ending is for a VM whose service ends, by an order or by itself: what of it is
// there still is about to go.
func (f *Facts) ending(j judge) {
	if r := f.Unit.Result; r != "" && r != "success" {
		j.found(Failed, Cure{Line: "mend what journalctl -u " + f.Unit.Name + " says"}, f.Unit.Name+" has failed and is about to end: "+inventory.Ending(f.Unit))
		return
	}
	j.unseen(f.Unit.Name + " is about to end")
}

// inactive is for a VM whose service does not run.
func (f *Facts) inactive(j judge, broken bool) {
	if f.Unit != nil && f.Unit.ActiveState == "failed" && !broken {
		j.found(Failed, Cure{Line: fmt.Sprintf("mend what journalctl -u %s says, then systemctl start %s", f.Unit.Name, f.Unit.Name)},
			f.Unit.Name+" failed: "+inventory.Ending(f.Unit))
		return
	}
	if f.Run != nil && f.Run.Running {
		j.unseen("it runs, and no service manager that can be asked knows of it")
		return
	}
	j.unseen(f.Name + " does not run")
}

// startedByHand: nothing promises that what runs is what is declared.
func (f *Facts) startedByHand(j judge) {
	j.note(f.Name + " was started by hand")
	rec := f.record()
	if rec == nil {
		j.unseen("it runs by hand; its record cannot be read")
		return
	}
	j.saw(fmt.Sprintf("process %d, by hand", f.Run.Pid), "plan "+short(rec.PlanDigest))
	if p := f.declaredPlan(); p != nil && p.Digest.VM != rec.PlanDigest {
		j.note(f.Name + " runs by hand with another plan than the files come to now")
	}
	f.programs(j)
	f.networks(j)
	f.replaced(j, false)
}

// lost judges the devices of the host that the guest was given.
func (f *Facts) lost(j judge) {
	for _, l := range f.Lost {
		j.found(DeviceLost, Cure{Command: "systemctl restart " + f.unitName()}, fmt.Sprintf("the guest has lost its device %s (%s): %s", l.Device, l.Origin, l.What))
	}
}

// declaredPlan is what the files come to now.
func (f *Facts) declaredPlan() *plan.Plan {
	if f.Files == nil || f.Problems.HasErrors() || f.Made == generator.Hidden {
		return nil // it cannot become a unit
	}
	return f.Files.Plan
}

// oldPlan: what runs was started from another plan than the one that is loaded,
// which is that of the files.
func (f *Facts) oldPlan(j judge, runs plan.Digest) {
	p := f.declaredPlan()
	if p == nil || runs.VM == "" {
		return
	}
	if rec := f.record(); rec != nil && rec.Merged != "" && !waits(p) {
		// The plan waited for its image; what both came to is compared.
		runs.VM = rec.Merged
	}
	differs := inventory.Difference(runs, p.Digest)
	if differs == "" {
		return
	}
	if keys := f.changedKeys(); keys != "" {
		differs = keys
	}
	j.found(OldPlan, Cure{Command: "systemctl restart " + f.unitName()},
		fmt.Sprintf("%s was started from another plan than the one that is loaded now: %s", f.Name, differs))
}

// waits: the plan waits for an image.
func waits(p *plan.Plan) bool { return p != nil && p.VM.Waits() }

// changedKeys names what differs between the plan that runs and that of the
// files, where both are known.
func (f *Facts) changedKeys() string {
	if f.Plan == nil || f.declaredPlan() == nil {
		return ""
	}
	return strings.Join(Change{Lines: keysThatDiffer(f.Plan, f.declaredPlan()), VM: true}.said(), ", ")
}

// programs judges whether what runs is what lies on the disk.
func (f *Facts) programs(j judge) {
	p := f.Process
	if p == nil {
		return
	}
	if runner := f.runner(); runner != "" {
		j.saw("by way of " + runner)
	}
	if p.Hypervisor != "" {
		j.saw(fmt.Sprintf("%s, process %d", p.Hypervisor, p.HypervisorPid))
	}
	if p.HypervisorReplaced {
		cure := Cure{Command: "systemctl restart " + f.unitName()}
		if f.byHand() {
			cure = Cure{Line: fmt.Sprintf("stop and start %s: ampoule stop %s", f.Name, f.Name)}
		}
		j.found(BinaryReplaced, cure, fmt.Sprintf("%s is another file now than the one that runs (process %d): it was upgraded, or replaced", p.Hypervisor, p.HypervisorPid))
	}
	if p.Replaced {
		j.note(fmt.Sprintf("ampoule was replaced since process %d was started; the next start takes the new one", p.Pid))
	}
}

// replaced judges the files that the guest was started from.
func (f *Facts) replaced(j judge, broken bool) {
	for _, file := range f.Replaced {
		if file.Role == state.HypervisorFile && f.Process != nil && f.Process.HypervisorReplaced {
			continue // said already
		}
		if file.Role == state.ImageFile {
			// What it says is a matter of the plan, and judged there.
			j.note(file.Path + " was written to since " + f.Name + " was started")
			continue
		}
		cure := Cure{Command: "systemctl restart " + f.unitName()}
		if f.byHand() {
			cure = Cure{Line: fmt.Sprintf("stop and start %s: ampoule stop %s", f.Name, f.Name)}
		}
		if broken {
			j.note(fmt.Sprintf("the %s %s is another file now than the one that %s was started from", file.Role, file.Path, f.Name))
			continue
		}
		kind := FileReplaced
		if file.Role == state.HypervisorFile {
			kind = BinaryReplaced
		}
		j.found(kind, cure, fmt.Sprintf("the %s %s is another file now than the one that %s was started from", file.Role, file.Path, f.Name))
	}
}
