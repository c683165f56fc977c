package compare

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/driver/all"
	"github.com/ampoule-vm/ampoule/internal/pipeline"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/source"
	"github.com/ampoule-vm/ampoule/internal/testkit/microvm"
)

// full sets as much as one VM can.
const full = `[MicroVM]
HypervisorPath=/opt/qemu
HypervisorArgs=-device usb-ehci
Accelerator=tcg
VCPU=2
Memory=1G
Kernel=/boot/vmlinuz
Initrd=/boot/initrd
KernelCommandLine=quiet
Disk=data.raw:serial=data,size=1G
Disk=/srv/x.qcow2:qcow2,ro
MachineID=0123456789abcdef0123456789abcdef
GuestSystemd=255
Readiness=console:^login
Runner=/opt/runner
LoadCredential=KEY:/run/secrets/key
SetCredential=ENV:default
[Service]
LoadCredential=outer:/run/secrets/outer
Environment=A=1
CPUQuota=50%
TimeoutStopSec=2min
`

func planOf(t *testing.T, text string) *plan.Plan {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, "etc/ampoule")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "vm.microvm"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	res := pipeline.Load(pipeline.Input{Argument: "vm", Root: root, Dirs: source.SearchPath(), Drivers: all.Drivers(), Architecture: "x86-64"})
	if res.Plan == nil {
		t.Fatal(res.Problems)
	}
	return res.Plan
}

// text has the changes line by line, those that follow from others left out.
func text(changes []Change) string {
	var b strings.Builder
	value := func(s *string) string {
		if s == nil {
			return "-"
		}
		return *s
	}
	for _, c := range changes {
		if c.Follows {
			continue
		}
		line := func(o fmt.Stringer, none bool) string {
			if none {
				return "-"
			}
			_, number, _ := strings.Cut(o.String(), ".microvm:")
			return number
		}
		before, after := line(c.Before, c.Before == nil), line(c.After, c.After == nil)
		fmt.Fprintf(&b, "%s %s: %s > %s @%s>%s %s\n", c.Where, c.Key, value(c.From), value(c.To), before, after, c.Needs)
	}
	return b.String()
}

