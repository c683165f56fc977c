package verify

import "github.com/ampoule-vm/ampoule/internal/state"

// guest takes its own word, and nobody else's for it. A guest that has said that it
// is about to end breaks nothing: it does what it was asked for.
func (f *Facts) guest(j judge) {
	rec := f.record()
	switch {
	case !f.runs():
		j.unseen(f.Name + " does not run")
	case rec == nil && f.Unit != nil && state.Phase(f.Unit.StatusText) == state.Ready:
		j.saw("ready")
	case rec == nil && !f.Root:
		j.unseen("what it said is for root to see")
	case rec == nil:
		j.unseen("nobody has listened to it")
	case rec.Ready && rec.Phase == state.Ready:
		j.saw("ready", f.heard())
	case rec.Phase == state.Started:
		j.unseen("Readiness= does not look at it")
	default:
		j.unseen(string(rec.Phase))
	}
}

// heard says by what way the guest's word has come.
func (f *Facts) heard() string {
	switch {
	case f.Plan == nil:
		return "what Readiness= waits for has come"
	case f.Plan.VM.Readiness.Mode == "guest":
		return "by its own word over vsock"
	}
	return "its console said what Readiness= waits for"
}
