package diagnose

import (
	"slices"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/nixhost"
)

// combined are trees with two causes and more at once, as hosts have them.
func combined() []tree {
	stale := func(vm *nixhost.VM) { vm.Revision++ }
	return []tree{
		{name: "override lost, and its file is missing", want: "test-vm runner-override-lost,test-vm secret-missing", make: func(h *nixhost.Host) {
			one(h, nixhost.Loads("API_KEY", "/run/secrets/vars/key"), binScript(loader("API_KEY")), func(vm *nixhost.VM) { vm.Autostart = false })
		}},
		{name: "override lost and open", want: "test-vm runner-override-lost,test-vm secret-too-open,test-vm secret-newer", make: func(h *nixhost.Host) {
			one(h, loads(h, "API_KEY"), binScript(loader("API_KEY")))
			h.File("/etc/secrets/key", key, 0o644)
		}},
		{name: "override lost, built again and not switched", want: "test-vm runner-override-lost,- built-not-switched", make: func(h *nixhost.Host) {
			vm := one(h, loads(h, "API_KEY"), binScript(loader("API_KEY")))
			vm.BinScript = loader("API_KEY") + "# again\n"
			h.Change()
			h.Build()
		}},
		{name: "override lost, and a file is not tracked", want: "test-vm runner-override-lost,- source-untracked", make: func(h *nixhost.Host) {
			one(h, loads(h, "API_KEY"), binScript(loader("API_KEY")))
			flake(h, "/etc/nixos", "{\n  imports = [ ./credentials.nix ];\n}\n")
			h.File("/etc/nixos/machines/credentials.nix", "{ }\n", 0o644)
		}},
		{name: "stale, not rooted, old kernel", want: "test-vm restart-not-wanted,test-vm gc-root-lost,- host-kernel-old", make: func(h *nixhost.Host) {
			h.Switch()
			h.Change()
			vm := one(h, nixhost.Restarts(false))
			stale(vm)
			h.Kernel = "6.12.50"
			h.Switch()
			h.Forget()
		}},
		{name: "removed and not rooted", want: "test-vm vm-removed,test-vm gc-root-lost", make: func(h *nixhost.Host) {
			h.Switch()
			h.Change()
			h.Removed(one(h))
			h.Switch()
			h.Forget()
		}},
		{name: "removed, with a dot, and gone", want: "old.example vm-removed,old.example name-with-dot,old.example link-dangling", make: func(h *nixhost.Host) {
			h.Switch()
			vm := h.VM("old.example")
			h.Switch()
			h.Stop(vm)
			h.Removed(vm)
			runner := h.Readlink(h.StateDir + "/old.example/current")
			h.Switch()
			h.Forget()
			h.Collect(runner)
		}},
		{name: "a secret in argv, and it is newer", want: "test-vm secret-in-argv,test-vm secret-newer", make: func(h *nixhost.Host) {
			one(h, loads(h, "API_KEY"), func(vm *nixhost.VM) { vm.Runner, vm.Argv = loader("API_KEY"), loaded("API_KEY", key) })
			h.Secret("/etc/secrets/key", key)
		}},
		{name: "OEM strings, unread, before sops", want: "test-vm secret-in-oem-strings,test-vm credentials-unread,test-vm secret-after-unit", make: func(h *nixhost.Host) {
			h.SopsUnit()
			h.Sops(map[string]string{"key": key})
			one(h, nixhost.Loads("API_KEY", "/run/secrets/key"), func(vm *nixhost.VM) { vm.OEMStrings = []string{"io.systemd.credential:API_KEY=hunter2-of-old"} })
		}},
	}
}

