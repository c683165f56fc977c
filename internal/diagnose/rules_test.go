package diagnose

import (
	"encoding/json"
	"io/fs"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/layer"
	"github.com/ampoule-vm/ampoule/internal/microvmnix"
	"github.com/ampoule-vm/ampoule/internal/nixstore"
	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

const (
	runnerA = "/nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-microvm-qemu-web"
	runnerB = "/nix/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-microvm-qemu-web"
	systemA = "/nix/store/cccccccccccccccccccccccccccccccc-nixos-system-host"
	systemB = "/nix/store/dddddddddddddddddddddddddddddddd-nixos-system-host"
	topA    = "/nix/store/ffffffffffffffffffffffffffffffff-nixos-system-web"
	topB    = "/nix/store/gggggggggggggggggggggggggggggggg-nixos-system-web"
	scriptA = "/nix/store/hhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhh-microvm-web-microvm-run"
	scriptB = "/nix/store/iiiiiiiiiiiiiiiiiiiiiiiiiiiiiiii-microvm-web-microvm-run"
)

// moment is a time, counted in minutes from when the host's system became current.
func moment(minutes int) time.Time {
	return time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC).Add(time.Duration(minutes) * time.Minute)
}

// unitOf makes a unit of one file.
func unitOf(text string) *Unit {
	u := &Unit{Name: "microvm@web.service", Fragment: "/etc/systemd/system/microvm@.service", Files: []UnitFile{{"/etc/systemd/system/microvm@.service", scriptA}}}
	u.Resolved, _ = layer.Resolve([]*unitfile.File{unitfile.Parse(u.Fragment, "main", []byte(text))}, systemdRule)
	return u
}

// scriptOf makes what a runner's script would be read as.
func scriptOf(args ...string) *microvmnix.Script {
	s := &microvmnix.Script{File: runnerA + "/bin/microvm-run", Make: microvmnix.Generated}
	s.Exec = &microvmnix.Exec{Line: 9, Name: "microvm@web", Program: microvmnix.Word{Text: "/nix/store/jjjjjjjjjjjjjjjjjjjjjjjjjjjjjjjj-qemu/bin/qemu-system-x86_64"}}
	for _, a := range args {
		s.Exec.Args = append(s.Exec.Args, microvmnix.Word{Text: a, Line: 9})
	}
	return s
}

func runnerOf(p string, args ...string) *Runner {
	return &Runner{Path: p, Script: scriptA, Runner: &microvmnix.Runner{Dir: p, Hypervisor: "qemu", System: topA, Script: scriptOf(args...)}}
}

func credentialOf(id, source string) *Credential {
	return &Credential{ID: id, Key: "LoadCredential", Source: source, At: Evidence{Path: "/etc/u", Line: 3, What: "LoadCredential=" + id},
		File: &SourceFile{Path: source, Info: nixstore.Info{Mode: 0o400, Modified: moment(-60)}}}
}

// healthy is a host of which nothing is to be said: a declared VM that runs what is
// installed.
func healthy() (*Host, *VM) {
	vm := &VM{
		Name: "web", Dir: "/var/lib/microvms/web", DirInfo: &nixstore.Info{Mode: fs.ModeDir | 0o755},
		Install: &Install{Unit: "/etc/install", Script: "/nix/store/x", Runner: runnerA, RunnerLine: 5, Toplevel: topA},
		Current: Link{Path: "/var/lib/microvms/web/current", There: true, Target: runnerA, Made: moment(0)},
		Booted:  Link{Path: "/var/lib/microvms/web/booted", There: true, Target: runnerA, Made: moment(1)},
		// The word of the process is that of the script.
		Toplevel: topA, Unit: unitOf("[Service]\nX-RestartIfChanged=true\n"), Deployed: runnerOf(runnerA, "-m", "512"), Started: runnerOf(runnerA, "-m", "512"),
		Process: &Process{PID: 7, Args: []string{"microvm@web", "-m", "512"}, Since: moment(1)},
	}
	h := &Host{
		Root: "/", Program: "/bin/ampoule", StateDir: "/var/lib/microvms", System: systemA, Activated: moment(0), Running: true, Booted: systemA, UnitDir: "/etc/systemd/system", ProcessesKnown: true,
		State: &nixstore.Info{Mode: fs.ModeDir | 0o755}, VMs: []*VM{vm},
		Profile: nixstore.Profile{Link: "/nix/var/nix/profiles/system", Number: 2, Target: systemA, Generations: []nixstore.Generation{{Number: 1, Target: systemB}, {Number: 2, Target: systemA}}},
	}
	return h, vm
}

// withCredential has a unit load a credential and the runner read it.
func withCredential(vm *VM) *Credential {
	c := credentialOf("API_KEY", "/run/secrets/key")
	vm.Credentials = []*Credential{c}
	vm.Deployed.Reads = []Read{{File: scriptA, Line: 4, Name: "API_KEY"}}
	vm.Deployed.Runner.Script.Make = microvmnix.Customised
	return c
}

// TestRules: facts, and which causes follow. Each cause has cases in which it is so and
// in which it is nearly so.
func TestRules(t *testing.T) {
	for _, c := range ruleCases() {
		t.Run(c.name, func(t *testing.T) {
			h, vm := healthy()
			c.change(h, vm)
			r := Judge(h, nil)
			var got []string
			for _, f := range r.Findings {
				got = append(got, string(f.Code))
				complete(t, &f)
			}
			slices.Sort(got)
			want := strings.Fields(c.want)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("found %q, not %q", got, want)
			}
		})
	}
}

