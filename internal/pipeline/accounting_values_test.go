package pipeline

import (
	"slices"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/driver/all"
	"github.com/ampoule-vm/ampoule/internal/spec"
	"github.com/ampoule-vm/ampoule/internal/systemdkeys"
)

// values are what is tried with a key: the good ones are taken at least in some
// VM, the bad ones in none.
type values struct{ good, bad []string }

func (v values) all() []string { return slices.Concat(v.good, v.bad, []string{""}) }

// accountedKey is a key with its values.
type accountedKey struct {
	section, name string
	values
}

// microVMValues has an element for each row of the key table.
func microVMValues() map[string]values {
	return map[string]values{
		"Image":             {[]string{"/images/one", "/images/two", "/images/none"}, []string{"images", "/a/../b"}},
		"Hypervisor":        {driver.Names(all.Drivers()), []string{"nosuch"}},
		"HypervisorPath":    {[]string{"/usr/bin/vmm-a", "/opt/vmm-b"}, []string{"vmm", "/a/../b"}},
		"HypervisorArgs":    {[]string{"-device usb-ehci", `-device "usb-tablet"`, "-smbios type=0", "--seccomp log", "--log-file=/run/log", "--id one", "--boot-timer"}, []string{"-m 5", `"open`, "a%"}},
		"Accelerator":       {[]string{"auto", "kvm", "tcg"}, []string{"vmx"}},
		"Machine":           {[]string{"q35", "microvm"}, []string{"pc", "a b"}},
		"VCPU":              {[]string{"1", "2", "3"}, []string{"0", "x", "4000"}},
		"Memory":            {[]string{"512M", "1G", "768M", "1024M"}, []string{"1", "1X"}},
		"CPUTopology":       {[]string{"1:1:1", "1:2:1", "2:1:1", "1:1:3", "1:1:1"}, []string{"1:1", "1:0:2", "a:b:c"}},
		"HugePages":         {[]string{"no", "1G", "2M"}, []string{"4K", "maybe"}},
		"MemoryHotplug":     {[]string{"1G", "128M", "2G"}, []string{"100M", "0", "much"}},
		"Balloon":           {[]string{"no", "yes"}, []string{"maybe"}},
		"Watchdog":          {[]string{"yes", "no"}, []string{"maybe"}},
		"Kernel":            {[]string{"/boot/vmlinuz-a", "/boot/vmlinuz-b"}, []string{"vmlinuz"}},
		"Initrd":            {[]string{"/boot/initrd-a", "/boot/initrd-%i"}, []string{"initrd"}},
		"KernelCommandLine": {[]string{"quiet", `"a=b c" d`, "root=/dev/vda", "retain_initrd", "rdinit=/sbin/init", "systemd.import_credentials=no"}, []string{"initrd=/x", `a "b`}},
		"MachineID":         {[]string{"0123456789abcdef0123456789abcdef", "11111111-2222-3333-4444-555555555555"}, []string{"0", strings.Repeat("0", 32)}},
		"GuestSystemd":      {[]string{"252", "256", "257"}, []string{"251", "new"}},
		"Disk":              {[]string{"data.raw:size=16M", "/srv/a.qcow2:qcow2,ro", "/srv/b.raw:serial=b", "c.raw:serial=b", "/srv/d.vhd:vhd", "/srv/e.vhdx:vhdx", "f.raw:direct", "g.raw:size=2M,fs=ext4,label=g"}, []string{":ro", "a:zip", "a:fs=ext4", "a:size=1M,fs=xfs"}},
		"Device":            {[]string{"pci:0000:01:00.0", "pci:0000:01:00.1", "usb:046d:c077", "usb:1-2.3", "pci:0000:02:00.0,external"}, []string{"pci:01:00.0", "usb:1", "isa:1"}},
		"Console":           {[]string{"auto", "none"}, []string{"tty"}},
		"Readiness":         {[]string{"auto", "started", "guest", "console:^login", "console:ready"}, []string{"later", "console:("}},
		"Network":           {[]string{"user", "user:mac=02:00:00:00:00:01", "tap", "tap:queues=2", "bridge:br0,vhost=yes", "tap:mtu=1400", "macvtap:eth0", "tap:name=lan0,external", "macvtap:eth0,name=lan1,external,mac=02:00:00:00:00:02"}, []string{"tun", "tap:external", "user:name=x", "tap:name=abcdefghijklmnop"}},
		"PublishPort":       {[]string{"8080:80", "127.0.0.1:8081:81/udp", "9000-9002:90-92", "[::1]:8082:80"}, []string{"80", "0:80", "1-2:3"}},
		"VSockCID":          {[]string{"auto", "3", "77"}, []string{"2", "4294967295", "any"}},
		"SSH":               {[]string{"ephemeral", "no"}, []string{"yes", "~/.ssh/id"}},
		"LoadCredential":    {[]string{"A:/run/secrets/a", "A:/run/secrets/b", "B:/run/secrets/b", "%i:/run/secrets/i", "C", "outer:/run/secrets/o"}, []string{"a/b:/x", "A:x/y", "ampoule.x:/y"}},
		"Share": {[]string{"/srv/one:one", "/srv/two:two:/mnt/two:ro,cache=always", "/srv/three:three:9p", "/srv/one:ro:9p,ro", "/srv/four:four:/four:9p,security=none", "/srv/five:five:socket=/run/five.sock"},
			[]string{"/srv", "srv:a", "/etc:a", "/srv:a:zip", "/srv:a/b", "/run/secrets/x:a", "/srv/six:six:9p,socket=/run/six.sock"}},
		"LoadCredentialEncrypted": {
			[]string{"A:/run/secrets/a.cred", "B:/run/secrets/b.cred", accountedVM + ":/run/secrets/i.cred"}, []string{"B=/x"},
		},
		"SetCredential":          {[]string{"A:one", "A:two", "D:x", "outer:y"}, []string{"A", `A:\q`, "A:"}},
		"SetCredentialEncrypted": {[]string{"A:QUJD", "D:REVG"}, []string{"E:***"}},
		"ImportCredential":       {[]string{"net.*", "web.*", "foo:bar"}, []string{"*x*", "a/b"}},
		"Credential":             {[]string{"inner:outer", "outer", "A:outer"}, []string{"a/b", "a=b"}},
		"CredentialChannel":      {[]string{"auto", "smbios", "fw_cfg", "initrd"}, []string{"vsock"}},
		"RestartIfChanged":       {[]string{"yes", "no"}, []string{"maybe"}},
		"Runner":                 {[]string{"/usr/bin/runner-a", "/usr/bin/runner-b"}, []string{"runner"}},
	}
}

