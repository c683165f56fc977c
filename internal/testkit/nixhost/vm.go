package nixhost

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// How a VM comes onto its host.
type how int

const (
	byConfig how = iota // microvm.vms.NAME.config
	byFlake             // microvm.vms.NAME.flake
	byHand              // microvm -c
)

// VM is a microVM as its options say it. What is changed in it comes into effect with
// the next Switch, or Update.
type VM struct {
	Name string
	// HostName is networking.hostName.
	HostName   string
	Hypervisor string
	VCPU, Mem  int
	HotplugMem int
	CID        int // vsock.cid; 0: none
	// StoreOnDisk puts the guest's store on a disk of its own.
	StoreOnDisk bool
	PreStart    string
	// ExtraArgsScript is the text of a script, and RuntimeArgs what it says.
	ExtraArgsScript string
	RuntimeArgs     []string
	ExtraArgs       []string
	OEMStrings      []string
	KernelParams    []string
	// CredentialFiles are the host's files by credential, for QEMU.
	CredentialFiles map[string]string
	Volumes         []Volume
	Taps            []string
	USB             []string
	// BinScript is binScripts.microvm-run: it is built and lost.
	BinScript string
	// Runner is the text of the run script of a runner package of the user's own
	// (declaredRunner), and Argv what it starts.
	Runner string
	Argv   []string
	// Guest are units of the guest, by name.
	Guest map[string]string
	// Revision makes another guest of it, with all else the same.
	Revision int

	// Flake is the flake file's text, for VMs by flake and by hand.
	Flake string
	// UpdateFlake is what the flake file says then, and the unit installs once.
	UpdateFlake string
	Autostart   bool
	// RestartIfChanged is nil for the default.
	RestartIfChanged *bool
	// Service are further lines of the section [Service] of microvm@NAME.service, and
	// Unit of its section [Unit].
	Service, Unit []string
	// Early are lines of [Service] that come before all others.
	Early []string

	by            how
	evaluated     string // the fixture that its runner is
	runs, removed bool
	unit          string // its drop-ins, as last activated
}

// Volume is a disk image.
type Volume struct {
	Image, Serial    string
	Direct, ReadOnly bool
	Size             int
}

// VM declares a VM by `config`: cloud-hypervisor, two processors, a tap, the host's
// store by virtiofs, and a vsock for its readiness.
func (h *Host) VM(name string, change ...func(*VM)) *VM {
	vm := &VM{Name: name, HostName: name, Hypervisor: "cloud-hypervisor", VCPU: 2, Mem: 1024, CID: 3 + len(h.vms), Autostart: true, Guest: map[string]string{}}
	vm.Taps = []string{fmt.Sprintf("vm-%.12s", strings.ReplaceAll(name, ".", "-"))}
	for _, c := range change {
		c(vm)
	}
	h.vms = append(h.vms, vm)
	return vm
}

// QEMU makes it a VM of QEMU.
func QEMU(vm *VM) { vm.Hypervisor, vm.CID = "qemu", 0 }

// Firecracker makes it a VM of Firecracker.
func Firecracker(vm *VM) { vm.Hypervisor, vm.StoreOnDisk = "firecracker", true }

// Stratovirt makes it a VM of StratoVirt.
func Stratovirt(vm *VM) { vm.Hypervisor = "stratovirt" }

// ByFlake declares it by a flake, which is the store path of the host's own source.
func ByFlake(flake string) func(*VM) {
	return func(vm *VM) { vm.by, vm.Flake = byFlake, flake }
}

// ByUpdateFlake declares it by a flake, which is installed once.
func ByUpdateFlake(flake, update string) func(*VM) {
	return func(vm *VM) { vm.by, vm.Flake, vm.UpdateFlake = byFlake, flake, update }
}

// ByHand makes it a VM that Create creates, and no system declares.
func ByHand(flake string) func(*VM) {
	return func(vm *VM) { vm.by, vm.Flake = byHand, flake }
}

// Restarts says whether it is restarted when it changed.
func Restarts(yes bool) func(*VM) { return func(vm *VM) { vm.RestartIfChanged = &yes } }

