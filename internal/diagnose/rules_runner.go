package diagnose

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/microvmnix"
)

// loading are the credentials that a unit loads from somewhere.
func (vm *VM) loading() []*Credential { return vm.Credentials }

// unread reports whether a unit loads credentials that nothing reads.
func (vm *VM) unread() bool {
	d := vm.Deployed
	switch f := vm.Forced; {
	case len(vm.loading()) == 0, d == nil, d.Runner.Script == nil:
		return false
	case f != nil && f.Program != "":
		// Another program is started in the runner's place. What it reads counts, where it
		// can be seen.
		return !f.Ours && !f.Opaque && len(f.Reads) == 0 && !vm.preRead()
	}
	return len(d.Reads) == 0 && len(delivers(d.Runner.Script)) == 0 && !vm.preRead()
}

// preRead reports whether a command in front of the runner has to do with
// credentials.
func (vm *VM) preRead() bool {
	for _, key := range []string{"ExecStartPre", "ExecStartPost"} {
		for _, e := range vm.Unit.values("Service", key) {
			if strings.Contains(e.Value, "CREDENTIALS_DIRECTORY") || strings.Contains(e.Value, "/run/credentials") || strings.Contains(e.Value, "%d/") {
				return true
			}
		}
	}
	return len(vm.PreReads) > 0
}

// ids are the names of credentials, in order.
func ids(all []*Credential) []string {
	out := make([]string, 0, len(all))
	for _, c := range all {
		out = append(out, c.ID)
	}
	return out
}

func lines(all []*Credential) []Evidence {
	out := make([]Evidence, 0, len(all))
	for _, c := range all {
		e := c.At
		if c.Source != "" {
			e.What += ":" + c.Source
		}
		out = append(out, e)
	}
	return out
}

func runnerOverrideLost(h *Host, vm *VM) *Finding {
	if !vm.unread() || len(vm.Lost) == 0 || vm.Deployed.Runner.Script.Make == microvmnix.Foreign {
		return nil
	}
	lost := vm.Lost[0]
	f := &Finding{
		Title: fmt.Sprintf("the run script that reads %s was built, but the deployed one is microvm.nix's own and reads none", list(ids(vm.loading()))),
		Cause: "microvm.nix makes bin/microvm-run itself and puts it over a binScripts.microvm-run of the same name (lib/runner.nix merges the user's scripts first), without a word. " +
			"So the text in the configuration is evaluated and may be built, but no runner refers to it, the system's closure does not change, and neither another rebuild nor a commit helps.",
	}
	script := vm.Deployed.Script
	if script == "" {
		script = vm.Deployed.Runner.Script.File
	}
	f.Evidence = append(f.Evidence,
		Evidence{Path: script, What: "deployed: " + makeOf(vm.Deployed.Runner.Script) + ", reads no credential"},
		Evidence{Path: lost.Path, Line: lost.Reads[0].Line, What: "built: reads " + list(readNames(lost.Reads)) + ", and nothing refers to it"})
	for _, other := range vm.Lost[1:] {
		f.Evidence = append(f.Evidence, Evidence{Path: other.Path, Line: other.Reads[0].Line, What: "built, reads credentials, and nothing refers to it either"})
	}
	if h.System != "" && vm.Install != nil && vm.Install.Runner == vm.Deployed.Path {
		f.Evidence = append(f.Evidence, Evidence{Path: h.System, What: "the system refers to the deployed runner, " + vm.Deployed.Path})
	}
	var alike []string
	for _, g := range vm.Generations {
		if g.Runner == vm.Deployed.Path {
			alike = append(alike, path.Base(g.Link))
		}
	}
	if len(alike) > 0 {
		f.Evidence = append(f.Evidence, Evidence{Path: h.Profile.Link, What: fmt.Sprintf("%s with the same runner: %s", count(len(alike), "generation", "generations"), strings.Join(alike, ", "))})
	}
	f.Evidence = append(f.Evidence, lines(vm.loading())...)
	for _, option := range []string{"microvm.binScripts.microvm-run", "microvm.binScripts"} {
		if w := vm.setting(option); w != nil {
			f.Evidence = append(f.Evidence, Evidence{Path: w.File, Line: w.From, To: w.To, What: "sets binScripts.microvm-run, which microvm.nix discards"})
			break
		}
	}
	f.Cure = startByAmpoule(h, vm)
	return f
}

