package run

import (
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/ampoule-vm/ampoule/internal/credential"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/netdev"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/preflight"
	"github.com/ampoule-vm/ampoule/internal/state"
)

// Check judges a plan on this host as Run would, and starts nothing. Sockets
// and FIFOs are not read, since reading them has effects. It also asks the
// hypervisor for its version, for which a start has no time.
func Check(ctx context.Context, o Options) diag.List {
	r := &runner{Options: o, dirs: state.FindDirectories(o.Plan.VM.Name, o.Getenv), checking: true}
	r.voice = newVoice(o.Messages)
	defer r.voice.close()
	var notes diag.List
	r.withoutEffects(&notes)
	s, problems := r.prepare(ctx)
	s.wipe()
	problems = append(problems, notes...)
	problems = append(problems, r.checkNetworks()...)
	for _, c := range o.Plan.VM.Credentials {
		if c.Kind == string(credential.Set) {
			problems.Add(diag.Problem{
				Origin: o.Plan.Origin(c.From), Severity: diag.Note, Key: "SetCredential", Value: c.ID + ":" + diag.Elided,
				What: "the value is not secret: it stands in the unit and in the plan, and every user can read it",
			})
		}
	}
	if s.Binary != "" && !problems.HasErrors() {
		r.probe(ctx, s.Binary, &problems)
	}
	problems.Sort()
	return problems
}

// withoutEffects drops the credentials that cannot be read without an effect.
func (r *runner) withoutEffects(problems *diag.List) {
	if r.Getenv("CREDENTIALS_DIRECTORY") != "" {
		return // systemd has read them
	}
	p := *r.Plan
	p.VM.Credentials = nil
	for _, c := range r.Plan.VM.Credentials {
		if path := r.readFrom(c); !hasEffects(path) {
			p.VM.Credentials = append(p.VM.Credentials, c)
			continue
		}
		request := preflight.Requests(r.Plan, []plan.Credential{c})[0]
		problems.Add(diag.Problem{
			Origin: request.Origin, Severity: diag.Note, Key: request.Key, Value: request.Shown,
			What: "not read, since reading a socket or FIFO has effects",
		})
	}
	r.Plan = &p
}

// readFrom is the source of a credential; of one that [Service] loads, the
// source there.
func (r *runner) readFrom(c plan.Credential) string {
	if c.Kind != string(credential.Pass) {
		return c.Path
	}
	for _, s := range r.Plan.Unit.Credentials {
		if s.ID == c.ID && s.Path != "" {
			return s.Path
		}
	}
	return ""
}

func hasEffects(path string) bool {
	if !filepath.IsAbs(path) {
		return false // the name of one in a store, where only files count
	}
	info, err := os.Stat(path)
	return err == nil && info.Mode()&(fs.ModeSocket|fs.ModeNamedPipe) != 0
}

// probe asks the hypervisor for its version.
func (r *runner) probe(ctx context.Context, binary string, problems *diag.List) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	args, read := r.Driver.Probe()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = []string{}
	cmd.WaitDelay = time.Second
	at := diag.Problem{Origin: r.Plan.Origin("HypervisorPath"), Key: "HypervisorPath", Value: binary}
	output, err := cmd.Output()
	if err != nil {
		at.What = "the hypervisor does not tell its version: " + err.Error()
		problems.Add(at)
		return
	}
	_, warning, err := read(string(output))
	switch {
	case err != nil:
		at.What = err.Error()
		problems.Add(at)
	case warning != "":
		at.Severity, at.What = diag.Warning, warning
		problems.Add(at)
	}
}

// checkNetworks judges the interfaces of the plan by those that this host has now.
// What a hook of the unit's may make in time is no mistake.
func (r *runner) checkNetworks() diag.List {
	var problems diag.List
	if !slices.ContainsFunc(r.Plan.VM.Networks, func(n plan.Network) bool { return n.Made() }) {
		return nil
	}
	err := netdev.In("", func(l *netdev.Links) error {
		problems = preflight.Networks(r.Plan, l)
		return nil
	})
	if err != nil {
		problems.Add(diag.Problem{Origin: r.Plan.Origin(plan.Whole), Severity: diag.Warning, What: err.Error()})
	}
	if _, err := os.Stat(netdev.TunDevice); err != nil {
		for _, n := range r.Plan.VM.Networks {
			if n.Kind == plan.Tap {
				problems.Add(preflight.NetworkProblem(r.Plan, &n, "modprobe tun; in a container, let it have the device", err.Error()))
			}
		}
	}
	if slices.ContainsFunc(r.Plan.Unit.Service, func(a plan.Assignment) bool { return a.Key == "ExecStartPre" && a.Value != "" }) {
		for i := range problems {
			problems[i].Severity = diag.Warning
		}
	}
	return problems
}
