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
	return h.run("systemctl restart " + quote("microvm@"+vm.Name+".service"))
}

// installs is the command that executes a VM's install unit.
func (h *Host) installs(vm *VM) string {
	return h.run("systemctl restart " + quote("install-microvm-"+vm.Name+".service"))
}

// updates is the command that builds and installs a VM imperatively.
func (h *Host) updates(vm *VM) string { return h.run("microvm -u " + quote(vm.Name)) }

// dropIn are the commands that write a drop-in for a VM's unit which lasts until the
// next boot: /etc/systemd/system is a link into the store on NixOS.
func dropIn(h *Host, vm *VM, name string, content ...string) []string {
	dir := h.at("/run/systemd/system/microvm@" + vm.Name + ".service.d")
	out := []string{"mkdir -p " + quote(dir), "cat > " + quote(path.Join(dir, name)) + " <<'END'"}
	out = append(out, content...)
	return append(out, "END", h.run("systemctl daemon-reload"))
}

// adoptedDir is where the cure puts what Ampoule makes of a runner, until the next boot.
const adoptedDir = "/run/ampoule/adopted"

// startByAmpoule are the commands that start a VM by Ampoule in microvm.nix's own
// unit, with the same devices and the unit's credentials delivered: by hand what the
// module for NixOS (nix/host.nix) makes.
func startByAmpoule(h *Host, vm *VM) []string {
	file, frozen := path.Join(adoptedDir, vm.Name+".microvm"), path.Join(adoptedDir, vm.Name+".json")
	adopt := h.Program + " adopt"
	if h.Root != "/" {
		adopt += " --root " + quote(h.Root)
	}
	adopt += " " + quote(vm.Current.Path) + " --external --name " + quote(vm.Name)
	for _, c := range vm.Credentials {
		if c.Key == "ImportCredential" {
			continue
		}
		source := c.Source
		if source == "" {
			source = c.ID
		}
		adopt += " --credential " + quote(c.ID+":"+source)
	}
	out := []string{
		"install -d -m 0755 " + quote(h.at(path.Dir(adoptedDir))) + " " + quote(h.at(adoptedDir)),
		"rm -f " + quote(h.at(file)),
		adopt + " -o " + quote(h.at(file)),
		h.Program + " plan " + quote(h.at(file)) + " --json > " + quote(h.at(frozen)),
		"chmod 0644 " + quote(h.at(file)) + " " + quote(h.at(frozen)),
	}
	own := "ampoule/vm/" + vm.Name
	out = append(out, dropIn(h, vm, "50-ampoule.conf",
		"[Service]", "Type=notify", "NotifyAccess=main",
		"ExecStart=", "ExecStart="+h.Program+" run --plan "+frozen,
		"ExecStop=", "KillMode=mixed", "RestartPreventExitStatus=2",
		"RuntimeDirectory="+own, "RuntimeDirectoryMode=0700", "RuntimeDirectoryPreserve=restart",
		"StateDirectory="+own, "StateDirectoryMode=0700", "CacheDirectory="+own, "CacheDirectoryMode=0700",
		"LimitCORE=0", "MemorySwapMax=0", "PrivateMounts=yes")...)
	names := ids(vm.Credentials)
	// The runner's hypervisor may be older than what Ampoule takes.
	out = append(out, "# says what would keep it from starting; what the VM that runs now holds is no mistake:", h.run(h.Program+" check "+quote(file)))
	return append(append(out, h.restart(vm), "# to make it last:"), configured(vm, names)...)
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