// systemdValues are those of keys for which any word will not do.
func systemdValues() map[string]values {
	loads := values{[]string{"outer:/run/secrets/outer2", "A:/run/secrets/host", "H:/run/secrets/host"}, []string{"a/b:/x"}}
	sets := values{[]string{"outer:x", "H:x", "H:QUJD"}, []string{"H"}}
	target := values{[]string{"multi-user.target", "graphical.target"}, []string{"nosuch"}}
	return map[string]values{
		"Service.ExecStart":                {[]string{"/usr/bin/own", "/usr/bin/other"}, nil},
		"Service.TimeoutStopSec":           {[]string{"30s", "2min", "infinity"}, []string{"soon"}},
		"Service.TimeoutSec":               {[]string{"31s", "3min"}, []string{"soon"}},
		"Service.RuntimeDirectoryPreserve": {[]string{"restart"}, []string{"yes"}},
		"Service.LoadCredential":           loads,
		"Service.LoadCredentialEncrypted":  loads,
		"Service.SetCredential":            sets,
		"Service.SetCredentialEncrypted":   {[]string{"outer:QUJD", "H:REVG"}, []string{"H:***"}},
		"Service.ImportCredential":         {[]string{"host.*", "host.x"}, []string{"a/b"}},
		"Install.Alias":                    {[]string{"other@" + accountedVM + ".service"}, []string{"other.service"}},
		"Install.WantedBy":                 target,
		"Install.RequiredBy":               target,
		"Install.UpheldBy":                 target,
		"Install.Also":                     {nil, []string{"other.service"}},
		"Install.DefaultInstance":          {nil, []string{"x"}},
	}
}

// microVMKeys fails for a key without values, and for a word of a key that is
// not among them: a key that is new must be accounted for too.
func microVMKeys(t testing.TB) []accountedKey {
	t.Helper()
	known := microVMValues()
	var out []accountedKey
	for _, row := range spec.Table() {
		v, ok := known[row.Name]
		if !ok || len(v.good) < 1 || len(v.bad) < 1 {
			t.Errorf("no values to try with the key %s=: add some to microVMValues", row.Name)
			continue
		}
		delete(known, row.Name)
		for _, word := range row.Words {
			if !slices.ContainsFunc(v.good, func(g string) bool { return g == word || strings.HasSuffix(word, ":") && strings.HasPrefix(g, word) }) {
				t.Errorf("the word %s of the key %s= is not tried: add it to microVMValues", word, row.Name)
			}
		}
		out = append(out, accountedKey{spec.Section, row.Name, v})
	}
	for name := range known {
		t.Errorf("microVMValues has %s=, and the key table does not", name)
	}
	return out
}

// systemdKeys are those of the other sections. The sample has of each section a
// key of each kind, and all for which any word will not do.
func systemdKeys(t testing.TB) (keys, sample []accountedKey) {
	t.Helper()
	special := systemdValues()
	type kind struct {
		section        string
		kind           systemdkeys.Kind
		keeps, restart bool
	}
	seen := map[kind]bool{}
	for _, section := range systemdkeys.Sections() {
		for _, name := range systemdkeys.Keys(section) {
			key, _ := systemdkeys.Lookup(section, name)
			v, isSpecial := special[section+"."+name]
			delete(special, section+"."+name)
			if !isSpecial {
				v = valuesOfKind(t, key)
			}
			keys = append(keys, accountedKey{section, name, v})
			if k := (kind{section, key.Kind, key.KeepsOnEmpty, key.Restart}); isSpecial || !seen[k] {
				seen[k] = true
				sample = append(sample, accountedKey{section, name, v})
			}
		}
	}
	for name := range special {
		t.Errorf("systemdValues has %s=, and systemd's keys do not", name)
	}
	return keys, sample
}

func valuesOfKind(t testing.TB, key systemdkeys.Key) values {
	t.Helper()
	switch key.Kind {
	case systemdkeys.Scalar:
		return values{[]string{"1", "2"}, nil}
	case systemdkeys.List:
		return values{[]string{"one", "two"}, nil}
	case systemdkeys.Dependencies:
		return values{[]string{"a.service", "b.service"}, nil}
	}
	t.Errorf("no values to try with the key %s= of [%s], which is a %s", key.Name, key.Section, key.Kind)
	return values{}
}

// strayKeys are in no table: unknown ones, and those that are left alone.
func strayKeys() []accountedKey {
	return []accountedKey{
		{spec.Section, "Memroy", values{bad: []string{"1G"}}},
		{"Service", "Memory", values{bad: []string{"1G"}}},
		{"Servce", "Nice", values{bad: []string{"1"}}},
		{spec.Section, "X-Note", values{good: []string{"a"}}},
		{"Service", "X-Note", values{good: []string{"a"}}},
		{"X-Notes", "Note", values{good: []string{"a"}}},
	}
}
