package inventory

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/ampoule-vm/ampoule/internal/emit"
	"github.com/ampoule-vm/ampoule/internal/spec"
	"github.com/ampoule-vm/ampoule/internal/state"
	"github.com/ampoule-vm/ampoule/internal/systemd"
)

// The states of a VM, as people and programs read them.
const (
	Inactive    = "inactive"
	Booting     = "booting"
	Ready       = "ready"
	Started     = "started" // and the guest is not observed
	Rebooting   = "rebooting"
	PoweringOff = "powering off"
	Restarting  = "restarting"
	Failed      = "failed"
	Masked      = "masked"
	Broken      = "broken" // its files have mistakes
	NotLoaded   = "not loaded"
)

// The remarks beside a state: what an administrator would not expect of it.
const (
	ByHand       = "by hand"
	NotDeclared  = "no longer declared"
	OthersUnit   = "unit of others"
	FilesBroken  = "files have mistakes"
	FilesChanged = "files changed"
	OtherPlan    = "runs another plan"
	UnitMasked   = "masked"
)

// VM is one line of the list.
type VM struct {
	Name string
	// State is one of the constants.
	State   string
	Remarks []string
	// Running: a start or a stop under way counts.
	Running bool
	ByHand  bool
	// Declared: there is a file for it, which may be masked or have mistakes.
	Declared bool
	// File is that from which the VM was made; empty: not known.
	File string
	// Unit is the service's name; empty: there is none.
	Unit string
	// Since is when it came into its state; zero: not known.
	Since time.Time
	// Memory is what the service uses, in bytes; negative: not known.
	Memory int64
	// Interfaces are those of this host that were made for it; nil: not known.
	Interfaces []Interface
	// Runs and Loaded are the digests of the plan that runs and of the one that
	// the next start takes, "sha256:" and 64 digits; empty: none, or not known.
	Runs, Loaded string
	// ReloadDue: the service manager has not read the files as they are.
	ReloadDue bool
	// LoadState, ActiveState, SubState and StatusText are the service manager's.
	LoadState, ActiveState, SubState, StatusText string
	// Job is the type of the job that the service manager has for the service, as
	// far as it was listed.
	Job string
}

// judge says what the facts come to; false: there is no such VM.
func (f *facts) judge(managed bool) (VM, bool) {
	vm := VM{Name: f.name, Memory: -1, Declared: f.declared != nil, Runs: f.runs}
	if d := f.declared; d != nil {
		vm.File = d.file
	}
	u := f.unit
	byHand := f.run != nil && f.run.Running && !f.run.Service
	if u != nil && u.LoadState != "not-found" || u != nil && IsUp(u) {
		f.fromUnit(&vm)
	} else {
		u = nil
	}
	switch {
	case byHand:
		f.fromRun(&vm)
	case u != nil:
	case f.run != nil && f.run.Running:
		// A service manager's that cannot be asked, or of another container.
		f.fromRun(&vm)
	case f.declared == nil:
		return VM{}, false
	case f.declared.masked:
		vm.State = Masked
	case f.declared.orphan || f.mistakes():
		vm.State, vm.ReloadDue = Broken, managed
	case managed:
		vm.State, vm.ReloadDue = NotLoaded, true
	default:
		vm.State = Inactive
	}
	f.remark(&vm, u)
	return vm, true
}

// fromUnit takes what the service manager says.
func (f *facts) fromUnit(vm *VM) {
	u := f.unit
	vm.Unit, vm.Since, vm.Memory = u.Name, u.Changed, u.Memory
	vm.LoadState, vm.ActiveState, vm.SubState = u.LoadState, u.ActiveState, u.SubState
	vm.Job = u.Job
	vm.Running, vm.ReloadDue = IsUp(u), f.reloadDue()
	vm.Loaded = DigestOf(u.ExecStart)
	if vm.File == "" && isOurs(u) {
		vm.File = u.SourcePath
	}
	if vm.Running {
		vm.StatusText = u.StatusText
	}
	vm.State = f.stateOf(u)
}

func (f *facts) stateOf(u *systemd.Unit) string {
	bad := refuses(u) || u.LoadState == "bad-setting" || u.LoadState == "error"
	switch u.ActiveState {
	case "inactive":
		switch {
		case u.LoadState == "masked":
			return Masked
		case bad:
			return Broken
		}
		return Inactive
	case "failed":
		if bad {
			return Broken
		}
		return Failed
	case "activating":
		if strings.HasPrefix(u.SubState, "auto-restart") {
			return Restarting
		}
		return Booting
	case "deactivating":
		return PoweringOff
	}
	if word, ok := phase(state.Phase(u.StatusText)); ok {
		return word
	}
	if f.run != nil && f.run.Running && f.run.Record != nil {
		if word, ok := phase(f.run.Record.Phase); ok {
			return word
		}
	}
	return Started
}

