package apply

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/compare"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/generator"
	"github.com/ampoule-vm/ampoule/internal/inventory"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// Facts are what is known of one VM.
type Facts struct {
	Name string
	// Made is what the generator would make of the files now; "": nothing.
	Made generator.State
	// Masked: the VM's file is a link to /dev/null.
	Masked   bool
	Problems diag.List
	// Declared is what the files come to; nil: nothing, or they have mistakes.
	Declared *plan.Plan
	// Text is the unit that the generator would write, LoadedText the one of the
	// last daemon-reload; empty: none. Loaded is the plan of that.
	Text, LoadedText []byte
	Loaded           *plan.Plan
	// Settled: the loaded unit waits for an image; Loaded is what it and the image
	// come to now, as Declared is.
	Settled bool
	// Linked: what hangs the unit on others is as it would be.
	Linked bool
	// Ours: the loaded unit is Ampoule's.
	Ours bool
	// Status is what the service manager and the run say; nil: nothing.
	Status *inventory.Status
	// Wanted names an active unit that wants this one; empty: none does.
	Wanted string
	// Fresh: its service was not started since the host has booted.
	Fresh bool
	// Managed: there is a service manager that could be asked. Version is that
	// of its systemd, 0 where it is not known.
	Managed bool
	Version int
}

func (f *Facts) unit() string { return spec.UnitName(f.Name) }

// up: the service runs, starts or is about to start again.
func (f *Facts) up() bool {
	return f.Status != nil && f.Status.Running && !f.Status.ByHand && f.Status.ActiveState != "inactive" && f.Status.ActiveState != "failed" && f.Status.ActiveState != ""
}

// stops: it is on its way to its end, and not to start again behind it.
func (f *Facts) stops() bool {
	return f.Status != nil && f.Status.ActiveState == "deactivating" && f.Status.Job != "restart" && f.Status.Job != "start"
}

// runsOtherwise: a process runs the VM, and not in its service, as far as is known.
func (f *Facts) runsOtherwise() bool { return f.Status != nil && f.Status.Running && !f.up() }

func (f *Facts) systemdMask() bool { return f.Status != nil && f.Status.LoadState == "masked" }

// Judge says what is to be done about a VM.
func Judge(f *Facts) Step {
	s := Step{Name: f.Name, Unit: f.unit(), Action: Nothing, Changes: []compare.Change{}, Problems: append(diag.List{}, f.Problems...)}
	masked := f.Masked || f.systemdMask()
	switch {
	case f.Made == generator.Hidden:
		s.leave(Hidden, "another file provides "+s.Unit)
	case f.runsOtherwise():
		f.byHand(&s)
	case f.up() && f.Status.Unit != "" && f.Status.Unit != s.Unit:
		s.leave(OtherUnit, f.Status.Unit+" runs it, a unit of somebody else's")
	case !masked && (f.Made == generator.Failing || f.Made == generator.Kept):
		why := "its files have mistakes"
		if f.up() {
			why += "; it runs on as it was"
		}
		s.leave(Mistakes, why)
	case masked:
		f.masked(&s)
	case f.Made == generator.Made:
		f.made(&s)
	default:
		f.gone(&s)
	}
	if s.Action == Nothing && s.Reload {
		s.Action = Reload
	}
	return s
}

func (s *Step) leave(kind, why string) { s.Action, s.Kind, s.Why = Leave, kind, why }

// byHand: what somebody has started with his own hands is his.
func (f *Facts) byHand(s *Step) {
	s.Why = "runs by hand"
	s.Reload = f.reloadDue()
	if f.Declared == nil {
		return
	}
	f.changes(s, f.Status.Contents.Runs)
	if inventory.Difference(f.Status.Plans.Runs, f.Declared.Digest) != "" {
		s.leave(ByHand, "runs by hand with another plan, and is not touched; to end it: ampoule stop "+f.Name)
	}
}

// masked: a mask says that the VM is not to run.
func (f *Facts) masked(s *Step) {
	how := "its file is a link to /dev/null"
	if !f.Masked {
		how = "systemctl mask"
	}
	s.Why, s.Problems = "masked: "+how, diag.List{}
	s.Reload = f.Masked && f.reloadDue()
	if f.up() {
		s.Action = Stop
		s.Reload = f.Masked // its unit is kept for as long as it runs
	}
}

