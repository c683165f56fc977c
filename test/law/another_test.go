package law

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/compare"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/driver/all"
	"github.com/ampoule-vm/ampoule/internal/driver/drivertest"
	"github.com/ampoule-vm/ampoule/internal/emit"
	"github.com/ampoule-vm/ampoule/internal/explain"
	"github.com/ampoule-vm/ampoule/internal/pipeline"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// another is a hypervisor that there is not: requests for the machine, words for
// credentials and the kernel's vsock, a way that no driver goes. Whatever it needs
// is in this file.
type another struct{}

func (another) Name() string { return "another-vmm" }

func (another) Features() []driver.Feature {
	return driver.Answer(map[string]string{
		"machine type":   "another-vmm has one machine",
		"emulation":      "another-vmm emulates nothing",
		"channel smbios": "another-vmm has no SMBIOS",
		"channel initrd": "another-vmm reads its initial RAM disk by itself",
		"disk qcow2":     "another-vmm reads raw disks",
		"disk serial":    "another-vmm has no serial numbers",
	})
}

func (d another) Compose(vm *spec.VM, architecture string) (plan.VM, diag.List) {
	var problems diag.List
	no := map[string]string{}
	for _, f := range d.Features() {
		no[f.Name] = f.Refusal
	}
	if vm.Machine.Set {
		vm.Machine.From.Errorf(&problems, "remove it", "%s", no["machine type"])
	}
	if vm.Accelerator.Value == "tcg" {
		vm.Accelerator.From.Errorf(&problems, "accepted: auto, kvm", "%s", no["emulation"])
	}
	if refusal := no["channel "+vm.CredentialChannel.Value]; refusal != "" {
		vm.CredentialChannel.From.Errorf(&problems, "accepted: auto, fw_cfg", "%s", refusal)
	}
	for _, disk := range vm.Disks {
		switch {
		case disk.Format != "raw":
			disk.From.Errorf(&problems, "convert it", "%s", no["disk qcow2"])
		case disk.Serial != "":
			disk.From.Errorf(&problems, "remove serial=", "%s", no["disk serial"])
		}
	}
	words := []string{"console=hvc0"}
	for _, w := range vm.KernelCommandLine {
		words = append(words, w.Text)
	}
	out := plan.VM{
		Binary:  plan.Binary{Path: vm.HypervisorPath.Value, Search: []string{"another-vmm"}},
		Machine: "only", CommandLineMax: 1000, KernelCommandLine: words, Control: plan.HTTP,
		API: anotherAPI(vm), Command: anotherCommand(vm),
		Accelerator:   []plan.Accelerator{{Name: "kvm", Words: []string{"--kvm"}}},
		Channels:      []plan.Channel{{Name: "fw_cfg", Encoding: plan.Raw, MaxName: 20, Each: []string{"--file", "{name}=/proc/self/fd/{fd}"}, Why: "fw_cfg takes names of at most 20 bytes"}},
		KernelFormats: []string{plan.ELF}, SystemCalls: []string{"bpf"},
	}
	if vm.VSockCID.Set {
		out.VSock = &plan.VSock{CID: vm.VSockCID.Value}
	}
	return out, problems
}

func anotherAPI(vm *spec.VM) *plan.API {
	body := []plan.Field{
		plan.NumberAt("/cpus/0/count", int64(vm.VCPU.Value), vm.VCPU.From.ID), plan.NumberAt("/ram", vm.Memory.Value, vm.Memory.From.ID),
		plan.TextAt("/kernel", vm.Kernel.Value, vm.Kernel.From.ID), plan.AskAt("/initrd", plan.AskInitrd, vm.Initrd.From.ID),
		plan.AskAt("/words", plan.AskCommandLine, ""),
	}
	for i, d := range vm.Disks {
		body = append(body, plan.TextAt(fmt.Sprintf("/disks/%d/file", i), d.Path, d.From.ID))
	}
	return &plan.API{
		Alive: plan.Request{Method: "GET", Path: "/v9/hello"}, Start: []plan.Request{{Method: "POST", Path: "/v9/go", Body: body}},
		Events: []plan.Event{{Source: "guest", Event: "off", Means: plan.PoweredOff}},
	}
}

func anotherCommand(vm *spec.VM) []plan.Part {
	parts := []plan.Part{
		{Ask: plan.AskControl, Words: []string{"--listen", "{fd}"}}, {Ask: plan.AskEvents, Words: []string{"--events={fd}"}},
		{Ask: plan.AskAccelerator, From: vm.Accelerator.From.ID}, {Ask: plan.AskChannel, From: vm.CredentialChannel.From.ID},
	}
	if vm.Console.Value != "none" {
		parts = append(parts, plan.Part{Ask: plan.AskConsole, Words: []string{"--serial", "{fd}"}, From: vm.Console.From.ID})
	}
	if vm.VSockCID.Set {
		parts = append(parts, plan.Part{Ask: plan.AskVSock, Words: []string{"--vsock", "{cid},{fd}"}, From: vm.VSockCID.From.ID})
	}
	return append(parts, driver.UserArguments(vm)...)
}

