package apply

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/driver/all"
	"github.com/ampoule-vm/ampoule/internal/generator"
	"github.com/ampoule-vm/ampoule/internal/inventory"
	"github.com/ampoule-vm/ampoule/internal/pipeline"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/source"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// vm is one in a world: what its files say, what systemd holds, and what runs.
// Each is a text of [MicroVM]; "" is nothing.
type vm struct {
	files, loaded, runs     string
	masked, kept, broken    bool // of the files; kept: the loaded unit is that of a running VM
	wanted, started, failed bool
	byHand                  bool
}

// world is a host without the host.
type world struct {
	t   *testing.T
	mu  sync.Mutex
	vms map[string]*vm
	// effects are those of this apply; it is killed behind number kill.
	effects []string
	kill    int
	cancel  context.CancelFunc
	refuse  string // the unit whose jobs fail
}

func planOf(t *testing.T, name, text string) *plan.Plan {
	t.Helper()
	if text == "" {
		return nil
	}
	root := t.TempDir()
	dir := filepath.Join(root, "etc/ampoule")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".microvm"), []byte("[MicroVM]\nKernel=/k\n"+text+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	res := pipeline.Load(pipeline.Input{Argument: name, Root: root, Dirs: source.SearchPath(), Drivers: all.Drivers()})
	if res.Plan == nil {
		t.Fatal(res.Problems)
	}
	return res.Plan
}

// facts are what Look would see.
func (w *world) facts() []*Facts {
	var out []*Facts
	for _, name := range slices.Sorted(maps.Keys(w.vms)) {
		v := w.vms[name]
		f := &Facts{Name: name, Linked: true, Managed: true, Version: 252, Masked: v.masked, Fresh: !v.started}
		up := v.runs != "" && !v.byHand
		switch {
		case v.broken && up:
			f.Made, f.Problems = generator.Kept, diag.List{{What: "a mistake"}}
		case v.broken:
			f.Made, f.Problems = generator.Failing, diag.List{{What: "a mistake"}}
		case v.masked && up, v.files == "" && up:
			f.Made, f.Text = generator.Gone, []byte("kept "+v.loaded)
		case v.masked:
			f.Made, f.Text = generator.Masked, []byte("/dev/null")
		case v.files != "":
			f.Made, f.Text, f.Declared = generator.Made, []byte("unit "+v.files), planOf(w.t, name, v.files)
			if v.wanted {
				f.Wanted = "multi-user.target"
			}
		}
		switch {
		case v.loaded == "/dev/null":
			f.LoadedText = []byte("/dev/null")
		case v.loaded != "":
			f.LoadedText, f.Loaded, f.Ours = []byte("unit "+v.loaded), planOf(w.t, name, v.loaded), true
			if v.kept {
				f.LoadedText = []byte("kept " + v.loaded)
			}
		}
		if v.runs != "" || v.loaded != "" {
			st := &inventory.Status{VM: inventory.VM{Name: name, Unit: spec.UnitName(name), ActiveState: "inactive"}}
			if v.failed {
				st.ActiveState = "failed"
			}
			if v.runs != "" {
				p := planOf(w.t, name, v.runs)
				st.Running, st.ByHand, st.ActiveState = true, v.byHand, "active"
				st.Contents.Runs, st.Plans.Runs = p, p.Digest
			}
			f.Status = st
		}
		out = append(out, f)
	}
	return out
}

func (w *world) steps() []Step {
	var out []Step
	for _, f := range w.facts() {
		out = append(out, Judge(f))
	}
	return out
}

// happens notes an effect, and kills apply behind it if its time has come: the
// effect is systemd's and is not undone.
func (w *world) happens(what string) {
	w.effects = append(w.effects, what)
	if len(w.effects) == w.kill {
		w.cancel()
	}
}

func (w *world) Reload(context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, v := range w.vms {
		up := v.runs != "" && !v.byHand
		switch {
		case v.broken:
			v.kept = up
		case (v.masked || v.files == "") && up:
			v.kept = true
		case v.masked:
			v.loaded, v.kept = "/dev/null", false
		default:
			v.loaded, v.kept = v.files, false
		}
	}
	w.happens("reload")
	return nil
}

func (w *world) job(what, unit string, do func(v *vm)) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	name := strings.TrimSuffix(strings.TrimPrefix(unit, "microvm@"), ".service")
	if name == w.refuse {
		w.vms[name].failed, w.vms[name].runs = true, ""
		w.happens(what + " " + name + " fails")
		return "failed", nil
	}
	do(w.vms[name])
	w.happens(what + " " + name)
	return "done", nil
}

func (w *world) Start(_ context.Context, unit string) (string, error) {
	return w.job("start", unit, func(v *vm) { v.runs, v.started, v.failed = v.loaded, true, false })
}

func (w *world) Restart(_ context.Context, unit string) (string, error) {
	return w.job("restart", unit, func(v *vm) { v.runs = v.loaded })
}

