package diagnose

import (
	"path"
	"strings"
)

// at is where a path of the host lies for whoever executes the cure.
func (h *Host) at(p string) string { return path.Join(h.Root, p) }

// run is a command that only the host itself can execute. Of a tree that lies elsewhere
// it is a line to be read.
func (h *Host) run(command string) string {
	if h.Root == "/" {
		return command
	}
	return "# on the host itself: " + command
}

// restart is the command that starts a VM anew.
func (h *Host) restart(vm *VM) string {
	return h.run("systemctl restart microvm@" + vm.Name + ".service")
}

// installs is the command that executes a VM's install unit.
func (h *Host) installs(vm *VM) string {
	return h.run("systemctl restart install-microvm-" + vm.Name + ".service")
}

// updates is the command that builds and installs a VM imperatively.
func (h *Host) updates(vm *VM) string { return h.run("microvm -u " + vm.Name) }

// dropIn are the commands that write a drop-in for a VM's unit which lasts until the
// next boot: /etc/systemd/system is a link into the store on NixOS.
func dropIn(h *Host, vm *VM, name string, content ...string) []string {
	dir := h.at("/run/systemd/system/microvm@" + vm.Name + ".service.d")
	out := []string{"mkdir -p " + dir, "cat > " + path.Join(dir, name) + " <<'END'"}
	out = append(out, content...)
	return append(out, "END", h.run("systemctl daemon-reload"))
}

// startByAmpoule are the commands that start a VM by Ampoule in microvm.nix's own
// unit: the same devices, and the unit's credentials delivered.
func startByAmpoule(h *Host, vm *VM) []string {
	file := path.Join("/run/ampoule/adopted", vm.Name+".microvm")
	out := []string{
		"mkdir -p " + h.at(path.Dir(file)),
		adopt(h, vm, file),
	}
	out = append(out, dropIn(h, vm, "50-ampoule.conf", "[Service]", "ExecStart=", "ExecStart=ampoule run "+file)...)
	out = append(out, h.restart(vm), "# to make it last,")
	var names []string
	for _, c := range vm.Credentials {
		names = append(names, c.ID)
	}
	return append(out, configured(vm, names)...)
}

// adopt is the command that makes a VM's file from its runner.
func adopt(h *Host, vm *VM, file string) string {
	return "ampoule adopt " + h.at(vm.Current.Path) + " --name " + vm.Name + " --external -o " + h.at(file)
}

// configured are the lines for the configuration of the host that have Ampoule deliver
// credentials.
func configured(vm *VM, names []string) []string {
	out := []string{"# in the configuration of the host, with Ampoule's module (docs/nixos.md), in the place of what is there now:"}
	for _, name := range names {
		source := "/path/to/the/secret"
		for _, c := range vm.Credentials {
			if c.ID == name && path.IsAbs(c.Source) && !strings.HasPrefix(c.Source, "/nix/store/") {
				source = c.Source
			}
		}
		out = append(out, "#   microvm.vms."+vm.Name+".ampoule.credentials."+attribute(name)+".source = \""+source+"\";")
	}
	return out
}

// attribute is a name in Nix, quoted where it must be.
func attribute(name string) string {
	for i, r := range name {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '_'
		if !letter && (i == 0 || !(r >= '0' && r <= '9' || r == '-' || r == '\'')) {
			return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`).Replace(name) + `"`
		}
	}
	return name
}
