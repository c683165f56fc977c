package microvmnix

import (
	"path"
	"slices"
	"strings"
)

// The hypervisors, as microvm.hypervisor calls them.
const (
	Alioth          = "alioth"
	CloudHypervisor = "cloud-hypervisor"
	Crosvm          = "crosvm"
	Firecracker     = "firecracker"
	Kvmtool         = "kvmtool"
	QEMU            = "qemu"
	Stratovirt      = "stratovirt"
	VFKit           = "vfkit"
)

// Hypervisors lists them.
func Hypervisors() []string {
	return []string{QEMU, CloudHypervisor, Firecracker, Crosvm, Kvmtool, Stratovirt, Alioth, VFKit}
}

// Hypervisor is the one that the script starts, by the name of the program; empty
// where that is none of them.
func (s *Script) Hypervisor() string {
	if s.Exec == nil {
		return ""
	}
	name := path.Base(s.Exec.Program.Text)
	if name == "unbuffer" && len(s.Exec.Args) > 0 { // gives stratovirt a terminal
		name = path.Base(s.Exec.Args[0].Text)
	}
	switch {
	case strings.HasPrefix(name, "qemu-system-"):
		return QEMU
	case name == "lkvm":
		return Kvmtool
	case name == "bash" && slices.ContainsFunc(s.Exec.Args, func(w Word) bool { return strings.Contains(w.Text, "/bin/vfkit") }):
		return VFKit
	case slices.Contains(Hypervisors(), name):
		return name
	}
	return ""
}
