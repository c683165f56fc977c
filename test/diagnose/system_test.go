package diagnose

import (
	"slices"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/nixhost"
)

// left has a VM run what neither the booted system nor the current one declares, and
// gives that runner, and the system that declared it.
func left(h *nixhost.Host) (runner, system string) {
	h.Switch()
	vm := h.VM("test-vm")
	h.Change()
	system = h.Switch()
	h.Later(time.Hour)
	vm.Revision, h.NoRestart = 1, true
	h.Switch()
	return h.Readlink(h.StateDir + "/test-vm/booted"), system
}

// systems are the causes that the host as a whole has, and what keeps runners in the store.
func systems() []tree {
	return []tree{
		{name: "built", want: "- built-not-switched", make: func(h *nixhost.Host) {
			one(h)
			h.Change()
			h.Build()
		}},
		{name: "built with another VM", want: "- built-not-switched", make: func(h *nixhost.Host) {
			vm := one(h)
			h.Change()
			h.Build()
			vm.Revision++
			h.VM("new-vm")
			h.Build()
			h.Live = false
		}},
		{name: "built and the same", near: "built-not-switched", make: func(h *nixhost.Host) {
			one(h)
			h.Build()
		}},
		{name: "built and booted", near: "built-not-switched", make: func(h *nixhost.Host) {
			vm := one(h)
			vm.Revision++
			h.Build()
			h.Later(time.Hour)
			h.Reboot()
		}},
		{name: "tested", want: "- running-not-in-profile", make: func(h *nixhost.Host) {
			vm := one(h)
			vm.Revision++
			h.Test()
		}},
		{name: "rolled back", want: "- running-not-in-profile", make: func(h *nixhost.Host) {
			one(h)
			h.Change()
			h.Switch()
			h.Profile(h.Generation() - 1)
		}},
		{name: "rolled back between others", want: "- running-not-in-profile", make: func(h *nixhost.Host) {
			one(h)
			for range 3 {
				h.Change()
				h.Build()
			}
			h.Profile(h.Generation() - 1)
		}},
		{name: "rolled back to what runs", near: "running-not-in-profile", make: func(h *nixhost.Host) {
			one(h)
			h.Change()
			h.Build()
			h.Profile(h.Generation() - 1)
		}},
		{name: "another kernel", want: "- host-kernel-old", make: func(h *nixhost.Host) {
			one(h)
			h.Kernel = "6.12.50"
			h.Switch()
		}},
		{name: "another initrd", want: "- host-kernel-old", make: func(h *nixhost.Host) {
			h.Stop(one(h, func(vm *nixhost.VM) { vm.Autostart = false }))
			h.Initrd = "-with-zfs"
			h.Switch()
		}},
		{name: "another system, same kernel", near: "host-kernel-old", make: func(h *nixhost.Host) {
			one(h)
			h.Change()
			h.Switch()
		}},
		{name: "nobody knows what booted", near: "host-kernel-old", make: func(h *nixhost.Host) {
			one(h)
			h.Kernel = "6.12.50"
			h.Switch()
			h.Remove("/run/booted-system")
			h.Live = false
		}},
	}
}

// roots are those for which the collector may take what runs.
func roots() []tree {
	return []tree{
		{name: "booted is no root", want: "test-vm gc-root-lost", make: func(h *nixhost.Host) {
			left(h)
			h.Forget()
		}},
		{name: "booted by hand is no root", want: "test-vm gc-root-lost,test-vm restart-not-wanted", make: func(h *nixhost.Host) {
			h.Switch()
			vm := h.VM("test-vm", nixhost.ByHand(update))
			h.Create(vm)
			h.Remove("/nix/var/nix/gcroots/microvm/booted-test-vm")
			vm.Mem = 2048
			h.Update(vm)
		}},
		{name: "an older generation is a root", near: "gc-root-lost", make: func(h *nixhost.Host) {
			left(h)
		}},
		{name: "another profile is a root", near: "gc-root-lost", make: func(h *nixhost.Host) {
			_, old := left(h)
			h.Forget()
			h.Link("/nix/var/nix/profiles/system-profiles/stable-3-link", old)
			h.Link("/nix/var/nix/profiles/system-profiles/stable", "stable-3-link")
		}},
		{name: "a result is a root", near: "gc-root-lost", make: func(h *nixhost.Host) {
			old, _ := left(h)
			h.Forget()
			h.Link("/home/britton/result", old)
			h.Link("/nix/var/nix/gcroots/auto/zzy8wvrq2zxzgskpbm4rs1rlpxc1cnxa", "/home/britton/result")
		}},
	}
}

func TestSystems(t *testing.T) { check(t, slices.Concat(systems(), roots())) }
