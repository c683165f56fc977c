package emit

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/credential/rule"
	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/driver/all"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/testkit/microvm"
	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

// unitOf makes the unit of a VM and reads it again as systemd would.
func unitOf(t *testing.T, text string) (*unitfile.File, *plan.Plan) {
	t.Helper()
	res := load(t, text)
	out, err := Unit(UnitSource{Plan: res.Plan, Resolved: res.Resolved, Main: "/etc/ampoule/vm.microvm", Files: []string{"/etc/ampoule/vm.microvm"}, Program: "/usr/bin/ampoule"})
	if err != nil {
		t.Fatal(err)
	}
	f := unitfile.Parse("unit", "main", out)
	if len(f.Problems) > 0 {
		t.Fatalf("%+v", f.Problems)
	}
	return f, res.Plan
}

// values are those of a key, in order.
func values(f *unitfile.File, section, key string) []string {
	var out []string
	for _, a := range f.Assignments {
		if a.Section == section && a.Key == key {
			out = append(out, a.Value)
		}
	}
	return out
}

// TestUnitCarriesThePlan: byte for byte, through the escapes of SetCredential=.
func TestUnitCarriesThePlan(t *testing.T) {
	f, p := unitOf(t, "[MicroVM]\nKernel=/k\nSetCredential=A:\\x00\\n%n \\\\ \"q\" é \\x20\nKernelCommandLine=\"a b\" 50%% $HOME\n")
	var carried string
	for _, v := range values(f, "Service", "SetCredential") {
		if name, text, _ := strings.Cut(v, ":"); name == rule.PlanName {
			var err error
			if carried, err = unitfile.Unescape(text, true); err != nil {
				t.Fatal(err)
			}
		}
	}
	if carried != string(p.JSON()) {
		t.Errorf("carried\n%s\nwant\n%s", carried, p.JSON())
	}
	again, err := plan.Parse([]byte(carried))
	if err != nil || !bytes.Equal(again.JSON(), p.JSON()) {
		t.Errorf("%v", err)
	}
	if got := values(f, "Service", "ExecStart"); len(got) != 1 || !strings.HasSuffix(got[0], " --digest="+p.Digest.VM) {
		t.Errorf("ExecStart=%q", got)
	}
}

// TestUnitPassesOn: the user's lines come last, in their order, the empty ones
// too; those that were replaced do not come.
func TestUnitPassesOn(t *testing.T) {
	f, _ := unitOf(t, "[Unit]\nDescription=Mine\nAfter=a.service\nAfter=b.service\n[MicroVM]\nKernel=/k\nLoadCredential=KEY:/key\n"+
		"[Service]\nRestart=no\nRestart=always\nEnvironment=A=%i\nEnvironment=\nEnvironment=B=2\nLoadCredential=\nLoadCredential=HOST:/h\n[Install]\nWantedBy=multi-user.target\n")
	for _, tt := range []struct {
		section, key string
		want         []string
	}{
		{"Unit", "Description", []string{"microVM vm", "Mine"}},
		{"Unit", "After", []string{"sops-install-secrets.service agenix-install-secrets.service", "a.service", "b.service"}},
		{"Service", "Restart", []string{"on-failure", "always"}},
		{"Service", "Environment", []string{"", "B=2"}},
		{"Service", "LoadCredential", []string{"", "HOST:/h", "KEY:/key"}},
		{"Install", "WantedBy", []string{"multi-user.target"}},
	} {
		if got := values(f, tt.section, tt.key); !slices.Equal(got, tt.want) {
			t.Errorf("[%s] %s= is %q, want %q", tt.section, tt.key, got, tt.want)
		}
	}
}

