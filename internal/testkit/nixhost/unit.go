package nixhost

import (
	"fmt"
	"slices"
	"strings"
)

// Unit is a unit of the host beside those of microvm.nix.
type Unit struct {
	Text     string
	WantedBy string
}

// Unit adds a unit to the systems that are built from now on.
func (h *Host) Unit(name, text, wantedBy string) { h.units[name] = Unit{text, wantedBy} }

// SopsUnit is the service that installs the secrets of sops-nix where it does not do
// so in an activation script.
func (h *Host) SopsUnit(lines ...string) {
	h.Unit("sops-install-secrets.service", installer(lines, h.Package("sops-install-secrets-0.0.1", "bin/sops-install-secrets")+"/bin/sops-install-secrets "+h.Store("manifest.json", Files{"": Text(`{"secretsMountPoint":"/run/secrets.d","symlinkPath":"/run/secrets"}`)})), "sysinit.target")
}

// AgenixUnit is the service that installs the secrets of agenix.
func (h *Host) AgenixUnit(lines ...string) {
	h.Unit("agenix-install-secrets.service", installer(lines, h.Script("agenix-install", "mkdir -p /run/agenix.d\nln -sfT /run/agenix.d/1 /run/agenix\n")), "sysinit.target")
}

func installer(lines []string, command string) string {
	lines = append([]string{"After=systemd-sysusers.service", "DefaultDependencies=no"}, lines...)
	slices.Sort(lines)
	return "[Unit]\n" + strings.Join(lines, "\n") + "\n\n[Service]\nExecStart=" + command + "\nRemainAfterExit=true\nType=oneshot\n\n[Install]\nWantedBy=sysinit.target\n"
}

func pathSafe(name string) string {
	return strings.NewReplacer("@", "-", ":", "-", "\\", "-", "[", "", "]", "").Replace(name)
}

// environment are the lines that NixOS writes into every service; a PATH is only in
// those that have one.
func (h *Host) environment(path bool) string {
	b := `Environment="LOCALE_ARCHIVE=` + h.Package("glibc-locales-2.40-66") + "/lib/locale/locale-archive\"\n"
	if path {
		var bin, sbin []string
		for _, p := range []string{h.Package("coreutils-9.8", "bin/rm"), h.Package("findutils-4.10.0", "bin/find"), h.Package("gnugrep-3.12", "bin/grep"), h.Package("gnused-4.9", "bin/sed"), h.systemd()} {
			bin, sbin = append(bin, p+"/bin"), append(sbin, p+"/sbin")
		}
		b += `Environment="PATH=` + strings.Join(append(bin, sbin...), ":") + "\"\n"
	}
	return b + `Environment="TZDIR=` + h.Package("tzdata-2025b") + "/share/zoneinfo\"\n"
}

func (h *Host) systemd() string {
	return h.Package("systemd-257.9", "bin/systemctl", "lib/systemd/systemd")
}

// section writes lines in the order of their keys, as Nix orders attributes.
func section(lines ...string) string {
	lines = slices.DeleteFunc(lines, func(l string) bool { return l == "" })
	slices.SortStableFunc(lines, func(a, b string) int {
		keyA, _, _ := strings.Cut(a, "=")
		keyB, _, _ := strings.Cut(b, "=")
		return strings.Compare(keyA, keyB)
	})
	if len(lines) == 0 {
		return ""
	}
	return strings.Join(lines, "\n") + "\n"
}

// service is a unit as serviceToUnit writes it.
func (h *Host) service(path bool, unit, before, service []string, wantedBy string) string {
	text := "[Unit]\n" + section(unit...) + "\n[Service]\n" + h.environment(path) + strings.Join(before, "") + section(service...)
	if wantedBy != "" {
		text += "\n[Install]\nWantedBy=" + wantedBy + "\n"
	}
	return text
}