// Loads has its unit load a credential from a file.
func Loads(id, source string) func(*VM) {
	return func(vm *VM) { vm.Service = append(vm.Service, "LoadCredential="+id+":"+source) }
}

// Passes has QEMU pass a credential that its unit loads.
func Passes(id string) func(*VM) {
	return func(vm *VM) {
		if vm.CredentialFiles == nil {
			vm.CredentialFiles = map[string]string{}
		}
		vm.CredentialFiles[id] = "/run/credentials/microvm@" + vm.Name + ".service/" + id
	}
}

func (vm *VM) declared() bool { return vm.by != byHand && !vm.removed }

func (vm *VM) restarts() bool {
	if vm.RestartIfChanged != nil {
		return *vm.RestartIfChanged
	}
	return vm.by == byConfig
}

func (vm *VM) notifies() bool { return vm.Hypervisor == "cloud-hypervisor" && vm.CID != 0 }

func (vm *VM) socket() string { return vm.HostName + ".sock" }

// toplevel is the guest's system.
func (h *Host) toplevel(vm *VM) string {
	units := Files{"multi-user.target": Text("[Unit]\nDescription=Multi-User System\n")}
	for name, text := range vm.Guest {
		path := h.Store("unit-"+pathSafe(name), Files{name: Text(text)})
		units[name] = LinkTo(path + "/" + name)
		units["multi-user.target.wants/"+name] = LinkTo("../" + name)
	}
	etc := h.Store("etc", Files{
		"etc/systemd/system": LinkTo(h.Store("system-units", units)),
		"etc/hostname":       Text(vm.HostName + "\n"),
		"etc/os-release":     Text("ID=nixos\nVERSION_ID=\"25.11\"\nBUILD_ID=\"" + strconv.Itoa(vm.Revision) + "\"\n"),
	})
	return h.Store("nixos-system-"+vm.HostName+"-"+h.Version, Files{
		"etc": LinkTo(etc + "/etc"), "init": Program("#!" + h.bash() + "\nsystemConfig=" + etc + "\n"), "nixos-version": Text(h.Version),
		"system": Text("x86_64-linux"), "kernel": LinkTo(h.Package("linux-"+h.Kernel, "bzImage") + "/bzImage"),
	})
}

// Runner is the runner package that the VM's options come to now, and its argv.
func (h *Host) runner(vm *VM) (path string, argv []string) {
	h.t.Helper()
	top := h.toplevel(vm)
	if vm.evaluated != "" {
		path = h.evaluatedRunner(vm, top)
		if vm.Autostart {
			_, argv = h.started(vm, path)
		}
		return path, argv
	}
	command, words := h.command(vm, top)
	text := h.runScript(vm, command)
	if vm.Runner != "" {
		text, words = vm.Runner, append([]string{"microvm@" + vm.HostName}, vm.Argv...)
	}
	prefix := "microvm-" + vm.HostName + "-"
	files := Files{"bin/microvm-run": LinkTo(h.Script(prefix+"microvm-run", text))}
	if vm.BinScript != "" {
		h.Script(prefix+"microvm-run", vm.BinScript)
	}
	script := func(name, text string) { files["bin/"+name] = LinkTo(h.Script(prefix+name, text)) }
	if vm.Hypervisor != "stratovirt" {
		script("microvm-shutdown", h.shutdown(vm))
	}
	if vm.Hypervisor == "cloud-hypervisor" || vm.Hypervisor == "qemu" {
		script("microvm-balloon", h.balloon(vm))
	}
	if len(vm.Taps) > 0 {
		script("tap-up", h.taps(vm, true))
		script("tap-down", h.taps(vm, false))
		files["share/microvm/tap-interfaces"] = Text(strings.Join(vm.Taps, "\n") + "\n")
	}
	files["share/microvm/tap-flags"] = Text(vm.tapFlags())
	if !vm.StoreOnDisk {
		files["share/microvm/system"] = LinkTo(top)
		files["share/microvm/virtiofs/ro-store/socket"] = Text(vm.HostName + "-virtiofs-ro-store.sock\n")
		files["share/microvm/virtiofs/ro-store/source"] = Text("/nix/store\n")
		script("virtiofsd-run", h.virtiofsd(vm))
	}
	if vm.CID != 0 {
		files["share/microvm/vsock-cid"] = Text(strconv.Itoa(vm.CID) + "\n")
	}
	if len(vm.USB) > 0 {
		files["share/microvm/usb-devices"] = Text(strings.Join(vm.USB, "\n") + "\n")
	}
	files["share/microvm/hypervisor"] = Text(vm.Hypervisor + "\n")
	return h.Store("microvm-"+vm.Hypervisor+"-"+vm.HostName, files), append(words, vm.RuntimeArgs...)
}

