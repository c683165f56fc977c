package run

import (
	"fmt"
	"slices"

	"github.com/ampoule-vm/ampoule/internal/credential"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/secret"
)

// moment is what Ampoule itself gives a guest and knows only at its start.
type moment struct {
	// notify is where the guest's service manager is to say how it goes; empty
	// where nobody listens.
	notify string
	// sshKey is the public half of the key of ampoule ssh; empty where there is none.
	sshKey string
}

// room is as much of it as there can be.
func room() moment { return moment{notify: plan.NotifyRoom, sshKey: keyRoom()} }

// withGiven adds to the user's credentials those that Ampoule itself gives, and
// returns how many of them there are, behind the others, for wipeGiven. None is a
// secret; but they travel with those that are.
//
// A VM with nothing but the address of its service manager's listener has no
// channel; then that stands on the kernel's command line.
func withGiven(p *plan.Plan, creds []credential.Credential, m moment) (all []credential.Credential, given int, err error) {
	all = slices.Clone(creds)
	add := func(name, value, from string) {
		var v *secret.Value
		if err == nil {
			v, err = secret.FromBytes([]byte(value))
		}
		if err == nil {
			given++
			all = append(all, credential.Credential{
				Guest: name, Host: name, Value: v, Origin: p.Origin(from), Key: plan.KeyOf(from), Shown: diag.Elided, Source: bySelf,
			})
		}
	}
	for _, g := range p.VM.Given {
		value := g.Value
		if g.Ask == plan.AskSSHKey {
			value = m.sshKey
		}
		add(g.Name, value, g.From)
	}
	if p.VM.VSock != nil && len(all) > 0 {
		// One that an import has brought along would be in its way.
		all = slices.DeleteFunc(all, func(c credential.Credential) bool { return c.Guest == plan.NotifyCredential })
		add(plan.NotifyCredential, m.notify, "VSockCID")
	}
	if err != nil {
		wipeGiven(all, given)
		return nil, 0, fmt.Errorf("holding what Ampoule itself gives the guest: %w", err)
	}
	return all, given, nil
}

// bySelf is the source of what Ampoule itself gives.
const bySelf = "Ampoule"

// wipeGiven gives back what withGiven has added.
func wipeGiven(all []credential.Credential, given int) { credential.Wipe(all[len(all)-given:]) }

// refuseImported refuses credentials that an import has brought along under the
// name of one that Ampoule itself gives; names in files are known before.
func refuseImported(p *plan.Plan, creds []credential.Credential) (problems diag.List) {
	for _, g := range p.VM.Given {
		for _, c := range creds {
			if c.Guest == g.Name {
				problems.Errorf(c.Origin, c.Key, c.Shown, "import the others alone, or remove "+plan.KeyOf(g.From)+"=",
					"it brings along %s (%s), which with %s= (%s) Ampoule itself gives the guest", c.Guest, c.Source, plan.KeyOf(g.From), p.Origin(g.From))
			}
		}
	}
	return problems
}

// notifyWords are those of the kernel's command line for a VM without credentials.
func notifyWords(a answers) []string {
	if a.notify == "" || len(a.credentials) > 0 {
		return nil
	}
	return []string{plan.NotifyParameter + a.notify}
}