func (w *world) Stop(_ context.Context, unit string) (string, error) {
	return w.job("stop", unit, func(v *vm) { v.runs = "" })
}

// apply does all, or is killed behind so many effects; 0: not at all.
func (w *world) apply(kill, parallel int) []Outcome {
	ctx, cancel := context.WithCancel(w.t.Context())
	defer cancel()
	w.effects, w.kill, w.cancel = nil, kill, cancel
	return Do(ctx, w.steps(), Options{Systemd: w, Parallel: parallel})
}

// state is what the world has come to.
func (w *world) state() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(w.vms)) {
		fmt.Fprintf(&b, "%s: %+v\n", name, *w.vms[name])
	}
	return b.String()
}

const one, two = "Memory=256M", "Memory=512M"

func newWorld(t *testing.T) *world {
	return &world{t: t, vms: map[string]*vm{
		"same":     {files: one, loaded: one, runs: one, wanted: true, started: true},
		"changed":  {files: two, loaded: one, runs: one, started: true},
		"loaded":   {files: two, loaded: two, runs: one, started: true}, // somebody has reloaded
		"kept":     {files: two + "\nRestartIfChanged=no", loaded: one, runs: one, started: true},
		"new":      {files: one, wanted: true},
		"unwanted": {files: one},
		"stopped":  {files: two, loaded: one, wanted: true, started: true},
		"failed":   {files: two, loaded: one, wanted: true, started: true, failed: true},
		"gone":     {loaded: one, runs: one, started: true},
		"gone-too": {loaded: one, runs: one, started: true, kept: true}, // and so it was at the last reload
		"rest":     {loaded: one},
		"masked":   {files: one, masked: true, loaded: one, runs: one, started: true, kept: true},
		"broken":   {files: two, broken: true, loaded: one, runs: one, started: true},
		"unborn":   {files: two, broken: true},
		"hand":     {files: two, loaded: two, runs: one, byHand: true},
	}}
}

// TestJudge: what is done about each, and about those that are not touched why.
func TestJudge(t *testing.T) {
	want := map[string]string{
		"same": "nothing", "changed": "restart+reload: changed: Memory", "loaded": "restart: changed: Memory",
		"kept": "leave+reload (restart-off): changed: Memory; RestartIfChanged=no (/etc/ampoule/kept.microvm:4)",
		"new":  "start+reload: multi-user.target wants it", "unwanted": "reload+reload: no unit that is active wants it", "stopped": "reload+reload: was stopped",
		"failed": "start+reload: failed, and multi-user.target wants it", "gone": "stop+reload: no file declares it any more", "gone-too": "stop+reload: no file declares it any more",
		"rest": "reload+reload: no file declares it any more", "masked": "stop+reload: masked: its file is a link to /dev/null",
		"broken": "leave (mistakes): its files have mistakes; it runs on as it was", "unborn": "leave (mistakes): its files have mistakes",
		"hand": "leave (by-hand): runs by hand with another plan, and is not touched; to end it: ampoule stop hand",
	}
	for _, s := range newWorld(t).steps() {
		got := string(s.Action)
		if s.Reload {
			got += "+reload"
		}
		if s.Kind != "" {
			got += " (" + s.Kind + ")"
		}
		if s.Why != "" {
			got += ": " + s.Why
		}
		if got != want[s.Name] {
			t.Errorf("%s: %s\nwant %s", s.Name, got, want[s.Name])
		}
		if s.Differs() != (s.Name != "same") {
			t.Errorf("%s differs: %v", s.Name, s.Differs())
		}
	}
}