// templates are the units of all VMs (nixos-modules/host/default.nix).
func (h *Host) templates() map[string]string {
	s, bash := h.StateDir, h.bash()
	notRestarted := []string{"X-RestartIfChanged=false\n"}
	part := []string{"Before=microvm@%i.service", "PartOf=microvm@%i.service"}
	with := func(more ...string) []string { return slices.Concat(part, more) }
	oneshot := func(name string, more ...string) []string {
		return slices.Concat([]string{"Type=oneshot", "RemainAfterExit=true", "SyslogIdentifier=" + name + "@%i"}, more)
	}
	booted := h.jobScript("microvm-set-booted@-start", "rm -f booted\nln -s $(readlink current) booted\n")
	return map[string]string{
		"microvm-tap-interfaces@.service": h.service(true, with("After=network.target microvm-set-booted@%i.service", "ConditionPathExists="+s+"/%i/current/bin/tap-up", "Description=Setup MicroVM '%i' TAP interfaces"), notRestarted,
			oneshot("microvm-tap-interfaces", "ExecStart="+s+"/%i/current/bin/tap-up", "ExecStop="+s+"/%i/booted/bin/tap-down"), ""),
		"microvm-macvtap-interfaces@.service": h.service(true, with("After=microvm-set-booted@%i.service", "ConditionPathExists="+s+"/%i/current/bin/macvtap-up", "Description=Setup MicroVM '%i' MACVTAP interfaces"), notRestarted,
			oneshot("microvm-macvtap-interfaces", "ExecStart="+s+"/%i/current/bin/macvtap-up", "ExecStop="+s+"/%i/booted/bin/macvtap-down"), ""),
		"microvm-pci-devices@.service": h.service(true, with("ConditionPathExists="+s+"/%i/current/bin/pci-setup", "Description=Setup MicroVM '%i' devices for passthrough"), notRestarted,
			oneshot("microvm-pci-devices", "ExecStart="+s+"/%i/current/bin/pci-setup"), ""),
		"microvm-virtiofsd@.service": h.service(true, with("After=local-fs.target microvm-set-booted@%i.service", "ConditionPathExists="+s+"/%i/current/bin/virtiofsd-run", "Description=VirtioFS daemons for MicroVM '%i'"), notRestarted,
			[]string{"ExecStart=" + s + "/%i/current/bin/virtiofsd-run", "KillMode=mixed", "LimitNOFILE=1048576", "NotifyAccess=all", "PrivateTmp=yes", "Restart=always", "RestartSec=5s", "SyslogIdentifier=microvm-virtiofsd@%i", "Type=notify", "WorkingDirectory=" + s + "/%i"}, ""),
		"microvm-set-booted@.service": h.service(true, with("Description=Save MicroVM '%i' booted configuration"), notRestarted,
			oneshot("microvm-set-booted", "ExecStart="+booted+" ", "ExecStop="+h.Package("coreutils-9.8", "bin/rm")+"/bin/rm booted", "Group=kvm", "User=microvm", "WorkingDirectory="+s+"/%i"), ""),
		"microvm@.service": h.service(true, []string{
			"After=network.target systemd-modules-load.service microvm-tap-interfaces@%i.service microvm-macvtap-interfaces@%i.service microvm-pci-devices@%i.service microvm-virtiofsd@%i.service microvm-set-booted@%i.service",
			"ConditionPathExists=" + s + "/%i/current/bin/microvm-run", "Description=MicroVM '%i'",
			"Requires=microvm-tap-interfaces@%i.service microvm-macvtap-interfaces@%i.service microvm-pci-devices@%i.service microvm-virtiofsd@%i.service microvm-set-booted@%i.service",
		}, notRestarted, []string{
			"ExecStart=" + s + "/%i/current/bin/microvm-run",
			"ExecStartPost=+" + bash + " -c 'if [ -x " + s + "/%i/current/bin/microvm-register ]; then " + s + "/%i/current/bin/microvm-register $MAINPID; fi'",
			"ExecStop=" + s + "/%i/booted/bin/microvm-shutdown",
			"ExecStopPost=+" + bash + " -c 'if [ -x " + s + "/%i/current/bin/microvm-unregister ]; then " + s + "/%i/current/bin/microvm-unregister; fi'",
			"Group=kvm", "LimitMEMLOCK=infinity", "LimitNOFILE=1048576", "NotifyAccess=all", "Restart=always", "RestartSec=5s", "SyslogIdentifier=microvm@%i", "TimeoutSec=150", "Type=simple", "User=microvm", "WorkingDirectory=" + s + "/%i",
		}, ""),
	}
}

// jobScript is the script of a unit (makeJobScript), as its ExecStart= names it.
func (h *Host) jobScript(name, text string) string {
	name = strings.NewReplacer("\\", "-", "@", "_").Replace(name)
	return h.Store("unit-script-"+name, Files{"bin/" + name: Program("#!" + h.bash() + "\nset -e\n\n" + text + "\n\n")}) + "/bin/" + name
}