// makeOf says whose text a script is.
func makeOf(s *microvmnix.Script) string {
	switch s.Make {
	case microvmnix.Generated:
		return "microvm.nix's default template"
	case microvmnix.Customised:
		return "microvm.nix's template with text of the user's in it"
	}
	return "no script of microvm.nix's"
}

func readNames(reads []Read) []string {
	var out []string
	for _, r := range reads {
		name := r.Name
		switch name {
		case "*":
			return []string{"all there are"}
		case "":
			continue
		}
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}

// list names credentials.
func list(names []string) string {
	switch len(names) {
	case 0:
		return "credentials"
	case 1:
		return "the credential " + names[0]
	}
	return "the credentials " + strings.Join(names, ", ")
}

func credentialsUnread(h *Host, vm *VM) *Finding {
	if !vm.unread() || runnerOverrideLost(h, vm) != nil {
		return nil
	}
	f := &Finding{
		Title:    fmt.Sprintf("the unit loads %s, and the runner reads none: the guest never gets them", list(ids(vm.loading()))),
		Evidence: lines(vm.loading()),
		Cause:    "LoadCredential= gives a service its credentials as files. microvm.nix's runner hands none of them to the guest: that takes a run script that reads them, and binScripts.microvm-run is none, since microvm.nix's own replaces it.",
		Cure:     startByAmpoule(h, vm),
	}
	s := vm.Deployed.Runner.Script
	f.Evidence = append(f.Evidence, Evidence{Path: s.File, What: makeOf(s) + ": neither $CREDENTIALS_DIRECTORY nor /run/credentials stands in it"})
	if w := vm.setting("microvm.binScripts.microvm-run"); w != nil {
		f.Evidence = append(f.Evidence, Evidence{Path: w.File, Line: w.From, To: w.To, What: "sets binScripts.microvm-run, which microvm.nix discards"})
	}
	return f
}

func execStartShadowed(h *Host, vm *VM) *Finding {
	x := vm.Forced
	if x == nil || x.Ours && !x.Second {
		return nil
	}
	if x.Second {
		return &Finding{
			raised: true, Severity: diag.Error,
			Title:    "a drop-in adds a second ExecStart=, and systemd refuses the unit",
			Evidence: []Evidence{x.At},
			Cause:    "ExecStart= is a list. A drop-in that means to replace the template's command must empty the list first.",
			Cure:     []string{"# in " + x.At.Path + ", in front of the line " + itoa(x.At.Line) + ":", "#   ExecStart=", "# or, in the NixOS configuration: ExecStart = lib.mkForce [ \"\" COMMAND ];"},
		}
	}
	return &Finding{
		Title:    "a drop-in starts " + x.Program + " instead of the runner: what is configured for the runner has no effect",
		Evidence: []Evidence{x.At},
		Cause:    "The unit's ExecStart= is not the template's " + path.Join(vm.Dir, "current/bin/microvm-run") + ".",
		Cure:     []string{"# if this is not meant: remove ExecStart= from " + x.At.Path + ", and then", h.run("systemctl daemon-reload"), h.restart(vm)},
	}
}

func scriptEdited(h *Host, vm *VM) *Finding {
	d := vm.Deployed
	if d == nil || d.Runner.Script == nil {
		return nil
	}
	s := d.Runner.Script
	f := &Finding{
		Title: "the deployed run script is not what microvm.nix makes",
		Cause: "A run script is a file of the store that the runner links to, made from a template. What was put there by hand is gone with the next update, and is in no configuration.",
		Cure:  []string{"# put the change into the configuration (microvm.preStart, microvm.extraArgsScript), and install the runner again:", h.installs(vm)},
	}
	if vm.Install == nil {
		f.Cure[1] = h.updates(vm)
	}
	if d.Script == "" {
		f.Evidence = append(f.Evidence, Evidence{Path: s.File, What: "it is no file of the store"})
	}
	if d.Altered {
		f.Evidence = append(f.Evidence, Evidence{Path: d.Script, What: "its contents are not those that Nix has registered"})
	}
	// A script that the runner links to and that reads credentials is somebody's own
	// runner, made on purpose.
	if len(f.Evidence) > 0 || s.Make == microvmnix.Foreign && len(d.Reads) == 0 {
		for _, e := range s.Edits {
			f.Evidence = append(f.Evidence, Evidence{Path: s.File, Line: e.Line, What: e.What})
		}
		f.Evidence = append(f.Evidence, d.Problems...)
	}
	if len(f.Evidence) == 0 {
		return nil
	}
	return f
}

func linkDangling(h *Host, vm *VM) *Finding {
	var f Finding
	for _, k := range []Link{vm.Current, vm.Booted} {
		if k.Dangling {
			f.Evidence = append(f.Evidence, Evidence{Path: k.Path, What: "leads to " + k.Target + ", which is not there"})
		}
	}
	if len(f.Evidence) == 0 {
		return nil
	}
	what := "its link " + path.Base(f.Evidence[0].Path) + " leads"
	if len(f.Evidence) > 1 {
		what = "both of its links lead"
	}
	f.Title = what + " to nothing"
	f.Cause = "The runner was collected as garbage, or the store is another one than the VM was installed from."
	f.Cure = install(h, vm)
	return &f
}

// install are the commands that put the declared runner in place.
func install(h *Host, vm *VM) []string {
	if vm.Install != nil && vm.Install.Once == nil {
		return []string{h.installs(vm), h.restart(vm)}
	}
	return []string{h.updates(vm), h.restart(vm)}
}

func runningNotBooted(h *Host, vm *VM) *Finding {
	if vm.Process == nil || vm.Started == nil || !vm.Booted.There || vm.Booted.Dangling || vm.Forced != nil {
		return nil
	}
	s := vm.Started.Runner.Script
	if sameWords(s, vm.Process.Args) != other {
		return nil
	}
	return &Finding{
		Title: "the hypervisor that runs has other words than the booted runner gives it",
		Evidence: []Evidence{
			{Path: path.Join("/proc", itoa(vm.Process.PID), "cmdline"), What: difference(s, vm.Process.Args)},
			{Path: vm.Booted.Path, What: "leads to " + vm.Booted.Target},
			{Path: s.File, Line: s.Exec.Line, What: "the command that it starts"},
		},
		Cause: "It was started by hand, or the link was changed while it ran.",
		Cure:  []string{h.restart(vm)},
	}
}

// difference says where two command lines part, without their words: one may be a
// secret.
func difference(s *microvmnix.Script, args []string) string {
	for i, w := range s.Exec.Args {
		if i+1 >= len(args) {
			break
		}
		if args[i+1] != w.Text {
			option := ""
			if i > 0 && strings.HasPrefix(s.Exec.Args[i-1].Text, "-") {
				option = ", behind " + s.Exec.Args[i-1].Text
			}
			return fmt.Sprintf("word %d differs%s", i+1, option)
		}
	}
	return fmt.Sprintf("it has %s, and the script gives %d", count(len(args)-1, "word", "words"), len(s.Exec.Args))
}

func gcRootLost(h *Host, vm *VM) *Finding {
	if len(vm.Unrooted) == 0 {
		return nil
	}
	f := &Finding{
		Title: "nothing keeps the runner behind " + path.Base(vm.Unrooted[0].Path) + " from being collected as garbage",
		Cause: "VMs that a system declares are kept by that system alone, and it is gone from the generations; only the imperative command makes roots of its own.",
		Cure:  []string{"mkdir -p " + quote(h.at(microvmRoots))},
	}
	for _, k := range vm.Unrooted {
		f.Evidence = append(f.Evidence, Evidence{Path: k.Path, What: "leads to " + k.Target + ", to which no root leads"})
		name := vm.Name
		if path.Base(k.Path) == "booted" {
			name = "booted-" + name
		}
		f.Cure = append(f.Cure, "ln -sfn "+quote(k.Path)+" "+quote(h.at(path.Join(microvmRoots, name))))
	}
	return f
}
