package verify

import (
	"slices"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/credential"
	"github.com/ampoule-vm/ampoule/internal/credential/rule"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/generator"
	"github.com/ampoule-vm/ampoule/internal/pipeline"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/source"
	"github.com/ampoule-vm/ampoule/internal/state"
	"github.com/ampoule-vm/ampoule/internal/systemd"
)

var (
	one = "sha256:" + strings.Repeat("1", 64)
	two = "sha256:" + strings.Repeat("2", 64)
)

// planOf is a plan with a secret, and with a runner if one is named.
func planOf(digest, runner string) *plan.Plan {
	return &plan.Plan{
		Digest:  plan.Digest{VM: digest, Unit: one},
		VM:      plan.VM{Runner: runner, Credentials: []plan.Credential{{Kind: "load", ID: "KEY", Guest: "KEY", Path: "/etc/secrets/key", From: "LoadCredential[0]"}}},
		Origins: map[string]diag.Origin{"Runner": {File: "/etc/ampoule/web.microvm", Line: 4}},
	}
}

// whole are the facts of a VM that runs and of which nothing is wrong.
func whole() *Facts {
	return &Facts{
		Name: "web", Root: true, Made: generator.Made, Managed: true, Fragment: "/run/systemd/generator/microvm@web.service",
		Files: &pipeline.Result{Plan: planOf(one, ""), Source: source.Set{Main: "/etc/ampoule/web.microvm", Files: make([]source.File, 1)}},
		Unit: &systemd.Unit{
			Name: "microvm@web.service", LoadState: "loaded", ActiveState: "active", SubState: "running", MainPID: 7,
			ExecStart: []string{"/usr/bin/ampoule", "run", "--digest=" + one}, Detail: systemd.Detail{Invocation: "i"},
		},
		Run: &state.Instance{Name: "web", Running: true, Service: true, Pid: 7, Record: &state.Record{
			PlanDigest: one, UnitDigest: one, Invocation: "i", Phase: state.Ready, Ready: true,
			Delivery: state.Delivery{Channel: "smbios", Credentials: []state.DeliveredMetadata{{Name: "KEY", Bytes: 3}}},
		}},
		Process:  &Process{Pid: 7, Argv: []string{"/usr/bin/ampoule", "run", "--digest=" + one}, Hypervisor: "/usr/bin/qemu", HypervisorPid: 8},
		Plan:     planOf(one, ""),
		Compared: []credential.Comparison{{Host: "KEY", Outcome: credential.Same, Source: "file /etc/secrets/key"}},
	}
}

var at = diag.Origin{File: "/etc/systemd/system/microvm@web.service.d/x.conf", Line: 2}

// judged is a case of TestJudge.
type judged struct {
	name  string
	facts func(f *Facts)
	// want is the link and the kind of the one finding, cure a part of its cure,
	// note one of the only note. Empty: there is none.
	want, cure, note string
}

// idle stops the VM.
func idle(f *Facts) {
	f.Unit.ActiveState, f.Unit.SubState, f.Run, f.Process, f.Plan, f.Compared = "inactive", "dead", nil, nil, nil, nil
}

