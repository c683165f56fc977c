package explain

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/driver/all"
	"github.com/ampoule-vm/ampoule/internal/emit"
	"github.com/ampoule-vm/ampoule/internal/pipeline"
	"github.com/ampoule-vm/ampoule/internal/source"
	"github.com/ampoule-vm/ampoule/internal/spec"
	"github.com/ampoule-vm/ampoule/internal/testkit/microvm"
)

// bare is the least that a VM has.
const bare = "[MicroVM]\nKernel=/boot/vmlinuz\n"

// full has a line for everything.
const full = `[Unit]
Description=A VM
[MicroVM]
Hypervisor=qemu
HypervisorPath=/opt/qemu
HypervisorArgs=-device usb-ehci
Accelerator=tcg
Machine=q35
VCPU=2
Memory=1G
Kernel=/boot/vmlinuz
Initrd=/boot/initrd
KernelCommandLine=quiet "a=b c"
Disk=data.raw:serial=data,size=1G
Disk=/srv/x.qcow2:qcow2,ro
MachineID=0123456789abcdef0123456789abcdef
GuestSystemd=255
Console=auto
Readiness=console:^login
CredentialChannel=auto
Runner=/opt/runner
LoadCredential=KEY:/run/secrets/key
LoadCredentialEncrypted=SEALED:/run/secrets/sealed
SetCredential=KEY:default
SetCredentialEncrypted=SEALED:AAAA
ImportCredential=net.*
Credential=inner:outer
[Service]
LoadCredential=outer:/run/secrets/outer
Environment=A=1
TimeoutStopSec=2min
[Install]
WantedBy=multi-user.target
[MicroVM]
RestartIfChanged=no
`

// explainer explains a VM of these files below /etc/ampoule.
func explainer(t *testing.T, files map[string]string) *Explainer {
	t.Helper()
	res := loaded(t, files)
	if res.Plan == nil {
		t.Fatalf("%v", res.Problems)
	}
	unit, err := emit.Unit(emit.UnitSource{Plan: res.Plan, Resolved: res.Resolved, Main: res.Source.Main, Program: "/usr/bin/ampoule", KVMGroup: "kvm"})
	if err != nil {
		t.Fatal(err)
	}
	return New(res, unit)
}

func loaded(t *testing.T, files map[string]string) pipeline.Result {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, "etc/ampoule", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return pipeline.Load(pipeline.Input{Argument: "vm", Root: root, Dirs: source.SearchPath(), Drivers: all.Drivers(), Architecture: "x86-64"})
}

func alone(t *testing.T, text string) *Explainer {
	t.Helper()
	return explainer(t, map[string]string{"vm.microvm": text})
}

// TestEveryField: every field of a plan and every line of a unit has a cause,
// and one that has a line names it.
func TestEveryField(t *testing.T) {
	without := func(text string, keys ...string) string {
		var out []string
		for line := range strings.SplitSeq(text, "\n") {
			if key, _, _ := strings.Cut(line, "="); !slices.Contains(keys, key) {
				out = append(out, line)
			}
		}
		return strings.Join(out, "\n")
	}
	texts := map[string]string{"bare": bare, "full": full, "microvm": without(full, "Machine", "Accelerator") + "[MicroVM]\nMachine=microvm\n"}
	for _, key := range spec.Names() {
		if key != "Kernel" {
			texts["without "+key] = without(full, key)
		}
	}
	for _, hypervisor := range driver.Names(all.Drivers()) {
		whole := microvm.Everything(t, hypervisor)
		texts[hypervisor], texts[hypervisor+", bare"] = whole, microvm.For(microvm.Bare, hypervisor)
		for _, key := range spec.Names() {
			if less := without(whole, key); key != "Kernel" && key != "Hypervisor" && less != whole {
				texts[hypervisor+" without "+key] = microvm.Accepted(t, less)
			}
		}
	}
	for name, text := range texts {
		x := alone(t, text)
		for _, f := range slices.Concat(x.fields, x.unit) {
			if len(f.Causes) == 0 {
				t.Errorf("%s: %s has no cause", name, f.Where)
			}
			for _, c := range f.Causes {
				if c.Origin == nil && c.Why == "" || c.Key == "" && c.Why == "" {
					t.Errorf("%s: %s: an empty cause %+v", name, f.Where, c)
				}
			}
		}
		for _, f := range x.fields {
			listed := slices.ContainsFunc(fieldOrigins(), func(o origin) bool { return isWithin(f.Where, o.path) })
			if !listed {
				t.Errorf("%s: the table of fields has no %s", name, f.Where)
			}
		}
	}
}