// TestPlans: one edit is one change, with its key, its lines and its cost.
func TestPlans(t *testing.T) {
	for name, c := range map[string]struct{ old, new, want string }{
		"scalar":             {"Memory=1G", "Memory=2G", "vm.memory Memory: 1G > 2G @6>6 restart\n"},
		"to the default":     {"VCPU=2\n", "", "vm.vcpu VCPU: 2 > 1 @5>- restart\n"},
		"arguments":          {"-device usb-ehci", "-device usb-tablet", "vm.command[18] HypervisorArgs: -device usb-ehci > -device usb-tablet @3>3 restart\n"},
		"secret argument":    {"-device usb-ehci", "-object secret,id=a,data=hunter2", "vm.command[18] HypervisorArgs: -device usb-ehci > - @3>- restart\nvm.command[18] HypervisorArgs: - > -object secret… @->3 restart\n"},
		"secret word":        {"quiet", "my.token=hunter2", "vm.kernel_command_line KernelCommandLine: console=ttyS0 panic=-1 systemd.machine_id=0123456789abcdef0123456789abcdef quiet > console=ttyS0 panic=-1 systemd.machine_id=0123456789abcdef0123456789abcdef my.token… @9>9 restart\n"},
		"accelerator":        {"Accelerator=tcg", "Accelerator=auto", "vm.accelerator[0] Accelerator: - > kvm @4>4 restart\n"},
		"kernel words":       {"quiet", "quiet debug", "vm.kernel_command_line KernelCommandLine: console=ttyS0 panic=-1 systemd.machine_id=0123456789abcdef0123456789abcdef quiet > console=ttyS0 panic=-1 systemd.machine_id=0123456789abcdef0123456789abcdef quiet debug @9>9 restart\n"},
		"disk added":         {"MachineID", "Disk=more.raw:size=1M\nMachineID", "vm.disks[2] Disk: - > more.raw:raw,size=1M @->12 restart\n"},
		"disk removed":       {"Disk=data.raw:serial=data,size=1G\n", "", "vm.disks[0] Disk: data.raw:raw,serial=data,size=1G > - @10>- restart\n"},
		"disk grows":         {"size=1G", "size=2G", "vm.disks[0].size Disk: 1G > 2G @10>10 restart\n"},
		"disk moved":         {"data.raw:", "other.raw:", "vm.disks[0].path Disk: data.raw > other.raw @10>10 restart\n"},
		"disks swapped":      {"Disk=data.raw:serial=data,size=1G\nDisk=/srv/x.qcow2:qcow2,ro\n", "Disk=/srv/x.qcow2:qcow2,ro\nDisk=data.raw:serial=data,size=1G\n", "vm.disks Disk: data.raw, /srv/x.qcow2 > /srv/x.qcow2, data.raw @11>11 restart\n"},
		"credential path":    {"/run/secrets/key", "/run/secrets/new", "vm.credentials[0].path LoadCredential: /run/secrets/key > /run/secrets/new @16>16 restart\n"},
		"credential value":   {"ENV:default", "ENV:other", "vm.credentials[1].value SetCredential: … > … (changed) @17>17 restart\n"},
		"credential renamed": {"ENV:default", "NAME:default", "vm.credentials[1].guest SetCredential: ENV > NAME @17>17 restart\nvm.credentials[1].id SetCredential: ENV > NAME @17>17 restart\n"},
		"environment":        {"Environment=A=1", "Environment=A=hunter2", "unit.service[1] Service.Environment: A=… > A=… (changed) @20>20 restart\n"},
		"cleared":            {"Environment=A=1", "Environment=A=1\nIPAddressDeny=", "unit.resources[0] Service.IPAddressDeny: - >  @->21 daemon-reload\n"},
		"cleared, restart":   {"Environment=A=1", "Environment=A=1\nRestrictAddressFamilies=", "unit.service[2] Service.RestrictAddressFamilies: - >  @->21 restart\n"},
		"resources":          {"CPUQuota=50%", "CPUQuota=60%", "unit.resources[0] Service.CPUQuota: 50% > 60% @21>21 daemon-reload\n"},
		"time-out":           {"2min", "3min", "vm.stop_timeout_ms Service.TimeoutStopSec: 120000 > 180000 @22>22 restart\n"},
		"comment":            {"VCPU=2", "# two\nVCPU=2", ""},
		"apply":              {"VCPU=2", "VCPU=2\nRestartIfChanged=no", "unit.keep_running RestartIfChanged: - > true @->6 nothing\n"},
	} {
		t.Run(name, func(t *testing.T) {
			after := strings.Replace(full, c.old, c.new, 1)
			if after == full {
				t.Fatal("nothing is replaced")
			}
			got := text(Plans(planOf(t, full), planOf(t, after), 252))
			if got != c.want {
				t.Errorf("%swant\n%s", got, c.want)
			}
			if strings.Contains(got, "hunter") {
				t.Error("a value is repeated")
			}
		})
	}
}

// TestResources: some versions of systemd leave a running service as it was.
func TestResources(t *testing.T) {
	before, after := planOf(t, full), planOf(t, strings.Replace(full, "50%", "60%", 1))
	for version, want := range map[int]Need{252: Reload, 255: Reload, 256: Restart, 257: Restart, 258: Reload} {
		if got := Plans(before, after, version); len(got) != 1 || got[0].Needs != want {
			t.Errorf("%d: %+v", version, got)
		}
	}
}

// TestNone: a VM that is new, or gone, has all of its fields.
func TestNone(t *testing.T) {
	p := planOf(t, full)
	for _, changes := range [][]Change{Plans(nil, p, 0), Plans(p, nil, 0)} {
		got := text(changes)
		for _, field := range []string{"vm.memory Memory", "vm.disks[1] Disk", "unit.service[1] Service.Environment", "vm.kernel Kernel"} {
			if !strings.Contains(got, field) {
				t.Errorf("%s is not in\n%s", field, got)
			}
		}
	}
	if got := Plans(nil, nil, 0); got != nil {
		t.Errorf("%+v", got)
	}
	if got := Plans(p, p, 0); got != nil {
		t.Errorf("%+v", got)
	}
}

// TestImage: a line above an image that is not there yet is one change, and what
// may be secret in it is not shown.
func TestImage(t *testing.T) {
	const later = "[MicroVM]\nImage=/nowhere/image\nMemory=1G\nSetCredential=ENV:hunter2\n"
	for name, c := range map[string]struct{ old, new, want string }{
		"scalar": {"1G", "2G", "vm.memory Memory: 1G > 2G @3>3 restart\n"},
		"image":  {"nowhere/image", "nowhere/other", "vm.image.path Image: /nowhere/image > /nowhere/other @2>2 restart\n"},
		"secret": {"hunter2", "hunter3", "vm.credentials[0].value SetCredential: … > … (changed) @4>4 restart\n"},
	} {
		changes := Plans(planOf(t, later), planOf(t, strings.Replace(later, c.old, c.new, 1)), 252)
		if got := text(changes); got != c.want {
			t.Errorf("%s: %swant %s", name, got, c.want)
		}
		for _, ch := range changes {
			for _, value := range []*string{ch.From, ch.To} {
				if value != nil && strings.Contains(*value, "hunter") {
					t.Errorf("%s: %s", name, *value)
				}
			}
		}
	}
}

