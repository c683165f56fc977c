package diagnose

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/microvmnix"
)

// ignored is an option of microvm.nix, and the hypervisors for which it is passed
// over in silence, or with a warning that nobody sees later. Where evaluation fails
// instead, nothing is deployed, and there is nothing to find.
type ignored struct {
	option string
	by     []string
	// set reports whether a value asks for anything.
	set func(string) bool
	why string
}

func isTrue(v string) bool { return v == "true" }

func isSet(v string) bool { return v != "null" && v != "" }

func isPositive(v string) bool {
	n, err := strconv.Atoi(v)
	return err == nil && n > 0
}

// ignoredOptions is what the runners of microvm.nix (lib/runners, commit 71beea0) do
// not look at.
func ignoredOptions() []ignored {
	const (
		alioth, ch, crosvm, fc = microvmnix.Alioth, microvmnix.CloudHypervisor, microvmnix.Crosvm, microvmnix.Firecracker
		kvmtool, qemu          = microvmnix.Kvmtool, microvmnix.QEMU
		stratovirt, vfkit      = microvmnix.Stratovirt, microvmnix.VFKit
	)
	notCH := []string{qemu, fc, crosvm, kvmtool, stratovirt, alioth, vfkit}
	return []ignored{
		{"microvm.hugepageMem", notCH, isTrue, "only cloud-hypervisor's runner gives huge pages"},
		{"microvm.volumes.imageType", notCH, isSet, "only cloud-hypervisor's runner says what an image is"},
		{"microvm.user", []string{stratovirt}, isSet, "stratovirt's runner changes no user"},
		{"microvm.vsock.cid", []string{stratovirt}, isSet, "stratovirt's runner has no vsock"},
		{"microvm.initialBalloonMem", []string{vfkit}, isPositive, "vfkit's runner has no balloon"},
		{"microvm.hotplugMem", []string{vfkit}, isPositive, "vfkit's runner adds no memory"},
		{"microvm.preStart", []string{vfkit}, func(string) bool { return true }, "vfkit's runner has its own text in its place"},
		{"microvm.volumes.serial", []string{fc, kvmtool, alioth, vfkit}, isSet, "the hypervisor's disks have no serial numbers"},
		{"microvm.volumes.direct", []string{fc, alioth, vfkit}, isTrue, "the runner opens images through the page cache"},
	}
}

func optionIgnored(_ *Host, vm *VM) *Finding {
	d := vm.Deployed
	if d == nil {
		return nil
	}
	var f Finding
	note := func(e Evidence) { f.Evidence = append(f.Evidence, e) }
	if len(d.USB) > 0 && slices.Contains([]string{microvmnix.CloudHypervisor, microvmnix.Firecracker, microvmnix.Crosvm, microvmnix.Kvmtool, microvmnix.Alioth, microvmnix.VFKit}, d.Hypervisor) {
		note(Evidence{Path: d.Dir + "/share/microvm/usb-devices", Line: 1, What: "USB devices, which " + d.Hypervisor + " does not take"})
	}
	if len(d.PCI) > 0 && slices.Contains([]string{microvmnix.Firecracker, microvmnix.Kvmtool, microvmnix.Stratovirt, microvmnix.Alioth, microvmnix.VFKit}, d.Hypervisor) {
		note(Evidence{Path: d.Dir + "/share/microvm/pci-devices", Line: 1, What: "PCI devices, which " + d.Hypervisor + " does not take"})
	}
	if d.VSockCID != 0 && slices.Contains([]string{microvmnix.Stratovirt, microvmnix.VFKit}, d.Hypervisor) {
		note(Evidence{Path: d.Dir + "/share/microvm/vsock-cid", Line: 1, What: "a vsock, which " + d.Hypervisor + "'s runner does not make"})
	}
	if len(d.Shares) > 0 && slices.Contains([]string{microvmnix.Firecracker, microvmnix.Kvmtool}, d.Hypervisor) {
		note(Evidence{Path: d.Dir + "/share/microvm/virtiofs", What: "shares by virtiofs, which " + d.Hypervisor + " does not take"})
	}
	if line, size := hotplugged(d.Runner.Script); line > 0 {
		note(Evidence{Path: d.Runner.Script.File, Line: line, What: fmt.Sprintf("the guest starts with %s, that of hotplugMem: microvm.mem is ignored beside it", size)})
	}
	noted := map[string]bool{}
	for _, w := range vm.Written {
		for _, o := range ignoredOptions() {
			key := w.File + o.option + strconv.Itoa(w.From)
			if w.Sure && w.Option == o.option && slices.Contains(o.by, d.Hypervisor) && o.set(w.Value) && !noted[key] {
				noted[key] = true
				note(Evidence{Path: w.File, Line: w.From, To: w.To, What: o.option + " with " + d.Hypervisor + ": " + o.why})
			}
		}
	}
	if len(f.Evidence) == 0 {
		return nil
	}
	f.Title = count(len(f.Evidence), "option has", "options have") + " no effect with " + d.Hypervisor
	f.Cause = "microvm.nix builds a command line for each hypervisor and passes over what the one in use does not have."
	f.Cure = []string{"# remove the option, or choose a hypervisor that has it (microvm.hypervisor)"}
	return &f
}

// hotplugged returns the line of a cloud-hypervisor's --memory whose size is that of
// the memory that can be added: microvm.nix puts hotplugMem in the place of mem.
func hotplugged(s *microvmnix.Script) (line int, size string) {
	if s == nil || s.Exec == nil || s.Hypervisor() != microvmnix.CloudHypervisor {
		return 0, ""
	}
	for i, w := range s.Exec.Args {
		if i == 0 || s.Exec.Args[i-1].Text != "--memory" {
			continue
		}
		fields := map[string]string{}
		for pair := range strings.SplitSeq(w.Text, ",") {
			key, value, _ := strings.Cut(pair, "=")
			fields[key] = value
		}
		if fields["hotplug_size"] != "" && fields["size"] == fields["hotplug_size"] {
			return w.Line, fields["size"]
		}
	}
	return 0, ""
}
