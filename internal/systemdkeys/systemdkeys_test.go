package systemdkeys

import (
	"slices"
	"strings"
	"testing"
)

// all returns every row of the tables.
func all() []Key {
	var keys []Key
	for _, section := range Sections() {
		for _, table := range tables(section) {
			keys = append(keys, table...)
		}
	}
	return keys
}

// TestKnownKeys compares rows with what systemd's NEWS and manual say.
func TestKnownKeys(t *testing.T) {
	for _, want := range []Key{
		{Section: "Install", Name: "Also", Since: 183, Kind: Dependencies, KeepsOnEmpty: true},
		{Section: "Install", Name: "DefaultInstance", Since: 215},
		{Section: "Install", Name: "UpheldBy", Since: 254, Kind: List},
		{Section: "Install", Name: "WantedBy", Since: 183, Kind: List},
		{Section: "Service", Name: "BlockIOWeight", Since: 183, Ignored: 258, Cgroup: true, Replaced: "IOWeight"},
		{Section: "Service", Name: "CPUAccounting", Since: 205, Ignored: 258, KeepsOnEmpty: true, Cgroup: true},
		{Section: "Service", Name: "ControlGroupModify", Since: 183, Removed: 205, KeepsOnEmpty: true, Restart: true},
		{Section: "Service", Name: "DeviceAllow", Since: 183, Kind: List, Restart: true},
		{Section: "Service", Name: "Environment", Since: 183, Kind: List, Restart: true},
		{Section: "Service", Name: "ExecCondition", Since: 243, Kind: List, Restart: true},
		{Section: "Service", Name: "ExecStart", Since: 183, Kind: List, Restart: true},
		{Section: "Service", Name: "ExecStop", Since: 183, Kind: List},
		{Section: "Service", Name: "ExecStopPost", Since: 183, Kind: List},
		{Section: "Service", Name: "ImportCredential", Since: 254, Kind: List, Restart: true},
		{Section: "Service", Name: "KillMode", Since: 183},
		{Section: "Service", Name: "LoadCredential", Since: 247, Kind: List, Restart: true},
		{Section: "Service", Name: "LoadCredentialEncrypted", Since: 250, Kind: List, Restart: true},
		{Section: "Service", Name: "LogLevelMax", Since: 236, KeepsOnEmpty: true, Restart: true},
		{Section: "Service", Name: "MemoryLimit", Since: 183, Ignored: 258, Cgroup: true, Replaced: "MemoryMax"},
		{Section: "Service", Name: "MemoryMax", Since: 231, Cgroup: true},
		{Section: "Service", Name: "NoNewPrivileges", Since: 198, KeepsOnEmpty: true, Restart: true},
		{Section: "Service", Name: "OOMPolicy", Since: 243, KeepsOnEmpty: true, Cgroup: true},
		{Section: "Service", Name: "OpenFile", Since: 253, Kind: List, Restart: true},
		{Section: "Service", Name: "ProtectHostname", Since: 242, KeepsOnEmpty: true, Restart: true},
		{Section: "Service", Name: "Restart", Since: 183, KeepsOnEmpty: true},
		{Section: "Service", Name: "RestartMode", Since: 254, KeepsOnEmpty: true},
		{Section: "Service", Name: "RestartSteps", Since: 254, KeepsOnEmpty: true},
		{Section: "Service", Name: "RootEphemeral", Since: 254, KeepsOnEmpty: true, Restart: true},
		{Section: "Service", Name: "Slice", Since: 205, KeepsOnEmpty: true, Restart: true},
		{Section: "Service", Name: "Sockets", Since: 183, Kind: Dependencies, KeepsOnEmpty: true, Restart: true},
		{Section: "Service", Name: "StartLimitBurst", Since: 183, KeepsOnEmpty: true, Replaced: "[Unit] StartLimitBurst"},
		{Section: "Service", Name: "SuccessExitStatus", Since: 189, Kind: List},
		{Section: "Service", Name: "TimeoutStopSec", Since: 188, KeepsOnEmpty: true},
		{Section: "Service", Name: "User", Since: 183, Restart: true},
		{Section: "Unit", Name: "After", Since: 183, Kind: Dependencies, KeepsOnEmpty: true},
		{Section: "Unit", Name: "ConditionPathExists", Since: 183, Kind: List},
		{Section: "Unit", Name: "Description", Since: 183},
		{Section: "Unit", Name: "JoinsNamespaceOf", Since: 209, Kind: Dependencies, KeepsOnEmpty: true, Restart: true},
		{Section: "Unit", Name: "OnFailureIsolate", Since: 183, KeepsOnEmpty: true, Replaced: "OnFailureJobMode"},
		{Section: "Unit", Name: "PropagateReloadTo", Since: 183, Kind: Dependencies, KeepsOnEmpty: true, Replaced: "PropagatesReloadTo"},
		{Section: "Unit", Name: "RequiresMountsFor", Since: 183, Kind: Dependencies, KeepsOnEmpty: true},
		{Section: "Unit", Name: "RequiresOverridable", Since: 183, Kind: Dependencies, KeepsOnEmpty: true, Replaced: "Requires"},
		{Section: "Unit", Name: "StartLimitIntervalSec", Since: 230, KeepsOnEmpty: true},
		{Section: "Unit", Name: "Upholds", Since: 249, Kind: Dependencies, KeepsOnEmpty: true},
		{Section: "Unit", Name: "WantsMountsFor", Since: 256, Kind: Dependencies, KeepsOnEmpty: true},
	} {
		got, ok := Lookup(want.Section, want.Name)
		if !ok || got != want {
			t.Errorf("Lookup(%s, %s) = %+v, %v; want %+v", want.Section, want.Name, got, ok, want)
		}
	}
}