// TestJudgeOthers: units that are not ours to touch.
func TestJudgeOthers(t *testing.T) {
	base := func() *Facts {
		return (&world{t: t, vms: map[string]*vm{"web": {files: two, loaded: one, runs: one, wanted: true, started: true}}}).facts()[0]
	}
	for name, c := range map[string]struct {
		change func(f *Facts)
		want   Action
		kind   string
	}{
		"hidden":             {func(f *Facts) { f.Made = generator.Hidden }, Leave, Hidden},
		"another unit":       {func(f *Facts) { f.Status.Unit = "mine.service" }, Leave, OtherUnit},
		"masked by systemd":  {func(f *Facts) { f.Status.LoadState = "masked" }, Stop, ""},
		"starts by hand":     {func(f *Facts) { f.Status.ActiveState, f.Status.Contents.Runs = "inactive", nil }, Leave, ByHand},
		"is being stopped":   {func(f *Facts) { f.Status.ActiveState, f.Status.Job = "deactivating", "stop" }, Reload, ""},
		"powers off":         {func(f *Facts) { f.Status.ActiveState = "deactivating" }, Reload, ""},
		"is being restarted": {func(f *Facts) { f.Status.ActiveState, f.Status.Job = "deactivating", "restart" }, Restart, ""},
		"plan not known":     {func(f *Facts) { f.Status.Contents.Runs = nil }, Restart, ""},
		"plan known by its digest alone": {func(f *Facts) {
			f.Status.Contents.Runs, f.Status.Plans.Runs = nil, plan.Digest{VM: f.Declared.Digest.VM}
		}, Reload, ""},
		"nothing known, loaded differs": {func(f *Facts) { f.Status.Contents.Runs, f.Status.Plans.Runs = nil, plan.Digest{} }, Restart, ""},
		"not ours":                      {func(f *Facts) { f.Made, f.Ours, f.LoadedText = "", false, nil }, Nothing, ""},
		"no systemd":                    {func(f *Facts) { f.Managed, f.Status = false, nil }, Reload, ""},
		"words alone": {func(f *Facts) {
			f.Declared = f.Loaded
		}, Reload, ""},
		"a drop-in of systemd's": {func(f *Facts) {
			f.Declared, f.Text, f.Status.ReloadDue = f.Loaded, f.LoadedText, true
		}, Reload, ""},
		"links": {func(f *Facts) { f.Declared, f.Text, f.Linked = f.Loaded, f.LoadedText, false }, Reload, ""},
	} {
		f := base()
		c.change(f)
		if s := Judge(f); s.Action != c.want || s.Kind != c.kind {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

// TestResources: what a daemon-reload has brought is no difference, where it does
// bring it.
func TestResources(t *testing.T) {
	text := func(quota string) string { return one + "\n[Service]\nCPUQuota=" + quota }
	for version, want := range map[int]Action{252: Nothing, 257: Restart} {
		w := &world{t: t, vms: map[string]*vm{"web": {files: text("60%"), loaded: text("60%"), runs: text("50%"), started: true}}}
		f := w.facts()[0]
		f.Version = version
		if s := Judge(f); s.Action != want || s.Differs() != (want != Nothing) {
			t.Errorf("%d: %+v", version, s)
		}
		w.vms["web"].loaded = text("50%")
		f = w.facts()[0]
		f.Version = version
		if s := Judge(f); !s.Reload || len(s.Changes) != 1 {
			t.Errorf("%d, not loaded: %+v", version, s)
		}
	}
}

// TestConverge: killed behind any of its effects and begun again, it comes to the
// same; and then there is nothing to do.
func TestConverge(t *testing.T) {
	for _, parallel := range []int{1, 4} {
		whole := newWorld(t)
		for _, out := range whole.apply(0, parallel) {
			if out.Failed() {
				t.Errorf("%+v", out)
			}
		}
		n := len(whole.effects)
		if want := 3 + 1 + 4; n != want {
			t.Fatalf("%d effects, want %d: %q", n, want, whole.effects)
		}
		for kill := 1; kill <= n; kill++ {
			w := newWorld(t)
			before := w.apply(kill, parallel)
			if kill < n && !slices.ContainsFunc(before, func(o Outcome) bool { return errors.Is(o.Err, ErrInterrupted) }) && parallel == 1 {
				t.Errorf("killed behind %q, it has done all: %+v", w.effects, before)
			}
			done := slices.Clone(w.effects)
			w.apply(0, parallel)
			if got, want := w.state(), whole.state(); got != want {
				t.Errorf("killed behind %q:\n%swant\n%s", done, got, want)
			}
			w.apply(0, parallel)
			if len(w.effects) > 0 {
				t.Errorf("killed behind %q: the third time it does %q", done, w.effects)
			}
		}
		whole.apply(0, parallel)
		if len(whole.effects) > 0 {
			t.Errorf("the second time it does %q", whole.effects)
		}
	}
}

// TestOrder: what is not to run is stopped by the unit that it was started with.
func TestOrder(t *testing.T) {
	w := newWorld(t)
	w.apply(0, 1)
	order := strings.Join(w.effects, ", ")
	if want := "stop gone, stop gone-too, stop masked, reload, restart changed, start failed, restart loaded, start new"; order != want {
		t.Errorf("%s, want %s", order, want)
	}
}

// TestFails: one that fails keeps no other from its turn, and is told.
func TestFails(t *testing.T) {
	w := newWorld(t)
	w.refuse = "changed"
	failed := 0
	for _, out := range w.apply(0, 2) {
		if out.Failed() {
			failed++
			if out.Name != "changed" || out.Result != "failed" {
				t.Errorf("%+v", out)
			}
		}
	}
	if failed != 1 || len(w.effects) != 8 || w.vms["new"].runs == "" {
		t.Errorf("%d fail: %q", failed, w.effects)
	}
}

// noReload is a systemd that does not reload.
type noReload struct{ *world }

func (noReload) Reload(context.Context) error { return errors.New("no") }

// TestNoReload: nothing is started from units of before.
func TestNoReload(t *testing.T) {
	w := newWorld(t)
	_, w.cancel = context.WithCancel(t.Context())
	defer w.cancel()
	out := Do(t.Context(), w.steps(), Options{Systemd: noReload{w}, Parallel: 1})
	if len(w.effects) != 3 || out[len(out)-1].Action != Reload || !out[len(out)-1].Failed() {
		t.Errorf("%q, %+v", w.effects, out)
	}
}