func (another) Probe() ([]string, func(string) (string, string, error)) {
	return []string{"version"}, func(output string) (string, string, error) {
		version, ok := strings.CutPrefix(output, "another-vmm ")
		if !ok {
			return "", "", fmt.Errorf("this is not another-vmm")
		}
		return version, "", nil
	}
}

func (another) Ended(code int, _ string) driver.Ending { return driver.Ending{PoweredOff: code == 7} }

// TestAnotherDriver: a driver is its own folder and a line in the list. What is
// here goes through all that a plan goes through, and nothing has heard of it.
func TestAnotherDriver(t *testing.T) {
	drivertest.Run(t, another{}, []drivertest.Case{
		{Name: "plain"},
		{Name: "everything", Lines: []string{"Initrd=/i", "VCPU=2", "Disk=a.raw:size=1G", "VSockCID=auto", "Readiness=guest", "Console=none", "HypervisorArgs=--fast"}},
		{Name: "machine", Lines: []string{"Machine=q35"}, Refused: "one machine", Feature: "machine type"},
		{Name: "emulation", Lines: []string{"Accelerator=tcg"}, Refused: "emulates nothing", Feature: "emulation"},
		{Name: "smbios", Lines: []string{"CredentialChannel=smbios"}, Refused: "no SMBIOS", Feature: "channel smbios"},
		{Name: "initrd", Lines: []string{"CredentialChannel=initrd"}, Refused: "by itself", Feature: "channel initrd"},
		{Name: "qcow2", Lines: []string{"Disk=/a:qcow2"}, Refused: "raw disks", Feature: "disk qcow2"},
		{Name: "serial", Lines: []string{"Disk=/a:serial=s"}, Refused: "no serial", Feature: "disk serial"},
	})
	const text = "[MicroVM]\nHypervisor=another-vmm\nVCPU=2\nKernel=/k\nInitrd=/i\nDisk=a.raw\nVSockCID=auto\nReadiness=guest\nHypervisorArgs=--fast\nSetCredential=A:b\n"
	res := loadAnother(t, text)
	if res.Plan == nil {
		t.Fatal(res.Problems)
	}
	again, err := plan.Parse(res.JSON)
	if err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	if err := emit.Plan(&table, again); err != nil {
		t.Fatal(err)
	}
	unit, err := emit.Unit(emit.UnitSource{Plan: res.Plan, Resolved: res.Resolved, Main: res.Source.Main, Program: "/usr/bin/ampoule", KVMGroup: "kvm"})
	if err != nil {
		t.Fatal(err)
	}
	contains(t, table.String(), "another-vmm \\\n    --listen <descriptor> \\\n    --events=<descriptor>", "--vsock <number>,<descriptor>", "  POST /v9/go\n", "    /cpus/0/count  2")
	contains(t, string(unit), "\nSystemCallFilter=bpf\n", "\nDeviceAllow=/dev/vhost-vsock rw\n", "\nRestrictAddressFamilies=AF_VSOCK\n", "\nWants=modprobe@vhost_vsock.service\n", "\nMemoryDenyWriteExecute=yes\n", "\nTimeoutStartSec=10min\n")
	checkExplained(t, res, unit)

	changes := compare.Plans(again, loadAnother(t, strings.Replace(text, "VCPU=2", "VCPU=3", 1)).Plan, 252)
	if keys := compare.Keys(changes, compare.Restart); !slices.Equal(keys, []string{"VCPU"}) {
		t.Errorf("%+v", changes)
	}
	refused := loadAnother(t, text+"Machine=q35\n")
	if got := refused.Problems.Error(); refused.Plan != nil || !strings.Contains(got, ":11: Machine=q35: another-vmm has one machine (Hypervisor=another-vmm, ") {
		t.Error(got)
	}
}

// loadAnother loads a VM where there is one hypervisor more.
func loadAnother(t *testing.T, text string) pipeline.Result {
	t.Helper()
	file := filepath.Join(t.TempDir(), "web.microvm")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return pipeline.Load(pipeline.Input{Argument: file, Drivers: append(all.Drivers(), another{}), Architecture: "x86-64"})
}

func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("no %q in\n%s", part, text)
		}
	}
}

// checkExplained: everything in the plan has an origin, and is found by the names
// that the hypervisor has for it.
func checkExplained(t *testing.T, res pipeline.Result, unit []byte) {
	t.Helper()
	x := explain.New(res, unit)
	for _, part := range []string{"vm", "unit", "digest"} {
		for _, f := range x.Find(part) {
			for _, c := range f.Causes {
				if c.Origin == nil && c.Why == "" {
					t.Errorf("%s: an origin without line and without reason", f.Where)
				}
			}
		}
	}
	for query, line := range map[string]int{"count": 3, "/kernel": 4, "/disks/0/file": 6, "--vsock": 7} {
		if found := x.Find(query); len(found) != 1 || found[0].Causes[0].Origin == nil || found[0].Causes[0].Origin.Line != line {
			t.Errorf("%s: %+v", query, found)
		}
	}
}
