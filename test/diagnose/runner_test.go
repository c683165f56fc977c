package diagnose

import (
	"slices"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/testkit/nixhost"
)

// key is a secret of the trees, which the program never repeats.
const key = "hunter2-sk-live-51f0c2"

// loader is the text of a run script that reads a credential and passes it on as
// the seed's does: in the hypervisor's command line.
func loader(id string) string {
	return `set -eou pipefail
# Loading Runtime Secrets
if [ -n "${CREDENTIALS_DIRECTORY:-}" ] && [ -f "$CREDENTIALS_DIRECTORY/` + id + `" ]; then
  SECRET="$(cat "$CREDENTIALS_DIRECTORY/` + id + `")"
else
  echo "no credential ` + id + `" >&2
  exit 1
fi
rm -f 'test-vm.sock'
exec -a "microvm@test-vm" /run/current-system/sw/bin/cloud-hypervisor --cpus boot=2 --memory size=1024M --kernel /var/lib/kernel/vmlinux --platform "oem_strings=[io.systemd.credential:` + id + `=$SECRET]" --api-socket test-vm.sock
`
}

// loaded is the argv of loader.
func loaded(id, value string) []string {
	return strings.Split("--cpus boot=2 --memory size=1024M --kernel /var/lib/kernel/vmlinux --platform oem_strings=[io.systemd.credential:"+id+"="+value+"] --api-socket test-vm.sock", " ")
}

// keeper is one that passes a file to QEMU.
func keeper(id string) (text string, argv []string) {
	return `set -eou pipefail
exec -a "microvm@test-vm" /run/current-system/sw/bin/qemu-system-x86_64 -m 512 -fw_cfg name=opt/io.systemd.credentials/` + id + `,file="$CREDENTIALS_DIRECTORY/` + id + `"
`, []string{"-m", "512", "-fw_cfg", "name=opt/io.systemd.credentials/" + id + ",file=/run/credentials/microvm@test-vm.service/" + id}
}

func keeps(id string) func(*nixhost.VM) {
	return func(vm *nixhost.VM) { vm.Runner, vm.Argv = keeper(id) }
}

// loads makes a secret, and has the VM's unit load it.
func loads(h *nixhost.Host, id string) func(*nixhost.VM) {
	h.Secret("/etc/secrets/key", key)
	return nixhost.Loads(id, "/etc/secrets/key")
}

func binScript(text string) func(*nixhost.VM) { return func(vm *nixhost.VM) { vm.BinScript = text } }

// runners are the causes that lie in what a VM is started with.
func runners() []tree {
	return []tree{
		{name: "override lost", want: "test-vm runner-override-lost", make: func(h *nixhost.Host) { one(h, loads(h, "API_KEY"), binScript(loader("API_KEY"))) }},
		{name: "override lost, no database", want: "test-vm runner-override-lost", make: func(h *nixhost.Host) {
			one(h, nixhost.QEMU, loads(h, "API_KEY"), binScript(loader("API_KEY")))
			h.Database, h.Live = nixhost.NoDatabase, false
		}},
		{name: "override lost, other host name", want: "db runner-override-lost", make: func(h *nixhost.Host) {
			h.VM("db", loads(h, "API_KEY"), binScript(loader("API_KEY")), func(vm *nixhost.VM) { vm.HostName = "db-production" })
			h.Switch()
		}},
		{name: "override of another VM", near: "runner-override-lost", want: "test-vm credentials-unread", make: func(h *nixhost.Host) {
			one(h, loads(h, "API_KEY"))
			h.Script("microvm-microvm-test-vm-microvm-run", loader("API_KEY"))
			h.Script("microvm-test-vm-2-microvm-run", loader("API_KEY"))
		}},
		{name: "override of an older runner", near: "runner-override-lost", want: "test-vm credentials-unread", make: func(h *nixhost.Host) {
			vm := one(h, loads(h, "API_KEY"), keeps("API_KEY"))
			vm.Runner, vm.Revision = "", 1
			h.Switch()
		}},
		{name: "override without credentials", near: "runner-override-lost", make: func(h *nixhost.Host) { one(h, binScript(loader("API_KEY"))) }},
		{name: "override that applies", near: "runner-override-lost", make: func(h *nixhost.Host) {
			one(h, loads(h, "API_KEY"), keeps("API_KEY"), binScript(loader("API_KEY")))
		}},
	}
}

