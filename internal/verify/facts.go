package verify

import (
	"github.com/ampoule-vm/ampoule/internal/credential"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/generator"
	"github.com/ampoule-vm/ampoule/internal/inventory"
	"github.com/ampoule-vm/ampoule/internal/layer"
	"github.com/ampoule-vm/ampoule/internal/pipeline"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
	"github.com/ampoule-vm/ampoule/internal/state"
	"github.com/ampoule-vm/ampoule/internal/systemd"
)

// Facts are all that was seen of one VM.
type Facts struct {
	Name string
	// Near is the VM that may be meant, where there is none of that name.
	Near string
	// Root: whoever looks may see everything.
	Root bool

	// Made is what the generator would make of the files now; "": nothing at all.
	Made generator.State
	// Masked: the VM's file is a link to /dev/null.
	Masked bool
	// Files is what they came to; nil where they were not read.
	Files *pipeline.Result
	// Problems are the generator's.
	Problems diag.List

	// Elsewhere: the files are not those of this host, of which alone the rest can
	// be seen.
	Elsewhere bool
	// Managed: there is a service manager that could be asked.
	Managed bool
	// Fragment is where the unit of the generator's lies; "": there is none.
	Fragment string
	// Change says how the unit that the files come to now differs from that one.
	Change Change
	// Unit is the service manager's, nil where it has none in memory.
	Unit *systemd.Unit
	// DropIns are those of systemd's that concern the unit, those that all VMs
	// share included.
	DropIns []DropIn

	// Run is what the directory of the run says; nil: there is none.
	Run *state.Instance
	// Process is the one that runs the VM, nil where none does or it is not seen.
	Process *Process
	// Plan is the one that runs, nil where it is not known.
	Plan *plan.Plan
	// Interfaces are those that the VM which runs has on the host;
	// InterfacesUnseen says why they could not be looked at.
	Interfaces       []Interface
	InterfacesUnseen string
	// Replaced are the files that were others when the run started.
	Replaced []state.File

	// Lost are devices of the host that the plan that runs gives to the guest, and
	// that the guest does not have: where each is written, and what became of it.
	Lost []Lost
	// Unserved are shares of that plan that the guest cannot reach.
	Unserved []Unserved

	// Compared are the credentials of a running unit beside their sources,
	// Sources what is wrong with these.
	Compared []credential.Comparison
	Sources  diag.List
}

// Lost is a device that the guest does not have any more.
type Lost struct {
	Device plan.Device
	Origin diag.Origin
	What   string
}

// Change is how two units of one VM differ, in what has an effect.
type Change struct {
	// Added: the files come to a unit and there is none. Removed: there is one
	// that the files do not come to.
	Added, Removed bool
	// Lines are the assignments that differ, as SECTION.KEY, links as they are
	// called in [Install]. VM: the plan's part of hypervisor and guest differs.
	Lines []string
	VM    bool
	// Restart: what runs would have been started otherwise.
	Restart bool
	// Version is that of the Ampoule that made the unit, if it was another.
	Version string
	// Touched: nothing differs but words and lines' numbers.
	Touched bool
}

// Any reports whether anything differs that has an effect.
func (c Change) Any() bool { return c.Added || c.Removed || c.VM || len(c.Lines) > 0 }

// DropIn is a drop-in of systemd's for a VM's unit.
type DropIn struct {
	Path string
	// Changed: it was written after the service manager had read the units, or
	// has not been read at all. Late: after the VM was started.
	Changed, Late bool
	// Clears are the lists of credentials that it empties, and Replaces the
	// credentials of the VM for which it has a source of its own: with their lines.
	Clears, Replaces []Assignment
	// Command is its own ExecStart=, nil where it has none.
	Command *Assignment
	// Shared: it is for all VMs.
	Shared bool
}

// Assignment is a line of a drop-in.
type Assignment struct {
	Origin diag.Origin
	Key    string
	// ID names the credential, where it is about one.
	ID string
}

// Process is one that runs a VM.
type Process struct {
	Pid  int
	Argv []string
	// Replaced: the file of the program is not the one that runs.
	Replaced bool
	// Hypervisor is the path of the hypervisor's program, "" where there is none
	// or it is not seen, and HypervisorReplaced as above.
	Hypervisor         string
	HypervisorPid      int
	HypervisorReplaced bool
}

// unitName is the name of the VM's service, as the service manager has it.
func (f *Facts) unitName() string {
	if f.Unit != nil {
		return f.Unit.Name
	}
	return spec.UnitName(f.Name)
}

// up: the service runs, starts or stops.
func (f *Facts) up() bool {
	return f.Unit != nil && inventory.IsUp(f.Unit)
}

// byHand: the VM runs without a service.
func (f *Facts) byHand() bool { return f.Run != nil && f.Run.Running && !f.Run.Service }

// runs: anything of it does.
func (f *Facts) runs() bool { return f.up() || f.Run != nil && f.Run.Running }

// record is what the run wrote down, nil where that is not known.
func (f *Facts) record() *state.Record {
	if f.Run == nil || !f.Run.Running {
		return nil
	}
	return f.Run.Record
}

// plan is the one that runs, or, where that is not known, what the files come to;
// nil: neither is.
func (f *Facts) plan() *plan.Plan {
	if f.Plan != nil {
		return f.Plan
	}
	return f.declaredPlan()
}

// digest is that of the plan that runs, empty where it is not known.
func (f *Facts) digest() plan.Digest {
	switch rec := f.record(); {
	case f.Plan != nil:
		return f.Plan.Digest
	case rec != nil:
		return plan.Digest{VM: rec.PlanDigest, Unit: rec.UnitDigest}
	case f.Process != nil:
		return plan.Digest{VM: inventory.DigestOf(f.Process.Argv)}
	}
	return plan.Digest{}
}

// shadowed are the lines of the files that do not count, with those in whose
// place others stand.
func (f *Facts) shadowed() []string {
	if f.Files == nil || f.Files.Resolved == nil {
		return nil
	}
	var out []string
	for _, g := range f.Files.Resolved.Groups {
		for i := range g.Entries {
			e := &g.Entries[i]
			if e.Fate == layer.Shadowed || e.Fate == layer.Reset {
				out = append(out, e.Origin.String()+": "+e.Key+"= does not count: "+string(e.Fate)+" by "+e.By.String())
			}
		}
	}
	for _, h := range f.Files.Source.Hidden {
		out = append(out, h.Path+" is not read: "+h.By+" has its name and ranks higher")
	}
	return out
}
