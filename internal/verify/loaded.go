package verify

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/credential/rule"
	"github.com/ampoule-vm/ampoule/internal/generator"
	"github.com/ampoule-vm/ampoule/internal/inventory"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

func unitOf(name string) string { return spec.UnitName(name) }

// loaded judges what the service manager holds. Where the files are broken, that
// it holds something else follows from that.
func (f *Facts) loaded(j judge, filesBroken bool) {
	switch {
	case f.Elsewhere:
		j.unseen("the files are not this host's, and systemd is not asked")
		return
	case !f.Managed:
		j.unseen("systemd does not manage this system")
		return
	case f.Made == generator.Hidden:
		f.hidden(j)
		return
	case f.Unit != nil && f.Unit.Err != nil:
		j.unseen(f.Unit.Err.Error())
		return
	case filesBroken:
		j.unseen("that follows from the files")
		return
	case f.Unit != nil && f.Unit.LoadState == "masked" && !f.Masked:
		j.note(unitOf(f.Name) + " is masked in systemd")
		j.saw(unitOf(f.Name), "masked")
		return
	case f.Fragment == "" && !f.Change.Any():
		if f.Unit != nil {
			j.saw(f.Unit.Name, "a unit of somebody else's")
		} else {
			j.saw("there is no unit")
		}
		return
	}
	j.saw(f.Fragment, f.carries())
	f.dropIns(j)
	f.reloadDue(j)
}

// carries names the plan that the unit has.
func (f *Facts) carries() string {
	if f.Unit == nil {
		return ""
	}
	if d := inventory.DigestOf(f.Unit.ExecStart); d != "" {
		return "plan " + short(d)
	}
	return ""
}

// hidden names who provides the unit.
func (f *Facts) hidden(j judge) {
	what := "another file provides " + unitOf(f.Name)
	for _, p := range f.Problems {
		what = p.Origin.File + ": " + p.What
	}
	cure := Cure{Line: "give the VM another name, or remove the other unit; then " + reload}
	if path := "/etc/systemd/system/" + unitOf(f.Name); strings.Contains(what, "provided by "+path+",") {
		cure = Cure{Command: "rm " + path + " && " + reload}
	}
	j.found(Hidden, cure, what)
}

// reloadDue: the files come to another unit than the one that was loaded.
func (f *Facts) reloadDue(j judge) {
	c := f.Change
	if c.Touched {
		j.note("the files of " + f.Name + " were written to, and come to the same unit")
	}
	if c.Version != "" {
		j.note(fmt.Sprintf("%s was made by ampoule %s; %s takes what this one makes of the files", unitOf(f.Name), c.Version, reload))
	}
	for _, d := range f.DropIns {
		if d.Changed {
			j.found(ReloadDue, Cure{Command: reload}, d.Path+" was written after systemd had read the units")
			return
		}
	}
	if !c.Any() || c.Removed && f.Masked && f.up() {
		return // a VM that runs keeps its unit, as only root can see
	}
	cure := Cure{Command: reload}
	if f.up() && !c.Removed && (c.VM || c.Restart) {
		cure.Command += " && systemctl restart " + f.unitName()
	}
	main := ""
	if f.Files != nil {
		main = f.Files.Source.Main
	}
	var what string
	switch {
	case c.Added:
		what = fmt.Sprintf("%s is there, and systemd has no unit of it yet", main)
	case c.Removed && f.Masked:
		what = fmt.Sprintf("%s is masked, and systemd still has its unit", f.Name)
	case c.Removed:
		what = fmt.Sprintf("no file declares %s any more, and systemd still has its unit", f.Name)
	default:
		what = "the files have changed since systemd read them: " + strings.Join(c.said(), ", ")
	}
	j.found(ReloadDue, cure, what)
}

