package diagnose

import (
	"fmt"
	"path"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/nixstore"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

func flakePinned(h *Host, vm *VM) *Finding {
	dir, _ := flakeDir(vm.Flake)
	if nixstore.Of(dir) == "" || !vm.Current.There || vm.Install != nil && vm.Install.Once != nil {
		return nil
	}
	return &Finding{
		Title:    "its flake is a path in the store, so an update builds the same again",
		Evidence: []Evidence{{Path: path.Join(vm.Dir, "flake"), Line: 1, What: shown(vm.Flake)}},
		Cause:    "The VM was installed from `flake = self` or the like without `updateFlake`; microvm.nix writes down the copy of the flake in the store, which never changes.",
		Cure: []string{
			"# in the configuration of the host: microvm.vms." + vm.Name + ".updateFlake = \"git+file:///etc/nixos\";",
			"# or, for now, write where the flake really is (here /etc/nixos):",
			"echo git+file:///etc/nixos > " + quote(h.at(path.Join(vm.Dir, "flake"))),
		},
	}
}

// shown is a flake's address without what may be a password in it: the user's part of
// a URL, and parameters that say no place.
func shown(ref string) string {
	address, query, has := strings.Cut(ref, "?")
	if i := strings.Index(address, "://"); i >= 0 {
		host, rest, slash := strings.Cut(address[i+3:], "/")
		if at := strings.LastIndexByte(host, '@'); at >= 0 {
			host = diag.Elided + host[at:]
		}
		if address = address[:i+3] + host; slash {
			address += "/" + rest
		}
	}
	if !has {
		return address
	}
	fields := strings.Split(query, "&")
	for i, f := range fields {
		if key, _, ok := strings.Cut(f, "="); ok && key != "dir" && key != "ref" && key != "rev" {
			fields[i] = key + "=" + diag.Elided
		}
	}
	return address + "?" + strings.Join(fields, "&")
}

// differs reports whether the runner that is installed is another than the system
// declares.
func (vm *VM) differs() bool {
	return vm.Install != nil && vm.Install.Runner != "" && vm.Current.There && vm.Current.Target != "" && vm.Current.Target != path.Clean(vm.Install.Runner)
}

func (vm *VM) declaredAndInstalled() []Evidence {
	return []Evidence{
		{Path: vm.Install.Script, Line: vm.Install.RunnerLine, What: "the system declares " + vm.Install.Runner},
		{Path: vm.Current.Path, What: "installed is " + vm.Current.Target},
	}
}

func flakeInstallOnce(h *Host, vm *VM) *Finding {
	if !vm.differs() || vm.Install.Once == nil {
		return nil
	}
	return &Finding{
		Title:    "the system declares another runner and installs it only once: a rebuild changes nothing",
		Evidence: append([]Evidence{*vm.Install.Once}, vm.declaredAndInstalled()...),
		Cause:    "With updateFlake the install unit is for the first installation alone; afterwards `microvm -u` updates the VM.",
		Cure:     []string{h.updates(vm), h.restart(vm)},
	}
}

// sign is what shows that the installed runner was put there by hand; "": nothing
// does.
func (vm *VM) sign(h *Host) Evidence {
	switch {
	case vm.Install.Flake == "" && vm.FlakeThere:
		return Evidence{Path: path.Join(vm.Dir, "flake"), What: "the imperative command's, and the VM is declared by its configuration"}
	case vm.Install.Flake != "" && vm.Toplevel != "":
		return Evidence{Path: path.Join(vm.Dir, "toplevel"), What: "of a VM that is declared by its configuration, and this one is by a flake"}
	case vm.Install.Flake != "" && vm.FlakeThere && vm.Flake != vm.Install.Flake:
		return Evidence{Path: path.Join(vm.Dir, "flake"), Line: 1, What: "says " + shown(vm.Flake) + ", and the system " + shown(vm.Install.Flake)}
	case vm.Install.Toplevel != "" && vm.Toplevel == path.Clean(vm.Install.Toplevel):
		return Evidence{Path: path.Join(vm.Dir, "toplevel"), What: "is the declared one: the install unit has run, and current was changed since"}
	case later(vm.Current.Made, h.Activated):
		return Evidence{Path: vm.Current.Path, What: "was made " + stamp(vm.Current.Made) + ", and the system became the current one " + stamp(h.Activated)}
	}
	return Evidence{}
}

func imperativeOverDeclarative(h *Host, vm *VM) *Finding {
	if !vm.differs() || vm.Install.Once != nil {
		return nil
	}
	sign := vm.sign(h)
	if sign.Path == "" {
		return nil
	}
	return &Finding{
		Title:    "the installed runner was put in the place of the one that the system declares",
		Evidence: append(vm.declaredAndInstalled(), sign),
		Cause:    "Both the host's configuration and the imperative command install this VM, and the last one wins: each switch resets `current` to what the system declares.",
		Cure:     []string{"# keep what the system declares:", h.installs(vm), h.restart(vm), "# or put the change into the host's configuration, or remove microvm.vms." + vm.Name + " from it"},
	}
}

func targetInactive(h *Host, vm *VM) *Finding {
	if vm.Install == nil {
		return nil
	}
	f := &Finding{
		Cause: "microvms.target pulls in the install units. It was not started since this system was activated: it is not wanted, was stopped, or failed.",
		Cure:  []string{h.run("systemctl start microvms.target"), h.run("systemctl start " + quote("install-microvm-"+vm.Name+".service"))},
	}
	declared := Evidence{Path: vm.Install.Unit, What: "the system declares the VM"}
	switch {
	case vm.DirInfo == nil:
		// A directory that may not be looked into is not one that is not there.
		if vm.dirUnseen || h.State == nil && h.stateUnseen {
			return nil
		}
		f.Title = "the system declares the VM, and it was never installed"
		f.Evidence = []Evidence{declared, {Path: vm.Dir, What: "is not there"}}
	case !vm.Current.There:
		if vm.Current.Unseen {
			return nil
		}
		f.Title = "the system declares the VM, and no runner is installed"
		f.Evidence = []Evidence{declared, {Path: vm.Current.Path, What: "is not there"}}
	case vm.differs() && vm.Install.Once == nil && vm.sign(h).Path == "":
		f.Title = "the system declares another runner, and has not installed it"
		f.Evidence = append(vm.declaredAndInstalled(), Evidence{Path: vm.Current.Path, What: "was made " + stamp(vm.Current.Made) + ", and the system became the current one " + stamp(h.Activated)})
	default:
		return nil
	}
	return f
}

func builtNotSwitched(h *Host) *Finding {
	p := h.Profile
	if !h.Running || h.System == "" || p.Target == "" || p.Target == h.System || h.Specialisation != "" || p.Number == 0 || p.Number != p.Highest() || len(p.Of(h.System)) == 0 {
		return nil
	}
	return &Finding{
		Title: "a newer system was built than the one that runs; its changes have no effect yet",
		Evidence: []Evidence{
			{Path: p.Link, What: fmt.Sprintf("generation %d: %s", p.Number, p.Target)},
			{Path: currentSystem, What: fmt.Sprintf("generation %d: %s", p.Of(h.System)[0].Number, h.System)},
		},
		Cause: "nixos-rebuild build or boot makes a system without activating it.",
		Cure:  []string{h.run(path.Join(p.Link, "bin/switch-to-configuration") + " switch")},
	}
}

func runningNotInProfile(h *Host) *Finding {
	p := h.Profile
	if !h.Running || h.System == "" || p.Target == "" || p.Target == h.System || h.Specialisation != "" || builtNotSwitched(h) != nil {
		return nil
	}
	what := h.System + ", which is no generation of the profile"
	cause := "nixos-rebuild test activates a system without making it a generation: the next boot has the profile's."
	if all := p.Of(h.System); len(all) > 0 {
		what = fmt.Sprintf("generation %d: %s", all[0].Number, h.System)
		cause = "The profile was set to another generation (a rollback) without a switch: the next boot has that one."
	}
	return &Finding{
		Title:    "the system that runs is not the one of the profile: the next boot has another",
		Evidence: []Evidence{{Path: p.Link, What: fmt.Sprintf("generation %d: %s", p.Number, p.Target)}, {Path: currentSystem, What: what}},
		Cause:    cause,
		Cure:     []string{"# to the profile's system:", h.run(path.Join(p.Link, "bin/switch-to-configuration") + " switch"), "# or to keep the one that runs:", h.run("nix-env --profile " + p.Link + " --set " + h.System)},
	}
}

func hostKernelOld(h *Host) *Finding {
	if len(h.Stale) == 0 {
		return nil
	}
	f := &Finding{
		Cause: "A switch takes up everything but the kernel, which needs a boot.",
		Cure:  []string{h.run("systemctl reboot")},
	}
	var parts []string
	for _, d := range h.Stale {
		parts = append(parts, d.Name)
		f.Evidence = append(f.Evidence, Evidence{Path: path.Join(bootedSystem, d.Name), What: d.Old + ", and the current system has " + d.New})
	}
	f.Title = "the host was booted with another " + strings.Join(parts, ", ") + " than its system has now"
	return f
}

// outdated reports whether a VM that is booted has a runner other than the installed
// one.
func (vm *VM) outdated() bool {
	return vm.Current.There && vm.Booted.There && vm.Current.Target != "" && vm.Booted.Target != "" && vm.Current.Target != vm.Booted.Target
}

func (vm *VM) currentAndBooted() []Evidence {
	return []Evidence{{Path: vm.Current.Path, What: "installed is " + vm.Current.Target}, {Path: vm.Booted.Path, What: "booted is " + vm.Booted.Target}}
}

// wantsRestart is the last X-RestartIfChanged=; true where there is none.
func (vm *VM) wantsRestart() (bool, Evidence) {
	e, ok := vm.Unit.last("Service", "X-RestartIfChanged")
	if !ok {
		if e, ok = vm.Unit.last("Unit", "X-RestartIfChanged"); !ok {
			return true, Evidence{}
		}
	}
	value, err := spec.ParseBoolean(e.Value)
	return err != nil || value, at(e, "X-RestartIfChanged="+e.Value)
}

func restartNotWanted(h *Host, vm *VM) *Finding {
	wanted, line := vm.wantsRestart()
	if !vm.outdated() || wanted || vm.Unit == nil {
		return nil
	}
	return &Finding{
		Title:    "it runs an older runner than is installed, and a switch does not restart it",
		Evidence: append(vm.currentAndBooted(), line),
		Cause:    "restartIfChanged is false: the default for VMs from a flake, from an evaluated configuration and from the imperative command.",
		Cure:     []string{h.restart(vm), "# to have a switch do it: microvm.vms." + vm.Name + ".restartIfChanged = true;"},
	}
}

func triggerUnchanged(h *Host, vm *VM) *Finding {
	wanted, _ := vm.wantsRestart()
	if !vm.outdated() || !wanted || vm.Unit == nil || vm.Deployed == nil || vm.Started == nil {
		return nil
	}
	top := vm.Deployed.Toplevel()
	if top == "" || top != vm.Started.Toplevel() {
		return nil
	}
	f := &Finding{
		Title:    "it runs an older runner than is installed: the guest's system is the same, so a switch does not restart it",
		Evidence: append(vm.currentAndBooted(), Evidence{Path: top, What: "the guest's system of both"}),
		Cause:    "The unit's restart trigger names the guest's system alone. A change of memory, processors, interfaces, devices or the hypervisor's arguments is not in it.",
		Cure:     []string{h.restart(vm)},
	}
	if e, ok := vm.Unit.last("Unit", "X-Restart-Triggers"); ok {
		f.Evidence = append(f.Evidence, at(e, "X-Restart-Triggers="+e.Value))
	}
	return f
}

func nameWithDot(_ *Host, vm *VM) *Finding {
	if !strings.Contains(vm.Name, ".") {
		return nil
	}
	return &Finding{
		Title:    "its name has a dot, and a switch does not recognise its unit",
		Evidence: []Evidence{{Path: vm.Dir, What: "the unit is microvm@" + vm.Name + ".service"}},
		Cause:    "switch-to-configuration takes what stands in front of the first dot for the unit's name, and does not find the template of microvm@" + vm.Name + ".service: changes do not restart it.",
		Cure:     []string{"# rename microvm.vms.\"" + vm.Name + "\" to microvm.vms." + strings.ReplaceAll(vm.Name, ".", "-") + ", and move its directory:", "# systemctl stop microvm@" + vm.Name + ".service; mv " + vm.Dir + " " + strings.ReplaceAll(vm.Dir, vm.Name, strings.ReplaceAll(vm.Name, ".", "-"))},
	}
}

func vmRemoved(h *Host, vm *VM) *Finding {
	if h.UnitDir == "" || !vm.Current.There || vm.Install != nil || vm.Rooted {
		return nil
	}
	f := &Finding{
		Title:    "it was removed from the configuration, and is still there",
		Evidence: []Evidence{{Path: vm.Current.Path, What: "leads to " + vm.Current.Target}, {Path: path.Join(h.UnitDir, "install-microvm-"+vm.Name+".service"), What: "is not there: the current system does not declare the VM"}},
		Cause:    "Nothing removes the directory, the disks and the interfaces of a VM that the configuration no longer has.",
		Cure:     []string{h.run("systemctl stop " + quote("microvm@"+vm.Name+".service")), "# its disks are in " + vm.Dir + "; keep what you need, then:", "# rm -r " + vm.Dir},
	}
	if vm.Process != nil {
		f.Title += ", and runs"
		f.Evidence = append(f.Evidence, Evidence{Path: path.Join("/proc", itoa(vm.Process.PID)), What: "it runs"})
	}
	for _, tap := range vm.Taps {
		f.Evidence = append(f.Evidence, Evidence{Path: path.Join("/sys/class/net", tap), What: "its interface is still there"})
	}
	return f
}

func rootRunsReplaceable(h *Host) *Finding {
	if len(h.RootUnits) == 0 || h.State == nil {
		return nil
	}
	f := &Finding{
		Title:    "root executes programs that another user may replace",
		Evidence: append([]Evidence{}, h.RootUnits...),
		Cause:    "microvm.nix gives the state directory and the VMs' directories to the user microvm, and its units execute what the link current in them leads to as root.",
		Cure: []string{"# have root own the directories, where the VM's user need not write there:", "chown root: " + quote(h.at(h.StateDir)), "chmod 0755 " + quote(h.at(h.StateDir)),
			"# what Ampoule itself executes as root for a VM comes from the store: docs/nixos.md"},
	}
	replaceable := false
	note := func(p string, info *nixstore.Info) {
		if info == nil {
			return
		}
		if why := writable(info); why != "" {
			replaceable = true
			f.Evidence = append(f.Evidence, Evidence{Path: p, What: why})
		}
	}
	note(h.StateDir, h.State)
	for _, vm := range h.VMs {
		note(vm.Dir, vm.DirInfo)
	}
	if !replaceable {
		return nil
	}
	return f
}

// writable says who else than root may change what is in a directory; "": nobody.
func writable(i *nixstore.Info) string {
	perm := i.Mode.Perm()
	switch {
	case i.UID != 0 && perm&0o200 != 0:
		return fmt.Sprintf("belongs to user %d (mode %s)", i.UID, mode(i.Mode))
	case i.UID != 0:
		return fmt.Sprintf("belongs to user %d, who may change its mode (%s)", i.UID, mode(i.Mode))
	case perm&0o020 != 0 && i.GID != 0:
		return fmt.Sprintf("group %d may write to it (mode %s)", i.GID, mode(i.Mode))
	case perm&0o002 != 0:
		return fmt.Sprintf("everybody may write to it (mode %s)", mode(i.Mode))
	}
	return ""
}

func hostUntracked(h *Host) *Finding { return untracked(h, h.Untracked) }

func vmUntracked(h *Host, vm *VM) *Finding { return untracked(h, vm.Untracked) }

func untracked(h *Host, all []Untracked) *Finding {
	if len(all) == 0 {
		return nil
	}
	f := &Finding{
		Title: count(len(all), "file that the configuration names is", "files that the configuration names are") + " unknown to git, and so to Nix",
		Cause: "A flake in a git work tree is what git tracks. A file that was never added is not copied, and Nix builds without it, or says that it does not exist.",
	}
	add := "git -C " + quote(h.at(all[0].Tree)) + " add --intent-to-add"
	seen := map[string]bool{}
	for _, u := range all {
		f.Evidence = append(f.Evidence, Evidence{Path: u.File, Line: u.Line, What: "names " + path.Join(u.Tree, u.Path) + ", which is there and is not in git's index"})
		if !seen[u.Path] {
			seen[u.Path] = true
			add += " " + quote(u.Path)
		}
	}
	f.Cure = []string{add, h.run("nixos-rebuild switch")}
	return f
}
