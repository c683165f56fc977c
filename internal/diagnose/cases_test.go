package diagnose

import (
	"io/fs"

	"github.com/ampoule-vm/ampoule/internal/microvmnix"
	"github.com/ampoule-vm/ampoule/internal/nixstore"
)

// ruleCase is a change of a healthy host, and the causes that follow from it.
type ruleCase struct {
	name   string
	change func(*Host, *VM)
	want   string
}

func ruleCases() []ruleCase {
	all := append(credentialCases(), secretCases()...)
	return append(append(all, stateCases()...), hostCases()...)
}

func credentialCases() []ruleCase {
	unread := func(vm *VM) {
		withCredential(vm)
		vm.Deployed.Reads, vm.Deployed.Runner.Script.Make = nil, microvmnix.Generated
	}
	lost := []Lost{{Path: scriptB, Reads: []Read{{File: scriptB, Line: 4, Name: "API_KEY"}}}}
	return []ruleCase{
		{"healthy", func(*Host, *VM) {}, ""},
		{"credential that is read", func(_ *Host, vm *VM) { withCredential(vm) }, ""},
		{"override lost", func(_ *Host, vm *VM) { unread(vm); vm.Lost = lost }, "runner-override-lost"},
		{"override lost, with preStart", func(_ *Host, vm *VM) {
			unread(vm)
			vm.Deployed.Runner.Script.Make, vm.Lost = microvmnix.Customised, append(lost, lost...)
		}, "runner-override-lost"},
		{"unread", func(_ *Host, vm *VM) { unread(vm) }, "credentials-unread"},
		{"another script, and nothing loaded", func(_ *Host, vm *VM) { vm.Lost = lost }, ""},
		{"handed over by fw_cfg", func(_ *Host, vm *VM) {
			unread(vm)
			vm.Deployed.Runner.Script = scriptOf("-fw_cfg", "name=opt/io.systemd.credentials/API_KEY,file=/run/credentials/x")
			vm.Started = nil
		}, ""},
		{"read by Ampoule", func(_ *Host, vm *VM) { unread(vm); vm.Forced = &Forced{Program: "/bin/ampoule", Ours: true} }, ""},
		{"read by a forced program", func(_ *Host, vm *VM) {
			unread(vm)
			vm.Forced = &Forced{Program: "/bin/own", At: Evidence{Path: "/run/u", Line: 2, What: "x"}, Reads: []Read{{File: "/bin/own", Line: 1, Name: "API_KEY"}}}
		}, "execstart-shadowed"},
		{"read in front of the runner", func(_ *Host, vm *VM) { unread(vm); vm.PreReads = []Read{{File: "/bin/pre", Line: 1, Name: "API_KEY"}} }, ""},
		{"forced program", func(_ *Host, vm *VM) {
			vm.Forced = &Forced{Program: "/bin/own", At: Evidence{Path: "/run/u", Line: 2, What: "x"}}
		}, "execstart-shadowed"},
		{"second ExecStart=", func(_ *Host, vm *VM) {
			vm.Forced = &Forced{Second: true, At: Evidence{Path: "/run/u", Line: 2, What: "x"}}
		}, "execstart-shadowed"},
		{"another name is read", func(_ *Host, vm *VM) {
			withCredential(vm)
			vm.Deployed.Reads[0].Name = "api-key"
		}, "credential-name-mismatch"},
		{"less is read than loaded", func(_ *Host, vm *VM) {
			withCredential(vm)
			vm.Credentials = append(vm.Credentials, credentialOf("OTHER", "/run/secrets/other"))
		}, "credential-name-mismatch"},
		{"all are read", func(_ *Host, vm *VM) {
			withCredential(vm)
			vm.Deployed.Reads = []Read{{File: scriptA, Line: 4, Name: "*"}}
		}, ""},
		{"SetCredential= counts", func(_ *Host, vm *VM) {
			withCredential(vm)
			vm.Unit = unitOf("[Service]\nX-RestartIfChanged=true\nSetCredential=MODE:x\n")
			vm.Deployed.Reads = append(vm.Deployed.Reads, Read{File: scriptA, Line: 5, Name: "MODE"})
		}, ""},
		{"the guest wants another", func(_ *Host, vm *VM) {
			withCredential(vm)
			vm.Wanted = []Wanted{{Name: "api-key", At: Evidence{Path: topA + "/etc/x.service", Line: 3}}}
		}, "credential-name-mismatch"},
		{"the guest wants it", func(_ *Host, vm *VM) {
			withCredential(vm)
			vm.Wanted = []Wanted{{Name: "API_KEY", At: Evidence{Path: topA + "/etc/x.service", Line: 3}}}
		}, ""},
		{"script of no template", func(_ *Host, vm *VM) {
			vm.Deployed.Runner.Script.Make, vm.Started = microvmnix.Foreign, nil
			vm.Deployed.Runner.Script.Edits = []microvmnix.Edit{{Line: 3, What: "a line"}}
		}, "script-edited"},
		{"script that is no file of the store", func(_ *Host, vm *VM) { vm.Deployed.Script = "" }, "script-edited"},
		{"script with another hash", func(_ *Host, vm *VM) { vm.Deployed.Altered = true }, "script-edited"},
		{"runner of somebody's own", func(_ *Host, vm *VM) {
			withCredential(vm)
			vm.Deployed.Runner.Script.Make, vm.Started = microvmnix.Foreign, nil
			vm.Deployed.Runner.Script.Edits = []microvmnix.Edit{{Line: 3, What: "a line"}}
		}, ""},
	}
}