// others are values that differ from those of full, and from the defaults: of
// those of a key the first that a VM can have, and that makes a difference there.
func others() map[string][]string {
	return map[string][]string{
		"Image": {"/nowhere/image"}, "Hypervisor": driver.Names(all.Drivers()), "HypervisorPath": {"/opt/other"},
		"HypervisorArgs": {"-device nec-usb-xhci", "--log-file /run/log", "--id other"}, "Accelerator": {"kvm", "tcg"}, "Machine": {"microvm"},
		"VCPU": {"3"}, "Memory": {"2G"}, "Kernel": {"/boot/other"}, "Initrd": {"/boot/other.img"}, "KernelCommandLine": {"debug"},
		"MachineID": {"11111111111111111111111111111111"}, "GuestSystemd": {"257"}, "Disk": {"other.raw:size=1M"}, "Device": {"pci:0000:02:00.0"}, "Share": {"/srv/other:other", "/srv/other:other:9p"}, "Console": {"none"}, "Readiness": {"console:^other"},
		"VSockCID": {"77", "auto"}, "Network": {"user:mac=02:00:00:00:00:07", "tap:mac=02:00:00:00:00:07"}, "PublishPort": {"8443:443"}, "CredentialChannel": {"fw_cfg", "initrd"}, "RestartIfChanged": {"off"}, "Runner": {"/opt/other-runner"}, "LoadCredential": {"KEY:/run/secrets/other"},
		"LoadCredentialEncrypted": {"SEALED:/run/secrets/other"}, "SetCredential": {"KEY:other"}, "SetCredentialEncrypted": {"SEALED:BBBB"},
		"CPUTopology": {"1:2:1", "1:1:1"}, "HugePages": {"1G", "2M"}, "MemoryHotplug": {"256M"}, "Balloon": {"yes", "no"}, "Watchdog": {"yes", "no"},
		"SSH":              {"ephemeral", "no"},
		"ImportCredential": {"other.*"}, "Credential": {"inner:another"},
	}
}

// TestChanges: what changes in the plan when a line is added is what explain
// says the key became, for every key and hypervisor. Nothing else tells that the
// table of fields is true.
func TestChanges(t *testing.T) {
	values := others()
	unread := func(text string) string {
		return regexp.MustCompile("(?m)^(Readiness|Machine|Accelerator|HypervisorArgs|CPUTopology)=.*\n").ReplaceAllString(text, "")
	}
	bases := map[string]string{"bare": bare, "full": strings.Replace(full, "Readiness=console:^login\n", "", 1)}
	for _, hypervisor := range driver.Names(all.Drivers()) {
		bases[hypervisor] = unread(microvm.Everything(t, hypervisor))
		bases[hypervisor+", bare"] = microvm.For(microvm.Bare, hypervisor)
	}
	for name, base := range bases {
		before, tried := alone(t, base), 0
		for _, row := range spec.Table() {
			if len(values[row.Name]) == 0 {
				t.Errorf("%s: this test knows no value of it", row.Name)
			}
			if after := changed(t, base, before, row.Name, values[row.Name]); after != nil {
				tried++
				checkChange(t, row.Name+" over "+name, row.Name, before, after)
			}
		}
		if none := len(spec.Table()) - tried; none > 11 {
			t.Errorf("%s: %d keys make no difference", name, none)
		}
	}
}

