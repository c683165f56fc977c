package diagnose

import (
	"path"
	"slices"
	"strings"
)

// Comparison sets two VMs side by side, fact by fact.
type Comparison struct {
	Of      string `json:"of"`
	Against string `json:"against"`
	Facts   []Fact `json:"facts"`
	// Findings are the causes that the one has and the other has not.
	Findings []Code `json:"findings"`
}

// Fact is one thing that is known of both.
type Fact struct {
	Name    string `json:"fact"`
	Of      string `json:"of"`
	Against string `json:"against"`
	Differs bool   `json:"differs"`
	// Explains are the causes, of those that only the first has, that rest on it.
	Explains []Code `json:"explains"`
}

// Compare says in what one VM differs from another, and which difference explains
// what is wrong with it.
func Compare(h *Host, of, against *VM) Comparison {
	c := Comparison{Of: of.Name, Against: against.Name, Findings: []Code{}}
	for _, row := range Codes() {
		if row.vm != nil && row.vm(h, of) != nil && row.vm(h, against) == nil {
			c.Findings = append(c.Findings, row.Code)
		}
	}
	for _, row := range compared() {
		f := Fact{Name: row.name, Of: row.of(h, of), Against: row.of(h, against), Explains: []Code{}}
		f.Differs = f.Of != f.Against
		for _, code := range row.explains {
			if f.Differs && slices.Contains(c.Findings, code) {
				f.Explains = append(f.Explains, code)
			}
		}
		c.Facts = append(c.Facts, f)
	}
	return c
}

type comparedFact struct {
	name     string
	of       func(*Host, *VM) string
	explains []Code
}

func compared() []comparedFact {
	return []comparedFact{
		{"who makes the runner", evaluatedBy, []Code{"runner-override-lost", "flake-pinned", "flake-install-once", "imperative-over-declarative", "vm-removed", "target-inactive", "gc-root-lost"}},
		{"hypervisor", func(_ *Host, vm *VM) string {
			if vm.Deployed == nil {
				return "unknown"
			}
			return vm.Deployed.Hypervisor
		}, []Code{"option-ignored", "secret-in-oem-strings"}},
		{"run script", func(_ *Host, vm *VM) string {
			if vm.Deployed == nil || vm.Deployed.Runner.Script == nil {
				return "unknown"
			}
			return makeOf(vm.Deployed.Runner.Script)
		}, []Code{"runner-override-lost", "credentials-unread", "script-edited"}},
		{"the runner reads", func(_ *Host, vm *VM) string {
			if vm.Deployed == nil {
				return "unknown"
			}
			names := append(readNames(vm.Deployed.Reads), delivers(vm.Deployed.Runner.Script)...)
			return words(names)
		}, []Code{"runner-override-lost", "credentials-unread", "credential-name-mismatch"}},
		{"scripts that nothing refers to", func(_ *Host, vm *VM) string {
			var out []string
			for _, s := range vm.Lost {
				out = append(out, path.Base(s.Path))
			}
			return words(out)
		}, []Code{"runner-override-lost"}},
		{"the unit loads", func(_ *Host, vm *VM) string { return words(ids(vm.Credentials)) }, []Code{"credential-name-mismatch"}},
		{"their sources", sources, []Code{"secret-missing", "secret-too-open", "secret-newer", "secret-after-unit"}},
		{"secrets in the open", exposed, []Code{"secret-in-argv", "secret-in-store", "secret-in-oem-strings"}},
		{"the unit starts", func(_ *Host, vm *VM) string {
			switch {
			case vm.Unit == nil:
				return "no unit"
			case vm.Forced == nil:
				return "current/bin/microvm-run"
			case vm.Forced.Second:
				return "two commands"
			}
			return vm.Forced.Program
		}, []Code{"execstart-shadowed"}},
		{"its drop-ins", func(_ *Host, vm *VM) string {
			var out []string
			if vm.Unit != nil {
				for _, f := range vm.Unit.Files {
					if f.Path != vm.Unit.Fragment {
						out = append(out, path.Base(f.Path))
					}
				}
			}
			return words(out)
		}, []Code{"execstart-shadowed"}},
		{"its links", func(_ *Host, vm *VM) string {
			var out []string
			for _, k := range []Link{vm.Current, vm.Booted} {
				if k.Dangling {
					out = append(out, path.Base(k.Path)+" leads to nothing")
				}
			}
			for _, k := range vm.Unrooted {
				out = append(out, "nothing keeps "+path.Base(k.Path))
			}
			if out == nil {
				return "whole"
			}
			return words(out)
		}, []Code{"link-dangling", "gc-root-lost"}},
		{"files that git does not know", func(_ *Host, vm *VM) string { return count(len(vm.Untracked), "file", "files") }, []Code{"source-untracked"}},
		{"options without effect", func(h *Host, vm *VM) string {
			if f := optionIgnored(h, vm); f != nil {
				return count(len(f.Evidence), "option", "options")
			}
			return "none"
		}, []Code{"option-ignored"}},
		{"a switch restarts it", func(_ *Host, vm *VM) string {
			wanted, _ := vm.wantsRestart()
			return yes(wanted && !strings.Contains(vm.Name, "."))
		}, []Code{"restart-not-wanted", "name-with-dot"}},
		{"installed is what is declared", func(_ *Host, vm *VM) string {
			if vm.Install == nil {
				return "not declared"
			}
			return yes(vm.Current.There && !vm.differs())
		}, []Code{"flake-install-once", "imperative-over-declarative", "target-inactive"}},
		{"booted is what is installed", func(_ *Host, vm *VM) string {
			if !vm.Booted.There {
				return "not booted"
			}
			return yes(vm.Booted.Target == vm.Current.Target)
		}, []Code{"restart-not-wanted", "trigger-unchanged"}},
		{"runs", func(h *Host, vm *VM) string {
			if !h.ProcessesKnown {
				return "unknown"
			}
			return yes(vm.Process != nil)
		}, []Code{"running-not-booted"}},
	}
}