// changes are of files, and of drop-ins of systemd's.
func changes() []judged {
	return []judged{
		{"nothing", func(*Facts) {}, "", "", ""},
		{"edited", func(f *Facts) { f.Change = Change{Lines: []string{"Memory"}, VM: true} }, "loaded reload-due", "systemctl daemon-reload && systemctl restart microvm@web.service", ""},
		{"edited, no restart", func(f *Facts) { f.Change = Change{Lines: []string{"Unit.After"}} }, "loaded reload-due", "systemctl daemon-reload", ""},
		{"edited and idle", func(f *Facts) { idle(f); f.Change = Change{VM: true} }, "loaded reload-due", "systemctl daemon-reload", ""},
		{"new", func(f *Facts) { idle(f); f.Fragment, f.Unit, f.Change = "", nil, Change{Added: true} }, "loaded reload-due", "systemctl daemon-reload", ""},
		{"left over", func(f *Facts) { idle(f); f.Made, f.Files, f.Change = "", nil, Change{Removed: true} }, "loaded reload-due", "systemctl daemon-reload", ""},
		{"touched", func(f *Facts) { f.Change.Touched = true }, "", "", "come to the same unit"},
		{"another version", func(f *Facts) { f.Change.Version = "0.0.1" }, "", "", "made by ampoule 0.0.1"},
		{"not restarted", func(f *Facts) { f.Files.Plan = planOf(two, "") }, "running old-plan", "systemctl restart microvm@web.service", ""},
		{"[Service] not restarted", func(f *Facts) { f.Files.Plan.Digest.Unit = two }, "running old-plan", "systemctl restart microvm@web.service", ""},
		{"own command", func(f *Facts) {
			f.DropIns, f.Unit.ExecStart = []DropIn{{Path: at.File, Command: &Assignment{at, "ExecStart", ""}}}, []string{"/bin/sleep"}
			f.Process.Argv, f.Plan, f.Run.Record = []string{"/bin/sleep"}, nil, nil
		}, "loaded command-replaced", "remove ExecStart= from " + at.String(), ""},
		{"harmless drop-in", func(f *Facts) { f.DropIns = []DropIn{{Path: at.File}} }, "", "", "a drop-in of systemd's"},
		{"shared drop-in", func(f *Facts) { f.DropIns = []DropIn{{Path: at.File, Shared: true}} }, "", "", ""},
		{"drop-in not loaded", func(f *Facts) { f.DropIns = []DropIn{{Path: at.File, Shared: true, Changed: true}} }, "loaded reload-due", "systemctl daemon-reload", ""},
		{"late drop-in", func(f *Facts) { f.DropIns = []DropIn{{Path: at.File, Shared: true, Late: true}} }, "", "", "wait for a restart"},
		{"plan reset", func(f *Facts) {
			f.DropIns, f.Unit.SetCredential = []DropIn{{Path: at.File, Clears: []Assignment{{at, "SetCredential", ""}}}}, map[string][]byte{}
		}, "loaded plan-reset", "remove " + at.String(), ""},
		{"plan reset and given back", func(f *Facts) {
			f.DropIns = []DropIn{{Path: at.File, Clears: []Assignment{{at, "SetCredential", ""}}}}
			f.Unit.SetCredential = map[string][]byte{rule.PlanName: []byte("{}")}
		}, "", "", "a drop-in of systemd's"},
		{"credentials cleared", func(f *Facts) {
			f.DropIns = []DropIn{{Path: at.File, Clears: []Assignment{{at, "LoadCredential", ""}}}}
		}, "loaded credential-replaced", "remove " + at.String(), ""},
		{"credential replaced", func(f *Facts) {
			f.DropIns = []DropIn{{Path: at.File, Replaces: []Assignment{{at, "LoadCredential", "KEY"}}}}
		}, "loaded credential-replaced", "[MicroVM] of web.microvm.d", ""},
	}
}

// places are where files are, and are not.
func places() []judged {
	return []judged{
		{"hidden", func(f *Facts) {
			f.Made, f.Fragment = generator.Hidden, ""
			f.Problems = diag.List{{Origin: diag.Origin{File: "/etc/ampoule/web.microvm", Line: 1}, What: "microvm@web.service is provided by /etc/systemd/system/microvm@web.service, and is left as it is"}}
		}, "loaded hidden", "rm /etc/systemd/system/microvm@web.service && systemctl daemon-reload", ""},
		{"hidden by a package", func(f *Facts) {
			f.Made, f.Fragment = generator.Hidden, ""
			f.Problems = diag.List{{What: "microvm@web.service is provided by /usr/lib/systemd/system/microvm@.service, and is left as it is"}}
		}, "loaded hidden", "give the VM another name", ""},
		{"drop-in alone", func(f *Facts) {
			*f = Facts{Name: "wbe", Managed: true, Near: "web", DropIns: []DropIn{{Path: at.File}}}
		}, "declared drop-in-alone", "if web is meant", ""},
		{"mistakes", func(f *Facts) {
			f.Made, f.Problems = generator.Kept, diag.List{{Origin: diag.Origin{File: "/etc/ampoule/web.microvm", Line: 3}, Key: "Kernl", Value: "/x", What: "unknown key"}}
		}, "declared mistakes", "correct /etc/ampoule/web.microvm:3", ""},
		{"removed", func(f *Facts) {
			f.Made, f.Files, f.Problems = generator.Gone, nil, diag.List{{Severity: diag.Warning, Origin: diag.Origin{File: "/etc/ampoule/web.microvm", Line: 1}}}
		}, "declared not-declared", "systemctl stop microvm@web.service && systemctl daemon-reload", ""},
		{"masked while it runs", func(f *Facts) { f.Made, f.Masked, f.Files = generator.Gone, true, nil }, "", "", "masked and runs on"},
		{"masked", func(f *Facts) { idle(f); f.Made, f.Masked, f.Files = generator.Masked, true, nil }, "", "", "is masked"},
		{"masked in systemd", func(f *Facts) { idle(f); f.Unit.LoadState = "masked" }, "", "", "masked in systemd"},
	}
}

