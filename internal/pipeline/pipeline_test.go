package pipeline

import (
	"bytes"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ampoule-vm/ampoule/internal/driver/all"
	"github.com/ampoule-vm/ampoule/internal/layer"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/source"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

const whole = `[Unit]
Description=A VM
[MicroVM]
Machine=q35
VCPU=2
Memory=1G
Kernel=/boot/vmlinuz
Initrd=/boot/initrd
KernelCommandLine=quiet "a=b c"
Disk=data.raw:serial=data,size=1G
Disk=/srv/x.qcow2:qcow2,ro
MachineID=0123456789abcdef0123456789abcdef
Readiness=console:^login
LoadCredential=KEY:/run/secrets/key
SetCredential=KEY:default
SetCredential=ENV:pro\x64uction
ImportCredential=net.*
Credential=inner:outer
HypervisorArgs=-device usb-ehci
[Service]
LoadCredential=outer:/run/secrets/outer
Environment=A=1
TimeoutStopSec=2min
[Install]
WantedBy=multi-user.target
`

// tree writes files below a new root, in random order, and returns the root.
func tree(t testing.TB, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for _, name := range names {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if target, ok := strings.CutPrefix(files[name], "-> "); ok {
			if err := os.Symlink(target, p); err != nil {
				t.Fatal(err)
			}
		} else if err := os.WriteFile(p, []byte(files[name]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func load(t testing.TB, root, argument string, set ...string) Result {
	t.Helper()
	return Load(Input{Argument: argument, Root: root, Dirs: source.SearchPath(), Set: set, Drivers: all.Drivers(), Architecture: "x86-64"})
}

func mustPlan(t testing.TB, root, argument string, set ...string) *plan.Plan {
	t.Helper()
	res := load(t, root, argument, set...)
	if res.Plan == nil {
		t.Fatalf("no plan:\n%s", res.Problems.Error())
	}
	return res.Plan
}

func TestPlanIsByteStable(t *testing.T) {
	files := map[string]string{
		"etc/ampoule/web.microvm":               whole,
		"etc/ampoule/web.microvm.d/10.conf":     "[MicroVM]\nVCPU=3\n",
		"usr/lib/ampoule/microvm.d/50.conf":     "[MicroVM]\nSetCredential=X:y\n",
		"run/ampoule/web.microvm.d/20.conf":     "[MicroVM]\nKernelCommandLine=more\n",
		"usr/lib/ampoule/web.microvm":           "[MicroVM]\nKernel=/hidden\n",
		"usr/lib/ampoule/web.microvm.d/10.conf": "[MicroVM]\nVCPU=9\n",
	}
	var first []byte
	for i := range 50 {
		got := mustPlan(t, tree(t, files), "web").JSON()
		if i == 0 {
			first = got
		} else if !bytes.Equal(first, got) {
			t.Fatalf("run %d differs:\n%s\n%s", i, first, got)
		}
	}
}

func TestPlanRoundTrip(t *testing.T) {
	p := mustPlan(t, tree(t, map[string]string{"etc/ampoule/web.microvm": whole}), "web")
	again, err := plan.Parse(p.JSON())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(p, again); diff != "" {
		t.Fatal(diff)
	}
	if !bytes.Equal(p.JSON(), again.JSON()) {
		t.Fatal("the JSON differs after a round trip")
	}
}

func TestFileAndNameGiveTheSamePlan(t *testing.T) {
	root := tree(t, map[string]string{
		"etc/ampoule/web.microvm":           whole,
		"etc/ampoule/web.microvm.d/10.conf": "[MicroVM]\nVCPU=3\n",
	})
	byName := mustPlan(t, root, "web")
	byFile := mustPlan(t, "", filepath.Join(root, "etc/ampoule/web.microvm"))
	if byName.Digest != byFile.Digest {
		t.Errorf("digests differ: %v %v", byName.Digest, byFile.Digest)
	}
	if byName.VM.VCPU != 3 {
		t.Errorf("VCPU is %d", byName.VM.VCPU)
	}
}

// TestDigests: what is in which digest.
func TestDigests(t *testing.T) {
	base := mustPlan(t, tree(t, map[string]string{"etc/ampoule/web.microvm": whole}), "web").Digest
	for _, c := range []struct {
		what, from, to string
		vm, unit       bool
	}{
		{"a comment", "[MicroVM]", "# why\n[MicroVM]", false, false},
		{"the description", "Description=A VM", "Description=B", false, false},
		{"an install link", "multi-user", "default", false, false},
		{"a scalar", "VCPU=2", "VCPU=3", true, false},
		{"a value that is set", "pro\\x64uction", "test", true, false},
		{"a source", "/run/secrets/key", "/run/secrets/key2", true, false},
		{"an environment", "A=1", "A=2", false, true},
		{"the order of lines", "VCPU=2\nMemory=1G", "Memory=1G\nVCPU=2", false, false},
	} {
		text := strings.Replace(whole, c.from, c.to, 1)
		if text == whole {
			t.Fatalf("%s: nothing replaced", c.what)
		}
		got := mustPlan(t, tree(t, map[string]string{"etc/ampoule/web.microvm": text}), "web").Digest
		if (got.VM != base.VM) != c.vm || (got.Unit != base.Unit) != c.unit {
			t.Errorf("%s: vm changed %v, unit changed %v", c.what, got.VM != base.VM, got.Unit != base.Unit)
		}
	}
}

// badValues has, for every key, values that must be refused.
var badValues = map[string][]string{
	"Hypervisor":              {"xen", "Qemu", "qemu " + "kvm"},
	"HypervisorPath":          {"qemu", "/usr/../bin/qemu"},
	"HypervisorArgs":          {"-m 2G", `"open`, "-no-reboot", `a\q`},
	"Accelerator":             {"yes", "KVM"},
	"Machine":                 {"pc", "q35,accel=kvm"},
	"VCPU":                    {"0", "-1", "two", "256", "99999999999999999999"},
	"Memory":                  {"lots", "1", "63M", "512", "100000001K", "-1G"},
	"Kernel":                  {"vmlinuz", "/boot/../vmlinuz", "/%Z"},
	"Initrd":                  {"initrd", "/%H/initrd"},
	"KernelCommandLine":       {"systemd.set_credential=a:b", `"open`, "CREDENTIALS_DIRECTORY=/x"},
	"Disk":                    {"/x:rw", "../x", "/x:size=1G"},
	"Device":                  {"pci:01:00.0", "pci:0000:01:00.8", "usb:1", "usb:046d:", "isa:1", "/dev/sda"},
	"Share":                   {"/srv", "srv:a", "/:a", "/etc:a", "/srv:a/b", "/srv:a:zip", "/srv:a:ro,rw", "/srv:a:security=none", "/srv:a:9p,cache=never", "/srv:a:cache=some", "/srv:" + strings.Repeat("t", 37), "/srv:" + strings.Repeat("t", 32) + ":9p", "/srv:a:/", "/srv:a:ro:/mnt"},
	"Console":                 {"tty", "yes"},
	"MachineID":               {"1234", "00000000000000000000000000000000"},
	"GuestSystemd":            {"251", "v257"},
	"Readiness":               {"guest", "console:", "console:(", "later"},
	"CPUTopology":             {"1:1", "1:0:1", "1:1:x", "1:2:2", "5000:1:1"},
	"HugePages":               {"4K", "yes"},
	"MemoryHotplug":           {"0", "100M", "1X"},
	"Balloon":                 {"maybe"},
	"Watchdog":                {"maybe"},
	"VSockCID":                {"0", "2", "-3", "4294967295", "4294967299", "03x", "any"},
	"Network":                 {"lan", "user:x", "user:mac=0", "user:mac=00:00:00:00:00:00", "user:mac=01:00:00:00:00:01", "user:mtu=9000", "user:queues=2", "tap:name=a/b", "tap:queues=0", "tap:vhost=on", "bridge:", "bridge:a b", "macvtap:eth0,mode=none", "tap:mtu=100000", "user:mac=02:00:00:00:00:01,mac=02:00:00:00:00:02"},
	"PublishPort":             {"80", ":80", "70000:80", "x:80", "8080:80/sctp", "::1:80:80", "[::1:80:80", "1.2.3:80:80", "1-2:3", "2-1:4-3", "8080:80"},
	"SSH":                     {"ephemeral", "yes"},
	"LoadCredential":          {"a/b:/x", ":x", "a:rel/ative", "ampoule.x:/x", "a:/x/../y"},
	"LoadCredentialEncrypted": {"a:rel/ative"},
	"SetCredential":           {"a", "a:", `a:\q`, "ampoule.x:y"},
	"SetCredentialEncrypted":  {"a:not base64!"},
	"ImportCredential":        {"a*b", "a/b", "*:ampoule.x"},
	"Credential":              {"a/b:c", "a:b:c"},
	"CredentialChannel":       {"initrd", "email"},
	"Runner":                  {"runner.sh"},
	"Image":                   {"image", "/a/../b"},
	"RestartIfChanged":        {"maybe", "2"},
}

// TestEveryKeyRefusesBadValues: the error names the line, the key and what
// would be accepted, for every row of the table.
func TestEveryKeyRefusesBadValues(t *testing.T) {
	for _, row := range spec.Table() {
		values := badValues[row.Name]
		if len(values) == 0 {
			t.Errorf("%s has no bad value in this test", row.Name)
		}
		for _, value := range values {
			text := fmt.Sprintf("# a comment\n[MicroVM]\n\n%s=%s\n", row.Name, value)
			res := load(t, tree(t, map[string]string{"etc/ampoule/web.microvm": text}), "web")
			found := false
			for _, p := range res.Problems {
				if p.Origin.Line == 4 && p.Key == row.Name && p.Accepted != "" && strings.HasPrefix(p.Error(), "/etc/ampoule/web.microvm:4: "+row.Name+"=") {
					found = true
				}
			}
			if !found || res.Plan != nil {
				t.Errorf("%s=%s: no error at line 4 with key and what is accepted:\n%s", row.Name, value, res.Problems.Error())
			}
		}
	}
}

// TestOverridesCount: a drop-in that changes any scalar changes the plan, and
// is then the one that counts.
func TestOverridesCount(t *testing.T) {
	other := map[string]string{
		"Machine": "microvm", "VCPU": "7", "Memory": "2G", "Kernel": "/k", "Initrd": "/i", "Accelerator": "tcg", "Console": "none",
		"MachineID": strings.Repeat("a", 32), "GuestSystemd": "257", "Readiness": "started", "CredentialChannel": "fw_cfg",
		"Runner": "/r", "HypervisorPath": "/q", "Hypervisor": "qemu", "HypervisorArgs": "-foo", "KernelCommandLine": "x", "Disk": "/d", "Device": "usb:1-2",
		"LoadCredential": "A:/a", "LoadCredentialEncrypted": "KEY:/e", "SetCredential": "ENV:y", "SetCredentialEncrypted": "ENV:YWJj",
		"ImportCredential": "foo*", "Credential": "inner:elsewhere", "Image": "/nowhere", "RestartIfChanged": "no", "VSockCID": "auto", "SSH": "ephemeral", "Network": "user", "PublishPort": "8080:80", "Share": "/srv/x:x",
		"CPUTopology": "1:2:1", "HugePages": "2M", "MemoryHotplug": "1G", "Balloon": "yes", "Watchdog": "yes",
	}
	base := mustPlan(t, tree(t, map[string]string{"etc/ampoule/web.microvm": whole}), "web")
	for _, row := range spec.Table() {
		text := "[MicroVM]\n" + row.Name + "=" + other[row.Name] + "\n"
		if row.Name == "Console" {
			text += "Readiness=started\n"
		}
		if row.Name == "PublishPort" {
			text += "Network=user\n"
		}
		if row.Name == "SSH" {
			text += "VSockCID=auto\nGuestSystemd=257\n"
		}
		res := load(t, tree(t, map[string]string{"etc/ampoule/web.microvm": whole, "run/ampoule/microvm.d/x.conf": text}), "web")
		if res.Plan == nil {
			t.Errorf("%s: %s", row.Name, res.Problems.Error())
			continue
		}
		// The default stated explicitly is no change; that is the one exception.
		// What ampoule apply alone obeys is in no digest.
		changed := res.Plan.Digest.VM != base.Digest.VM || row.Name == "RestartIfChanged" && res.Plan.Unit.KeepRunning
		if !changed && row.Name != "Hypervisor" {
			t.Errorf("%s=%s changed nothing", row.Name, other[row.Name])
		}
		name := row.Group
		if name == "" {
			name = row.Name
		}
		effective := 0
		for _, e := range res.Resolved.Group(spec.Section, name).Entries {
			if e.Origin.File == "/run/ampoule/microvm.d/x.conf" && e.Fate == layer.Effective {
				effective++
			}
		}
		if effective == 0 {
			t.Errorf("%s: the drop-in's line does not count", row.Name)
		}
	}
}

func TestSearchOrder(t *testing.T) {
	res := load(t, tree(t, map[string]string{
		"etc/ampoule/a-b-c.microvm":               "[MicroVM]\nKernel=/k\n",
		"usr/lib/ampoule/a-b-c.microvm":           "[MicroVM]\nKernel=/hidden\n",
		"etc/ampoule/a-.microvm.d/10.conf":        "[MicroVM]\nVCPU=1\n",
		"usr/lib/ampoule/a-b-.microvm.d/10.conf":  "[MicroVM]\nVCPU=2\n",
		"usr/lib/ampoule/a-b-c.microvm.d/20.conf": "[MicroVM]\nMemory=1G\n",
		"etc/ampoule/microvm.d/20.conf":           "[MicroVM]\nMemory=2G\n",
		"etc/ampoule/microvm.d/05.conf":           "[MicroVM]\nMachine=microvm\n",
		"usr/lib/ampoule/a-b-c.microvm.d/30.conf": "[MicroVM]\nConsole=none\n",
		"run/ampoule/a-b-c.microvm.d/30.conf":     "-> /dev/null",
	}), "a-b-c")
	if res.Plan == nil {
		t.Fatal(res.Problems.Error())
	}
	var files []string
	for _, f := range res.Source.Files {
		files = append(files, f.Path)
	}
	want := []string{
		"/etc/ampoule/a-b-c.microvm", "/etc/ampoule/microvm.d/05.conf",
		// The directory's rank beats specificity; the type-wide one is weakest.
		"/etc/ampoule/a-.microvm.d/10.conf", "/usr/lib/ampoule/a-b-c.microvm.d/20.conf",
	}
	if diff := cmp.Diff(want, files); diff != "" {
		t.Error(diff)
	}
	if !res.Plan.VM.Console {
		t.Error("a masked drop-in counts")
	}
	if len(res.Source.Hidden) != 4 {
		t.Errorf("hidden: %v", res.Source.Hidden)
	}
}