func TestLookupRefuses(t *testing.T) {
	for _, c := range [][2]string{
		{"Service", "execstart"}, {"Service", "ExecStart "}, {"Service", ""}, {"Service", "Zzz"}, {"Service", "After"},
		{"Unit", "ExecStart"}, {"service", "ExecStart"}, {"Socket", "ListenStream"}, {"Socket", "X-Mine"}, {"", ""},
	} {
		if k, ok := Lookup(c[0], c[1]); ok {
			t.Errorf("Lookup(%q, %q) = %+v, want nothing", c[0], c[1], k)
		}
	}
}

func TestExtensionsPass(t *testing.T) {
	for _, c := range [][2]string{{"Service", "X-Mine"}, {"Unit", "X-"}, {"Install", "X-Also"}, {"X-Mine", "Anything"}, {"X-Mine", "X-Deep"}} {
		k, ok := Lookup(c[0], c[1])
		if !ok || k.Section != c[0] || k.Name != c[1] || k.In(Oldest) != Honours || k.Restart || k.Cgroup || k.KeepsOnEmpty {
			t.Errorf("Lookup(%q, %q) = %+v, %v", c[0], c[1], k, ok)
		}
	}
}

// TestTables checks what every row must obey, so that a wrong rule in gen is
// found without a systemd at hand.
func TestTables(t *testing.T) {
	keys := all()
	if len(keys) < 440 {
		t.Fatalf("%d rows, fewer than ever", len(keys))
	}
	seen := make(map[string]bool)
	for _, k := range keys {
		at := k.Section + "." + k.Name
		if seen[at] {
			t.Errorf("%s is there twice", at)
		}
		seen[at] = true
		if got, ok := Lookup(k.Section, k.Name); !ok || got != k {
			t.Errorf("%s is not found by its name", at)
		}
		if k.Since < Oldest || k.Since > Newest {
			t.Errorf("%s: since %d", at, k.Since)
		}
		for _, end := range []int{k.Ignored, k.Removed} {
			if end != 0 && (end <= k.Since || end > Newest) {
				t.Errorf("%s: since %d, without effect from %d on", at, k.Since, end)
			}
		}
		if k.Kind == Dependencies && !k.KeepsOnEmpty || k.Kind == List && k.KeepsOnEmpty {
			t.Errorf("%s: %v, keeps on empty: %v", at, k.Kind, k.KeepsOnEmpty)
		}
		if k.Restart && k.Cgroup {
			t.Errorf("%s reaches a running service both with and without a restart", at)
		}
		if k.Replaced != "" {
			checkReplacement(t, k)
		}
	}
	for _, section := range Sections() {
		for _, table := range tables(section) {
			if !slices.IsSortedFunc(table, func(a, b Key) int { return strings.Compare(a.Name, b.Name) }) {
				t.Errorf("a table of [%s] is not sorted", section)
			}
			if slices.ContainsFunc(table, func(k Key) bool { return k.Section != section }) {
				t.Errorf("a table of [%s] has a key of another section", section)
			}
		}
	}
}