// installUnit is install-microvm-NAME.service.
func (h *Host) installUnit(vm *VM, runner, top string) string {
	dir := h.StateDir + "/" + vm.Name
	script := "mkdir -p " + dir + "\ncd " + dir + "\n\nln -sTf " + runner + " current\nchown -h microvm:kvm . current\n"
	if vm.by == byConfig {
		script += "ln -sTf " + top + " toplevel\n"
	} else {
		script += "echo '" + vm.flakeText() + "' > flake\nchown -h microvm:kvm flake\n"
	}
	var before []string
	for _, u := range []string{"microvm", "microvm-tap-interfaces", "microvm-macvtap-interfaces", "microvm-pci-devices", "microvm-virtiofsd", "microvm-set-booted"} {
		before = append(before, u+"@"+vm.Name+".service")
	}
	condition := ""
	if vm.UpdateFlake != "" {
		condition = "ConditionPathExists=!" + dir
	}
	return h.service(true, []string{"Before=" + strings.Join(before, " "), condition, "Description=Install MicroVM '" + vm.Name + "'", "PartOf=microvm@" + vm.Name + ".service"}, nil,
		[]string{"ExecStart=" + h.jobScript("install-microvm-"+vm.Name+"-start", script) + " ", "SyslogIdentifier=install-microvm-" + vm.Name, "Type=oneshot"}, "microvms.target")
}

func (vm *VM) flakeText() string {
	if vm.UpdateFlake != "" {
		return vm.UpdateFlake
	}
	return vm.Flake
}

// overrides are the drop-ins of a VM's units.
func (h *Host) overrides(vm *VM, top string) map[string]string {
	restart := []string{"X-RestartIfChanged=", fmt.Sprintf("X-RestartIfChanged=%v", vm.restarts())}
	unit := slices.Clone(vm.Unit)
	service := slices.Concat(vm.Service, []string{})
	out := map[string]string{}
	if vm.declared() {
		trigger := h.Store("X-Restart-Triggers-microvm-"+vm.Name, Files{"": Text(top)})
		unit = append(unit, "X-Restart-Triggers="+trigger)
		kind := "simple"
		if vm.notifies() {
			kind = "notify"
		}
		service = append(append(service, "Type="+kind), restart...)
		for _, u := range []string{"microvm-tap-interfaces", "microvm-pci-devices", "microvm-virtiofsd"} {
			out[u+"@"+vm.Name+".service"] = h.service(false, nil, nil, slices.Clone(restart), "")
		}
	}
	if vm.declared() || len(vm.Service)+len(vm.Unit)+len(vm.Early) > 0 {
		out["microvm@"+vm.Name+".service"] = h.service(false, unit, vm.Early, service, "")
	}
	return out
}

// units are the files of system-units, by name.
func (h *Host) systemUnits() Files {
	units := Files{}
	example := h.systemd() + "/example/systemd/system/"
	for _, name := range []string{"basic.target", "sysinit.target", "network.target", "local-fs.target", "systemd-modules-load.service"} {
		units[name] = LinkTo(example + name)
	}
	add := func(name, text string) {
		units[name] = LinkTo(h.Store("unit-"+pathSafe(name), Files{name: Text(text)}) + "/" + name)
	}
	want := func(target, name string) { units[target+".wants/"+name] = LinkTo("../" + name) }
	for name, text := range h.templates() {
		add(name, text)
	}
	for name, u := range h.units {
		add(name, u.Text)
		if u.WantedBy != "" {
			want(u.WantedBy, name)
		}
	}
	var wants []string
	for _, vm := range h.vms {
		if vm.removed {
			continue
		}
		if vm.Autostart {
			wants = append(wants, "microvm@"+vm.Name+".service")
		}
		top := ""
		if vm.declared() {
			top = h.toplevel(vm)
			runner, _ := h.runner(vm)
			name := "install-microvm-" + vm.Name + ".service"
			add(name, h.installUnit(vm, runner, top))
			want("microvms.target", name)
		}
		for name, text := range h.overrides(vm, top) {
			path := h.Store("unit-"+pathSafe(name), Files{name: Text(text)})
			units[name+".d/overrides.conf"] = LinkTo(path + "/" + name)
		}
	}
	text := "[Unit]\n\n"
	if len(wants) > 0 {
		text = "[Unit]\nWants=" + strings.Join(wants, " ") + "\n\n"
	}
	add("microvms.target", text)
	add("multi-user.target", "[Unit]\nDescription=Multi-User System\n")
	want("multi-user.target", "microvms.target")
	return units
}