// runs are what becomes of a VM that runs, and of its credentials.
func runs() []judged {
	return []judged{
		{"hypervisor upgraded", func(f *Facts) { f.Process.HypervisorReplaced = true }, "running hypervisor-replaced", "systemctl restart microvm@web.service", ""},
		{"ampoule upgraded", func(f *Facts) { f.Process.Replaced = true }, "", "", "ampoule was replaced"},
		{"share unserved", func(f *Facts) {
			f.Unserved = []Unserved{{"data", diag.Origin{File: "/etc/ampoule/web.microvm", Line: 5}, "its unit has ended"}}
		}, "running share-unserved", "systemctl restart", ""},
		{"device lost", func(f *Facts) {
			f.Lost = []Lost{{plan.Device{Bus: "pci", Address: "0000:01:00.0"}, diag.Origin{File: "/etc/ampoule/web.microvm", Line: 5}, "the host uses it by its driver e1000e"}}
		}, "running device-lost", "systemctl restart", ""},
		{"kernel replaced", func(f *Facts) { f.Replaced = []state.File{{Role: state.KernelFile, Path: "/k"}} }, "running file-replaced", "systemctl restart", ""},
		{"image written to", func(f *Facts) { f.Replaced = []state.File{{Role: state.ImageFile, Path: "/k"}} }, "", "", "was written to"},
		{"failed", func(f *Facts) {
			idle(f)
			f.Unit.ActiveState, f.Unit.ExitCode, f.Unit.ExitStatus, f.Unit.Result = "failed", 1, 120, "exit-code"
		}, "running failed", "systemctl start microvm@web.service", ""},
		{"crashes again and again", func(f *Facts) { f.Unit.ActiveState, f.Unit.SubState = "activating", "auto-restart" }, "running failed", "journalctl", ""},
		{"was killed just now", func(f *Facts) {
			f.Unit.ActiveState, f.Unit.SubState, f.Unit.MainPID, f.Unit.Result, f.Unit.ExitCode, f.Unit.ExitStatus = "deactivating", "stop-post", 0, "signal", 2, 9
			f.Run.Running, f.Process, f.Unserved = false, nil, []Unserved{{What: "and this follows from it"}}
		}, "running failed", "mend what journalctl -u microvm@web.service says", ""},
		{"stops", func(f *Facts) {
			f.Unit.ActiveState, f.Unit.SubState, f.Unit.Result = "deactivating", "stop-sigterm", "success"
			f.Unserved = []Unserved{{What: "and this follows from it"}}
		}, "", "", ""},
		{"rotated", func(f *Facts) { f.Compared[0].Outcome = credential.Changed }, "credentials source-changed", "systemctl restart microvm@web.service", ""},
		{"not asked", func(f *Facts) { f.Compared[0].Outcome = credential.NotAsked }, "", "", ""},
		{"source missing", func(f *Facts) {
			f.Sources = diag.List{{Origin: at, Key: "LoadCredential", Value: "KEY:/etc/secrets/key", What: "/etc/secrets/key does not exist"}}
		}, "credentials source-missing", "bring it back", ""},
		{"source missing, idle", func(f *Facts) {
			idle(f)
			f.Sources = diag.List{{Origin: at, Key: "LoadCredential", Value: "KEY:/etc/secrets/key", What: "/etc/secrets/key does not exist"}}
		}, "", "", "does not exist"},
		{"source open", func(f *Facts) { f.Sources = diag.List{{Severity: diag.Warning, Origin: at, Accepted: "chmod 0600 /x"}} }, "credentials source-open", "chmod 0600 /x", ""},
		{"source open, idle", func(f *Facts) {
			idle(f)
			f.Sources = diag.List{{Severity: diag.Warning, Origin: at, Accepted: "chmod 0600 /x"}}
		}, "credentials source-open", "chmod 0600 /x", ""},
		{"a runner without boot", func(f *Facts) {
			f.Plan, f.Run.Record.Channel, f.Run.Record.Credentials, f.Run.Record.Phase = planOf(one, "/usr/local/bin/run-web"), "", nil, state.Started
		}, "credentials delivery-not-recorded", "let /usr/local/bin/run-web end in: exec ampoule boot", ""},
		{"a record of another activation", func(f *Facts) { f.Run.Record.Invocation = "before" }, "credentials delivery-not-recorded", "exec ampoule boot", ""},
		{"a runner that has not come to boot", func(f *Facts) {
			f.Plan, f.Run.Record.Channel, f.Run.Record.Phase = planOf(one, "/usr/local/bin/run-web"), "", state.Booting
		}, "", "", ""},
		{"by hand", func(f *Facts) { idle(f); f.Run = whole().Run; f.Run.Service = false }, "", "", "started by hand"},
	}
}