// TestUnitMarks: a source that is missing is marked, unless the user has a
// default for it, or it is no path.
func TestUnitMarks(t *testing.T) {
	marked := func(f *unitfile.File) []string {
		var out []string
		for _, v := range values(f, "Service", "SetCredential") {
			if name, text, _ := strings.Cut(v, ":"); text == rule.MissingMarker {
				out = append(out, name)
			}
		}
		slices.Sort(out)
		return out
	}
	const lines = "[MicroVM]\nKernel=/k\nLoadCredential=A:/a\nLoadCredentialEncrypted=B:/b\nLoadCredential=C:/c\nSetCredential=C:default\nLoadCredential=D\nImportCredential=E*\n" +
		"Credential=guest:F\n[Service]\nLoadCredential=F:/f\n"
	f, _ := unitOf(t, lines)
	if got := marked(f); !slices.Equal(got, []string{"A", "B", "F"}) {
		t.Errorf("marked are %q", got)
	}
	f, _ = unitOf(t, lines+"ExecStart=\nExecStart=/bin/own\n")
	if got := marked(f); len(got) != 3 || values(f, "Service", "Type")[0] != "exec" {
		t.Errorf("with a command of the user's own marked are %q", got)
	}
	// That command may know nothing of marks.
	if got := values(f, "Service", "ExecStartPre"); len(got) != 1 || !strings.Contains(got[0], " unit sources --plan=%d/ampoule.plan ") {
		t.Errorf("with a command of the user's own, what runs before it is %q", got)
	}
}

// TestUnitOpens: what the plan needs, and nothing else.
func TestUnitOpens(t *testing.T) {
	f, _ := unitOf(t, "[MicroVM]\nKernel=/home/me/v m%%x:z\nInitrd=/tmp/initrd\nDisk=data.raw:size=1M\nDisk=/srv/root.raw\nDisk=/srv/a\\:b.raw:ro\nDisk=/dev/vg/swap\nAccelerator=kvm\n")
	for key, want := range map[string][]string{
		"BindReadOnlyPaths":      {`"-/home/me/v m%%x:z"`, "-/tmp/initrd", `"-/srv/a:b.raw"`},
		"BindPaths":              {"-/srv/root.raw"},
		"DeviceAllow":            {"/dev/kvm rw", "/dev/vg/swap rw"},
		"MemoryDenyWriteExecute": {"yes"},
		"SupplementaryGroups":    nil,
	} {
		if got := values(f, "Service", key); !slices.Equal(got, want) {
			t.Errorf("%s= is %q, want %q", key, got, want)
		}
	}
	f, _ = unitOf(t, "[MicroVM]\nKernel=/k\nAccelerator=tcg\n")
	if got := values(f, "Service", "DeviceAllow"); got != nil || values(f, "Service", "MemoryDenyWriteExecute")[0] != "no" {
		t.Errorf("for emulation: DeviceAllow=%q", got)
	}
}

// TestUnitOpensVSock: what connects the guest is opened where that is the kernel's
// work; the sockets of a hypervisor that does it are of AF_UNIX.
func TestUnitOpensVSock(t *testing.T) {
	const text = "[MicroVM]\nHypervisor=%h\nKernel=/k\nInitrd=/i\nVSockCID=auto\nGuestSystemd=257\n[Unit]\nAfter=mine.service\n"
	for _, hypervisor := range driver.Names(all.Drivers()) {
		f, p := unitOf(t, microvm.For(text, hypervisor))
		devices, families := []string{"/dev/kvm rw"}, []string{"AF_UNIX"}
		var wants []string
		after := []string{"mine.service"}
		if !p.VM.VSock.Multiplexed {
			devices, families = append(devices, "/dev/vhost-vsock rw"), append(families, "AF_VSOCK")
			wants = []string{"modprobe@vhost_vsock.service"}
			after = slices.Concat(wants, after)
		}
		for _, tt := range []struct {
			section, key string
			want         []string
		}{
			{"Service", "DeviceAllow", devices}, {"Service", "RestrictAddressFamilies", families},
			{"Unit", "Wants", wants}, {"Unit", "After", after}, {"Service", "TimeoutStartSec", []string{"10min"}},
		} {
			if got := values(f, tt.section, tt.key); !slices.Equal(got, tt.want) {
				t.Errorf("%s: [%s] %s= is %q, want %q", hypervisor, tt.section, tt.key, got, tt.want)
			}
		}
	}
	f, _ := unitOf(t, "[MicroVM]\nKernel=/k\n")
	for _, key := range []string{"DeviceAllow", "RestrictAddressFamilies"} {
		if got := values(f, "Service", key); len(got) != 1 {
			t.Errorf("without a vsock %s= is %q", key, got)
		}
	}
	if got := values(f, "Service", "TimeoutStartSec"); got != nil {
		t.Errorf("a guest that nobody waits for has TimeoutStartSec=%q", got)
	}
}