// apiVM is a VM that its hypervisor is told of by requests.
const apiVM = `[MicroVM]
Hypervisor=%h
Kernel=/boot/vmlinuz
Initrd=/boot/initrd
Memory=1G
Disk=a.raw
Disk=b.raw
GuestSystemd=257
KernelCommandLine=quiet
SetCredential=ENV:default
`

// TestRequests: a line that a hypervisor is told of by a request is one change, and
// another hypervisor is one too.
func TestRequests(t *testing.T) {
	for _, c := range []struct{ name, hypervisor, old, new, want string }{
		{"memory", "cloud-hypervisor", "1G", "2G", "vm.memory Memory: 1G > 2G @5>5 restart\n"},
		{"memory of another", "firecracker", "1G", "2G", "vm.memory Memory: 1G > 2G @5>5 restart\n"},
		{"kernel", "cloud-hypervisor", "/boot/vmlinuz", "/boot/other", "vm.kernel Kernel: /boot/vmlinuz > /boot/other @3>3 restart\n"},
		{"disk removed", "firecracker", "Disk=a.raw\n", "", "vm.disks[0] Disk: a.raw:raw > - @6>- restart\n"},
		{"disk added", "cloud-hypervisor", "Disk=b.raw\n", "Disk=b.raw\nDisk=c.raw:ro\n", "vm.disks[2] Disk: - > c.raw:raw,read_only=true @->8 restart\n"},
		{"console", "cloud-hypervisor", "Memory=1G\n", "Memory=1G\nConsole=none\n",
			"vm.console Console: true > false @->6 restart\nvm.kernel_command_line Console: console=ttyS0 panic=-1 quiet > panic=-1 quiet @->6 restart\n"},
		{"vsock", "cloud-hypervisor", "Memory=1G\n", "Memory=1G\nVSockCID=auto\n",
			"vm.readiness.mode VSockCID: started > guest @->6 restart\nvm.vsock VSockCID: - > 3, multiplexed @->6 restart\n"},
		{"vsock of the kernel", "qemu", "Memory=1G\n", "Memory=1G\nVSockCID=auto\n",
			"vm.readiness.mode VSockCID: started > guest @->6 restart\nvm.vsock VSockCID: - > auto @->6 restart\n"},
		{"argument", "firecracker", "Memory=1G\n", "Memory=1G\nHypervisorArgs=--metrics-path token=hunter2\n",
			"vm.command[5] HypervisorArgs: - > --metrics-path token… @->6 restart\n"},
		{"arguments of one", "qemu", "Hypervisor=qemu\n", "Hypervisor=cloud-hypervisor\nHypervisorArgs=--seccomp log\n",
			"vm.command[4] HypervisorArgs: - > --seccomp log @->3 restart\nvm.hypervisor Hypervisor: qemu > cloud-hypervisor @2>2 restart\n"},
		{"hypervisor", "cloud-hypervisor", "Hypervisor=cloud-hypervisor", "Hypervisor=firecracker", "vm.hypervisor Hypervisor: cloud-hypervisor > firecracker @2>2 restart\n"},
		{"protocol", "qemu", "Hypervisor=qemu", "Hypervisor=cloud-hypervisor", "vm.hypervisor Hypervisor: qemu > cloud-hypervisor @2>2 restart\n"},
		{"comment", "firecracker", "Memory=1G", "# much\nMemory=1G", ""},
	} {
		before := microvm.For(apiVM, c.hypervisor)
		after := strings.Replace(before, c.old, c.new, 1)
		if after == before {
			t.Fatalf("%s: nothing is replaced", c.name)
		}
		if got := text(Plans(planOf(t, before), planOf(t, after), 252)); got != c.want {
			t.Errorf("%s, %s:\n%swant\n%s", c.hypervisor, c.name, got, c.want)
		}
	}
}

