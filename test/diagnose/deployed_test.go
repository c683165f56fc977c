package diagnose

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/nixhost"
)

// one declares a VM, and has the system that declares it run.
func one(h *nixhost.Host, change ...func(*nixhost.VM)) *nixhost.VM {
	vm := h.VM("test-vm", change...)
	h.Switch()
	h.Later(time.Hour)
	return vm
}

// infra is a flake in the store, as it is that a system was built from.
func infra(h *nixhost.Host) string {
	return h.Store("source", nixhost.Files{"flake.nix": nixhost.Text("{\n  outputs = { self }: { };\n}\n")})
}

const update = "git+https://git.example.org/infra"

func healthy() []tree {
	return []tree{
		{name: "no VMs", make: func(h *nixhost.Host) { h.Switch() }},
		{name: "a VM that runs", make: func(h *nixhost.Host) { one(h) }},
		{name: "a VM that does not run", make: func(h *nixhost.Host) { h.Stop(one(h)) }},
		{name: "a VM without proc", make: func(h *nixhost.Host) { one(h); h.Live = false }},
		{name: "every hypervisor", make: func(h *nixhost.Host) {
			h.VM("alpha")
			h.VM("beta", nixhost.QEMU)
			h.VM("gamma", nixhost.Firecracker)
			h.VM("delta", nixhost.Stratovirt, func(vm *nixhost.VM) { vm.CID = 0 })
			h.VM("epsilon", func(vm *nixhost.VM) { vm.StoreOnDisk, vm.VCPU, vm.CID = true, 1, 0 })
			h.VM("zeta", nixhost.QEMU, func(vm *nixhost.VM) {
				vm.StoreOnDisk, vm.VCPU, vm.Volumes = true, 1, []nixhost.Volume{{Image: "var.img", Serial: "var", Direct: true, Size: 1024}, {Image: "/srv/home.img", Size: 64}}
			})
			h.Switch()
		}},
		{name: "every way to declare", make: func(h *nixhost.Host) {
			h.VM("by-flake", nixhost.ByUpdateFlake(infra(h), update))
			h.Create(h.VM("by-hand", nixhost.ByHand(update)))
			h.VM("by-config", func(vm *nixhost.VM) { vm.Autostart = false })
			h.Switch()
			h.Reboot()
		}},
		{name: "ten generations", make: func(h *nixhost.Host) {
			vm := h.VM("test-vm")
			for range 10 {
				vm.Revision++
				h.Switch()
				h.Later(time.Hour)
			}
		}},
		{name: "a database in use", make: func(h *nixhost.Host) { one(h); h.Database = nixhost.WAL }},
		{name: "another state directory", make: func(h *nixhost.Host) { h.StateDir = "/srv/vms"; one(h) }},
		{name: "credentials by QEMU", make: func(h *nixhost.Host) {
			h.Secret("/etc/secrets/key", "hunter2-of-test-vm")
			one(h, nixhost.QEMU, nixhost.Loads("API_KEY", "/etc/secrets/key"), nixhost.Passes("API_KEY"))
		}},
		{name: "the state is roots", near: "root-runs-replaceable", safe: true, make: func(h *nixhost.Host) {
			one(h)
			h.Dir(h.StateDir, 0o755, 0, 0)
			h.Dir(h.StateDir+"/test-vm", 0o755, 0, 0)
			h.Own(h.StateDir+"/test-vm/current", 0, 0)
		}},
		{name: "the state is for everybody", make: func(h *nixhost.Host) {
			one(h)
			h.Dir(h.StateDir, 0o777, 0, 0)
			h.Dir(h.StateDir+"/test-vm", 0o755, 0, 0)
			h.Own(h.StateDir+"/test-vm/current", 0, 0)
		}},
		{name: "only the directory of a VM is its users", make: func(h *nixhost.Host) { one(h); h.Dir(h.StateDir, 0o755, 0, 0) }},
	}
}

func TestHealthy(t *testing.T) { check(t, healthy()) }

