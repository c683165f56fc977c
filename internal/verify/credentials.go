package verify

import (
	"fmt"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/credential"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/inventory"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
	"github.com/ampoule-vm/ampoule/internal/state"
)

// credentials judges what was delivered, and the sources as they are now. Where
// an earlier link is broken, that nobody delivers can follow from it.
func (f *Facts) credentials(j judge, broken bool) {
	f.open(j)
	if !f.runs() {
		for _, p := range f.Sources {
			if p.Severity == diag.Error {
				j.note(p.Error())
			}
		}
		j.unseen(f.Name + " does not run")
		return
	}
	wanted := f.wanted()
	rec := f.record()
	if wanted == 0 && f.plan() != nil {
		j.saw("it has none")
		return
	}
	if f.up() && f.ownWay(rec) {
		if broken {
			j.unseen("no record tells what was delivered")
			return
		}
		f.undelivered(j)
		return
	}
	switch {
	case rec == nil && !f.Root:
		j.unseen("what was delivered is for root to see")
		return
	case rec == nil:
		j.unseen("no record tells what was delivered")
		return
	case rec.Phase == state.Booting && rec.Channel == "":
		j.unseen("the VM is being started")
		return
	}
	for _, c := range rec.Credentials {
		j.saw(c.Name, "by "+rec.Channel, fmt.Sprintf("%d bytes", c.Bytes))
	}
	f.compared(j)
}

// wanted is how many credentials the guest of the plan that runs has.
func (f *Facts) wanted() int {
	if p := f.plan(); p != nil {
		return len(p.VM.Credentials)
	}
	return 0
}

// ownWay: the VM was started by a runner of the user's own, or by a command of
// [Service], and no ampoule boot of this activation has said what it delivered.
func (f *Facts) ownWay(rec *state.Record) bool {
	if rec == nil {
		return f.Root && f.Process != nil && inventory.DigestOf(f.Process.Argv) == ""
	}
	if f.Unit != nil && f.Unit.Invocation != "" && rec.Invocation != f.Unit.Invocation {
		return true
	}
	return rec.Channel == "" && f.runner() != "" && rec.Phase != state.Booting
}

// runner is the Runner= of the plan that runs.
func (f *Facts) runner() string {
	if p := f.plan(); p != nil {
		return p.VM.Runner
	}
	return ""
}

// undelivered is the failure that nothing else shows: the unit has its
// credentials, everything runs, and nobody knows whether the guest has them.
func (f *Facts) undelivered(j judge) {
	who, at := "ExecStart=", "[Service]"
	if runner := f.runner(); runner != "" {
		who, at = runner, "Runner="
		if p := f.Plan; p != nil {
			at = p.Origin("Runner").String()
		}
	} else if f.Process != nil && len(f.Process.Argv) > 0 {
		who = f.Process.Argv[0]
	}
	j.found(Undelivered, Cure{Line: fmt.Sprintf("let %s end in: exec ampoule boot; then systemctl restart %s", who, f.unitName())},
		fmt.Sprintf("not delivered through Ampoule: %s (%s) has not called ampoule boot since this start; what it did with %s is not known", who, at, f.names()))
}

// names are those of the guest's credentials.
func (f *Facts) names() string {
	var names []string
	if p := f.plan(); p != nil {
		for _, c := range p.VM.Credentials {
			names = append(names, guestName(c))
		}
	}
	if len(names) == 0 {
		return "the credentials"
	}
	return strings.Join(few(names), ", ")
}

func guestName(c plan.Credential) string {
	if c.Guest != "" && c.Kind != string(spec.Import) {
		return c.Guest
	}
	return c.ID
}

// open: a secret that others may read is none, whether the VM runs or not.
func (f *Facts) open(j judge) {
	for _, p := range f.Sources {
		if p.Severity == diag.Warning {
			j.found(Open, Cure{Command: p.Accepted}, p.Origin.String()+": "+p.Key+"="+p.Value+": "+p.What)
		}
	}
}

// compared judges what the unit holds against its sources.
func (f *Facts) compared(j judge) {
	if f.byHand() {
		j.saw("what a VM holds that was started by hand is not compared with its sources")
		return
	}
	if !f.Root {
		j.unseen("the sources are for root to compare")
		return
	}
	for _, p := range f.Sources {
		if p.Severity != diag.Error {
			continue
		}
		cure := Cure{Line: p.Accepted}
		if strings.HasSuffix(p.What, "does not exist") {
			cure.Line = "bring it back before the next start of " + f.unitName()
		}
		j.found(Missing, cure, p.Origin.String()+": "+p.Key+"="+p.Value+": "+p.What+"; the guest still has what was there")
	}
	asked := 0
	for _, c := range f.Compared {
		switch c.Outcome {
		case credential.Changed:
			j.found(Rotated, Cure{Command: "systemctl restart " + f.unitName()},
				fmt.Sprintf("%s: %s=%s: %s has another value now than the one that %s was started with", c.Origin, c.Key, c.Shown, c.Source, f.Name))
		case credential.NotAsked:
			j.saw(c.Host + ": " + c.Source + " is not asked a second time")
		case credential.Same:
			asked++
		}
	}
	if asked > 0 {
		j.saw(fmt.Sprintf("%d as at their source now", asked))
	}
}
