package run

import (
	"context"

	"github.com/ampoule-vm/ampoule/internal/credential"
	"github.com/ampoule-vm/ampoule/internal/credential/rule"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/preflight"
	"github.com/ampoule-vm/ampoule/internal/secret"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// MissingSources names the credentials of a plan whose sources were not there
// when systemd loaded them, those that only [Service] has included. It is for a
// unit with a command of the user's own, which may know nothing of the marker.
func MissingSources(ctx context.Context, o Options) diag.List {
	var problems diag.List
	if err := secret.Harden(false); err != nil {
		problems.Add(diag.Problem{Origin: o.Plan.Origin(""), What: "protecting the process: " + err.Error()})
		return problems
	}
	env := credential.HostEnv(spec.UnitName(o.Plan.VM.Name), o.Getenv("CREDENTIALS_DIRECTORY"))
	env.Service = preflight.Requests(o.Plan, o.Plan.Unit.Credentials)
	env.Marker = rule.MissingMarker
	for _, list := range [][]credential.Request{preflight.Requests(o.Plan, o.Plan.VM.Credentials), env.Service} {
		creds, wrong := credential.Gather(ctx, list, env)
		credential.Wipe(creds)
		problems = append(problems, wrong...)
	}
	problems.Sort()
	return problems
}
