package run

import (
	"fmt"
	"slices"

	"github.com/ampoule-vm/ampoule/internal/credential"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/secret"
	"github.com/ampoule-vm/ampoule/internal/state"
)

// withNotify adds the credential by which the guest's systemd learns where it can
// say how it goes (systemd(1), vmm.notify_socket). A VM without others has no
// channel; then it stands on the kernel's command line, for it is not secret.
func withNotify(p *plan.Plan, creds []credential.Credential, address string) ([]credential.Credential, error) {
	if p.VM.VSock == nil || len(creds) == 0 {
		return creds, nil
	}
	value, err := secret.FromBytes([]byte(address))
	if err != nil {
		return nil, err
	}
	// One that an import has brought along would be in its way.
	others := slices.DeleteFunc(slices.Clone(creds), func(c credential.Credential) bool { return c.Guest == plan.NotifyCredential })
	return append(others, credential.Credential{
		Guest: plan.NotifyCredential, Host: plan.NotifyCredential, Value: value, Origin: p.Origin("VSockCID"), Key: "VSockCID", Shown: plan.NotifyCredential,
	}), nil
}

// wipeNotify gives back what withNotify has added.
func wipeNotify(creds []credential.Credential) {
	if n := len(creds); n > 0 && creds[n-1].Key == "VSockCID" {
		credential.Wipe(creds[n-1:])
	}
}

// notifyWords are those of the kernel's command line for a VM without credentials.
func notifyWords(a answers) []string {
	if a.notify == "" || len(a.credentials) > 0 {
		return nil
	}
	return []string{plan.NotifyParameter + a.notify}
}

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
