package diagnose

import (
	"slices"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/nixhost"
)

// guest adds a service of the guest with lines of its section [Service].
func guest(lines string) func(*nixhost.VM) {
	return func(vm *nixhost.VM) {
		vm.Guest["app.service"] = "[Unit]\nDescription=Application\n\n[Service]\nExecStart=/run/current-system/sw/bin/app\n" + lines + "\n"
	}
}

// passesAs has QEMU pass a credential of the host under another name.
func passesAs(name, id string) func(*nixhost.VM) {
	return func(vm *nixhost.VM) {
		vm.CredentialFiles = map[string]string{name: "/run/credentials/microvm@" + vm.Name + ".service/" + id}
	}
}

// credentials are the causes that lie in names.
func credentials() []tree {
	pass := func(h *nixhost.Host, more ...func(*nixhost.VM)) {
		one(h, append([]func(*nixhost.VM){nixhost.QEMU, loads(h, "API_KEY"), nixhost.Passes("API_KEY")}, more...)...)
	}
	return []tree{
		{name: "runner reads another case", want: "test-vm credential-name-mismatch", make: func(h *nixhost.Host) {
			one(h, nixhost.QEMU, loads(h, "API_KEY"), passesAs("api_key", "api_key"))
		}},
		{name: "runner reads with dashes", want: "test-vm credential-name-mismatch", make: func(h *nixhost.Host) { one(h, loads(h, "API_KEY"), keeps("API-KEY")) }},
		{name: "runner reads one of two", want: "test-vm credential-name-mismatch", make: func(h *nixhost.Host) {
			pass(h, nixhost.Loads("TOKEN", "/etc/secrets/key"))
		}},
		{name: "guest wants another case", want: "test-vm credential-name-mismatch", make: func(h *nixhost.Host) { pass(h, guest("LoadCredential=api-key")) }},
		{name: "guest imports another", want: "test-vm credential-name-mismatch", make: func(h *nixhost.Host) { pass(h, guest("ImportCredential=API_TOKEN")) }},
		{name: "all have one name", near: "credential-name-mismatch", make: func(h *nixhost.Host) { pass(h, guest("LoadCredential=API_KEY")) }},
		{name: "guest has another name for it", near: "credential-name-mismatch", make: func(h *nixhost.Host) { pass(h, guest("LoadCredential=key:API_KEY")) }},
		{name: "guest has a default", near: "credential-name-mismatch", make: func(h *nixhost.Host) {
			pass(h, guest("LoadCredential=LOG_LEVEL\nSetCredential=LOG_LEVEL:info\nLoadCredential=API_KEY"))
		}},
		{name: "guest imports by a pattern", near: "credential-name-mismatch", make: func(h *nixhost.Host) { pass(h, guest("ImportCredential=API_*")) }},
		{name: "guest loads from a file", near: "credential-name-mismatch", make: func(h *nixhost.Host) { pass(h, guest("LoadCredential=cert:/var/lib/acme/cert.pem")) }},
		{name: "passed under another name", near: "credential-name-mismatch", make: func(h *nixhost.Host) {
			one(h, nixhost.QEMU, loads(h, "API_KEY"), passesAs("guest.key", "API_KEY"), guest("LoadCredential=guest.key"))
		}},
		{name: "all are read", near: "credential-name-mismatch", make: func(h *nixhost.Host) {
			one(h, loads(h, "API_KEY"), nixhost.Loads("TOKEN", "/etc/secrets/key"), func(vm *nixhost.VM) {
				vm.PreStart = "for file in \"$CREDENTIALS_DIRECTORY\"/*; do\n  install -m 600 \"$file\" secrets/\ndone"
			})
		}},
	}
}

func TestCredentials(t *testing.T) { check(t, credentials()) }

// idle is a VM that is not started by itself.
func idle(vm *nixhost.VM) { vm.Autostart = false }

// from is a VM of QEMU with a credential that its unit loads from a file.
func from(path string) []func(*nixhost.VM) {
	return []func(*nixhost.VM){nixhost.QEMU, nixhost.Loads("API_KEY", path), nixhost.Passes("API_KEY")}
}

// sops makes a generation of secrets.
func sops(h *nixhost.Host) { h.Sops(map[string]string{"vars/test-vm/key": key}) }

