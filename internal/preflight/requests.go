package preflight

import (
	"strings"

	"github.com/ampoule-vm/ampoule/internal/credential"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/plan"
)

// Requests turns the plan's credentials into requests. What is shown in
// messages holds no value.
func Requests(p *plan.Plan, creds []plan.Credential) []credential.Request {
	var out []credential.Request
	for _, c := range creds {
		key := strings.TrimPrefix(plan.KeyOf(c.From), "Service.")
		r := credential.Request{
			Kind: credential.Kind(c.Kind), ID: c.ID, Guest: c.Guest, Path: c.Path, Value: c.Value,
			Origin: p.Origin(c.From), Key: key, Shown: c.ID,
		}
		switch r.Kind {
		case credential.Load, credential.LoadEncrypted:
			if c.Path != c.ID {
				r.Shown += ":" + c.Path
			}
		case credential.Set, credential.SetEncrypted:
			r.Shown += ":" + diag.Elided
		case credential.Pass:
			if c.Guest != c.ID {
				r.Shown = c.Guest + ":" + c.ID
			}
		case credential.Import:
			if c.Guest != "" {
				r.Shown += ":" + c.Guest
			}
		}
		out = append(out, r)
	}
	return out
}
