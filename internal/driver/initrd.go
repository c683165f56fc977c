package driver

import (
	"fmt"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/credential/rule"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/shim/cmdline"
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
		CommandLine: []string{layout.KernelParameter},
		Why:         fmt.Sprintf("initrd takes any number of credentials, %d bytes in all, with names of at most %d bytes", rule.MaxTotal, rule.MaxName),
	}
	words := make([]string, len(vm.KernelCommandLine))
	for i, w := range vm.KernelCommandLine {
		words[i] = w.Text
	}
	parameters := KernelParameters(words)
	if init, ok := parameters["rdinit"]; ok {
		c.Replaces, c.Init = []string{"rdinit"}, init
	}
	c.Refused, c.Cure = refuseInitrd(parameters)
	if c.Refused == "" && !vm.Initrd.Set {
		if c.Refused, c.Cure = RefuseRoot(parameters); c.Refused != "" {
			c.Refused = "the VM has no Initrd=, and " + c.Refused
			c.Cure = "add Initrd=, or " + c.Cure
		}
	}
	return c
}

// KernelParameters returns the last value of each parameter of a kernel command
// line, by its name with "_" for "-": to the kernel they are one. What stands
// behind "--" is for the guest's init.
func KernelParameters(words []string) map[string]string {
	out := map[string]string{}
	for _, w := range words {
		if w == "--" {
			break
		}
		name, value, _ := strings.Cut(w, "=")
		out[strings.ReplaceAll(name, "-", "_")] = value
	}
	return out
}

func refuseInitrd(parameters map[string]string) (why, cure string) {
	for _, keeps := range []string{"retain_initrd", "keepinitrd"} {
		if _, ok := parameters[keeps]; ok {
			return "KernelCommandLine= has " + keeps + ", with which the guest's kernel keeps the initial RAM disk and the credentials in it", "remove it"
		}
	}
	if init, ok := parameters["rdinit"]; ok && !strings.HasPrefix(init, "/") {
		return "rdinit= in KernelCommandLine= is not an absolute path", "name the init with its path"
	}
	return "", ""
}

// RefuseRoot says why ampoule-init alone, without an initial RAM disk that knows
// more, cannot mount the root file system; empty where it can.
func RefuseRoot(parameters map[string]string) (why, cure string) {
	const takes = "KernelCommandLine=root=/dev/NAME, root=PARTUUID=… or root=PARTLABEL=… for a kernel with its drivers built in"
	value := parameters["root"]
	root := cmdline.ParseRoot(value)
	_, typed := parameters["rootfstype"]
	switch {
	case root.Kind == cmdline.Nothing:
		return "KernelCommandLine= has no root= that could be mounted in its stead", takes
	case root.Kind == cmdline.Impossible:
		return "root= in KernelCommandLine= cannot be mounted without one: " + root.Reason, takes
	case root.Kind == cmdline.Tag && !typed:
		return "root= in KernelCommandLine= is no device, and there is no rootfstype= that needs none", takes
	}
	for _, made := range []string{"/dev/disk/", "/dev/mapper/"} {
		if strings.HasPrefix(value, made) {
			return "without one nobody makes the links in " + made, takes
		}
	}
	return "", ""
}