// changed adds a line to a VM: of the values the first that is accepted and makes a
// difference.
func changed(t *testing.T, base string, before *Explainer, key string, values []string) *Explainer {
	t.Helper()
	for _, value := range values {
		line := "[MicroVM]\n" + key + "=" + value + "\n"
		if key == "Credential" {
			line += "[Service]\nLoadCredential=another:/run/x\n"
		}
		files := map[string]string{"vm.microvm": base, "vm.microvm.d/50.conf": line}
		if loaded(t, files).Plan == nil {
			continue
		}
		after := explainer(t, files)
		if after.res.Plan.Digest.VM != before.res.Plan.Digest.VM || key == "RestartIfChanged" {
			return after
		}
	}
	return nil
}

// checkChange finds what has changed in a plan and is not said to be because of a
// key.
func checkChange(t *testing.T, what, key string, before, after *Explainer) {
	t.Helper()
	if key == "RestartIfChanged" {
		// It reaches neither hypervisor nor guest.
		if after.res.Plan.Digest != before.res.Plan.Digest || !after.res.Plan.Unit.KeepRunning {
			t.Errorf("%s: %+v", what, after.res.Plan.Unit)
		}
	}
	for _, f := range after.fields {
		if isWithin(f.Where, "digest") || strings.HasPrefix(f.Where, "unit.") || has(before.fields, f) {
			continue
		}
		if key == "Hypervisor" && (isWithin(f.Where, "vm.command") || isWithin(f.Where, "vm.api") || isWithin(f.Where, "vm.resize")) {
			continue // each has its own; what is in them has come from other lines
		}
		because := func(c Cause) bool { return c.Key == key }
		if !slices.ContainsFunc(f.Causes, because) && !moved(before, f) {
			t.Errorf("%s changes %s to %q, and explain says %+v", what, f.Where, f.Value, f.Causes)
		}
	}
}

// has reports whether a field has the same value.
func has(fields []Field, f Field) bool {
	return slices.ContainsFunc(fields, func(g Field) bool { return g.Where == f.Where && g.Value == f.Value })
}

// moved reports whether a field was there before, at another place of its list.
func moved(before *Explainer, f Field) bool {
	number := regexp.MustCompile(`\[[0-9]+\]`)
	place := func(f Field) string { return number.ReplaceAllString(f.Where, "[]") }
	return place(f) != f.Where && slices.ContainsFunc(before.fields, func(g Field) bool { return place(g) == place(f) && g.Value == f.Value })
}

