package run

import (
	"context"
	"io/fs"
	"os"
	"os/exec"
	"time"

	"github.com/ampoule-vm/ampoule/internal/credential"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/preflight"
)

// Check judges a plan on this host as Run would, and starts nothing. Sockets
// and FIFOs are not read, since reading them has effects. It also asks the
// hypervisor for its version, for which a start has no time.
func Check(ctx context.Context, o Options) diag.List {
	r := &runner{Options: o, dirs: FindDirectories(o.Plan.VM.Name, o.Getenv)}
	answers, problems := preflight.Judge(o.Plan, o.Host, r.dirs.State)
	r.withoutEffects(&problems)
	creds, wrong := r.gather(ctx)
	defer credential.Wipe(creds)
	problems = append(problems, wrong...)
	if !wrong.HasErrors() {
		_, _, wrong = choose(r.Plan, creds)
		problems = append(problems, wrong...)
	}
	for _, c := range o.Plan.VM.Credentials {
		if c.Kind == string(credential.Set) {
			problems.Add(diag.Problem{
				Origin: o.Plan.Origin(c.From), Severity: diag.Note, Key: "SetCredential", Value: c.ID + ":" + diag.Elided,
				What: "the value is not secret: it stands in the unit and in the plan, and every user can read it",
			})
		}
	}
	if answers.Binary != "" && !problems.HasErrors() {
		r.probe(ctx, answers.Binary, &problems)
	}
	problems.Sort()
	return problems
}

// withoutEffects drops the credentials that cannot be read without an effect.
func (r *runner) withoutEffects(problems *diag.List) {
	p := *r.Plan
	p.VM.Credentials = nil
	for _, c := range r.Plan.VM.Credentials {
		info, err := os.Stat(c.Path)
		if c.Path != "" && err == nil && info.Mode()&(fs.ModeSocket|fs.ModeNamedPipe) != 0 && r.Getenv("CREDENTIALS_DIRECTORY") == "" {
			problems.Add(diag.Problem{
				Origin: r.Plan.Origin(c.From), Severity: diag.Note, Key: "LoadCredential", Value: c.ID + ":" + c.Path,
				What: "not read, since reading a socket or FIFO has effects",
			})
			continue
		}
		p.VM.Credentials = append(p.VM.Credentials, c)
	}
	r.Plan = &p
}

// probe asks the hypervisor for its version.
func (r *runner) probe(ctx context.Context, binary string, problems *diag.List) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	args, read := r.Driver.Probe()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = []string{}
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
