package inventory

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ampoule-vm/ampoule/internal/emit"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/state"
	"github.com/ampoule-vm/ampoule/internal/systemd"
)

var (
	one = "sha256:" + strings.Repeat("1", 64)
	two = "sha256:" + strings.Repeat("2", 64)
)

// unit is a loaded one of the VM web.
func unit(active, sub string, change func(*systemd.Unit)) *systemd.Unit {
	u := &systemd.Unit{
		Name: "microvm@web.service", LoadState: "loaded", ActiveState: active, SubState: sub, SourcePath: "/etc/ampoule/web.microvm", Memory: -1,
		ExecStart: []string{"/usr/bin/ampoule", "run", "--digest=" + one},
	}
	if change != nil {
		change(u)
	}
	return u
}

func refusing(u *systemd.Unit) {
	u.ExecStart = []string{"/usr/bin/ampoule", "unit", "refuse", "--problems=x"}
}

func TestJudge(t *testing.T) {
	declared := &declaration{file: "/etc/ampoule/web.microvm"}
	byHand := &state.Instance{Name: "web", Running: true, Record: &state.Record{ByHand: true, File: "/home/web.microvm", Phase: state.Ready}}
	serves := &state.Instance{Name: "web", Running: true, Service: true, Record: &state.Record{Phase: state.Rebooting}}
	cases := []struct {
		name      string
		facts     facts
		unmanaged bool
		want      string // "" for none
	}{
		{"declared", facts{declared: declared}, false, "not loaded"},
		{"declared, no systemd", facts{declared: declared}, true, "inactive"},
		{"mistakes", facts{declared: declared, mistakes: func() bool { return true }}, false, "broken"},
		{"masked file", facts{declared: &declaration{masked: true}}, false, "masked"},
		{"drop-ins alone", facts{declared: &declaration{orphan: true}}, false, "broken"},
		{"not found", facts{unit: unit("inactive", "dead", func(u *systemd.Unit) { u.LoadState = "not-found" })}, false, ""},
		{"left by a killed run", facts{run: &state.Instance{Name: "web"}}, false, ""},
		{"inactive", facts{declared: declared, unit: unit("inactive", "dead", nil)}, false, "inactive"},
		{"refusing", facts{declared: declared, unit: unit("inactive", "dead", refusing)}, false, "broken"},
		{"refused", facts{declared: declared, unit: unit("failed", "failed", refusing)}, false, "broken"},
		{"bad unit", facts{declared: declared, unit: unit("inactive", "dead", func(u *systemd.Unit) { u.LoadState = "bad-setting" })}, false, "broken"},
		{"failed", facts{declared: declared, unit: unit("failed", "failed", nil)}, false, "failed"},
		{"restarting", facts{declared: declared, unit: unit("activating", "auto-restart-queued", nil)}, false, "restarting"},
		{"booting", facts{declared: declared, unit: unit("activating", "start", nil)}, false, "booting"},
		{"stopping", facts{declared: declared, unit: unit("deactivating", "stop-sigterm", nil)}, false, "powering off"},
		{"guest powers off", facts{declared: declared, unit: unit("active", "running", func(u *systemd.Unit) { u.StatusText = "powering off" })}, false, "powering off"},
		{"started", facts{declared: declared, unit: unit("active", "running", func(u *systemd.Unit) { u.StatusText = "started, guest not observed" })}, false, "started"},
		{"its own words", facts{declared: declared, unit: unit("active", "running", func(u *systemd.Unit) { u.StatusText = "\x1b[2J" })}, false, "started"},
		{"the record's word", facts{declared: declared, run: serves, unit: unit("active", "running", nil)}, false, "rebooting"},
		{"removed", facts{unit: unit("active", "running", func(u *systemd.Unit) { u.StatusText = "ready" })}, false, "ready, no longer declared"},
		{"masked while it runs", facts{declared: declared, unit: unit("active", "running", func(u *systemd.Unit) { u.LoadState = "masked" })}, false, "started, masked"},
		{"removed unit runs", facts{declared: declared, unit: unit("active", "running", func(u *systemd.Unit) { u.LoadState = "not-found" })}, false, "started"},
		{"broken while it runs", facts{declared: declared, unit: unit("active", "running", func(u *systemd.Unit) { u.Description = "microVM web: " + emit.KeptWords + ": x" })}, false, "started, files have mistakes"},
		{"another plan", facts{declared: declared, runs: two, unit: unit("active", "running", nil)}, false, "started, runs another plan"},
		{"this plan", facts{declared: declared, runs: one, unit: unit("active", "running", nil)}, false, "started"},
		{"changed", facts{declared: declared, unit: unit("inactive", "dead", func(u *systemd.Unit) { u.NeedDaemonReload = true })}, false, "inactive, files changed"},
		{"by hand", facts{run: byHand}, false, "ready, by hand"},
		{"by hand, no systemd", facts{run: byHand}, true, "ready, by hand"},
		{"by hand beside a unit", facts{declared: declared, run: byHand, runs: two, unit: unit("inactive", "dead", nil)}, false, "ready, by hand"},
		{"a unit of another name", facts{declared: declared, unit: unit("active", "running", func(u *systemd.Unit) { u.Name = "mine.service" })}, false, "started, as mine.service"},
		{"a service that cannot be asked", facts{run: serves}, true, "rebooting"},
	}
	for _, c := range cases {
		f := c.facts
		if f.name = "web"; f.mistakes == nil {
			f.mistakes = func() bool { return false }
		}
		vm, ok := f.judge(!c.unmanaged)
		got := strings.Join(append([]string{vm.State}, vm.Remarks...), ", ")
		if got != c.want || ok != (c.want != "") {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestDifference(t *testing.T) {
	for _, c := range []struct {
		a, b plan.Digest
		want string
	}{
		{plan.Digest{VM: one, Unit: one}, plan.Digest{VM: one, Unit: one}, ""},
		{plan.Digest{VM: one, Unit: one}, plan.Digest{VM: two, Unit: one}, "the VM differs"},
		{plan.Digest{VM: one, Unit: one}, plan.Digest{VM: one, Unit: two}, "[Service] differs"},
		{plan.Digest{VM: one, Unit: one}, plan.Digest{VM: two, Unit: two}, "the VM and [Service] differ"},
		{plan.Digest{VM: one}, plan.Digest{VM: one, Unit: two}, ""},
		{plan.Digest{}, plan.Digest{VM: one, Unit: two}, ""},
	} {
		if got := Difference(c.a, c.b); got != c.want {
			t.Errorf("%v, %v: %q, want %q", c.a, c.b, got, c.want)
		}
	}
}

func TestEnding(t *testing.T) {
	for _, c := range []struct {
		code, status int
		result, want string
	}{
		{0, 0, "success", ""},
		{0, 0, "resources", "did not start (resources)"},
		{1, 0, "success", "the guest powered off (exit code 0)"},
		{1, 2, "exit-code", "bad input; nothing was started (exit code 2)"},
		{1, 122, "timeout", "the guest did not power off in time and was killed, timeout (exit code 122)"},
		{1, 7, "exit-code", "ended (exit code 7)"},
		{2, 9, "signal", "was killed by signal 9, killed"},
		{2, 6, "watchdog", "was killed by signal 6, aborted (watchdog)"},
		{3, 99, "core-dump", "was killed by signal 99 (core-dump)"},
	} {
		u := &systemd.Unit{Detail: systemd.Detail{ExitCode: c.code, ExitStatus: c.status, Result: c.result}}
		if got := Ending(u); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}

func TestDigestOf(t *testing.T) {
	for _, c := range []struct {
		argv []string
		want string
	}{
		{nil, ""}, {[]string{"ampoule", "run", "--digest=" + one}, one}, {[]string{"--digest=sha256:\x1b[2J"}, ""}, {[]string{"--digest", one}, ""},
	} {
		if got := DigestOf(c.argv); got != c.want {
			t.Errorf("%q: %q", c.argv, got)
		}
	}
}

// TestUserRuns: what a user runs by hand is in a directory of the user's, and
// is found without systemd. Its lock is real: a process does not see its own,
// so that here nothing runs.
func TestUserRuns(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root's runs are the system's")
	}
	dir := t.TempDir()
	claim, err := state.Take(state.Directories{Runtime: filepath.Join(dir, "ampoule/vm/web")})
	if err != nil {
		t.Fatal(err)
	}
	defer claim.Release()
	if err := claim.Write(state.Record{Name: "web", ByHand: true, PlanDigest: one, Started: time.Now()}); err != nil {
		t.Fatal(err)
	}
	runs, err := Place{Getenv: func(name string) string { return map[string]string{"XDG_RUNTIME_DIR": dir}[name] }}.Runs()
	if err != nil || len(runs) != 1 || runs[0].Service {
		t.Fatalf("%+v, %v", runs, err)
	}
	if diff := cmp.Diff(one, runs[0].Record.PlanDigest); diff != "" {
		t.Error(diff)
	}
}
