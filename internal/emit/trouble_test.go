package emit

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/credential/rule"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

// carried is the text of a credential that a unit sets.
func carried(t *testing.T, f *unitfile.File, name string) string {
	t.Helper()
	for _, v := range values(f, "Service", "SetCredential") {
		if n, text, _ := strings.Cut(v, ":"); n == name {
			out, err := unitfile.Unescape(text, true)
			if err != nil {
				t.Fatal(err)
			}
			return out
		}
	}
	t.Fatalf("the unit does not set %s", name)
	return ""
}

func parsed(t *testing.T, text []byte) *unitfile.File {
	t.Helper()
	f := unitfile.Parse("unit", "main", text)
	if len(f.Problems) > 0 {
		t.Fatalf("%+v\n%s", f.Problems, text)
	}
	return f
}

// TestFailing: the mistakes, whatever is in them, arrive line by line; the
// first is in the description.
func TestFailing(t *testing.T) {
	at := func(line int) diag.Origin { return diag.Origin{File: "/etc/ampoule/vm.microvm", Line: line} }
	problems := diag.List{
		{Origin: at(1), Severity: diag.Warning, What: "a warning"},
		{Origin: at(2), Key: "A", Value: `C:\100%n "q"`, What: "is\x1b wrong\n", Accepted: `nothing\`},
		{Origin: at(3), What: "é"},
	}
	text, err := Failing(FailingSource{Name: "vm", Main: "/etc/ampoule/vm.microvm", Program: "/opt/100% a/ampoule", Problems: problems, StopTimeout: 90_000})
	if err != nil {
		t.Fatal(err)
	}
	f := parsed(t, text)
	if got, want := carried(t, f, rule.ProblemsName), problems[1].Error()+"\n"+problems[2].Error()+"\n"; got != want {
		t.Errorf("carried is %q, want %q", got, want)
	}
	for key, want := range map[string]string{
		"ExecStart": `"/opt/100%% a/ampoule" unit refuse --problems=%d/ampoule.problems`, "KillMode": "mixed", "TimeoutStopSec": "90s", "Type": "oneshot",
	} {
		if got := values(f, "Service", key); !slices.Equal(got, []string{want}) {
			t.Errorf("%s= is %q", key, got)
		}
	}
	want := `microVM vm: cannot start: /etc/ampoule/vm.microvm:2: A=C:\100%%n "q": is  wrong ; nothing\ (and one more)`
	if got := values(f, "Unit", "Description"); !slices.Equal(got, []string{want}) {
		t.Errorf("the description is %q", got)
	}
}

// TestFailingStaysSmall: thousands of mistakes make no unit of megabytes.
func TestFailingStaysSmall(t *testing.T) {
	var problems diag.List
	for i := range 100_000 {
		problems.Add(diag.Problem{Origin: diag.Origin{File: "/f", Line: i}, What: strings.Repeat("x", 300)})
	}
	text, err := Failing(FailingSource{Name: "vm", Main: "/f", Program: "/p", Problems: problems})
	if err != nil || len(text) > 100<<10 {
		t.Errorf("%d bytes, %v", len(text), err)
	}
	if got := carried(t, parsed(t, text), rule.ProblemsName); !strings.HasSuffix(got, "\nand 99800 more\n") {
		t.Errorf("it ends in %q", got[len(got)-40:])
	}
}

// TestFailingKeepsOnFailure: the administrator's handler is called, one with a
// mistake is not.
func TestFailingKeepsOnFailure(t *testing.T) {
	res := load(t, "[Unit]\nOnFailure=mail@%n.service\nAfter=x.service\n[MicroVM]\nKernel=/k\n")
	problems := diag.List{{Origin: diag.Origin{File: "/f", Line: 9}, What: "wrong"}}
	for _, refused := range []bool{false, true} {
		if refused {
			problems.Add(diag.Problem{Origin: res.Resolved.Group("Unit", "OnFailure").Entries[0].Origin, What: "wrong"})
		}
		text, err := Failing(FailingSource{Name: "vm", Main: "/f", Program: "/p", Problems: problems, Resolved: res.Resolved})
		if err != nil {
			t.Fatal(err)
		}
		f := parsed(t, text)
		if got := values(f, "Unit", "OnFailure"); len(got) == 1 == refused || values(f, "Unit", "After") != nil {
			t.Errorf("OnFailure= is %q", got)
		}
	}
}

// TestKept: what stops the VM stays; what comes before the user's own hooks
// refuses to start it.
func TestKept(t *testing.T) {
	problems := diag.List{{Origin: diag.Origin{File: "/etc/ampoule/vm.microvm", Line: 4}, Key: "VCPU", Value: "x", What: "wrong"}}
	for _, c := range []struct {
		lines string
		pre   func(ours string) []string
		own   bool
	}{
		{"ExecStartPre=/bin/a\nExecStartPre=/bin/b\n", func(ours string) []string { return []string{ours, "/bin/a", "/bin/b"} }, false},
		{"ExecStartPre=/bin/a\nExecStartPre=\nExecStartPre=/bin/b\n", func(ours string) []string { return []string{"", ours, "/bin/b"} }, false},
		{"ExecStartPre=/bin/a\nExecStart=\nExecStart=/bin/own\n", func(ours string) []string { return []string{ours, "/bin/a"} }, true},
	} {
		for fate, more := range map[Fate]string{Broken: " --unless-crashed", Gone: ""} {
			t.Run(fmt.Sprint(fate), func(t *testing.T) {
				res := load(t, "[MicroVM]\nKernel=/k\n[Service]\nTimeoutStopSec=5min\n"+c.lines)
				last, err := Unit(UnitSource{Plan: res.Plan, Resolved: res.Resolved, Main: "/etc/ampoule/vm.microvm", Program: "/usr/bin/ampoule"})
				if err != nil {
					t.Fatal(err)
				}
				text, err := Kept(last, "vm", "/usr/bin/ampoule", fate, problems)
				if err != nil {
					t.Fatal(err)
				}
				f, before := parsed(t, text), parsed(t, last)
				want := c.pre("/usr/bin/ampoule unit refuse --problems=%d/ampoule.problems" + more)
				start := values(f, "Service", "ExecStart")
				if fate == Broken && !c.own {
					// Its main process refuses.
					want = values(before, "Service", "ExecStartPre")
					again := strings.Replace(start[0], "ampoule run ", "ampoule unit resume --problems=%d/ampoule.problems ", 1)
					if !slices.Equal(start[1:], []string{"", again}) {
						t.Errorf("ExecStart= is %q", start)
					}
				} else if !slices.Equal(start, values(before, "Service", "ExecStart")) {
					t.Errorf("ExecStart= is %q", start)
				}
				if got := values(f, "Service", "ExecStartPre"); !slices.Equal(got, want) {
					t.Errorf("ExecStartPre= is %q", got)
				}
				for _, key := range []string{"KillMode", "TimeoutStopSec", "Type", "DynamicUser"} {
					if got := values(f, "Service", key); !slices.Equal(got, values(before, "Service", key)) {
						t.Errorf("%s= is %q", key, got)
					}
				}
				restart := values(f, "Service", "Restart")
				if last := restart[len(restart)-1]; (last == "no") != (fate == Gone) {
					t.Errorf("Restart= is %q", restart)
				}
				if carried(t, f, rule.ProblemsName) != problems[0].Error()+"\n" || carried(t, f, rule.PlanName) == "" {
					t.Error("mistakes or plan are not in it")
				}
			})
		}
	}
	if _, err := Kept([]byte("junk"), "vm", "/p", Gone, problems); err == nil {
		t.Error("junk is kept")
	}
}
