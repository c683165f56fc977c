package verify

import (
	"fmt"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/generator"
)

const reload = "systemctl daemon-reload"

// declared judges the files as they are now.
func (f *Facts) declared(j judge) {
	for _, line := range f.shadowed() {
		j.note(line)
	}
	switch {
	case f.Masked:
		j.saw("masked")
		j.note(f.mask())
	case f.Made == generator.Gone, f.Made == "" && f.up():
		f.undeclared(j)
	case f.Made == "" && f.byHand():
		j.unseen("no file of the search path declares it")
	case f.Made == "" && f.Fragment == "" && len(f.DropIns) > 0:
		f.dropInAlone(j)
	case f.Made == "":
		j.unseen("no file declares it")
	case f.Made == generator.Hidden:
		for _, p := range f.Problems {
			j.saw(p.Origin.File)
		}
	case f.Problems.HasErrors():
		f.mistakes(j)
	default:
		j.saw(f.files()...)
		for _, p := range f.Problems {
			j.note(p.Error())
		}
	}
}

// mask says what one means for the VM.
func (f *Facts) mask() string {
	if f.runs() {
		return f.Name + " is masked and runs on; it does not start again"
	}
	return f.Name + " is masked"
}

// undeclared is for a VM that runs in a unit whose files are gone.
func (f *Facts) undeclared(j judge) {
	if f.Unit != nil && f.Fragment == "" && f.Unit.LoadState == "loaded" {
		j.unseen("no file declares it; " + f.Unit.Name + " runs it")
		return
	}
	where := ""
	for _, p := range f.Problems {
		where = p.Origin.File
	}
	what := f.Name + " runs, and no file declares it any more"
	if where != "" {
		what = where + " is not there any more, and " + f.Name + " runs"
	}
	j.found(NotDeclared, Cure{Command: "systemctl stop " + unitOf(f.Name) + " && " + reload}, what)
}

// dropInAlone is for one of systemd's that concerns no VM, and has no effect.
func (f *Facts) dropInAlone(j judge) {
	d := f.DropIns[0]
	cure := "remove it, or declare the VM in /etc/ampoule/" + f.Name + ".microvm"
	if f.Near != "" {
		cure = "remove it, or, if " + f.Near + " is meant, move it to /etc/systemd/system/" + unitOf(f.Near) + ".d; then " + reload
	}
	j.found(DropInAlone, Cure{Line: cure}, d.Path+" is for "+unitOf(f.Name)+", and there is no VM of that name")
}

// mistakes names the first, and how many there are.
func (f *Facts) mistakes(j judge) {
	var errors []diag.Problem
	for _, p := range f.Problems {
		if p.What == generator.Orphaned {
			j.found(DropInAlone, Cure{Line: p.Accepted + "; then " + reload}, p.Origin.File+": "+p.What)
			return
		}
		if p.Severity == diag.Error {
			errors = append(errors, p)
		}
	}
	first := errors[0]
	what := first.Error()
	if n := len(errors) - 1; n > 0 {
		what += fmt.Sprintf(" (and %d more: ampoule check %s)", n, f.Name)
	}
	if f.runs() {
		j.saw(f.Name + " runs on as it was before")
	}
	j.found(Mistakes, Cure{Line: "correct " + first.Origin.String() + ", then " + reload}, what)
}

// files names those of the VM, the VM's own first.
func (f *Facts) files() []string {
	if f.Files == nil {
		return nil
	}
	out := []string{f.Files.Source.Main}
	if n := len(f.Files.Source.Files) - 1; n == 1 {
		out = append(out, "1 drop-in")
	} else if n > 1 {
		out = append(out, fmt.Sprintf("%d drop-ins", n))
	}
	return out
}

// short is the beginning of a digest.
func short(digest string) string {
	digest = strings.TrimPrefix(digest, "sha256:")
	return digest[:min(12, len(digest))]
}