// complete: a finding says all that a person needs, and its row stands in the manual.
func complete(t *testing.T, f *Finding) {
	t.Helper()
	if f.Title == "" || f.Cause == "" || len(f.Evidence) == 0 || len(f.Cure) == 0 || strings.Contains(f.Title, "\n") {
		t.Errorf("not complete: %+v", f)
	}
	shell := exec.Command("sh", "-n")
	shell.Stdin = strings.NewReader(strings.Join(f.Cure, "\n") + "\n")
	if out, err := shell.CombinedOutput(); err != nil {
		t.Errorf("%s: its cure is no shell: %v\n%s", f.Code, err, out)
	}
	for _, e := range f.Evidence {
		if !strings.HasPrefix(e.Path, "/") || e.What == "" {
			t.Errorf("%s: evidence without a path, or without what is there: %+v", f.Code, e)
		}
	}
}

// TestEveryCodeIsTried: each cause is found by a case, and has a row that is whole.
func TestEveryCodeIsTried(t *testing.T) {
	tried := map[string]bool{}
	for _, c := range ruleCases() {
		for _, code := range strings.Fields(c.want) {
			tried[code] = true
		}
	}
	for _, row := range Codes() {
		if !tried[string(row.Code)] || row.Means == "" || row.Seen == "" || row.Do == "" || row.host == nil && row.vm == nil {
			t.Errorf("%s is not tried, or its row is not whole", row.Code)
		}
	}
}

// TestReport: the order, the names, and the JSON of the table.
func TestReport(t *testing.T) {
	h, vm := healthy()
	vm.Name = "we.b"
	vm.Current.Dangling, h.Stale = true, []Difference{{"kernel", "/a", "/b"}}
	h.VMs = append(h.VMs, &VM{Name: "z", Dir: "/var/lib/microvms/z"})
	r := Judge(h, nil)
	var got []string
	for _, f := range r.Findings {
		got = append(got, f.VM+":"+string(f.Code)+":"+f.Severity.String())
	}
	if want := []string{"we.b:link-dangling:error", "we.b:name-with-dot:warning", ":host-kernel-old:note"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	text, err := json.Marshal(r.VMs)
	want := `[{"name":"we.b","declared":"` + runnerA + `","installed":"` + runnerA + `","booted":"` + runnerA + `","running":{"pid":7,"since":"2026-01-01T12:01:00Z"}},` +
		`{"name":"z","declared":null,"installed":null,"booted":null,"running":false}]`
	if err != nil || string(text) != want {
		t.Errorf("%s, %v", text, err)
	}
	h.ProcessesKnown = false
	if r = Judge(h, []string{"z"}); len(r.VMs) != 1 || r.VMs[0].Running != nil || len(r.Findings) != 1 || r.Findings[0].Severity != diag.Note {
		t.Errorf("%+v", r)
	}
}

// TestCompare: what one VM has and another has not explains what is wrong with it.
func TestCompare(t *testing.T) {
	h, bad := healthy()
	withCredential(bad)
	bad.Deployed.Reads, bad.Deployed.Runner.Script.Make = nil, microvmnix.Generated
	_, good := healthy()
	good.Name = "good"
	withCredential(good)
	c := Compare(h, bad, good)
	if !slices.Equal(c.Findings, []Code{"credentials-unread"}) {
		t.Errorf("%q", c.Findings)
	}
	var explains []string
	for _, f := range c.Facts {
		if len(f.Explains) > 0 {
			explains = append(explains, f.Name)
		}
		if f.Differs != (f.Of != f.Against) {
			t.Errorf("%+v", f)
		}
	}
	if want := []string{"run script", "the runner reads"}; !slices.Equal(explains, want) {
		t.Errorf("%q", explains)
	}
}

// TestShown: an address of a flake is repeated without passwords.
func TestShown(t *testing.T) {
	for ref, want := range map[string]string{
		"git+https://me:hunter2@example.org/a@b?ref=main&token=hunter2&dir=x": "git+https://…@example.org/a@b?ref=main&token=…&dir=x",
		"https://hunter2@example.org":                                         "https://…@example.org", "github:a/b": "github:a/b", "/etc/nixos": "/etc/nixos", "git+file:///a@b": "git+file:///a@b", "": "",
	} {
		if got := shown(ref); got != want {
			t.Errorf("%s: %s", ref, got)
		}
	}
}

// TestEveryCauseIsExplained: each cause of a VM rests on a fact that is compared.
func TestEveryCauseIsExplained(t *testing.T) {
	for _, row := range Codes() {
		if row.vm != nil && !slices.ContainsFunc(compared(), func(f comparedFact) bool { return slices.Contains(f.explains, row.Code) }) {
			t.Errorf("no fact explains %s", row.Code)
		}
	}
}

// TestCureOfATree: of a host whose files lie elsewhere, commands go to these, and what
// only the host can execute is a comment.
func TestCureOfATree(t *testing.T) {
	h, vm := healthy()
	h.Root = "/mnt"
	withCredential(vm).Absent = true
	cure := strings.Join(secretMissing(h, vm).Cure, "\n")
	if !strings.Contains(cure, "install -D -m 0400 /dev/stdin /mnt/run/secrets/key") {
		t.Error(cure)
	}
	cure = strings.Join(startByAmpoule(h, vm), "\n")
	for _, want := range []string{"\ncat > /mnt/run/systemd/system/microvm@web.service.d/50-ampoule.conf <<'END'\n", "\n# on the host itself: systemctl daemon-reload\n", `#   microvm.vms.web.ampoule.credentials.API_KEY.source = "/run/secrets/key";`} {
		if !strings.Contains(cure+"\n", want) {
			t.Errorf("no %q in\n%s", want, cure)
		}
	}
}