func secretCases() []ruleCase {
	leak := func(kind LeakKind) func(*Host, *VM) {
		return func(_ *Host, vm *VM) {
			vm.Leaks = []Leak{{Kind: kind, Name: "API_KEY", At: Evidence{Path: scriptA, Line: 9, What: "x"}}}
		}
	}
	return []ruleCase{
		{"in argv", leak(InArgv), "secret-in-argv"},
		{"in the store", leak(InStore), "secret-in-store"},
		{"in OEM strings", leak(InOEMStrings), "secret-in-oem-strings"},
		{"missing", func(_ *Host, vm *VM) { withCredential(vm).Absent = true }, "secret-missing"},
		{"missing, by name", func(_ *Host, vm *VM) { c := withCredential(vm); c.Absent, c.Source, c.File = true, "", nil }, "secret-missing"},
		{"missing, with a default", func(_ *Host, vm *VM) { c := withCredential(vm); c.Absent, c.Default = true, true }, ""},
		{"missing, and made", func(_ *Host, vm *VM) {
			c := withCredential(vm)
			c.Absent, c.Makers = true, []Maker{{Unit: "sops-install-secrets.service", At: Evidence{Path: "/etc/s", What: "x"}, Ordered: true}}
		}, ""},
		{"made later", func(_ *Host, vm *VM) {
			withCredential(vm).Makers = []Maker{{Unit: "sops-install-secrets.service", At: Evidence{Path: "/etc/s", What: "x"}}}
		}, "secret-after-unit"},
		{"made by two, one of them before", func(_ *Host, vm *VM) {
			at := Evidence{Path: "/etc/s", What: "x"}
			withCredential(vm).Makers = []Maker{{Unit: "a.service", At: at}, {Unit: "b.service", At: at, Ordered: true}}
		}, ""},
		{"too open", func(_ *Host, vm *VM) { withCredential(vm).File.Open = "everybody may read it" }, "secret-too-open"},
		{"open, and encrypted", func(_ *Host, vm *VM) { c := withCredential(vm); c.File.Open, c.Key = "x", "LoadCredentialEncrypted" }, ""},
		{"newer", func(_ *Host, vm *VM) { withCredential(vm).File.Modified = moment(2) }, "secret-newer"},
		{"newer than the link", func(_ *Host, vm *VM) { withCredential(vm).File.Modified = moment(2); vm.Process = nil }, "secret-newer"},
		{"newer, and not booted", func(_ *Host, vm *VM) {
			withCredential(vm).File.Modified = moment(2)
			vm.Process, vm.Booted, vm.Started = nil, Link{}, nil
		}, ""},
	}
}