// TestKey: all lines of a key, each with its fate, and who took its place.
func TestKey(t *testing.T) {
	x := explainer(t, map[string]string{
		"vm.microvm":           full,
		"vm.microvm.d/10.conf": "[MicroVM]\nMemory=2G\nDisk=\nLoadCredential=KEY:/run/secrets/b\n",
		"vm.microvm.d/20.conf": "[MicroVM]\nMemory=3G\nDisk=c.raw:size=1M\n[Service]\nLoadCredentialEncrypted=more:/run/secrets/more\n",
	})
	show := func(key string) string {
		var b strings.Builder
		for _, a := range x.Key(key) {
			for _, l := range a.Lines {
				by := "-"
				if l.By != nil {
					by = filepath.Base(l.By.String())
				}
				fmt.Fprintf(&b, "%s=%s %s %s %s\n", l.Key, l.Value, filepath.Base(l.Origin.String()), l.Fate, by)
			}
		}
		return b.String()
	}
	for key, want := range map[string]string{
		"Memory": "Memory=1G vm.microvm:10 shadowed 10.conf:2\nMemory=2G 10.conf:2 shadowed 20.conf:2\nMemory=3G 20.conf:2 effective -\n",
		"Disk": "Disk=data.raw:serial=data,size=1G vm.microvm:14 reset 10.conf:3\nDisk=/srv/x.qcow2:qcow2,ro vm.microvm:15 reset 10.conf:3\n" +
			"Disk= 10.conf:3 clears -\nDisk=c.raw:size=1M 20.conf:3 effective -\n",
		"MicroVM.SetCredential":  "SetCredential=KEY:… vm.microvm:24 effective -\nSetCredentialEncrypted=SEALED:… vm.microvm:25 effective -\n",
		"Service.TimeoutStopSec": "TimeoutStopSec=2min vm.microvm:31 effective -\n",
		"Service.Environment":    "Environment=A=… vm.microvm:30 effective -\n",
		"Service.LoadCredentialEncrypted": "LoadCredential=outer:/run/secrets/outer vm.microvm:29 effective -\n" +
			"LoadCredentialEncrypted=more:/run/secrets/more 20.conf:5 effective -\n",
		"Install.TimeoutStopSec":  "",
		"memory":                  "",
		"Service.SetCredential":   "",
		"Unit.Description":        "Description=A VM vm.microvm:2 effective -\n",
		"MicroVM.LoadCredential.": "",
	} {
		if got := show(key); got != want {
			t.Errorf("%s:\n%swant\n%s", key, got, want)
		}
	}
	if a := x.Key("LoadCredential"); len(a) != 2 {
		t.Errorf("[MicroVM] and [Service] both have LoadCredential=, and there are %d answers", len(a))
	}
}

// TestFind goes from a piece of plan or unit to the lines behind it.
func TestFind(t *testing.T) {
	x := alone(t, full)
	const passed = "unit.credentials[0].guest Service.LoadCredential:29\nunit.credentials[0].id Service.LoadCredential:29\n" +
		"unit.credentials[0].kind Service.LoadCredential:29\nunit.credentials[0].path Service.LoadCredential:29"
	for query, want := range map[string]string{
		"-smp":                 "vm.command[4].words VCPU:9",
		"memory":               "vm.memory Memory:10",
		"vm.memory":            "vm.memory Memory:10",
		"disks[1].path":        "vm.disks[1].path Disk:15",
		"vm.stop_timeout_ms":   "vm.stop_timeout_ms Service.TimeoutStopSec:31",
		"TimeoutStopSec=2min":  "[Service] TimeoutStopSec Service.TimeoutStopSec:31",
		"BindReadOnlyPaths":    "[Service] BindReadOnlyPaths Kernel:11\n[Service] BindReadOnlyPaths Initrd:12\n[Service] BindReadOnlyPaths Runner:21\n[Service] BindReadOnlyPaths HypervisorPath:5\n[Service] BindReadOnlyPaths Disk:15",
		"unit.credentials":     passed,
		"LimitCORE=0":          "[Service] LimitCORE a core dump would have the guest's memory in it, its secrets included; swap too",
		"NoNewPrivileges":      "[Service] NoNewPrivileges Ampoule's own",
		"-no-such-word":        "",
		"mem":                  "",
		"vm.machine_id":        "vm.machine_id MachineID:16",
		"usb-ehci":             "vm.command[18].words HypervisorArgs:6",
		"unit.credentials[0]":  passed,
		"channels[0].encoding": "vm.channels[0].encoding CredentialChannel:20 Machine:8 Hypervisor:4",
	} {
		var got []string
		for _, f := range x.Find(query) {
			text := f.Where
			for _, c := range f.Causes {
				if c.Origin != nil {
					text += fmt.Sprintf(" %s:%d", c.Key, c.Origin.Line)
				} else {
					text += " " + c.Why
				}
			}
			got = append(got, text)
		}
		joined := strings.Join(got, "\n")
		if joined != want {
			t.Errorf("%s:\n%s\nwant\n%s", query, joined, want)
		}
	}
}