// unlock is a service that makes a secret.
const unlock = "[Unit]\nDescription=Unlock secrets\n\n[Service]\nExecStart=/run/current-system/sw/bin/unlock --to /run/keys/test-vm\nRemainAfterExit=true\nType=oneshot\n"

// secrets are the causes that lie in files of secrets.
func secrets() []tree {
	return []tree{
		{name: "newer than the start", want: "test-vm secret-newer", make: func(h *nixhost.Host) {
			h.Secret("/etc/secrets/key", key)
			one(h, from("/etc/secrets/key")...)
			h.Secret("/etc/secrets/key", key+"-rotated")
		}},
		{name: "another generation, without proc", want: "test-vm secret-newer", make: func(h *nixhost.Host) {
			sops(h)
			one(h, from("/run/secrets/vars/test-vm/key")...)
			sops(h)
			h.Live = false
		}},
		{name: "older than the start", near: "secret-newer", make: func(h *nixhost.Host) {
			sops(h)
			vm := one(h, from("/run/secrets/vars/test-vm/key")...)
			sops(h)
			h.Later(time.Minute)
			h.Start(vm)
		}},
		{name: "newer, and the VM does not run", near: "secret-newer", make: func(h *nixhost.Host) {
			h.Secret("/etc/secrets/key", key)
			h.Stop(one(h, from("/etc/secrets/key")...))
			h.Secret("/etc/secrets/key", key+"-rotated")
		}},
		{name: "a secret of another VM is newer", near: "secret-newer", make: func(h *nixhost.Host) {
			h.Secret("/etc/secrets/key", key)
			one(h, from("/etc/secrets/key")...)
			h.Secret("/etc/secrets/other", key)
		}},
		{name: "missing", want: "test-vm secret-missing", make: func(h *nixhost.Host) { one(h, append(from("/etc/secrets/kye"), idle)...) }},
		{name: "missing behind a link", want: "test-vm secret-missing", make: func(h *nixhost.Host) {
			sops(h)
			one(h, append(from("/run/secrets/vars/test-vm/token"), idle)...)
		}},
		{name: "missing with a default", near: "secret-missing", make: func(h *nixhost.Host) {
			one(h, append(from("/etc/secrets/kye"), func(vm *nixhost.VM) { vm.Service = append(vm.Service, "SetCredential=API_KEY:none") })...)
		}},
		{name: "a name that no store of credentials has", want: "test-vm secret-missing", make: func(h *nixhost.Host) {
			one(h, nixhost.QEMU, nixhost.Passes("API_KEY"), idle, func(vm *nixhost.VM) { vm.Service = []string{"LoadCredential=API_KEY"} })
		}},
		{name: "a name that a store of credentials has", near: "secret-missing", make: func(h *nixhost.Host) {
			h.Secret("/etc/credstore/API_KEY", key)
			one(h, nixhost.QEMU, nixhost.Passes("API_KEY"), func(vm *nixhost.VM) { vm.Service = []string{"LoadCredential=API_KEY"} })
		}},
		{name: "a directory of secrets", near: "secret-missing", make: func(h *nixhost.Host) {
			h.Secret("/etc/secrets/all/key", key)
			h.Dir("/etc/secrets/all", 0o700, 0, 0)
			one(h, nixhost.Loads("all", "/etc/secrets/all"), func(vm *nixhost.VM) { vm.PreStart = "cp -r \"$CREDENTIALS_DIRECTORY\"/* secrets/" })
		}},
	}
}

// opened are those for which others may read a secret's file.
func opened() []tree {
	return []tree{
		{name: "open to all", want: "test-vm secret-too-open", make: func(h *nixhost.Host) {
			h.File("/etc/secrets/key", key, 0o644)
			one(h, from("/etc/secrets/key")...)
		}},
		{name: "open to the group of all VMs", want: "test-vm secret-too-open", make: func(h *nixhost.Host) {
			h.File("/etc/secrets/key", key, 0o440)
			h.Own("/etc/secrets/key", 0, nixhost.KVM)
			one(h, from("/etc/secrets/key")...)
		}},
		{name: "open through a generation", want: "test-vm secret-too-open", make: func(h *nixhost.Host) {
			sops(h)
			h.Mode("/run/secrets.d/1/vars/test-vm/key", 0o444)
			one(h, from("/run/secrets/vars/test-vm/key")...)
		}},
		{name: "open below what is closed", near: "secret-too-open", make: func(h *nixhost.Host) {
			h.File("/etc/secrets/private/key", key, 0o644)
			h.Dir("/etc/secrets/private", 0o700, 0, 0)
			one(h, from("/etc/secrets/private/key")...)
		}},
		{name: "open to another group", near: "secret-too-open", make: func(h *nixhost.Host) {
			h.File("/etc/secrets/key", key, 0o440)
			h.Own("/etc/secrets/key", 0, nixhost.Keys)
			one(h, from("/etc/secrets/key")...)
		}},
	}
}