// TestUnitOpensNetworks: a network in the hypervisor's process is that of the host;
// an interface that is opened by its name is one of the host, and that is all; and of
// one that comes by descriptors the sandbox knows nothing.
func TestUnitOpensNetworks(t *testing.T) {
	const text = "[MicroVM]\nHypervisor=%h\nKernel=/k\nInitrd=/i\n"
	users, tried := 0, map[bool]int{}
	for _, hypervisor := range driver.Names(all.Drivers()) {
		for _, line := range []string{"Network=user", "Network=tap", "Network=user\nNetwork=user\nNetwork=tap", "Network=bridge:br0\nNetwork=tap", "Network=tap:name=lan0,external"} {
			if microvm.Plan(t, microvm.For(text, hypervisor)+line+"\n") == nil {
				continue
			}
			f, p := unitOf(t, microvm.For(text, hypervisor)+line+"\n")
			network, deny, families := []string{"yes"}, []string{"any"}, []string{"AF_UNIX"}
			user := p.VM.Networks[0].Kind == plan.UserNetwork
			named := slices.ContainsFunc(p.VM.Networks, func(n plan.Network) bool { return n.ByName || n.External })
			if user || named {
				network = append(network, "no")
			}
			if user {
				users++
				deny, families = append(deny, ""), append(families, "AF_INET AF_INET6")
			}
			tried[named]++
			for key, want := range map[string][]string{"PrivateNetwork": network, "IPAddressDeny": deny, "RestrictAddressFamilies": families} {
				if got := values(f, "Service", key); !slices.Equal(got, want) {
					t.Errorf("%s, %s: %s= is %q, want %q", hypervisor, line, key, got, want)
				}
			}
			if !slices.Contains(values(f, "Unit", "After"), "network.target") {
				t.Errorf("%s, %s: it does not wait for the host's network", hypervisor, line)
			}
			if got := slices.Contains(values(f, "Service", "DeviceAllow"), "/dev/net/tun rw"); named && !got {
				t.Errorf("%s, %s: the device of taps is closed", hypervisor, line)
			}
		}
	}
	if users == 0 || tried[false] == 0 || tried[true] == 0 {
		t.Errorf("%d user networks; interfaces by name: %v", users, tried)
	}
}

// TestUnitOfOthers: for what somebody else prepares root does nothing, and no unit is
// made; the VM's user comes to the devices by which it is opened.
func TestUnitOfOthers(t *testing.T) {
	f, p := unitOf(t, "[MicroVM]\nKernel=/k\nNetwork=tap:name=lan0,external\nNetwork=macvtap:eth0,name=lan1,external,vhost=no,mac=02:00:00:00:00:01\n"+
		"Share=/srv/a:a:socket=/run/a.sock\nDevice=pci:0000:01:00.0,external\n")
	if got := slices.Concat(values(f, "Service", "ExecStartPre"), values(f, "Service", "ExecStopPost"), values(f, "Service", "FileDescriptorStoreMax"), values(f, "Unit", "Wants")); len(got) > 0 &&
		!slices.Equal(got, []string{"modprobe@vfio_pci.service", "modprobe@macvtap.service"}) {
		t.Errorf("it has %q", got)
	}
	allowed := values(f, "Service", "DeviceAllow")
	for _, device := range []string{"/dev/net/tun rw", "char-macvtap rw", "/dev/vhost-net rw", "char-vfio rw"} {
		if !slices.Contains(allowed, device) {
			t.Errorf("DeviceAllow=%q, without %s", allowed, device)
		}
	}
	if got := values(f, "Unit", "RequiresMountsFor"); !slices.Contains(got, "/run/a.sock") {
		t.Errorf("RequiresMountsFor=%q", got)
	}
	units, err := ShareUnits(UnitSource{Plan: p, Main: "/etc/ampoule/vm.microvm", Program: "/usr/bin/ampoule"})
	if err != nil || len(units) > 0 {
		t.Errorf("%v, %v", units, err)
	}
}

