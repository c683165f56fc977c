package nixhost

import (
	"crypto/sha1" //nolint:gosec // it names roots as Nix does
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const profiles = "/nix/var/nix/profiles/"

// system builds the host's system from what is declared now.
func (h *Host) system() string {
	h.t.Helper()
	etc := Files{
		"etc/systemd/system": LinkTo(h.Store("system-units", h.systemUnits())),
		"etc/os-release":     Text(fmt.Sprintf("ID=nixos\nVERSION_ID=\"25.11\"\nBUILD_ID=%q\nBUILD_SERIAL=%d\n", h.Version, h.serial)),
		"etc/hostname":       Text(h.Name + "\n"),
	}
	if h.Source != "" {
		etc["etc/configuration"] = LinkTo(h.Source)
	}
	etcPath := h.Store("etc", etc)
	linux := h.Package("linux-"+h.Kernel, "bzImage")
	return h.Store("nixos-system-"+h.Name+"-"+h.Version, Files{
		"etc": LinkTo(etcPath + "/etc"), "kernel": LinkTo(linux + "/bzImage"),
		"kernel-modules": LinkTo(h.Package("linux-"+h.Kernel+"-modules", "lib/modules/"+h.Kernel+"/kernel/tun.ko")),
		"initrd":         LinkTo(h.Package("initrd-linux-"+h.Kernel+h.Initrd, "initrd") + "/initrd"),
		"systemd":        LinkTo(h.systemd()), "nixos-version": Text(h.Version), "system": Text("x86_64-linux"),
		"kernel-params": Text("loglevel=4"), "init": Program("#!" + h.bash() + "\n"), "activate": Program("#!" + h.bash() + "\n# " + etcPath + "\n"),
		"bin/switch-to-configuration": Program("\x7fELF of " + etcPath + "\n"),
	})
}

// Change makes the next system another than that before, with the same VMs.
func (h *Host) Change() { h.serial++ }

// Switch is nixos-rebuild switch: it gives the system's path.
func (h *Host) Switch() string {
	h.t.Helper()
	path := h.Build()
	h.activate(path)
	return path
}

// Build is nixos-rebuild boot: a new generation, which does not run.
func (h *Host) Build() string {
	h.t.Helper()
	h.tick()
	path := h.system()
	if path == h.generations[h.profile()] {
		return path
	}
	h.last++
	h.generations[h.last] = path
	h.Link(profiles+fmt.Sprintf("system-%d-link", h.last), path)
	h.Link(profiles+"system", fmt.Sprintf("system-%d-link", h.last))
	return path
}

// Test is nixos-rebuild test: it runs, and is no generation.
func (h *Host) Test() string {
	h.t.Helper()
	h.tick()
	path := h.system()
	h.activate(path)
	return path
}

// Profile turns the system profile to a generation, without switching to it.
func (h *Host) Profile(number int) {
	h.t.Helper()
	h.tick()
	h.Link(profiles+"system", fmt.Sprintf("system-%d-link", number))
}

// Generation is the number of the generation that the profile leads to.
func (h *Host) Generation() int { return h.profile() }

func (h *Host) profile() int {
	var n int
	if _, err := fmt.Sscanf(h.Readlink(profiles+"system"), "system-%d-link", &n); err != nil {
		return 0
	}
	return n
}

// Forget removes old generations, without collecting anything.
func (h *Host) Forget() {
	h.t.Helper()
	keep := h.profile()
	for number := range maps.Clone(h.generations) {
		if number != keep {
			h.Remove(profiles + fmt.Sprintf("system-%d-link", number))
			delete(h.generations, number)
		}
	}
}

// activate has a system run: links, units, install units, and restarts of the VMs that
// want it.
func (h *Host) activate(system string) {
	h.t.Helper()
	h.tick()
	h.Link("/run/current-system", system)
	if h.Readlink("/run/booted-system") == "" {
		h.Link("/run/booted-system", system)
	}
	h.Link("/etc/static", h.Readlink(system+"/etc"))
	h.Link("/etc/systemd/system", "/etc/static/systemd/system")
	h.Link("/etc/os-release", "/etc/static/os-release")
	h.stateDir()
	for _, vm := range h.vms {
		if vm.declared() && !h.Inactive {
			h.install(vm)
		}
		if !vm.removed && h.Readlink(h.StateDir+"/"+vm.Name+"/current") != "" {
			h.restart(vm)
		}
	}
}

// install is install-microvm-NAME.service.
func (h *Host) install(vm *VM) {
	h.t.Helper()
	h.tick()
	dir := h.StateDir + "/" + vm.Name
	if _, err := os.Lstat(h.At(dir)); err == nil && vm.UpdateFlake != "" {
		return
	}
	runner, _ := h.runner(vm)
	h.stateDir()
	h.Dir(dir, 0o755, MicroVM, KVM)
	h.Link(dir+"/current", runner)
	h.Own(dir+"/current", MicroVM, KVM)
	if vm.by == byConfig {
		h.Link(dir+"/toplevel", h.toplevel(vm))
		return
	}
	h.File(dir+"/flake", vm.flakeText()+"\n", 0o644)
	h.Own(dir+"/flake", MicroVM, KVM)
}

// stateDir is what systemd-tmpfiles makes of it.
func (h *Host) stateDir() {
	if _, err := os.Stat(h.At(h.StateDir)); os.IsNotExist(err) {
		h.Dir(h.StateDir, 0o775, MicroVM, KVM)
	}
}

// restart starts a VM, or starts it again where its unit is another, and wants that.
func (h *Host) restart(vm *VM) {
	unit := strings.Join(slices.Sorted(maps.Values(h.overrides(vm, h.toplevel(vm)))), "\n")
	changed := vm.unit != "" && unit != vm.unit
	vm.unit = unit
	if !vm.runs && vm.Autostart || vm.runs && vm.restarts() && changed && !h.NoRestart {
		h.Start(vm)
	}
}

// Start starts a VM, or starts it again.
func (h *Host) Start(vm *VM) {
	h.t.Helper()
	h.Stop(vm)
	h.tick()
	dir := h.StateDir + "/" + vm.Name
	current := h.Readlink(dir + "/current")
	h.Link(dir+"/booted", current)
	h.Own(dir+"/booted", MicroVM, KVM)
	h.tick()
	vm.runs = true
	_, argv := h.runner(vm)
	h.starts(vm, argv)
}

// Stop stops a VM.
func (h *Host) Stop(vm *VM) {
	h.t.Helper()
	h.tick()
	h.Remove(h.StateDir + "/" + vm.Name + "/booted")
	h.stops(vm)
	vm.runs = false
}

// Create is microvm -c for a VM that was made ByHand, and a start.
func (h *Host) Create(vm *VM) {
	h.t.Helper()
	h.tick()
	dir := h.StateDir + "/" + vm.Name
	h.stateDir()
	h.Dir(dir, 0o775, 0, KVM)
	h.File(dir+"/flake", vm.Flake, 0o644)
	h.Own(dir+"/flake", 0, KVM)
	h.Update(vm)
	h.Dir("/nix/var/nix/gcroots/microvm", 0o755, 0, 0)
	h.Link("/nix/var/nix/gcroots/microvm/"+vm.Name, dir+"/current")
	h.Link("/nix/var/nix/gcroots/microvm/booted-"+vm.Name, dir+"/booted")
	h.Start(vm)
}

// Update is microvm -u: `nix build -o current`, which also makes an automatic root.
func (h *Host) Update(vm *VM) {
	h.t.Helper()
	h.tick()
	runner, _ := h.runner(vm)
	link := h.StateDir + "/" + vm.Name + "/current"
	h.Link(link, runner)
	h.root(link)
}

// root makes an automatic root of a link.
func (h *Host) root(link string) {
	sum := sha1.Sum([]byte(link)) //nolint:gosec // it is a name
	h.Link("/nix/var/nix/gcroots/auto/"+base32(sum[:]), link)
}

// Removed takes a VM out of the configuration; its state stays, as microvm.nix leaves it.
func (h *Host) Removed(vm *VM) { vm.removed = true }

// Reboot starts the host anew with the profile's system.
func (h *Host) Reboot() {
	h.t.Helper()
	h.tick()
	system := h.generations[h.profile()]
	h.Remove("/run/booted-system")
	h.Remove("/run/current-system")
	for _, vm := range h.vms {
		h.stops(vm)
		vm.runs = false
	}
	h.boot = h.now
	h.activate(system)
}

// Worktree writes a directory that is a git work tree with all of its files committed.
func (h *Host) Worktree(dir string, files map[string]string) {
	h.t.Helper()
	h.Dir(dir, 0o755, 0, 0)
	for name, text := range files {
		h.File(filepath.Join(dir, name), text, 0o644)
	}
	h.Git(dir, "init", "--quiet", "--initial-branch=main")
	h.Git(dir, "add", "--all")
	h.Git(dir, "-c", "user.name=Britton", "-c", "user.email=britton@example.org", "commit", "--quiet", "--message=all")
}

// Deploy is microvm.deploy.installOnHost: it installs whatever declares the VM.
func (h *Host) Deploy(vm *VM) {
	h.t.Helper()
	h.tick()
	dir := h.StateDir + "/" + vm.Name
	h.Dir("/nix/var/nix/gcroots/microvm", 0o755, 0, 0)
	for _, link := range []string{"current", "booted", "old"} {
		name := map[string]string{"current": vm.Name, "booted": "booted-" + vm.Name, "old": "old-" + vm.Name}[link]
		h.Link("/nix/var/nix/gcroots/microvm/"+name, dir+"/"+link)
	}
	if old := h.Readlink(dir + "/current"); old != "" {
		h.Link(dir+"/old", old)
	}
	runner, _ := h.runner(vm)
	h.Link(dir+"/current", runner)
	h.root(dir + "/new")
}