// TestOwnRequests: what another version of Ampoule asks of the same hypervisor is
// shown by what is asked, and where.
func TestOwnRequests(t *testing.T) {
	before := planOf(t, microvm.For(apiVM, "firecracker"))
	for name, c := range map[string]struct {
		change func(*plan.API)
		want   string
	}{
		"value":  {func(a *plan.API) { a.Start[0].Body[1].Value = "7" }, "vm.api.start[0].body[1] Memory: /mem_size_mib=1024 > /mem_size_mib=7 @5>5 restart\n"},
		"secret": {func(a *plan.API) { a.Start[0].Body[1].Value = "secret=hunter2" }, "vm.api.start[0].body[1] Memory: /mem_size_mib=1024 > /mem_size_mib=secret… @5>5 restart\n"},
		"place":  {func(a *plan.API) { a.Start[0].Body[1].At = "/x" }, "vm.api.start[0].body[1] Memory: /mem_size_mib=1024 > - @5>- restart\nvm.api.start[0].body[1] Memory: - > /x=1024 @->5 restart\n"},
		"asked":  {func(a *plan.API) { a.Start[1].Body[0] = plan.AskAt("/kernel_image_path", plan.AskKernel, "Kernel") }, "vm.api.start[1].body[0] Kernel: /kernel_image_path=/boot/vmlinuz > /kernel_image_path={kernel} @3>3 restart\n"},
		"gone":   {func(a *plan.API) { a.Start = a.Start[1:] }, "vm.api.start[0] Hypervisor: PUT /machine-config > - @2>2 restart\n"},
		"order":  {func(a *plan.API) { a.Start[0], a.Start[1] = a.Start[1], a.Start[0] }, "vm.api.start Hypervisor: PUT /machine-config, PUT /boot-source, PUT /drives/disk0, PUT /drives/disk1, PUT /entropy, PUT /actions > PUT /boot-source, PUT /machine-config, PUT /drives/disk0, PUT /drives/disk1, PUT /entropy, PUT /actions @2>2 restart\n"},
		"power":  {func(a *plan.API) { a.Power = nil }, "vm.api.power Hypervisor: PUT /actions > - @2>2 restart\n"},
		"alive":  {func(a *plan.API) { a.Alive.Path = "/version" }, "vm.api.alive Hypervisor: GET / > GET /version @2>2 restart\n"},
		"event":  {func(a *plan.API) { a.Events = []plan.Event{{Source: "vm", Event: "gone", Means: plan.PoweredOff}} }, "vm.api.events[0] Hypervisor: - > vm gone: powered off @2>2 restart\n"},
	} {
		after := planOf(t, microvm.For(apiVM, "firecracker"))
		c.change(after.VM.API)
		after.Seal()
		if got := text(Plans(before, after, 252)); got != c.want {
			t.Errorf("%s:\n%swant\n%s", name, got, c.want)
		}
	}
}

// TestEveryField: no field of a plan changes without being reported, with a key
// where a user's line can be behind it; of every hypervisor.
func TestEveryField(t *testing.T) {
	texts := map[string]string{"full": full}
	for _, hypervisor := range driver.Names(all.Drivers()) {
		texts[hypervisor] = microvm.Everything(t, hypervisor)
	}
	for name, text := range texts {
		t.Run(name, func(t *testing.T) { everyField(t, text) })
	}
}