// deployed are the causes for which a VM is not what was declared.
func deployed() []tree {
	return []tree{
		{name: "pinned", want: "test-vm flake-pinned", make: func(h *nixhost.Host) { one(h, nixhost.ByFlake(infra(h))) }},
		{name: "pinned by hand", want: "test-vm flake-pinned", make: func(h *nixhost.Host) {
			h.Switch()
			h.Create(h.VM("test-vm", nixhost.ByHand("path:"+infra(h))))
		}},
		{name: "a flake elsewhere", near: "flake-pinned", make: func(h *nixhost.Host) {
			h.Switch()
			h.Create(h.VM("test-vm", nixhost.ByHand("/nix/storage/infra")))
		}},
		{name: "installed once", want: "test-vm flake-install-once", make: func(h *nixhost.Host) {
			vm := one(h, nixhost.ByUpdateFlake(infra(h), update))
			vm.Mem = 4096
			h.Switch()
		}},
		{name: "installed once, then by hand", want: "test-vm flake-install-once", make: func(h *nixhost.Host) {
			vm := one(h, nixhost.ByUpdateFlake(infra(h), update))
			vm.Mem, vm.Revision = 4096, 1
			h.Update(vm)
			h.Start(vm)
		}},
		{name: "installed once and the same", near: "flake-install-once", make: func(h *nixhost.Host) {
			one(h, nixhost.ByUpdateFlake(infra(h), update))
			h.Change()
			h.Switch()
		}},
		{name: "restart not wanted", want: "test-vm restart-not-wanted", make: func(h *nixhost.Host) {
			vm := one(h, nixhost.Restarts(false))
			vm.Revision++
			h.Switch()
		}},
		{name: "restart not wanted of a VM by hand", want: "test-vm restart-not-wanted", make: func(h *nixhost.Host) {
			h.Switch()
			vm := h.VM("test-vm", nixhost.ByHand(update))
			h.Create(vm)
			vm.Mem = 2048
			h.Update(vm)
		}},
		{name: "restart not wanted, only the runner", want: "test-vm restart-not-wanted", make: func(h *nixhost.Host) {
			vm := one(h, nixhost.Restarts(false))
			vm.VCPU = 4
			h.Switch()
		}},
		{name: "restart wanted", near: "restart-not-wanted", make: func(h *nixhost.Host) {
			vm := one(h, nixhost.Restarts(true))
			vm.Revision++
			h.Switch()
		}},
		{name: "restart not wanted and nothing new", near: "restart-not-wanted", make: func(h *nixhost.Host) {
			one(h, nixhost.Restarts(false))
			h.Change()
			h.Switch()
		}},
		{name: "restart not wanted of what is stopped", near: "restart-not-wanted", make: func(h *nixhost.Host) {
			vm := one(h, nixhost.Restarts(false), func(vm *nixhost.VM) { vm.Autostart = false })
			vm.Revision++
			h.Switch()
		}},
	}
}

// triggers are those for which a switch does not know that a VM changed.
func triggers() []tree {
	return []tree{
		{name: "more memory, same system", want: "test-vm trigger-unchanged", make: func(h *nixhost.Host) {
			vm := one(h)
			vm.Mem = 2048
			h.Switch()
		}},
		{name: "another interface, store on a disk", want: "test-vm trigger-unchanged", make: func(h *nixhost.Host) {
			vm := one(h, func(vm *nixhost.VM) { vm.StoreOnDisk = true })
			vm.Taps = append(vm.Taps, "vm-more")
			h.Switch()
		}},
		{name: "more memory and another system", near: "trigger-unchanged", make: func(h *nixhost.Host) {
			vm := one(h)
			vm.Mem, vm.Revision = 2048, 1
			h.Switch()
		}},
		{name: "another system, not restarted", near: "trigger-unchanged", make: func(h *nixhost.Host) {
			vm := one(h)
			vm.Revision, h.NoRestart = 1, true
			h.Switch()
		}},
		{name: "a dot", want: "web.example.org name-with-dot", make: func(h *nixhost.Host) { h.VM("web.example.org"); h.Switch() }},
		{name: "a dot by hand", want: "db.internal name-with-dot", make: func(h *nixhost.Host) { h.Switch(); h.Create(h.VM("db.internal", nixhost.ByHand(update))) }},
		{name: "dashes", near: "name-with-dot", make: func(h *nixhost.Host) { h.VM("web-example_org--1"); h.Switch() }},
	}
}