// phase turns the word of the run into ours.
func phase(p state.Phase) (string, bool) {
	switch p {
	case state.Booting:
		return Booting, true
	case state.Ready:
		return Ready, true
	case state.Started:
		return Started, true
	case state.Rebooting:
		return Rebooting, true
	case state.PoweringOff:
		return PoweringOff, true
	}
	return "", false
}

// fromRun takes what the run itself wrote down.
func (f *facts) fromRun(vm *VM) {
	vm.Running, vm.ByHand, vm.State = true, !f.run.Service, Started
	vm.Since, vm.Memory = time.Time{}, -1
	rec := f.run.Record
	if rec == nil {
		return
	}
	if word, ok := phase(rec.Phase); ok {
		vm.State = word
	}
	vm.Since = rec.Started
	if rec.Ready && !rec.ReadyAt.IsZero() {
		vm.Since = rec.ReadyAt
	}
	if vm.File == "" || rec.ByHand && rec.File != "" {
		vm.File = rec.File
	}
}

// remark adds what is out of the ordinary.
func (f *facts) remark(vm *VM, u *systemd.Unit) {
	add := func(when bool, remark string) {
		if when {
			vm.Remarks = append(vm.Remarks, remark)
		}
	}
	masked := u != nil && u.LoadState == "masked" || f.declared != nil && f.declared.masked
	add(vm.ByHand, ByHand)
	undeclared := !vm.Declared && u != nil
	ours := undeclared && (isOurs(u) || masked || refuses(u) || f.tells(emit.GoneWords))
	add(undeclared && ours, NotDeclared)
	add(undeclared && !ours, OthersUnit)
	add(masked && vm.State != Masked, UnitMasked)
	add(vm.Running && u != nil && (refuses(u) || f.tells(emit.KeptWords)), FilesBroken)
	add(vm.Running && !vm.ByHand && vm.Runs != "" && vm.Loaded != "" && vm.Runs != vm.Loaded && !f.merged(vm.Loaded), OtherPlan)
	add(vm.ReloadDue && u != nil, FilesChanged)
	add(u != nil && u.Name != spec.UnitName(vm.Name) && IsUp(u) && spec.CheckName(vm.Name) == nil, "as "+vm.Unit)
}

// merged: what runs waited for its image, and came to the plan of that digest.
func (f *facts) merged(digest string) bool {
	return f.run != nil && f.run.Record != nil && f.run.Record.Merged == digest
}

// IsUp reports whether anything of the service may be running.
func IsUp(u *systemd.Unit) bool {
	return u.ActiveState != "" && u.ActiveState != "inactive" && u.ActiveState != "failed"
}

// refuses reports whether a unit is the one that says what is wrong with the
// VM's files.
func refuses(u *systemd.Unit) bool {
	return len(u.ExecStart) > 2 && slices.Equal(u.ExecStart[1:3], []string{"unit", "refuse"})
}

// tells reports whether the unit is a last good one that tells this in its
// description.
func (f *facts) tells(words string) bool {
	return strings.HasPrefix(f.unit.Description, "microVM "+f.name+": "+words)
}

// reloadDue believes systemd, except of a unit that was made because its file is
// not there: systemd takes that for a change for ever.
func (f *facts) reloadDue() bool {
	if u := f.unit; u.NeedDaemonReload && (refuses(u) || f.tells(emit.GoneWords)) {
		_, err := os.Lstat(u.SourcePath)
		return !errors.Is(err, fs.ErrNotExist)
	}
	return f.unit.NeedDaemonReload
}

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// DigestOf is the digest of the plan on a command line of ampoule run.
func DigestOf(argv []string) string {
	for _, arg := range argv {
		if digest, ok := strings.CutPrefix(arg, "--digest="); ok && digestForm.MatchString(digest) {
			return digest
		}
	}
	return ""
}

// runningDigest is that of the plan that runs: by the record of the run, or, for
// whoever may not read it, by the command line of the process.
func runningDigest(f *facts) string {
	if f.run != nil && f.run.Running && f.run.Record != nil && digestForm.MatchString(f.run.Record.PlanDigest) {
		return f.run.Record.PlanDigest
	}
	if f.unit == nil || f.unit.MainPID == 0 || !IsUp(f.unit) {
		return ""
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", f.unit.MainPID))
	if err != nil {
		return ""
	}
	return DigestOf(strings.Split(string(line), "\x00"))
}