// several are trees with VMs of which each has its own.
func several() []tree {
	stale := func(vm *nixhost.VM) { vm.Revision++ }
	return []tree{
		{name: "one VM is whole and two are not", want: "b credentials-unread,c credential-name-mismatch,c option-ignored", make: func(h *nixhost.Host) {
			h.Secret("/etc/secrets/key", key)
			h.VM("a", nixhost.QEMU, nixhost.Loads("API_KEY", "/etc/secrets/key"), nixhost.Passes("API_KEY"))
			h.VM("b", nixhost.Loads("API_KEY", "/etc/secrets/key"))
			source(h, "  microvm.vms.c.config.microvm.volumes = [ { image = \"data.qcow2\"; imageType = \"qcow2\"; } ];")
			h.VM("c", nixhost.QEMU, nixhost.Loads("API_KEY", "/etc/secrets/key"), passesAs("apikey", "apikey"))
			h.Switch()
		}},
		{name: "pinned and by hand, another memory", want: "test-vm flake-pinned,test-vm restart-not-wanted,test-vm imperative-over-declarative", make: func(h *nixhost.Host) {
			vm := one(h, nixhost.ByFlake(infra(h)))
			vm.Mem = 2048
			h.Update(vm)
		}},
		{name: "installed once, restart not wanted, tested", want: "test-vm flake-install-once,test-vm restart-not-wanted,- running-not-in-profile", make: func(h *nixhost.Host) {
			vm := one(h, nixhost.ByUpdateFlake(infra(h), update))
			stale(vm)
			h.Update(vm)
			vm.Mem = 4096
			h.Test()
		}},
		{name: "forced program and a secret for all", want: "test-vm execstart-shadowed,test-vm secret-too-open", make: func(h *nixhost.Host) {
			h.File("/etc/secrets/key", key, 0o604)
			custom := h.Script("start-test-vm", "exec cloud-hypervisor --api-socket test-vm.sock --fw-cfg-config \"items=[name=opt/io.systemd.credentials/API_KEY,file=$CREDENTIALS_DIRECTORY/API_KEY]\"\n")
			one(h, nixhost.Loads("API_KEY", "/etc/secrets/key"), func(vm *nixhost.VM) { vm.Service = append(vm.Service, "ExecStart=", "ExecStart="+custom) })
			h.Live = false
		}},
		{name: "not installed and built", want: "test-vm target-inactive,- built-not-switched,- host-kernel-old", make: func(h *nixhost.Host) {
			vm := one(h)
			stale(vm)
			h.Inactive, h.NoRestart, h.Initrd = true, true, "-2"
			h.Switch()
			h.Change()
			h.Build()
		}},
		{name: "runs by hand, more memory", want: "test-vm running-not-booted,test-vm trigger-unchanged", make: func(h *nixhost.Host) {
			vm := one(h)
			vm.Mem = 2048
			h.Switch()
			h.Rerun(vm, func(argv []string) []string { return append(argv, "--gdb", "path=/tmp/gdb.sock") })
		}},
		{name: "edited, and set in the unit", want: "test-vm script-edited,test-vm secret-in-store", make: func(h *nixhost.Host) {
			one(h, nixhost.QEMU, nixhost.Passes("API_KEY"), func(vm *nixhost.VM) { vm.Service = []string{"SetCredential=API_KEY:" + key} })
			h.Edit(h.Readlink(h.Readlink(h.StateDir+"/test-vm/current")+"/bin/microvm-run"), "runtime_args=", "sleep 5\nruntime_args=")
		}},
		{name: "ten VMs, each with another cause", want: "v0 credentials-unread,v1 secret-missing,v2 secret-too-open,v3 trigger-unchanged,v4.example name-with-dot,v5 secret-in-oem-strings,v6 option-ignored,v7 vm-removed", make: tenVMs},
	}
}

func tenVMs(h *nixhost.Host) {
	h.Secret("/etc/secrets/key", key)
	h.File("/etc/secrets/open", key+"-of-v2", 0o644)
	with := func(path string) func(*nixhost.VM) { return nixhost.Loads("API_KEY", path) }
	h.VM("v0", with("/etc/secrets/key"))
	h.VM("v1", nixhost.QEMU, with("/etc/secrets/none"), nixhost.Passes("API_KEY"), idle)
	h.VM("v2", nixhost.QEMU, with("/etc/secrets/open"), nixhost.Passes("API_KEY"))
	more := h.VM("v3")
	h.VM("v4.example")
	h.VM("v5", func(vm *nixhost.VM) { vm.OEMStrings = []string{"io.systemd.credential:X=hunter2-of-v5"} })
	h.VM("v6", nixhost.Stratovirt)
	removed := h.VM("v7")
	h.VM("v8")
	h.VM("v9", idle)
	h.Switch()
	h.Later(time.Hour)
	h.Removed(removed)
	more.Mem = 2048
	h.Switch()
}

func TestCombined(t *testing.T) { check(t, slices.Concat(combined(), several())) }