// TestJudge: each fact that breaks a link breaks that one, with a cure, and
// what breaks nothing is at most a note.
func TestJudge(t *testing.T) {
	for _, c := range slices.Concat(changes(), places(), runs(), wires()) {
		t.Run(c.name, func(t *testing.T) {
			f := whole()
			c.facts(f)
			chain := Judge(f)
			var found []string
			cure := ""
			for _, s := range chain.Links {
				if (s.Grade == Broken) != (len(s.Findings) > 0) || s.Grade == NotObserved && len(s.Evidence) == 0 {
					t.Errorf("%+v", s)
				}
				for _, finding := range s.Findings {
					found = append(found, string(s.Link)+" "+finding.Kind)
					cure = finding.Cure.String()
				}
			}
			if got := strings.Join(found, ", "); got != c.want || !strings.Contains(cure, c.cure) || (cure == "") != (c.cure == "") {
				t.Errorf("%q, cure %q", got, cure)
			}
			if notes := strings.Join(chain.Notes, "\n"); !strings.Contains(notes, c.note) || c.want == "" && (c.note == "") != (notes == "") || len(chain.Notes) > 1 {
				t.Errorf("notes %q", notes)
			}
			if c.want == "" && c.note == "" && c.name == "nothing" && !chain.Whole() {
				t.Errorf("not whole: %+v", chain)
			}
		})
	}
}

// TestEnding: of a VM whose service ends it is not said that it runs as it should.
func TestEnding(t *testing.T) {
	for result, want := range map[string]Grade{"success": NotObserved, "": NotObserved, "signal": Broken, "timeout": Broken, "exit-code": Broken} {
		f := whole()
		f.Unit.ActiveState, f.Unit.SubState, f.Unit.Result = "deactivating", "final-sigterm", result
		if s := Judge(f).Links[2]; s.Link != Running || s.Grade != want {
			t.Errorf("with the result %q: %+v, want %s", result, s, want)
		}
	}
}

// TestUnprivileged: what only root sees is not observed, and never said to be
// whole.
func TestUnprivileged(t *testing.T) {
	f := whole()
	f.Root, f.Run, f.Plan, f.Compared, f.Process = false, nil, nil, nil, nil
	c := Judge(f)
	for _, s := range c.Links {
		if want := s.Link == Declared || s.Link == Loaded; (s.Grade == Whole) != want || s.Grade == Broken {
			t.Errorf("%+v", s)
		}
	}
	if c.Whole() || c.Broken() != "" {
		t.Errorf("%+v", c)
	}
}