func checkReplacement(t *testing.T, k Key) {
	t.Helper()
	section, name := k.Section, k.Replaced
	if rest, ok := strings.CutPrefix(name, "["); ok {
		section, name, _ = strings.Cut(rest, "] ")
	}
	by, ok := Lookup(section, name)
	if !ok || by.In(Newest) != Honours || by.Replaced != "" {
		t.Errorf("%s.%s is replaced by %q, which is %+v, %v", k.Section, k.Name, k.Replaced, by, ok)
	}
	// The oldest systemd that Ampoule runs under must know it, or the advice
	// would be wrong there.
	if by.In(252) != Honours {
		t.Errorf("%s.%s is replaced by %q, which 252 does not know", k.Section, k.Name, k.Replaced)
	}
}

func TestStates(t *testing.T) {
	for _, c := range []struct {
		section, name string
		version       int
		want          State
	}{
		{"Service", "ImportCredential", 253, NotYet},
		{"Service", "ImportCredential", 254, Honours},
		{"Service", "MemoryLimit", 257, Honours},
		{"Service", "MemoryLimit", 258, Ignores},
		{"Unit", "ConditionNull", 246, Honours},
		{"Unit", "ConditionNull", 247, Dropped},
		{"Service", "TCPWrapName", 252, Dropped},
	} {
		k, _ := Lookup(c.section, c.name)
		if got := k.In(c.version); got != c.want {
			t.Errorf("%s.%s in %d: %d, want %d", c.section, c.name, c.version, got, c.want)
		}
	}
}

func TestNeedsRestart(t *testing.T) {
	for _, c := range []struct {
		name    string
		version int
		want    bool
	}{
		{"ExecStart", 252, true}, {"ExecStart", 257, true},
		{"ExecStop", 252, false}, {"ExecStop", 257, false},
		{"MemoryMax", 252, false}, {"MemoryMax", 255, false}, {"MemoryMax", 256, true}, {"MemoryMax", 257, true}, {"MemoryMax", 258, false},
	} {
		k, _ := Lookup("Service", c.name)
		if got := k.NeedsRestart(c.version); got != c.want {
			t.Errorf("%s= in %d: %v, want %v", c.name, c.version, got, c.want)
		}
	}
}

func TestKeys(t *testing.T) {
	for _, section := range Sections() {
		names := Keys(section)
		if len(names) == 0 || !slices.IsSorted(names) {
			t.Errorf("Keys(%s) is empty or not sorted", section)
		}
		for _, n := range names {
			if k, ok := Lookup(section, n); !ok || k.In(Newest) != Honours {
				t.Errorf("Keys(%s) suggests %s", section, n)
			}
		}
	}
	if got := Keys("Install"); !slices.Equal(got, []string{"Alias", "Also", "DefaultInstance", "RequiredBy", "UpheldBy", "WantedBy"}) {
		t.Errorf("Keys(Install) = %v", got)
	}
	for _, old := range []string{"MemoryLimit", "ReadOnlyDirectories", "ControlGroup"} {
		if slices.Contains(Keys("Service"), old) {
			t.Errorf("Keys(Service) suggests %s", old)
		}
	}
	if Keys("Sercive") != nil {
		t.Error("a section that is unknown has keys")
	}
	Keys("Unit")[0] = "mine"
	if Keys("Unit")[0] == "mine" {
		t.Error("a caller can change the table")
	}
}

func BenchmarkLookup(b *testing.B) {
	for b.Loop() {
		Lookup("Service", "WatchdogSignal")
	}
}