func stateCases() []ruleCase {
	outdated := func(vm *VM) {
		vm.Booted.Target, vm.Started = runnerB, runnerOf(runnerB, "-m", "512")
	}
	declares := func(vm *VM) { vm.Install.Runner, vm.Install.Toplevel = runnerB, topB }
	return []ruleCase{
		{"pinned", func(_ *Host, vm *VM) {
			vm.Install.Flake, vm.FlakeThere, vm.Flake, vm.Toplevel = runnerA, true, runnerA, ""
			vm.Install.Toplevel = ""
		}, "flake-pinned"},
		{"not pinned", func(_ *Host, vm *VM) {
			vm.Install.Flake, vm.FlakeThere, vm.Flake, vm.Toplevel, vm.Install.Toplevel = "github:a/b", true, "github:a/b", "", ""
		}, ""},
		{"installed once", func(_ *Host, vm *VM) { declares(vm); vm.Install.Once = &Evidence{Path: "/u", What: "x"} }, "flake-install-once"},
		{"installed once, and the same", func(_ *Host, vm *VM) { vm.Install.Once = &Evidence{Path: "/u", What: "x"} }, ""},
		{"current is newer", func(_ *Host, vm *VM) { declares(vm); vm.Current.Made = moment(5) }, "imperative-over-declarative"},
		{"with a flake file", func(_ *Host, vm *VM) {
			declares(vm)
			vm.FlakeThere, vm.Flake = true, "github:a/b"
			vm.Current.Made = moment(-5)
		}, "imperative-over-declarative"},
		{"toplevel is the declared one", func(_ *Host, vm *VM) { declares(vm); vm.Toplevel = topB; vm.Current.Made = moment(-5) }, "imperative-over-declarative"},
		{"never installed since", func(_ *Host, vm *VM) { declares(vm); vm.Current.Made = moment(-5) }, "target-inactive"},
		{"no directory", func(_ *Host, vm *VM) {
			*vm = VM{Name: vm.Name, Dir: vm.Dir, Install: vm.Install}
		}, "target-inactive"},
		{"no current", func(_ *Host, vm *VM) {
			*vm = VM{Name: vm.Name, Dir: vm.Dir, DirInfo: vm.DirInfo, Install: vm.Install, Current: Link{Path: vm.Current.Path}}
		}, "target-inactive"},
		{"a directory that is not seen", func(_ *Host, vm *VM) {
			*vm = VM{Name: vm.Name, Dir: vm.Dir, Install: vm.Install, dirUnseen: true}
		}, ""},
		{"restart not wanted", func(_ *Host, vm *VM) {
			outdated(vm)
			vm.Unit = unitOf("[Service]\nX-RestartIfChanged=true\nX-RestartIfChanged=false\n")
		}, "restart-not-wanted"},
		{"restart not wanted, and none due", func(_ *Host, vm *VM) { vm.Unit = unitOf("[Service]\nX-RestartIfChanged=false\n") }, ""},
		{"trigger unchanged", func(_ *Host, vm *VM) { outdated(vm) }, "trigger-unchanged"},
		{"trigger changed", func(_ *Host, vm *VM) { outdated(vm); vm.Started.System = topB }, ""},
		{"dot", func(_ *Host, vm *VM) { vm.Name = "web.example" }, "name-with-dot"},
		{"dash", func(_ *Host, vm *VM) { vm.Name = "web-example" }, ""},
		{"removed", func(_ *Host, vm *VM) { vm.Install = nil }, "vm-removed"},
		{"removed, with a tap", func(_ *Host, vm *VM) { vm.Install, vm.Taps = nil, []string{"vm-web"} }, "vm-removed"},
		{"imperative", func(_ *Host, vm *VM) { vm.Install, vm.Rooted = nil, true }, ""},
		{"no units at all", func(h *Host, vm *VM) { vm.Install, h.UnitDir = nil, "" }, ""},
		{"root lost", func(_ *Host, vm *VM) { vm.Unrooted = []Link{vm.Booted} }, "gc-root-lost"},
		{"dangling", func(_ *Host, vm *VM) { vm.Booted.Dangling, vm.Started = true, nil }, "link-dangling"},
		{"both dangling", func(_ *Host, vm *VM) {
			vm.Current.Dangling, vm.Booted.Dangling, vm.Deployed, vm.Started = true, true, nil, nil
		}, "link-dangling"},
		{"other words run", func(_ *Host, vm *VM) { vm.Process.Args[2] = "1024" }, "running-not-booted"},
		{"more words run", func(_ *Host, vm *VM) { vm.Process.Args = append(vm.Process.Args, "-s") }, "running-not-booted"},
		{"more words by the script", func(_ *Host, vm *VM) {
			vm.Process.Args = append(vm.Process.Args, "-s")
			vm.Started.Runner.Script.RuntimeArgs = &microvmnix.RuntimeArgs{Line: 8, Command: "/bin/x"}
		}, ""},
		{"words that are not known", func(_ *Host, vm *VM) {
			vm.Process.Args[2] = "1024"
			vm.Started.Runner.Script.Exec.Args[1].Open = true
		}, ""},
		{"untracked", func(_ *Host, vm *VM) {
			vm.Untracked = []Untracked{{File: "/f/flake.nix", Line: 2, Path: "vm.nix", Tree: "/f"}}
		}, "source-untracked"},
		{"USB that nobody takes", func(_ *Host, vm *VM) { vm.Deployed.Hypervisor, vm.Deployed.USB = "cloud-hypervisor", []string{"x"} }, "option-ignored"},
		{"USB that is taken", func(_ *Host, vm *VM) { vm.Deployed.USB = []string{"x"} }, ""},
		{"huge pages for nothing", func(_ *Host, vm *VM) {
			vm.Written = []Written{{Option: "microvm.hugepageMem", Value: "true", File: "/s/x.nix", From: 3, To: 3, Sure: true}}
		}, "option-ignored"},
		{"huge pages that are off", func(_ *Host, vm *VM) {
			vm.Written = []Written{{Option: "microvm.hugepageMem", Value: "false", File: "/s/x.nix", From: 3, To: 3, Sure: true}}
		}, ""},
		{"huge pages somewhere", func(_ *Host, vm *VM) {
			vm.Written = []Written{{Option: "microvm.hugepageMem", Value: "true", File: "/s/x.nix", From: 3, To: 3}}
		}, ""},
	}
}