// late are those for which a secret's file may come too late.
func late() []tree {
	return []tree{
		{name: "before sops", want: "test-vm secret-after-unit", make: func(h *nixhost.Host) {
			h.SopsUnit()
			sops(h)
			one(h, from("/run/secrets/vars/test-vm/key")...)
		}},
		{name: "before agenix, and absent yet", want: "test-vm secret-after-unit", make: func(h *nixhost.Host) {
			h.AgenixUnit()
			one(h, append(from("/run/agenix/test-vm-key"), idle)...)
		}},
		{name: "before what unlocks", want: "test-vm secret-after-unit", make: func(h *nixhost.Host) {
			h.Unit("unlock-secrets.service", unlock, "multi-user.target")
			h.Secret("/run/keys/test-vm", key)
			one(h, from("/run/keys/test-vm")...)
		}},
		{name: "after sops", near: "secret-after-unit", make: func(h *nixhost.Host) {
			h.SopsUnit()
			sops(h)
			one(h, append(from("/run/secrets/vars/test-vm/key"), func(vm *nixhost.VM) { vm.Unit = []string{"After=sops-install-secrets.service"} })...)
		}},
		{name: "sops before all", near: "secret-after-unit", make: func(h *nixhost.Host) {
			h.SopsUnit("Before=sysinit.target")
			sops(h)
			one(h, from("/run/secrets/vars/test-vm/key")...)
		}},
		{name: "sops by activation", near: "secret-after-unit", make: func(h *nixhost.Host) {
			sops(h)
			one(h, from("/run/secrets/vars/test-vm/key")...)
		}},
		{name: "what unlocks says before whom", near: "secret-after-unit", make: func(h *nixhost.Host) {
			h.Unit("unlock-secrets.service", "[Unit]\nBefore=microvm@test-vm.service\n\n"+unlock, "multi-user.target")
			h.Secret("/run/keys/test-vm", key)
			one(h, from("/run/keys/test-vm")...)
		}},
		{name: "what unlocks another", near: "secret-after-unit", make: func(h *nixhost.Host) {
			h.Unit("unlock-secrets.service", unlock, "multi-user.target")
			h.Secret("/run/keys/test-vm-2", key)
			one(h, from("/run/keys/test-vm-2")...)
		}},
	}
}

func TestSecrets(t *testing.T) { check(t, slices.Concat(secrets(), opened(), late())) }

