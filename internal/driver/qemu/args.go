package qemu

import (
	"strconv"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// claim is an option of QEMU that the user cannot pass by HypervisorArgs=.
type claim struct {
	options string // blank-separated, without dashes
	why     string
	use     string
}

func claims() []claim {
	return []claim{
		{"M machine", "this is what Machine= sets", "use Machine="},
		{"accel enable-kvm no-kvm", "this is what Accelerator= sets", "use Accelerator="},
		{"smp", "this is what VCPU= sets", "use VCPU="},
		{"m", "this is what Memory= sets", "use Memory="},
		{"kernel", "this is what Kernel= sets", "use Kernel="},
		{"initrd", "this is what Initrd= sets", "use Initrd="},
		{"append", "this is what KernelCommandLine= sets", "use KernelCommandLine="},
		{"uuid", "this is what MachineID= sets", "use MachineID="},
		{"name", "the VM has the name of its file", "rename the file"},
		{"serial nographic curses", "this is what Console= sets", "use Console="},
		{"action no-reboot no-shutdown S", "Ampoule decides what follows a reboot, a panic and a power-off", "remove it"},
		{"daemonize", "the hypervisor would leave Ampoule's supervision", "remove it"},
		{"nodefaults no-user-config", "Ampoule always sets it", "remove it"},
		{"readconfig", "a file of options could set what keys of the .microvm file set, unseen", "write the options themselves"},
		{"incoming loadvm", "the guest's memory would come from elsewhere, with other credentials in it", "remove it"},
	}
}

// checkArgs refuses words of HypervisorArgs= that set what a key or the
// credential channel sets.
func checkArgs(vm *spec.VM, m machine, problems *diag.List) {
	for i, w := range vm.HypervisorArgs {
		option, isOption := optionName(w.Text)
		if !isOption {
			continue
		}
		// Only the option is shown: what follows it may be a password.
		at, value := w.From, ""
		at.Shown = w.Text
		if i+1 < len(vm.HypervisorArgs) {
			value = vm.HypervisorArgs[i+1].Text
			if vm.HypervisorArgs[i+1].From.ID == w.From.ID {
				at.Shown += " " + diag.Elided
			}
		}
		for _, c := range claims() {
			for claimed := range strings.FieldsSeq(c.options) {
				if option == claimed {
					at.Errorf(problems, c.use, "%s", c.why)
				}
			}
		}
		switch {
		case option == "smbios" && !m.smbios:
			at.Errorf(problems, "remove it, or use Machine=q35", "the machine type %s (%s) has no SMBIOS, and QEMU drops the option without a word", m.name, vm.Machine.From.Origin)
		case option == "smbios" && carriesCredentials(value):
			at.Errorf(problems, "use LoadCredential= or SetCredential=", "this table carries the credentials")
		case option == "fw_cfg" && strings.Contains(value, "io.systemd.credentials"):
			at.Errorf(problems, "use LoadCredential= or SetCredential=", "this file is a credential")
		case option == "device" && strings.HasPrefix(value, "vhost-vsock-") && vm.VSockCID.Set:
			at.Errorf(problems, "use VSockCID=", "this is what VSockCID= sets (%s)", vm.VSockCID.From.Origin)
		case claimsNetwork(vm, option, value) != nil:
			n := claimsNetwork(vm, option, value)
			at.Errorf(problems, "use another id", "the network at %s has this id", n.From.Origin)
		case option == "device" && len(vm.Devices) > 0 && (strings.HasPrefix(value, "vfio-pci") || strings.HasPrefix(value, "usb-host")):
			at.Errorf(problems, "use Device=", "this is what Device= sets (%s)", vm.Devices[0].From.Origin)
		case len(vm.Shares) > 0 && (option == "device" || option == "chardev" || option == "fsdev") && isShare(value):
			at.Errorf(problems, "use Share=, or another id", "this is what Share= sets (%s)", vm.Shares[0].From.Origin)
		case option == "global" && strings.HasPrefix(value, "fw_cfg"):
			at.Errorf(problems, "remove it", "the fw_cfg device carries the credentials")
		}
	}
}

// isShare reports whether the value of an option has a name that those of shares
// have, or makes a file system for the guest.
func isShare(value string) bool {
	if strings.HasPrefix(value, "vhost-user-fs-") || strings.HasPrefix(value, "virtio-9p-") {
		return true
	}
	for word := range strings.SplitSeq(value, ",") {
		if number, ok := strings.CutPrefix(word, "id=fs"); ok && number != "" && strings.Trim(number, "0123456789") == "" {
			return true
		}
	}
	return false
}

// carriesCredentials reports whether the value of -smbios makes a structure of
// type 11, or one of any type out of a file. QEMU takes numbers in C's forms.
func carriesCredentials(value string) bool {
	for part := range strings.SplitSeq(value, ",") {
		name, text, _ := strings.Cut(part, "=")
		if name == "file" {
			return true
		}
		if n, err := strconv.ParseUint(text, 0, 64); name == "type" && err == nil && n == 11 {
			return true
		}
	}
	return false
}

// optionName strips the one or two dashes that QEMU takes.
func optionName(word string) (string, bool) {
	name, ok := strings.CutPrefix(word, "-")
	if !ok || name == "" {
		return "", false
	}
	return strings.TrimPrefix(name, "-"), true
}