func everyField(t *testing.T, text string) {
	keyless := []string{"vm.name", "vm.architecture"}
	form, n := planOf(t, text).JSON(), 0
	fresh := func() *plan.Plan {
		p, err := plan.Parse(form)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	var visit func(path string, get func(*plan.Plan) reflect.Value)
	visit = func(path string, get func(*plan.Plan) reflect.Value) {
		v := get(fresh())
		switch v.Kind() {
		case reflect.Pointer:
			if !v.IsNil() { // that it is gone is a change too
				visit(path, func(p *plan.Plan) reflect.Value { return get(p).Elem() })
			}
		case reflect.Struct:
			for i := range v.NumField() {
				name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
				if name == "from" {
					continue
				}
				visit(path+"."+name, func(p *plan.Plan) reflect.Value { return get(p).Field(i) })
			}
			return
		case reflect.Slice:
			if v.Len() == 0 {
				break
			}
			if v.Type().Elem().Kind() == reflect.Struct {
				for i := range v.Len() {
					visit(fmt.Sprintf("%s[%d]", path, i), func(p *plan.Plan) reflect.Value { return get(p).Index(i) })
				}
				// One that is gone is a change too.
			}
		}
		n++
		before, after := fresh(), fresh()
		change(t, path, get(after))
		after.Seal()
		got := Plans(before, after, 252)
		if len(got) == 0 {
			t.Errorf("%s changes, and nothing is reported", path)
		}
		for _, c := range got {
			if c.Key == "" && path != keyless[0] && path != keyless[1] {
				t.Errorf("%s: %+v has no key", path, c)
			}
			if c.Follows && path != "vm.hypervisor" {
				t.Errorf("%s: %+v follows from nothing", path, c)
			}
		}
	}
	visit("vm", func(p *plan.Plan) reflect.Value { return reflect.ValueOf(&p.VM).Elem() })
	visit("unit", func(p *plan.Plan) reflect.Value { return reflect.ValueOf(&p.Unit).Elem() })
	if n < 80 {
		t.Errorf("only %d fields", n)
	}
}

// change gives a field another value.
func change(t *testing.T, path string, v reflect.Value) {
	t.Helper()
	switch v.Kind() {
	case reflect.String:
		v.SetString(v.String() + "x")
	case reflect.Int, reflect.Int64:
		v.SetInt(v.Int() + 1)
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Slice:
		switch {
		case v.Len() > 0:
			v.Set(v.Slice(0, v.Len()-1))
		case v.Type().Elem().Kind() == reflect.String:
			v.Set(reflect.ValueOf([]string{"x"}))
		case v.Type().Elem().Kind() == reflect.Uint8:
			v.SetBytes([]byte("x"))
		case v.Type().Elem().Kind() == reflect.Struct:
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		default:
			t.Fatalf("%s is empty in the full plan", path)
		}
	case reflect.Pointer:
		switch {
		case !v.IsNil():
			v.SetZero()
		case v.Type() == reflect.TypeFor[*plan.Image]():
			v.Set(reflect.ValueOf(&plan.Image{Path: "/srv/image"}))
		default:
			v.Set(reflect.New(v.Type().Elem()))
		}
	default:
		t.Fatalf("%s is a %v", path, v.Kind())
	}
}

// TestUnits: of the lines that are in no plan, those that differ, wherever they
// stand; what Ampoule itself writes is no change.
func TestUnits(t *testing.T) {
	const unit = "# Made by ampoule 1\n# /etc/ampoule/vm.microvm\n\n[Unit]\nDescription=microVM vm\n# /etc/ampoule/vm.microvm:2\nAfter=a.target\n# /etc/ampoule/vm.microvm:3\nAfter=b.target\n" +
		"\n[Service]\nType=notify\n# /etc/ampoule/vm.microvm:9, Disk=\nBindPaths=/srv/x\n# /etc/ampoule/vm.microvm:10\nEnvironment=A=1\n# /etc/ampoule/vm.microvm:11\nRestartSec=5\n# /etc/ampoule/vm.microvm:12\nLoadCredential=a:/b\n" +
		"\n[Install]\n# /etc/ampoule/vm.microvm:14\nWantedBy=multi-user.target\n"
	for name, c := range map[string]struct{ old, new, want string }{
		"nothing":     {"x", "x", ""},
		"place alone": {"vm.microvm:3", "vm.microvm:4", ""},
		"own lines":   {"Type=notify", "Type=exec", ""},
		"made of":     {"BindPaths=/srv/x", "BindPaths=/srv/y", ""},
		"in the plan": {"Environment=A=1", "Environment=A=2", ""},
		"credential":  {"LoadCredential=a:/b", "LoadCredential=a:/c", ""},
		"value":       {"RestartSec=5", "RestartSec=6", "[Service] RestartSec Service.RestartSec: 5 > 6 @11>11 daemon-reload\n"},
		"one of two":  {"After=a.target", "After=c.target", "[Unit] After Unit.After: a.target > c.target @2>2 daemon-reload\n"},
		"removed":     {"# /etc/ampoule/vm.microvm:14\nWantedBy=multi-user.target\n", "", "[Install] WantedBy Install.WantedBy: multi-user.target > - @14>- daemon-reload\n"},
		"added":       {"\n[Install]", "# /etc/ampoule/vm.microvm:13\nExecReload=/x secret\n\n[Install]", "[Service] ExecReload Service.ExecReload: - > /x … @->13 daemon-reload\n"},
	} {
		if got := text(Units([]byte(unit), []byte(strings.Replace(unit, c.old, c.new, 1)))); got != c.want {
			t.Errorf("%s: %swant %s", name, got, c.want)
		}
	}
	if got := Units(nil, []byte(unit)); len(got) != 4 {
		t.Errorf("%+v", got)
	}
}