// TestUnitOpensShares: the directories that QEMU serves by itself, with their owners;
// of those that others serve the sandbox knows nothing.
func TestUnitOpensShares(t *testing.T) {
	const text = "[MicroVM]\nKernel=/k\nShare=/srv/a:a\n"
	for lines, want := range map[string]map[string][]string{
		"": {"PrivateUsers": {"yes"}, "BindPaths": nil},
		"Share=/srv/b:b:9p\nShare=/srv/c:c:9p\nShare=/srv/d:d:9p,ro\n": {"PrivateUsers": {"yes", "no"}, "BindPaths": {"-/srv/b", "-/srv/c"}},
		"Share=/srv/b:b:socket=/run/b.sock\n":                          {"PrivateUsers": {"yes"}, "BindPaths": nil, "BindReadOnlyPaths": {"-/k", "-/run/b.sock"}},
	} {
		f, _ := unitOf(t, text+lines)
		for key, want := range want {
			if got := values(f, "Service", key); !slices.Equal(got, want) {
				t.Errorf("%q: %s= is %q, want %q", lines, key, got, want)
			}
		}
	}
}

// TestGroups: the group of the devices is there once, whichever of them is needed.
func TestGroups(t *testing.T) {
	for lines, want := range map[string][]string{
		"Accelerator=tcg":                     nil,
		"Accelerator=tcg\nVSockCID=auto":      {"vmm"},
		"Accelerator=kvm\nVSockCID=auto":      {"vmm"},
		"Accelerator=auto":                    {"vmm"},
		"Hypervisor=firecracker\nInitrd=/i":   {"vmm"},
		"Hypervisor=firecracker\nVSockCID=77": {"vmm"},
	} {
		res := load(t, "[MicroVM]\nKernel=/k\n"+lines+"\n")
		out, err := Unit(UnitSource{Plan: res.Plan, Resolved: res.Resolved, Main: "/etc/ampoule/vm.microvm", Program: "/usr/bin/ampoule", KVMGroup: "vmm"})
		if err != nil {
			t.Fatal(err)
		}
		if got := values(unitfile.Parse("unit", "main", out), "Service", "SupplementaryGroups"); !slices.Equal(got, want) {
			t.Errorf("%q: SupplementaryGroups=%q, want %q", lines, got, want)
		}
	}
}

// TestSystemCalls: what a hypervisor needs is added behind what was taken away, and
// before the lines of the user.
func TestSystemCalls(t *testing.T) {
	for _, hypervisor := range driver.Names(all.Drivers()) {
		f, p := unitOf(t, microvm.For(microvm.Bare, hypervisor)+"[Service]\nSystemCallFilter=~mine\n")
		want := []string{"@system-service", "~@privileged @resources"}
		if len(p.VM.SystemCalls) > 0 {
			want = append(want, strings.Join(p.VM.SystemCalls, " "))
		}
		if got := values(f, "Service", "SystemCallFilter"); !slices.Equal(got, append(want, "~mine")) {
			t.Errorf("%s: SystemCallFilter=%q", hypervisor, got)
		}
	}
}

// TestUser: a user for each VM, with a name that systemd takes.
func TestUser(t *testing.T) {
	valid := regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_-]{0,30}$`)
	seen := map[string]string{}
	for _, vm := range []string{"web", "Web", "a.b", "a_b", "a-b", "x", strings.Repeat("n", 28), strings.Repeat("n", 29), strings.Repeat("n", 48), "a b@c", "1"} {
		user := userOf(vm)
		if !valid.MatchString(user) || seen[user] != "" {
			t.Errorf("the user of %q is %s, as that of %q", vm, user, seen[user])
		}
		seen[user] = vm
	}
	f, _ := unitOf(t, "[MicroVM]\nKernel=/k\n")
	if got := values(f, "Service", "User"); !slices.Equal(got, []string{"vm-vm"}) {
		t.Errorf("User=%q", got)
	}
}