// gone: nothing declares the VM.
func (f *Facts) gone(s *Step) {
	s.Gone, s.Problems = true, diag.List{} // that it runs on does not hold any more
	switch {
	case f.up() && f.Ours:
		s.Action, s.Why, s.Reload = Stop, "no file declares it any more", true
	case f.up():
		s.Gone, s.Why = false, f.Status.Unit+" is not Ampoule's"
	case len(f.LoadedText) > 0:
		// The generator may take it for running, by what a run has left.
		s.Why, s.Reload = "no file declares it any more", f.reloadDue()
	}
}

// made: the files are in order.
func (f *Facts) made(s *Step) {
	s.New = len(f.LoadedText) == 0
	s.Reload = f.reloadDue()
	base := f.Loaded
	if f.up() && !f.stops() && f.running() != nil {
		base = f.running()
	}
	f.changes(s, base)
	switch {
	case f.up() && f.stops():
		s.Why = "is being stopped"
	case f.up():
		f.service(s)
	case !f.Managed:
	case f.Wanted != "" && f.failed():
		s.Action, s.Why = Start, "failed, and "+f.Wanted+" wants it"
	case f.Wanted != "" && (f.Fresh || s.New):
		s.Action, s.Why = Start, f.Wanted+" wants it"
	case f.Wanted != "":
		s.Why = "was stopped"
	case s.New:
		s.Why = "no unit that is active wants it"
	}
}

// running is the plan that runs, as far as it can be compared with the declared
// one: with its image where that does not wait for one.
func (f *Facts) running() *plan.Plan {
	if f.Status.Contents.Merged != nil && !f.Declared.VM.Waits() {
		return f.Status.Contents.Merged
	}
	return f.Status.Contents.Runs
}

func (f *Facts) failed() bool { return f.Status != nil && f.Status.ActiveState == "failed" }

// service judges one that is up.
func (f *Facts) service(s *Step) {
	differs := f.restartDue(s)
	switch {
	case differs == "":
	case f.Declared.Unit.KeepRunning:
		s.leave(NotObeyed, fmt.Sprintf("%s; RestartIfChanged=no (%s)", differs, f.Declared.Origin("RestartIfChanged")))
	default:
		s.Action, s.Why = Restart, differs
	}
}

// restartDue says why what runs is not what is declared; empty: it is.
func (f *Facts) restartDue(s *Step) string {
	runs := f.Status.Plans.Runs
	if runs.VM != "" && f.running() == nil {
		// Which plan is known, and not what is in it.
		if inventory.Difference(runs, f.Declared.Digest) != "" {
			return "runs another plan"
		}
		return ""
	}
	keys := compare.Keys(s.Changes, compare.Restart)
	switch {
	case !slices.ContainsFunc(s.Changes, func(c compare.Change) bool { return c.Needs == compare.Restart }):
		return ""
	case len(keys) == 0:
		return "the plan is another"
	}
	const most = 4
	if n := len(keys) - most; n > 0 {
		keys = append(keys[:most], fmt.Sprintf("and %d more", n))
	}
	return "changed: " + strings.Join(keys, ", ")
}

// changes compares a plan and the loaded unit with what is declared.
func (f *Facts) changes(s *Step, base *plan.Plan) {
	if base != nil {
		s.Changes = append(s.Changes, compare.Plans(base, f.Declared, f.Version)...)
	}
	if f.Loaded != nil && base != f.Loaded {
		// What a daemon-reload brings is as it was loaded last, not as it was when
		// the VM was started.
		byReload := func(c compare.Change) bool { return c.Needs == compare.Reload }
		s.Changes = slices.DeleteFunc(s.Changes, byReload)
		for _, c := range compare.Plans(f.Loaded, f.Declared, f.Version) {
			if byReload(c) {
				s.Changes = append(s.Changes, c)
			}
		}
	}
	if len(f.LoadedText) > 0 && len(f.Text) > 0 {
		s.Changes = append(s.Changes, compare.Units(f.LoadedText, f.Text)...)
	}
	if !f.up() || f.stops() {
		// What does not run takes everything at its next start.
		for i := range s.Changes {
			if s.Changes[i].Needs == compare.Restart {
				s.Changes[i].Needs = compare.Reload
			}
		}
	}
}

// reloadDue: systemd holds something else than the generator would give it.
func (f *Facts) reloadDue() bool {
	return f.Status != nil && f.Status.ReloadDue || !f.Linked || f.unitDiffers()
}

// unitDiffers: the loaded unit is not the one that the generator would write. One
// that waits for an image has lines of its own for that, and does the same.
func (f *Facts) unitDiffers() bool {
	if !f.Settled {
		return string(f.Text) != string(f.LoadedText)
	}
	return len(compare.Plans(f.Loaded, f.Declared, f.Version)) > 0 || len(compare.Units(f.LoadedText, f.Text)) > 0
}