// installs are those for which what is installed is not what is declared.
func installs() []tree {
	return []tree{
		{name: "deployed over", want: "test-vm imperative-over-declarative", make: func(h *nixhost.Host) {
			vm := one(h)
			vm.Revision++
			h.Deploy(vm)
			h.Start(vm)
		}},
		{name: "updated over a flake", want: "test-vm imperative-over-declarative,test-vm flake-pinned", make: func(h *nixhost.Host) {
			vm := one(h, nixhost.ByFlake(infra(h)))
			vm.Revision++
			h.Update(vm)
			h.Start(vm)
		}},
		{name: "deployed the same", near: "imperative-over-declarative", make: func(h *nixhost.Host) { h.Deploy(one(h)) }},
		{name: "deployed over, then switched", near: "imperative-over-declarative", make: func(h *nixhost.Host) {
			vm := one(h)
			vm.Revision++
			h.Deploy(vm)
			h.Start(vm)
			h.Switch()
		}},
		{name: "never installed", want: "test-vm target-inactive", make: func(h *nixhost.Host) { h.Inactive = true; one(h) }},
		{name: "only a directory", want: "test-vm target-inactive", make: func(h *nixhost.Host) {
			h.Inactive = true
			one(h)
			h.Dir(h.StateDir+"/test-vm", 0o755, nixhost.MicroVM, nixhost.KVM)
			h.File(h.StateDir+"/test-vm/data.img", "", 0o644)
		}},
		{name: "not installed any more", want: "test-vm target-inactive", make: func(h *nixhost.Host) {
			vm := one(h)
			vm.Revision, h.Inactive, h.NoRestart = 1, true, true
			h.Switch()
		}},
		{name: "installed and not started", near: "target-inactive", make: func(h *nixhost.Host) { one(h, func(vm *nixhost.VM) { vm.Autostart = false }) }},
		{name: "not installed any more and the same", near: "target-inactive", make: func(h *nixhost.Host) {
			one(h)
			h.Inactive = true
			h.Change()
			h.Switch()
		}},
		{name: "removed and running", want: "test-vm vm-removed", make: func(h *nixhost.Host) {
			h.Removed(one(h))
			h.Switch()
		}},
		{name: "removed and stopped, by flake", want: "test-vm vm-removed", make: func(h *nixhost.Host) {
			vm := one(h, nixhost.ByUpdateFlake(infra(h), update))
			h.Stop(vm)
			h.Removed(vm)
			h.VM("other")
			h.Switch()
		}},
		{name: "by hand is not removed", near: "vm-removed", make: func(h *nixhost.Host) { h.Switch(); h.Create(h.VM("test-vm", nixhost.ByHand(update))) }},
		{name: "only images are left", near: "vm-removed", make: func(h *nixhost.Host) {
			h.Switch()
			h.Dir(h.StateDir+"/old-vm", 0o755, nixhost.MicroVM, nixhost.KVM)
			h.File(h.StateDir+"/old-vm/data.img", "", 0o644)
		}},
		{name: "current is gone", want: "test-vm link-dangling", make: func(h *nixhost.Host) {
			h.Switch()
			vm := h.VM("test-vm", nixhost.ByHand(update))
			h.Create(vm)
			h.Collect(h.Readlink(h.StateDir + "/test-vm/current"))
			h.Live = false
		}},
		{name: "booted is gone", want: "test-vm link-dangling", make: func(h *nixhost.Host) {
			old, _ := left(h)
			h.Forget()
			h.Collect(old)
		}},
		{name: "old is gone", near: "link-dangling", make: func(h *nixhost.Host) {
			one(h)
			h.Link(h.StateDir+"/test-vm/old", fmt.Sprintf("/nix/store/%032d-microvm-cloud-hypervisor-test-vm", 7))
		}},
	}
}

func TestDeployed(t *testing.T) { check(t, slices.Concat(deployed(), triggers(), installs())) }