// virtiofsd is virtiofsd-run (nixos-modules/microvm/virtiofsd).
func (h *Host) virtiofsd(vm *VM) string {
	share := h.Script("virtiofsd-ro-store", `if [ $(id -u) = 0 ]; then
  OPT_RLIMIT="--rlimit-nofile 1048576"
else
  OPT_RLIMIT=""
fi
exec `+h.Package("virtiofsd-1.13.2", "bin/virtiofsd")+`/bin/virtiofsd \
  --socket-path=`+vm.HostName+`-virtiofs-ro-store.sock \
  --socket-group=kvm \
  --shared-dir=/nix/store \
  $OPT_RLIMIT \
  --thread-pool-size `+"`nproc`"+` \
  --posix-acl --xattr \
  --cache=auto \
  --inode-file-handles=prefer \
   \
   \
   \
  
`)
	listener := h.Store("supervisord-event-handler", Files{"": Program("#!" + h.Package("python3-3.13.7", "bin/python3") + "/bin/python3\nimport subprocess\n")})
	config := h.Store(vm.HostName+"-virtiofsd-supervisord.conf", Files{"": Text("[eventlistener:notify]\nbuffer_size=32\ncommand=" + listener + "\nevents=PROCESS_STATE\n\n[program:virtiofsd-ro-store]\ncommand=" + share +
		"\nstderr_syslog=true\nstdout_syslog=true\n\n[supervisord]\nnodaemon=true\nuser=root\n")})
	return "exec " + h.Package("python3.13-supervisor-4.3.0", "bin/supervisord") + "/bin/supervisord --configuration " + config + ` "$@"` + "\n"
}

// taps is tap-up or tap-down (nixos-modules/microvm/interfaces.nix).
func (h *Host) taps(vm *VM, up bool) string {
	ip := h.Package("iproute2-6.16.0", "bin/ip") + "/bin/ip"
	b := "set -eou pipefail\n"
	if !up {
		b = "set -ou pipefail\n"
	}
	for _, id := range vm.Taps {
		if !up {
			b += ip + " link delete '" + id + "'\n"
			continue
		}
		b += "if [ -e /sys/class/net/" + id + " ]; then\n  " + ip + " link delete '" + id + "'\nfi\n\n" +
			ip + " tuntap add name '" + id + "' mode tap user 'microvm' " + strings.ReplaceAll(strings.TrimSpace(vm.tapFlags()), "\n", " ") + "\n" + ip + " link set '" + id + "' up\n"
	}
	return b
}

// tapFlags is the file of that name.
func (vm *VM) tapFlags() string {
	if vm.VCPU > 1 && vm.Hypervisor != "firecracker" {
		return "vnet_hdr\nmulti_queue\n"
	}
	return "vnet_hdr\n"
}

// kernelParams are the words that a guest's kernel gets in the end.
func (h *Host) kernelParams(vm *VM, top string) string {
	closure := h.Store("closure-info", Files{"registration": Text(top + "\n"), "store-paths": Text(top + "\n")})
	return strings.Join(slices.Concat([]string{"8250.nr_uarts=1", "root=fstab", "loglevel=4", "lsm=landlock,yama,bpf"}, vm.KernelParams, []string{"init=" + top + "/init", "regInfo=" + closure + "/registration"}), " ")
}

// sorted are the keys of a map in order.
func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