// readers are those for which what is loaded is read by nobody.
func readers() []tree {
	return []tree{
		{name: "unread", want: "test-vm credentials-unread", make: func(h *nixhost.Host) { one(h, loads(h, "API_KEY")) }},
		{name: "unread, encrypted", want: "test-vm credentials-unread", make: func(h *nixhost.Host) {
			h.File("/etc/credstore.encrypted/token", "k6iUCUh0RJCQyvL8k8q1UyAAAAABAAAADAAAABAAAAC1lFmbWAqWZ8dCCQkAAAAA", 0o400)
			one(h, nixhost.QEMU, func(vm *nixhost.VM) {
				vm.Service = []string{"LoadCredentialEncrypted=TOKEN:/etc/credstore.encrypted/token"}
			})
		}},
		{name: "unread, a script that reads none", want: "test-vm credentials-unread", make: func(h *nixhost.Host) {
			one(h, loads(h, "API_KEY"), binScript("set -e\nexec sleep infinity\n"))
		}},
		{name: "read before the start", near: "credentials-unread", make: func(h *nixhost.Host) {
			one(h, loads(h, "API_KEY"), func(vm *nixhost.VM) {
				vm.PreStart = "install -m 600 \"$CREDENTIALS_DIRECTORY/API_KEY\" secrets/API_KEY"
			})
		}},
		{name: "read for more arguments", near: "credentials-unread", make: func(h *nixhost.Host) {
			one(h, nixhost.QEMU, loads(h, "API_KEY"), func(vm *nixhost.VM) {
				vm.ExtraArgsScript = "echo \"-fw_cfg name=opt/io.systemd.credentials/API_KEY,file=$CREDENTIALS_DIRECTORY/API_KEY\"\n"
				vm.RuntimeArgs = []string{"-fw_cfg", "name=opt/io.systemd.credentials/API_KEY,file=/run/credentials/microvm@test-vm.service/API_KEY"}
			})
		}},
		{name: "read by the unit", near: "credentials-unread", make: func(h *nixhost.Host) {
			hook := h.Script("load-credentials", "mkdir -p shared\ncp ${CREDENTIALS_DIRECTORY}/API_KEY shared/\n")
			one(h, loads(h, "API_KEY"), func(vm *nixhost.VM) { vm.Service = append(vm.Service, "ExecStartPre=+"+hook) })
		}},
		{name: "no credentials to read", near: "credentials-unread", make: func(h *nixhost.Host) {
			one(h, func(vm *nixhost.VM) { vm.Service = []string{"LoadCredential=", "MemoryMax=4G"} })
		}},
	}
}

