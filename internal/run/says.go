package run

import (
	"fmt"

	"github.com/ampoule-vm/ampoule/internal/state"
)

// hears receives when the guest's service manager has said something; nil where
// nobody listens.
func (g *guest) hears() <-chan struct{} {
	if g.links.relay == nil {
		return nil
	}
	return g.links.relay.Changed()
}

// listen acts on what it said. It has no say in anything but readiness, status and
// exit status.
func (g *guest) listen() {
	m := g.links.relay.Take()
	// First what it has come to: "Ready." is its status then, and ours too.
	if m.Ready && g.Plan.VM.Readiness.Mode == "guest" {
		g.report.phase(state.Ready)
	}
	if m.Status != nil && *m.Status != "" {
		g.report.says(*m.Status)
	}
	if m.ExitStatus != nil {
		g.exitStatus = m.ExitStatus
	}
}

// forget drops what the boot that ended has said.
func (g *guest) forget() {
	g.exitStatus = nil
	if g.links.relay != nil {
		g.links.relay.Forget()
	}
}

// ended is the outcome of a guest that ended in order, with the exit status that
// it asked for.
func (g *guest) ended(text string) Outcome {
	if g.links.relay != nil {
		_ = g.links.relay.Drain() // what it said last may still be on its way
		g.listen()
	}
	out := Outcome{Code: ExitPoweredOff, Text: text}
	if g.exitStatus == nil || *g.exitStatus == 0 {
		return out
	}
	g.record.ExitStatus = *g.exitStatus
	g.report.started(g.record)
	out.Code = *g.exitStatus
	out.Text += fmt.Sprintf(" with exit status %d", out.Code)
	switch out.Code {
	case ExitBadInput, ExitCollision, ExitPanic, ExitHypervisor, ExitKilled:
		out.Code = ExitCollision
	}
	return out
}
