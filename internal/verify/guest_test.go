package verify

import (
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/state"
)

// TestGuest: the guest's own word, by the way on which it was waited for; until it
// comes, and after it was said to end, nothing is broken.
func TestGuest(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Facts)
		grade  Grade
		want   string
	}{
		"console":      {func(f *Facts) { f.Plan.VM.Readiness.Mode = "console" }, Whole, "ready, its console said what Readiness= waits for"},
		"vsock":        {func(f *Facts) { f.Plan.VM.Readiness.Mode = "guest" }, Whole, "ready, by its own word over vsock"},
		"plan unknown": {func(f *Facts) { f.Plan = nil }, Whole, "ready, what Readiness= waits for has come"},
		"booting":      {func(f *Facts) { f.Run.Record.Phase, f.Run.Record.Ready = state.Booting, false }, NotObserved, "booting"},
		"rebooting":    {func(f *Facts) { f.Run.Record.Phase = state.Rebooting }, NotObserved, "rebooting"},
		"powering off": {func(f *Facts) { f.Run.Record.Phase = state.PoweringOff }, NotObserved, "powering off"},
		"started": {func(f *Facts) {
			f.Run.Record.Phase, f.Plan.VM.Readiness = state.Started, plan.Readiness{Mode: "started"}
		}, NotObserved, "Readiness= does not look at it"},
	} {
		f := whole()
		c.change(f)
		for _, s := range Judge(f).Links {
			if s.Link != Guest {
				continue
			}
			if got := strings.Join(s.Evidence, "; "); s.Grade != c.grade || got != c.want || len(s.Findings) > 0 {
				t.Errorf("%s: %s, %s, %v", name, s.Grade, got, s.Findings)
			}
		}
	}
}