// running are those for which something else runs than is installed.
func running() []tree {
	return []tree{
		{name: "runs with other memory", want: "test-vm running-not-booted", make: func(h *nixhost.Host) {
			h.Rerun(one(h), func(argv []string) []string { return replaced(argv, "size=1024M", "size=512M") })
		}},
		{name: "runs another system", want: "test-vm running-not-booted", make: func(h *nixhost.Host) {
			h.Rerun(one(h, nixhost.QEMU), func(argv []string) []string {
				return append(replaced(argv, "loglevel=4", "loglevel=7"), "-s")
			})
		}},
		{name: "runs with what a script said", near: "running-not-booted", make: func(h *nixhost.Host) {
			one(h, func(vm *nixhost.VM) {
				vm.ExtraArgsScript, vm.RuntimeArgs = "echo --net tap=more,mac=02:00:00:00:01:01\n", []string{"--net", "tap=more,mac=02:00:00:00:01:01"}
			})
		}},
		{name: "runs with words that need quotes", near: "running-not-booted", make: func(h *nixhost.Host) {
			one(h, func(vm *nixhost.VM) {
				vm.KernelParams, vm.ExtraArgs = []string{`it's="a b"`, `\x`, "$HOME", "*"}, []string{"--log-file", "a 'b' c"}
			})
		}},
		{name: "runs with words that the script expands", near: "running-not-booted", make: func(h *nixhost.Host) { one(h, loads(h, "API_KEY"), keeps("API_KEY")) }},
		{name: "forced program", want: "test-vm execstart-shadowed", make: func(h *nixhost.Host) {
			custom := h.Script("start-test-vm", "exec cloud-hypervisor --api-socket test-vm.sock\n")
			one(h, func(vm *nixhost.VM) { vm.Service = []string{"ExecStart=", "ExecStart=" + custom} })
			h.Live = false
		}},
		{name: "forced program until the next boot", want: "test-vm execstart-shadowed", make: func(h *nixhost.Host) {
			one(h)
			h.File("/run/systemd/system/microvm@test-vm.service.d/50-debug.conf", "[Service]\nExecStart=\nExecStart=/root/try.sh\n", 0o644)
		}},
		{name: "two programs", want: "test-vm execstart-shadowed", make: func(h *nixhost.Host) {
			custom := h.Script("start-test-vm", "exec cloud-hypervisor --api-socket test-vm.sock\n")
			h.VM("test-vm", func(vm *nixhost.VM) { vm.Autostart, vm.Service = false, []string{"ExecStart=" + custom} })
			h.Switch()
		}},
		{name: "the same program", near: "execstart-shadowed", make: func(h *nixhost.Host) {
			one(h, func(vm *nixhost.VM) {
				vm.Service = []string{"ExecStart=", "ExecStart=" + h.StateDir + "/%i/current/bin/microvm-run"}
			})
		}},
		{name: "our program", near: "execstart-shadowed", make: func(h *nixhost.Host) {
			ampoule := h.Package("ampoule-0.1.0", "bin/ampoule")
			one(h, loads(h, "API_KEY"), func(vm *nixhost.VM) {
				vm.Service = append(vm.Service, "ExecStart=", "ExecStart="+ampoule+"/bin/ampoule run /etc/ampoule/test-vm.microvm")
			})
			h.Live = false
		}},
		{name: "edited outside the store", want: "test-vm script-edited", make: func(h *nixhost.Host) {
			h.Switch()
			vm := h.VM("test-vm", nixhost.ByHand(update))
			h.Create(vm)
			h.File("/root/patched/bin/microvm-run", "#!/bin/sh\nset -eou pipefail\nexec cloud-hypervisor --cpus boot=8\n", 0o755)
			h.Link(h.StateDir+"/test-vm/current", "/root/patched")
			h.Link(h.StateDir+"/test-vm/booted", "/root/patched")
			h.Live = false
		}},
		{name: "edited in the store", want: "test-vm script-edited", make: func(h *nixhost.Host) {
			one(h)
			h.Edit(h.Readlink(h.Readlink(h.StateDir+"/test-vm/current")+"/bin/microvm-run"), "runtime_args=", "sleep 5 # wait for the network\nruntime_args=")
		}},
		{name: "preparations of any kind", near: "script-edited", make: func(h *nixhost.Host) {
			one(h, func(vm *nixhost.VM) {
				vm.PreStart = "# wait for the network\nfor i in 1 2 3; do sleep \"$i\"; done\ncheck() {\n  test -e /dev/kvm || return 1\n}\ncheck || exit 1"
				vm.Volumes = []nixhost.Volume{{Image: "data.img", Size: 512}}
			})
		}},
		{name: "a runner of ones own", near: "script-edited", make: func(h *nixhost.Host) { one(h, keeps("API_KEY"), loads(h, "API_KEY")) }},
	}
}

func TestRunners(t *testing.T) { check(t, slices.Concat(runners(), readers(), running())) }

// replaced has a part of each word replaced.
func replaced(argv []string, old, replacement string) []string {
	for i := range argv {
		argv[i] = strings.ReplaceAll(argv[i], old, replacement)
	}
	return argv
}

// TestRefused: two programs are an error, since systemd starts neither; another program
// is a warning.
func TestRefused(t *testing.T) {
	for severity, lines := range map[string][]string{"error": {"ExecStart=/root/try.sh"}, "warning": {"ExecStart=", "ExecStart=/root/try.sh"}} {
		h := nixhost.New(t)
		one(h, idle, func(vm *nixhost.VM) { vm.Service = lines })
		if !slices.ContainsFunc(diagnose(t, h.Finish()).Findings, func(f finding) bool { return f.Code == "execstart-shadowed" && f.Severity == severity }) {
			t.Errorf("%q is no %s", lines, severity)
		}
	}
}
