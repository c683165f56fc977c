package diagnose

import (
	"testing"

	"github.com/ampoule-vm/ampoule/internal/testkit/nixhost"
)

// flake is a work tree at /etc/nixos, of which later more is not tracked.
func flake(h *nixhost.Host, dir string, host string) {
	h.Worktree(dir, map[string]string{
		"flake.nix":          "{\n  outputs = { self, nixpkgs }: {\n    nixosConfigurations.build-host = nixpkgs.lib.nixosSystem { modules = [ ./machines/host.nix ]; };\n  };\n}\n",
		"machines/host.nix":  host,
		"machines/users.nix": "{ }\n",
	})
}

// source is the configuration that a system is built from.
func source(h *nixhost.Host, vms string) {
	h.Source = h.Store("source", nixhost.Files{
		"flake.nix":        nixhost.Text("{\n  outputs = inputs: { };\n}\n"),
		"machines/vms.nix": nixhost.Text("{ config, lib, pkgs, inputs, ... }:\n{\n" + vms + "\n}\n"),
	})
}

// sources are the causes that lie in the configuration's files.
func sources() []tree {
	const imports = "{\n  imports = [ ./users.nix ./credentials.nix ../modules/vms ];\n}\n"
	firecracker := func(vm *nixhost.VM) {
		nixhost.Firecracker(vm)
		vm.Volumes = []nixhost.Volume{{Image: "data.img", Size: 64}}
	}
	return []tree{
		{name: "a file is not tracked", want: "- source-untracked", make: func(h *nixhost.Host) {
			one(h)
			flake(h, "/etc/nixos", "{\n  imports = [ ./users.nix\n    ./credentials.nix ];\n}\n")
			h.File("/etc/nixos/machines/credentials.nix", "{ }\n", 0o644)
		}},
		{name: "a directory of a VMs flake is not tracked", want: "test-vm source-untracked", make: func(h *nixhost.Host) {
			flake(h, "/home/britton/infra", "{\n  imports = [ ../modules/vms ];\n}\n")
			h.File("/home/britton/infra/modules/vms/default.nix", "{ }\n", 0o644)
			h.Switch()
			h.Create(h.VM("test-vm", nixhost.ByHand("git+file:///home/britton/infra")))
		}},
		{name: "staged and not committed", near: "source-untracked", make: func(h *nixhost.Host) {
			one(h)
			flake(h, "/etc/nixos", imports)
			h.File("/etc/nixos/machines/credentials.nix", "{ }\n", 0o644)
			h.File("/etc/nixos/modules/vms/default.nix", "{ }\n", 0o644)
			h.Git("/etc/nixos", "add", "machines/credentials.nix")
			h.Git("/etc/nixos", "add", "--intent-to-add", "modules/vms/default.nix")
		}},
		{name: "not tracked and only in a comment", near: "source-untracked", make: func(h *nixhost.Host) {
			one(h)
			flake(h, "/etc/nixos", "{\n  # later: ./credentials.nix\n  /* or ./credentials.nix */\n  imports = [ ./users.nix ];\n  a = \"./credentials.nix\";\n}\n")
			h.File("/etc/nixos/machines/credentials.nix", "{ }\n", 0o644)
			h.File("/etc/nixos/notes.nix", "{ }\n", 0o644)
		}},
		{name: "named and not there", near: "source-untracked", make: func(h *nixhost.Host) {
			one(h)
			flake(h, "/etc/nixos", "{\n  imports = [ ./users.nix ] ++ (if builtins.pathExists ./local.nix then [ ./local.nix ] else [ ]);\n}\n")
		}},
		{name: "no work tree", near: "source-untracked", make: func(h *nixhost.Host) {
			one(h)
			h.File("/etc/nixos/flake.nix", imports, 0o644)
			h.File("/etc/nixos/credentials.nix", "{ }\n", 0o644)
		}},
		{name: "vsock with StratoVirt", want: "test-vm option-ignored", make: func(h *nixhost.Host) { one(h, nixhost.Stratovirt) }},
		{name: "memory beside hotplug", want: "test-vm option-ignored", make: func(h *nixhost.Host) { one(h, func(vm *nixhost.VM) { vm.HotplugMem = 4096 }) }},
		{name: "huge pages with QEMU", want: "test-vm option-ignored", make: func(h *nixhost.Host) {
			source(h, "  microvm.vms.test-vm.config = {\n    microvm = {\n      hypervisor = \"qemu\";\n      hugepageMem = true;\n    };\n  };")
			one(h, nixhost.QEMU)
		}},
		{name: "a serial with Firecracker", want: "test-vm option-ignored", make: func(h *nixhost.Host) {
			source(h, "  microvm.vms = {\n    test-vm = {\n      config.microvm.volumes = [ {\n        image = \"data.img\";\n        serial = \"data\";\n        size = 64;\n      } ];\n    };\n  };")
			one(h, firecracker)
		}},
		{name: "huge pages with cloud-hypervisor", near: "option-ignored", make: func(h *nixhost.Host) {
			source(h, "  microvm.vms.test-vm.config.microvm.hugepageMem = true;")
			one(h)
		}},
		{name: "no huge pages with QEMU", near: "option-ignored", make: func(h *nixhost.Host) {
			source(h, "  microvm.vms.test-vm.config.microvm.hugepageMem = false;\n  # microvm.vms.test-vm.config.microvm.hugepageMem = true;\n  environment.etc.note.text = ''\n    microvm.vms.test-vm.config.microvm.hugepageMem = true;\n  '';")
			one(h, nixhost.QEMU)
		}},
		{name: "huge pages of another VM", near: "option-ignored", make: func(h *nixhost.Host) {
			source(h, "  microvm.vms.big.config.microvm.hugepageMem = true;\n  microvm.vms.test-vm.config.microvm.hypervisor = \"qemu\";")
			h.VM("big")
			one(h, nixhost.QEMU)
		}},
		{name: "a serial with QEMU", near: "option-ignored", make: func(h *nixhost.Host) {
			source(h, "  microvm.vms.test-vm.config.microvm.volumes = [ { image = \"data.img\"; serial = \"data\"; size = 64; } ];")
			one(h, nixhost.QEMU, func(vm *nixhost.VM) { vm.Volumes = []nixhost.Volume{{Image: "data.img", Serial: "data", Size: 64}} })
		}},
	}
}

func TestSources(t *testing.T) { check(t, sources()) }