// sources says how it stands with the sources of a VM's credentials.
func sources(h *Host, vm *VM) string {
	var out []string
	for _, rule := range []struct {
		of   func(*Host, *VM) *Finding
		what string
	}{{secretMissing, "missing"}, {secretTooOpen, "open to others"}, {secretNewer, "newer than the VM that runs"}, {secretAfterUnit, "made by a unit that it does not wait for"}} {
		if rule.of(h, vm) != nil {
			out = append(out, rule.what)
		}
	}
	if out == nil {
		return "in order"
	}
	return words(out)
}

// exposed names the secrets that lie open, by where they do.
func exposed(_ *Host, vm *VM) string {
	var out []string
	for _, k := range vm.Leaks {
		where := map[LeakKind]string{InArgv: "the command line", InStore: "the store", InOEMStrings: "OEM strings"}[k.Kind]
		if what := k.Name + " in " + where; !slices.Contains(out, what) {
			out = append(out, what)
		}
	}
	return words(out)
}

// evaluatedBy says who evaluates and installs a VM's runner.
func evaluatedBy(_ *Host, vm *VM) string {
	switch in := vm.Install; {
	case in == nil && vm.Rooted:
		return "the command microvm, from " + orUnknown(shown(vm.Flake))
	case in == nil:
		return "not the current system"
	case in.Flake != "" && in.Once != nil:
		return "the host, once, from a flake"
	case in.Flake != "":
		return "the host, from a flake"
	}
	return "the host, from microvm.vms." + vm.Name
}

func orUnknown(s string) string {
	if s == "" {
		return "an unknown flake"
	}
	return s
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func words(all []string) string {
	if len(all) == 0 {
		return "none"
	}
	return strings.Join(all, ", ")
}