// said names what differs, not more than there is room for.
func (c Change) said() []string {
	names := make([]string, 0, len(c.Lines))
	for _, line := range c.Lines {
		if section, key, ok := strings.Cut(line, "."); ok {
			line = "[" + section + "] " + key
		}
		names = append(names, line+"=")
	}
	if c.VM && len(names) == 0 {
		names = []string{"the plan"}
	}
	return few(names)
}

// few are not more names than there is room for.
func few(names []string) []string {
	const most = 6
	if n := len(names) - most; n > 0 {
		names = append(names[:most:most], fmt.Sprintf("and %d more", n))
	}
	return names
}

// dropIns judges those of systemd's, which Ampoule does not make and whose lines
// go over what it makes.
func (f *Facts) dropIns(j judge) {
	for _, d := range f.DropIns {
		said := len(j.state.Findings)
		if a := d.Command; a != nil && f.commandReplaced() {
			j.found(OwnCommand, Cure{Line: fmt.Sprintf("remove ExecStart= from %s, or write it into [Service] of a drop-in of Ampoule's, %s.microvm.d/NAME.conf; then %s%s",
				a.Origin, f.Name, reload, f.thenRestart())},
				fmt.Sprintf("%s: ExecStart= of this drop-in takes the place of ampoule run, so that nothing of the plan is carried out", a.Origin))
		}
		for _, a := range d.Clears {
			switch {
			case a.Key == "SetCredential" && f.planLost():
				j.found(PlanReset, Cure{Line: "remove " + a.Origin.String() + "; then " + reload},
					a.Origin.String()+": an empty SetCredential= takes the plan out of "+f.unitName()+", which will not start")
			case f.has(a.Key):
				j.found(CredentialReset, Cure{Line: "remove " + a.Origin.String() + "; then " + reload + f.thenRestart()},
					a.Origin.String()+": an empty "+a.Key+"= takes the credentials of the VM's own lines out of "+f.unitName())
			}
		}
		for _, a := range d.Replaces {
			j.found(CredentialReset, Cure{Line: fmt.Sprintf("write it into [MicroVM] of %s.microvm.d/NAME.conf, and remove %s; then %s%s", f.Name, a.Origin, reload, f.thenRestart())},
				fmt.Sprintf("%s: %s=%s takes the place of what the VM's files say about this credential", a.Origin, a.Key, a.ID))
		}
		if len(j.state.Findings) == said && !d.Shared {
			j.note(d.Path + ": a drop-in of systemd's goes over what Ampoule makes of the VM's files")
		}
		if d.Late && !d.Changed && f.up() {
			j.note(d.Path + " was written after " + f.Name + " had been started; some of it may wait for a restart")
		}
	}
}

func (f *Facts) thenRestart() string {
	if f.up() {
		return " && systemctl restart " + f.unitName()
	}
	return ""
}

// commandReplaced: what systemd would start is not what the unit of the
// generator's starts.
func (f *Facts) commandReplaced() bool {
	return f.Unit != nil && len(f.Unit.ExecStart) > 0 && inventory.DigestOf(f.Unit.ExecStart) == "" &&
		!slices.Contains(f.Unit.ExecStart, "resume") && !slices.Contains(f.Unit.ExecStart, "refuse")
}

// planLost: the unit does not carry its plan.
func (f *Facts) planLost() bool {
	return f.Unit != nil && f.Unit.SetCredential != nil && len(f.Unit.SetCredential[rule.PlanName]) == 0
}

// has reports whether the VM's files have a credential of that key.
func (f *Facts) has(key string) bool {
	if f.Files == nil || f.Files.Plan == nil {
		return false
	}
	kinds := map[string]string{
		"LoadCredential": string(spec.Load), "LoadCredentialEncrypted": string(spec.LoadEncrypted), "ImportCredential": string(spec.Import),
		"SetCredential": string(spec.Set), "SetCredentialEncrypted": string(spec.SetEncrypted),
	}
	for _, c := range f.Files.Plan.VM.Credentials {
		if c.Kind == kinds[key] {
			return true
		}
	}
	return false
}