// TestFindRequest: what a hypervisor is asked is found by the names that it has
// there, and leads to the line behind it.
func TestFindRequest(t *testing.T) {
	const text = "[MicroVM]\nHypervisor=%h\nKernel=/boot/vmlinuz\nInitrd=/boot/initrd\nVCPU=2\nDisk=a.raw\nDisk=b.raw\nVSockCID=7\nSetCredential=A:b\n"
	for _, c := range []struct{ hypervisor, query, want string }{
		{"cloud-hypervisor", "boot_vcpus", "vm.api.start[0].body[0] /cpus/boot_vcpus=2 VCPU:5"},
		{"cloud-hypervisor", "/payload/kernel", "vm.api.start[0].body[3] /payload/kernel={kernel} Kernel:3"},
		{"cloud-hypervisor", "/payload/kernel={kernel}", "vm.api.start[0].body[3] /payload/kernel={kernel} Kernel:3"},
		{"cloud-hypervisor", "/disks/1", "vm.api.start[0].body[14] /disks/1/path=b.raw Disk:7\nvm.api.start[0].body[15] /disks/1/image_type=Raw Disk:7"},
		{"cloud-hypervisor", "oem_strings", "vm.api.start[0].body[11] /platform/oem_strings={channel} CredentialChannel:default SetCredential:9 VSockCID:8"},
		{"cloud-hypervisor", "landlock_enable", "vm.api.start[0].body[10] /landlock_enable={landlock} Hypervisor:2 CredentialChannel:default"},
		{"cloud-hypervisor", "vm.boot", "vm.api.start[1] PUT /api/v1/vm.boot Hypervisor:2"},
		{"cloud-hypervisor", "api.power", "vm.api.power PUT /api/v1/vm.power-button Hypervisor:2"},
		{"cloud-hypervisor", "api.events[2].means", "vm.api.events[2].means panicked Hypervisor:2"},
		{"firecracker", "vcpu_count", "vm.api.start[0].body[0] /vcpu_count=2 VCPU:5"},
		{"firecracker", "/drives/disk1", "vm.api.start[3] PUT /drives/disk1 Disk:7\nvm.api.start[3].body[0] /drive_id=disk1 Disk:7\nvm.api.start[3].body[1] /path_on_host=b.raw Disk:7\n" +
			"vm.api.start[3].body[2] /is_root_device=false Disk:7\nvm.api.start[3].body[3] /cache_type=Writeback Disk:7"},
		{"firecracker", "PUT /entropy", "vm.api.start[5] PUT /entropy Hypervisor:2\nvm.api.start[5].body[0] {} Hypervisor:2"},
		{"firecracker", "vsock", "vm.api.start[4] PUT /vsock VSockCID:8\nvm.api.start[4].body[0] /guest_cid=7 VSockCID:8\nvm.api.start[4].body[1] /uds_path={vsock} VSockCID:8\n" +
			"vm.vsock.cid 7 VSockCID:8 Hypervisor:2\nvm.vsock.multiplexed true VSockCID:8 Hypervisor:2"},
		{"firecracker", "kernel_command_line_max", "vm.kernel_command_line_max 1847 Hypervisor:2 Disk:6 Disk:7 VSockCID:8 MemoryHotplug:default Balloon:default"},
		{"firecracker", "system_calls", "vm.system_calls seccomp Hypervisor:2"},
		{"firecracker", "/", "vm.api.alive GET / Hypervisor:2"},
		{"firecracker", "", ""},
	} {
		var got []string
		for _, f := range alone(t, microvm.For(text, c.hypervisor)).Find(c.query) {
			line := f.Where + " " + f.Value
			for _, cause := range f.Causes {
				if line += " " + cause.Key; cause.Origin == nil {
					line += ":default"
				} else {
					line += fmt.Sprintf(":%d", cause.Origin.Line)
				}
			}
			got = append(got, line)
		}
		if joined := strings.Join(got, "\n"); joined != c.want {
			t.Errorf("%s, %s:\n%s\nwant\n%s", c.hypervisor, c.query, joined, c.want)
		}
	}
}
