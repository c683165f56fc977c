package driver

import (
	"fmt"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/credential/rule"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/shim/layout"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// InitrdChannel is the channel that every hypervisor has which loads an
// initial RAM disk. Where the VM cannot take it, the channel says why: what
// the files tell is judged here, what the initial RAM disk itself tells at
// start.
func InitrdChannel(vm *spec.VM) plan.Channel {
	c := plan.Channel{
		Name: "initrd", Encoding: plan.CPIO, MaxName: rule.MaxName,
		CommandLine: []string{"rdinit=" + layout.Init},
		Why:         fmt.Sprintf("initrd takes any number of credentials, %d bytes in all, with names of at most %d bytes", rule.MaxTotal, rule.MaxName),
	}
	parameters := kernelParameters(vm)
	if init, ok := parameters["rdinit"]; ok {
		c.Replaces, c.Init = []string{"rdinit"}, init
	}
	c.Refused, c.Cure = refuseInitrd(vm, parameters)
	return c
}

// kernelParameters returns the last value of each parameter that the user
// wrote. What stands behind "--" is for the guest's init.
func kernelParameters(vm *spec.VM) map[string]string {
	out := map[string]string{}
	for _, w := range vm.KernelCommandLine {
		if w.Text == "--" {
			break
		}
		name, value, _ := strings.Cut(w.Text, "=")
		out[name] = value
	}
	return out
}

func refuseInitrd(vm *spec.VM, parameters map[string]string) (why, cure string) {
	for _, keeps := range []string{"retain_initrd", "keepinitrd"} {
		if _, ok := parameters[keeps]; ok {
			return "KernelCommandLine= has " + keeps + ", with which the guest's kernel keeps the initial RAM disk and the credentials in it", "remove it"
		}
	}
	if init, ok := parameters["rdinit"]; ok && !strings.HasPrefix(init, "/") {
		return "rdinit= in KernelCommandLine= is not an absolute path", "name the init with its path"
	}
	if vm.Initrd.Set {
		return "", ""
	}
	root, ok := parameters["root"]
	if !ok {
		return "the VM has no Initrd=, and KernelCommandLine= has no root= that could be mounted in its stead",
			"add Initrd=, or KernelCommandLine=root=/dev/NAME for a kernel with its drivers built in"
	}
	for _, foreign := range []string{"UUID=", "LABEL=", "/dev/disk/", "/dev/mapper/", "/dev/nfs", "/dev/cifs", "/dev/ram", "mtd", "ubi"} {
		if strings.HasPrefix(root, foreign) {
			return "the VM has no Initrd=, and without one root=" + foreign + "… cannot be found",
				"add Initrd=, or write root=/dev/NAME, root=PARTUUID=… or root=PARTLABEL=…"
		}
	}
	return "", ""
}
