package run

import (
	"os"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/plan"
)

// inOthersUnit is for a service that was not made for the VM, of a user other than root:
// what its user has for a home says nothing of where the VM's disks are.
func (r *runner) inOthersUnit() {
	if !r.byHand() && os.Geteuid() != 0 && r.Getenv("STATE_DIRECTORY") == "" && r.Getenv("XDG_RUNTIME_DIR") == "" {
		r.dirs.State = ""
	}
}

// judgeRuntime refuses a service without a runtime directory where the hypervisor makes
// sockets, and says what is not to be had without one.
func (r *runner) judgeRuntime(problems *diag.List) {
	if r.checking || r.Control != "" || r.dirs.Runtime != "" {
		return
	}
	at := diag.Problem{
		Origin: r.Plan.Origin(plan.Whole), Severity: diag.Warning, Accepted: "XDG_RUNTIME_DIR",
		What: "there is no runtime directory: ampoule status, list, console and stop do not find the VM, and nothing keeps it from being started twice",
	}
	if !r.byHand() {
		at.Accepted = "RuntimeDirectory=ampoule/vm/" + r.Plan.VM.Name + " in [Service] of the unit"
	}
	if r.makesSocket() || r.Plan.VM.VSock != nil && r.Plan.VM.VSock.Multiplexed {
		at.Severity, at.What = diag.Error, "there is no runtime directory, and the sockets of "+r.Plan.VM.Hypervisor+" need one"
	}
	problems.Add(at)
}
