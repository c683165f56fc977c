package diagnose

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/ampoule-vm/ampoule/internal/diag"
)

// stamp is a moment in a sentence.
func stamp(t time.Time) string {
	if t.IsZero() {
		return "at an unknown time"
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

// quote makes a word for a shell.
func quote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(",._+:@%/-=", r)
	}
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// folded is a name without what people mix up.
func folded(name string) string {
	return strings.NewReplacer("-", "", "_", "", ".", "").Replace(strings.ToLower(name))
}

// near returns the name that differs from one in case, dashes or the like alone.
func near(name string, among []string) string {
	for _, a := range among {
		if a != name && folded(a) == folded(name) {
			return a
		}
	}
	return ""
}

// mismatches compares the names in the unit, in the runner and in the guest.
func (vm *VM) mismatches() []Evidence {
	var out []Evidence
	unit, exact := vm.unitNames()
	read, known := vm.readsByName()
	say := func(at Evidence, name, lacks string, among []string) {
		at.What = name + " " + lacks
		if n := near(name, among); n != "" {
			at.What += "; there is " + n
		}
		out = append(out, at)
	}
	if known && len(unit) > 0 && exact {
		var names []string
		for _, r := range read {
			names = append(names, r.Name)
		}
		for _, r := range read {
			if !slices.Contains(unit, r.Name) {
				say(Evidence{Path: r.File, Line: r.Line}, r.Name, "is read here, and the unit loads none of that name", unit)
			}
		}
		for _, c := range vm.Credentials {
			if !slices.Contains(names, c.ID) {
				say(c.At, c.ID, "is loaded here, and the runner does not read it", names)
			}
		}
	}
	delivered, whole := vm.delivered(read, known)
	if len(delivered) == 0 || !whole {
		return out
	}
	for _, w := range vm.Wanted {
		if !slices.Contains(delivered, w.Name) {
			say(w.At, w.Name, "is wanted here, and the runner delivers none of that name", delivered)
		}
	}
	return out
}

// unitNames are the names that the unit gives its processes; exact: all are known.
func (vm *VM) unitNames() (names []string, exact bool) {
	exact = true
	for _, c := range vm.Credentials {
		if c.Key == "ImportCredential" {
			exact = false
			continue
		}
		names = append(names, c.ID)
	}
	for _, e := range vm.Unit.values("Service", "SetCredential") {
		id, _, _ := strings.Cut(e.Value, ":")
		if !ours(id) && !slices.Contains(names, id) {
			names = append(names, id)
		}
	}
	return names, exact
}

// readsByName are the credentials that what is started reads; known: it reads some, and
// all by names that are written down.
func (vm *VM) readsByName() (reads []Read, known bool) {
	if vm.Forced != nil && vm.Forced.Program != "" {
		reads = append(reads, vm.Forced.Reads...)
	} else if vm.Deployed != nil {
		reads = append(reads, vm.Deployed.Reads...)
	}
	reads = append(reads, vm.PreReads...)
	if slices.ContainsFunc(reads, func(r Read) bool { return r.Name == "" || strings.Contains(r.Name, "*") }) {
		return reads, false
	}
	return reads, len(reads) > 0
}

// delivered are the names that reach the guest; whole: there are no others.
func (vm *VM) delivered(read []Read, known bool) (names []string, whole bool) {
	for _, r := range read {
		if r.Name != "" && !strings.Contains(r.Name, "*") {
			names = append(names, r.Name)
		}
	}
	if vm.Deployed != nil && vm.Deployed.Runner.Script != nil {
		names = append(names, delivers(vm.Deployed.Runner.Script)...)
		if s := vm.Deployed.Runner.Script; s.Exec != nil {
			for _, w := range s.Exec.Args {
				names = append(names, given(w.Text)...)
			}
		}
	}
	return names, len(read) == 0 || known
}

func credentialNameMismatch(_ *Host, vm *VM) *Finding {
	all := vm.mismatches()
	if len(all) == 0 {
		return nil
	}
	f := &Finding{
		Title:    "names of credentials do not match: " + all[0].What,
		Evidence: all,
		Cause:    "A credential has one name all the way: in the unit, below $CREDENTIALS_DIRECTORY, and in the guest's LoadCredential= or ImportCredential=. Letters' case and dashes count, and systemd passes over one that is not there.",
		Cure:     []string{"# use one name in the unit, in the runner and in the guest's services, and install the VM again"},
	}
	return f
}

func secretMissing(h *Host, vm *VM) *Finding {
	f := &Finding{
		Cause: "systemd ends a unit whose credential has no source before anything of it is started (status 243), and names neither the credential nor the path in its status.",
	}
	for _, c := range vm.Credentials {
		if !c.Absent || c.Default || len(c.Makers) > 0 {
			continue
		}
		e := c.At
		if c.Source == "" {
			e.What += ": none of that name is in systemd's stores of credentials"
		} else {
			e.What += ": " + c.Source + " is not there"
		}
		f.Evidence = append(f.Evidence, e)
		if path.IsAbs(c.Source) {
			f.Cure = append(f.Cure, "# put the value of "+c.ID+" there, readable by root alone (type it, and end with Ctrl-D):", "install -D -m 0400 /dev/stdin "+quote(h.at(c.Source)))
		} else {
			f.Cure = append(f.Cure, "# put the value of "+c.ID+" there, readable by root alone (type it, and end with Ctrl-D):", "install -D -m 0400 /dev/stdin "+quote(h.at("/etc/credstore/"+c.ID)))
		}
	}
	if len(f.Evidence) == 0 {
		return nil
	}
	f.Title = count(len(f.Evidence), "source of a credential is", "sources of credentials are") + " not there, and nothing makes " + it(len(f.Evidence))
	return f
}

func it(n int) string {
	if n == 1 {
		return "it"
	}
	return "them"
}

// leaked is the finding about secrets of one kind.
func (vm *VM) leakOf(kind LeakKind, where, cause string) *Finding {
	f := &Finding{Cause: cause}
	var names []string
	plain := true
	for _, k := range vm.Leaks {
		if k.Kind != kind {
			continue
		}
		plain = plain && k.Plain
		f.Evidence = append(f.Evidence, k.At)
		if !slices.Contains(names, k.Name) {
			names = append(names, k.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	f.Title = "the value of " + list(names) + " is in " + where
	change := "# the secret was readable: change it where it is from. Then"
	if plain {
		f.raised, f.Severity = true, diag.Warning
		change = "# a value that is no secret may stay. A secret was readable: change it where it is from. Then"
	}
	f.Cure = append([]string{change}, configured(vm, names)...)
	return f
}

func secretInArgv(_ *Host, vm *VM) *Finding {
	return vm.leakOf(InArgv, "a hypervisor's command line", "Every user of the host can read the command lines of all processes.")
}

func secretInStore(_ *Host, vm *VM) *Finding {
	return vm.leakOf(InStore, "the Nix store", "Every user of the host can read the store, and so can each guest that it is shared with; it is copied to caches and to other hosts, and old generations keep it.")
}

func secretInOEMStrings(_ *Host, vm *VM) *Finding {
	return vm.leakOf(InOEMStrings, "platformOEMStrings", "microvm.nix writes platformOEMStrings into the run script, which is in the store, and so into the hypervisor's command line.")
}

func secretTooOpen(h *Host, vm *VM) *Finding {
	f := &Finding{
		Cause: "systemd reads the sources of credentials as root: nobody else need be able to.",
	}
	for _, c := range vm.Credentials {
		if c.File == nil || c.File.Open == "" || c.Key == "LoadCredentialEncrypted" {
			continue
		}
		f.Evidence = append(f.Evidence, Evidence{Path: c.File.Path, What: c.ID + ": " + c.File.Open}, c.At)
		f.Cure = append(f.Cure, "chown root:root "+quote(h.at(c.File.Path)), "chmod 0400 "+quote(h.at(c.File.Path)))
	}
	if len(f.Evidence) == 0 {
		return nil
	}
	f.Title = count(len(f.Evidence)/2, "source of a credential may", "sources of credentials may") + " be read by others than root"
	f.Cure = append(f.Cure, "# and where a tool makes it (sops-nix, agenix): mode = \"0400\"; owner = \"root\";")
	return f
}

func secretNewer(h *Host, vm *VM) *Finding {
	var since time.Time
	var how Evidence
	switch {
	case vm.Process != nil && !vm.Process.Since.IsZero():
		since, how = vm.Process.Since, Evidence{Path: path.Join("/proc", itoa(vm.Process.PID), "stat")}
	case vm.Booted.There:
		since, how = vm.Booted.Made, Evidence{Path: vm.Booted.Path}
	default:
		return nil
	}
	how.What = "the VM was started " + stamp(since)
	f := &Finding{
		Cause: "A unit's credentials are read when it starts. Until then the guest has the old value.",
		Cure:  []string{h.restart(vm)},
	}
	var names []string
	for _, c := range vm.Credentials {
		if c.File != nil && later(c.File.Modified, since) {
			f.Evidence = append(f.Evidence, Evidence{Path: c.File.Path, What: c.ID + " was written " + stamp(c.File.Modified)})
			names = append(names, c.ID)
		}
	}
	if len(names) == 0 {
		return nil
	}
	f.Evidence = append(f.Evidence, how)
	f.Title = "the source of " + list(names) + " is newer than the VM that runs"
	return f
}

func secretAfterUnit(h *Host, vm *VM) *Finding {
	f := &Finding{
		Cause: "Units that are not ordered start side by side. At boot the VM may be started before its secret is there, and fails.",
	}
	var units []string
	for _, c := range vm.Credentials {
		if len(c.Makers) == 0 || slices.ContainsFunc(c.Makers, func(m Maker) bool { return m.Ordered }) {
			continue
		}
		m := c.Makers[0]
		f.Evidence = append(f.Evidence, c.At, m.At)
		f.Evidence[len(f.Evidence)-2].What += ":" + c.Source
		if !slices.Contains(units, m.Unit) {
			units = append(units, m.Unit)
		}
	}
	if len(units) == 0 {
		return nil
	}
	all := strings.Join(units, " ")
	f.Title = fmt.Sprintf("it does not wait for %s, which makes its secrets", strings.Join(units, ", "))
	f.Cure = dropIn(h, vm, "50-after-secrets.conf", "[Unit]", "After="+all, "Wants="+all)
	f.Cure = append(f.Cure, "# to make it last, in the configuration of the host:",
		"#   systemd.services.\"microvm@"+vm.Name+"\" = { after = [ "+quoted(units)+" ]; wants = [ "+quoted(units)+" ]; };")
	return f
}

func quoted(words []string) string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = `"` + w + `"`
	}
	return strings.Join(out, " ")
}