// stores are the causes by which a secret can be read by others.
func stores() []tree {
	pass := func(h *nixhost.Host, more ...func(*nixhost.VM)) *nixhost.VM {
		return one(h, append([]func(*nixhost.VM){nixhost.QEMU, loads(h, "API_KEY"), nixhost.Passes("API_KEY")}, more...)...)
	}
	oem := func(values ...string) func(*nixhost.VM) { return func(vm *nixhost.VM) { vm.OEMStrings = values } }
	return []tree{
		{name: "in argv by a script", want: "test-vm secret-in-argv", make: func(h *nixhost.Host) {
			one(h, loads(h, "API_KEY"), func(vm *nixhost.VM) { vm.Runner, vm.Argv = loader("API_KEY"), loaded("API_KEY", key) })
		}},
		{name: "in argv when it will run", want: "test-vm secret-in-argv", make: func(h *nixhost.Host) {
			h.Stop(one(h, loads(h, "API_KEY"), func(vm *nixhost.VM) { vm.Runner = loader("API_KEY") }))
			h.Live = false
		}},
		{name: "in argv by more arguments", want: "test-vm secret-in-argv", make: func(h *nixhost.Host) {
			pass(h, func(vm *nixhost.VM) {
				vm.ExtraArgsScript = "echo \"-smbios type=11,value=key=$(cat \"$CREDENTIALS_DIRECTORY/API_KEY\")\"\n"
				vm.RuntimeArgs = []string{"-smbios", "type=11,value=key=" + key}
			})
		}},
		{name: "in argv and the store", want: "test-vm secret-in-argv,test-vm secret-in-store", make: func(h *nixhost.Host) {
			pass(h, func(vm *nixhost.VM) { vm.KernelParams = []string{"app.key=" + key} })
		}},
		{name: "in argv and the store by SMBIOS", want: "test-vm secret-in-argv,test-vm secret-in-store", make: func(h *nixhost.Host) {
			one(h, nixhost.QEMU, func(vm *nixhost.VM) {
				vm.ExtraArgs = []string{"-smbios", "type=11,value=io.systemd.credential:API_KEY=" + key}
			})
		}},
		{name: "by a file and not in argv", near: "secret-in-argv", make: func(h *nixhost.Host) { pass(h) }},
		{name: "another value in argv", near: "secret-in-argv", make: func(h *nixhost.Host) {
			pass(h, func(vm *nixhost.VM) { vm.KernelParams = []string{"app.key=sk-test-000000"} })
		}},
		{name: "set in the unit", want: "test-vm secret-in-store", make: func(h *nixhost.Host) {
			one(h, nixhost.QEMU, nixhost.Passes("API_KEY"), func(vm *nixhost.VM) { vm.Service = []string{"SetCredential=API_KEY:" + key} })
		}},
		{name: "loaded from the store", want: "test-vm secret-in-store", make: func(h *nixhost.Host) {
			one(h, nixhost.QEMU, nixhost.Passes("API_KEY"), nixhost.Loads("API_KEY", h.Store("api-key", nixhost.Files{"": nixhost.Text(key + "\n")})))
		}},
		{name: "in the sources", want: "test-vm secret-in-store", make: func(h *nixhost.Host) {
			h.Source = h.Store("source", nixhost.Files{"flake.nix": nixhost.Text("{ }\n"), "secrets/keys.nix": nixhost.Text("{\n  apiKey = \"" + key + "\";\n}\n")})
			pass(h)
		}},
		{name: "in an environment file", want: "test-vm secret-in-store", make: func(h *nixhost.Host) {
			pass(h, func(vm *nixhost.VM) {
				vm.Service = append(vm.Service, "EnvironmentFile="+h.Store("test-vm.env", nixhost.Files{"": nixhost.Text("API_KEY=" + key + "\n")}))
			})
		}},
		{name: "encrypted in the unit", near: "secret-in-store", make: func(h *nixhost.Host) {
			one(h, nixhost.QEMU, nixhost.Passes("API_KEY"), func(vm *nixhost.VM) {
				vm.Service = []string{"SetCredentialEncrypted=API_KEY:k6iUCUh0RJCQyvL8k8q1UyAAAAABAAAADAAAABAAAAC1lFmb"}
			})
		}},
		{name: "set until the next boot", near: "secret-in-store", make: func(h *nixhost.Host) {
			one(h, nixhost.QEMU, nixhost.Passes("API_KEY"))
			h.File("/run/systemd/system/microvm@test-vm.service.d/key.conf", "[Service]\nSetCredential=API_KEY:"+key+"\n", 0o600)
		}},
		{name: "another value in the sources", near: "secret-in-store", make: func(h *nixhost.Host) {
			h.Source = h.Store("source", nixhost.Files{"flake.nix": nixhost.Text("{ }\n"), "secrets/keys.nix": nixhost.Text("{\n  apiKey = \"sk-test-0000\";\n}\n")})
			pass(h)
		}},
		{name: "in OEM strings", want: "test-vm secret-in-oem-strings", make: func(h *nixhost.Host) { one(h, oem("io.systemd.credential:API_KEY="+key)) }},
		{name: "in OEM strings, binary", want: "test-vm secret-in-oem-strings", make: func(h *nixhost.Host) {
			one(h, oem("vendor=example", "io.systemd.credential.binary:API_KEY=aHVudGVyMi1zay1saXZl"), func(vm *nixhost.VM) { vm.CID = 0 })
			h.Live = false
		}},
		{name: "other OEM strings", near: "secret-in-oem-strings", make: func(h *nixhost.Host) { one(h, oem("vendor=example", "role:web")) }},
	}
}

func TestStores(t *testing.T) { check(t, stores()) }
