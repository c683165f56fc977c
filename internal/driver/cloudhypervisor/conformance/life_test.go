package conformance

import (
	"encoding/json"
	"testing"
)

// settings is a body for vm.create.
type settings map[string]any

func (s settings) body(t *testing.T) []byte {
	t.Helper()
	return must(json.Marshal(s))(t)
}

// plain is a VM that the driver would ask for.
func plain(kernel, cmdline string) settings {
	return settings{
		"cpus":    settings{"boot_vcpus": 1, "max_vcpus": 1, "core_scheduling": "Off"},
		"memory":  settings{"size": 64 << 20},
		"payload": settings{"kernel": kernel, "cmdline": cmdline},
		"serial":  settings{"mode": "Tty"},
		"console": settings{"mode": "Off"},
	}
}

func (r *process) want(got reply, status int) {
	r.t.Helper()
	if got.status != status {
		r.t.Errorf("%d %s, want %d\nstderr %s", got.status, got.body, status, r.stderr)
	}
}

// TestLife is the life of a VM from ping to the guest's power-off.
func TestLife(t *testing.T) {
	for _, p := range programs(t) {
		t.Run(p.name, func(t *testing.T) {
			r := start(t, p)
			kernel := writeKernel(t, r.dir, codeWord+codePowerOff+codeOut+codeLoop, true)
			r.want(r.ask("GET", "vmm.ping", nil), 200)
			r.want(r.ask("PUT", "vm.create", plain(kernel, "console=ttyS0 fake.guest=say:OK,poweroff").body(t)), 204)
			r.want(r.ask("PUT", "vm.boot", nil), 204)
			if code := r.exit(); code != 0 {
				t.Errorf("exit code %d: %s", code, r.stderr)
			}
			<-r.events.done
			r.wantEvents(p, "vmm:starting "+wholeLife)
			t.Logf("console %q", r.console)
		})
	}
}
