package systemd

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/driver/all"
	"github.com/ampoule-vm/ampoule/internal/emit"
	"github.com/ampoule-vm/ampoule/internal/pipeline"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/testkit/microvm"
	"github.com/ampoule-vm/ampoule/internal/testkit/nspawn"
)

// TestSandboxOpens: what the unit of a VM opens is open to what runs in it, and
// what it does not is closed, on both releases: with a system call, a device or a
// family of sockets less, no hypervisor would start.
func TestSandboxOpens(t *testing.T) {
	nspawn.Need(t)
	shared := t.TempDir()
	if err := os.Chmod(shared, 0o755); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", filepath.Join(shared, "probe"), "./probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, r := range []release{{name: "bookworm"}, {name: "trixie"}} {
		t.Run(r.name, func(t *testing.T) {
			root := debianRoot(t, r)
			units := t.TempDir()
			t.Cleanup(func() { // systemd would write over them
				files, _ := filepath.Glob(filepath.Join(shared, "said-*"))
				for _, f := range files {
					os.Remove(f)
				}
			})
			plans := map[string]*plan.VM{}
			for _, hypervisor := range driver.Names(all.Drivers()) {
				plans[hypervisor] = probed(t, units, hypervisor)
			}
			whole(t, units, driver.Names(all.Drivers()))
			out, err := nspawn.Boot(t, root, 5*time.Minute, []string{
				// Of itself systemd-nspawn lets nobody lock itself in that way.
				"--system-call-filter=landlock_create_ruleset", "--bind-ro=" + units + ":/etc/systemd/system", "--bind=" + shared + ":/ampoule",
			}, []string{"--unit=whole.service"})
			said := func(who string) map[string]string {
				text, readErr := os.ReadFile(filepath.Join(shared, "said-"+who))
				if readErr != nil {
					t.Fatalf("%v: %v\n%s", readErr, err, nspawn.Tail(out))
				}
				return answers(t, string(text))
			}
			for hypervisor, vm := range plans {
				judge(t, hypervisor, vm, said(hypervisor), said("outside"))
			}
		})
	}
}

// judge compares what may be done in a sandbox with what the plan needs.
func judge(t *testing.T, hypervisor string, vm *plan.VM, inside, outside map[string]string) {
	t.Helper()
	kernel := vm.VSock != nil && !vm.VSock.Multiplexed
	needs := map[string]bool{"pty": true, "set_mempolicy": false, "vsock": kernel, "vhost-vsock": kernel}
	for _, call := range vm.SystemCalls { // from systemd 257 on every service may make them
		name, _, _ := strings.Cut(call, "_")
		needs[name] = true
	}
	for name, wanted := range needs {
		if wanted && outside[name] != "yes" {
			t.Logf("%s: this kernel has no %s: %s", hypervisor, name, outside[name])
			continue
		}
		if got := inside[name]; (got == "yes") != wanted {
			t.Errorf("%s: %s: %s, and the plan needs it: %v", hypervisor, name, got, wanted)
		}
	}
}

// probed writes the unit of a VM with the probe in the place of ampoule run, and
// returns its plan.
func probed(t *testing.T, units, hypervisor string) *plan.VM {
	t.Helper()
	name := strings.ReplaceAll(hypervisor, "-", "")
	text := microvm.For("[MicroVM]\nHypervisor=%h\nKernel=/k\nInitrd=/i\nVSockCID=auto\n[Service]\nExecStart=\nExecStart=/ampoule/probe\nRestart=no\nStandardOutput=file:/ampoule/said-%h\n", hypervisor)
	file := filepath.Join(t.TempDir(), name+".microvm")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	res := pipeline.Load(pipeline.Input{Argument: file, Drivers: all.Drivers(), Architecture: "x86-64"})
	if res.Plan == nil {
		t.Fatal(res.Problems)
	}
	unit, err := emit.Unit(emit.UnitSource{Plan: res.Plan, Resolved: res.Resolved, Main: file, Program: "/usr/bin/ampoule"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(units, "microvm@"+name+".service"), unit, 0o644); err != nil {
		t.Fatal(err)
	}
	return &res.Plan.VM
}

// whole writes the unit that runs all probes, one outside of any sandbox, and powers
// off.
func whole(t *testing.T, units string, hypervisors []string) {
	t.Helper()
	var start strings.Builder
	start.WriteString("ExecStart=-/bin/sh -c '/ampoule/probe >/ampoule/said-outside'\n")
	for _, h := range hypervisors {
		fmt.Fprintf(&start, "ExecStart=-/bin/sh -c 'systemctl start microvm@%s.service; while systemctl is-active -q microvm@%[1]s.service; do sleep 0.1; done'\n", strings.ReplaceAll(h, "-", ""))
	}
	text := "[Unit]\nAfter=basic.target dbus.socket\nWants=basic.target dbus.socket\nSuccessAction=poweroff\nFailureAction=poweroff\n[Service]\nType=oneshot\n" + start.String()
	if err := os.WriteFile(filepath.Join(units, "whole.service"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// answers are what a probe says.
func answers(t *testing.T, text string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for line := range strings.Lines(text) {
		name, said, _ := strings.Cut(strings.TrimSpace(line), " ")
		out[name] = said
	}
	if len(out) < 6 {
		t.Fatalf("the probe says %q", text)
	}
	return out
}