func hostCases() []ruleCase {
	return []ruleCase{
		{"built", func(h *Host, _ *VM) {
			h.Profile.Target, h.System = systemB, systemA
			h.Profile.Generations[0].Target, h.Profile.Generations[1].Target = systemA, systemB
		}, "built-not-switched"},
		{"tested", func(h *Host, _ *VM) { h.System = runnerB }, "running-not-in-profile"},
		{"a specialisation", func(h *Host, _ *VM) { h.System, h.Specialisation = runnerB, "gaming" }, ""},
		{"rolled back", func(h *Host, _ *VM) { h.Profile.Number, h.Profile.Target = 1, systemB }, "running-not-in-profile"},
		{"not running", func(h *Host, _ *VM) { h.Profile.Number, h.Profile.Target, h.Running = 1, systemB, false }, ""},
		{"old kernel", func(h *Host, _ *VM) { h.Stale = []Difference{{"kernel", "/a", "/b"}} }, "host-kernel-old"},
		{"untracked", func(h *Host, _ *VM) {
			h.Untracked = []Untracked{{File: "/etc/nixos/flake.nix", Line: 2, Path: "vm.nix", Tree: "/etc/nixos"}, {File: "/etc/nixos/a.nix", Line: 2, Path: "vm.nix", Tree: "/etc/nixos"}}
		}, "source-untracked"},
		{"replaceable", func(h *Host, _ *VM) {
			h.RootUnits, h.State = []Evidence{{Path: "/u", Line: 1, What: "x"}}, &nixstore.Info{Mode: fs.ModeDir | 0o775, UID: 0, GID: 302}
		}, "root-runs-replaceable"},
		{"replaceable by its owner", func(h *Host, vm *VM) {
			h.RootUnits, vm.DirInfo = []Evidence{{Path: "/u", Line: 1, What: "x"}}, &nixstore.Info{Mode: fs.ModeDir | 0o755, UID: 990}
		}, "root-runs-replaceable"},
		{"not replaceable", func(h *Host, _ *VM) { h.RootUnits = []Evidence{{Path: "/u", Line: 1, What: "x"}} }, ""},
		{"replaceable, and never executed", func(h *Host, _ *VM) { h.State = &nixstore.Info{Mode: fs.ModeDir | 0o775, GID: 302} }, ""},
	}
}
