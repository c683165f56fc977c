package run

import (
	"errors"
	"fmt"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/credential"
	"github.com/ampoule-vm/ampoule/internal/credential/rule"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// refusal says why a channel does not carry the credentials: the one at fault,
// or -1 for all of them together.
type refusal struct {
	index int
	why   string
	// key is the assignment at fault where no credential is, and cure what
	// would help.
	key, cure string
}

// choose takes the first channel that every credential fits. Without
// credentials none is needed. Where none fits, each credential at fault is
// reported with the reason of each channel: nothing is ever cut or left out.
// images tells of an initial RAM disk whether it can be a channel.
func choose(p *plan.Plan, creds []credential.Credential, images func(*plan.Channel) *refusal) (channel *plan.Channel, why string, problems diag.List) {
	if len(creds) == 0 {
		return nil, "", nil
	}
	if len(p.VM.Channels) == 0 {
		problems.Add(diag.Problem{
			Origin: creds[0].Origin, Key: creds[0].Key, Value: creds[0].Shown,
			What: "the plan has no channel that takes credentials into the guest",
		})
		return nil, "", problems
	}
	refused := make([][]refusal, len(p.VM.Channels))
	for i := range p.VM.Channels {
		c := &p.VM.Channels[i]
		refused[i] = judge(c, creds, images)
		if len(refused[i]) == 0 {
			return c, explainChoice(p.VM.Channels[:i], refused, creds), nil
		}
	}
	// What no single credential is to blame for stands at the line that is, if
	// that line leaves no other channel, or with the credentials at fault.
	var together []string
	for i, c := range p.VM.Channels {
		for _, r := range refused[i] {
			switch {
			case r.index >= 0:
			case r.key != "" && len(p.VM.Channels) == 1:
				problems.Errorf(p.Origin(r.key), r.key, keyValue(p, r.key), r.cure, "%s", r.why)
				return nil, "", problems
			case r.cure != "":
				together = append(together, fmt.Sprintf("%s: %s (%s)", c.Name, r.why, r.cure))
			default:
				together = append(together, c.Name+": "+r.why)
			}
		}
	}
	for n, cred := range creds {
		var reasons []string
		for i, c := range p.VM.Channels {
			for _, r := range refused[i] {
				if r.index == n {
					reasons = append(reasons, c.Name+": "+r.why)
				}
			}
		}
		if len(reasons) > 0 {
			problems.Add(report(p, cred, append(reasons, together...)))
		}
	}
	if len(problems) == 0 {
		problems.Add(report(p, creds[0], together))
	}
	return nil, "", problems
}

// keyValue is what to show of the assignment that a refusal blames.
func keyValue(p *plan.Plan, key string) string {
	switch key {
	case "Initrd":
		return p.VM.Initrd
	case "Memory":
		return spec.FormatSize(p.VM.Memory)
	}
	return p.VM.Channels[0].Name
}

func report(p *plan.Plan, cred credential.Credential, reasons []string) diag.Problem {
	var limits []string
	for _, c := range p.VM.Channels {
		if c.Why != "" && c.Refused == "" {
			limits = append(limits, c.Why)
		}
	}
	what := "does not fit the credential channel"
	if len(p.VM.Channels) > 1 {
		what = "fits none of the credential channels"
	}
	if cred.Source == bySelf {
		what = "the credential " + cred.Guest + ", which Ampoule gives the guest for it, " + what
	}
	return diag.Problem{
		Origin: cred.Origin, Key: cred.Key, Value: cred.Shown,
		What: fmt.Sprintf("%s: %s", what, strings.Join(reasons, "; ")), Accepted: strings.Join(limits, "; "),
	}
}

func explainChoice(passed []plan.Channel, refused [][]refusal, creds []credential.Credential) string {
	if len(passed) == 0 {
		return "the first that the machine has, and all credentials fit"
	}
	var reasons []string
	for i, c := range passed {
		r := refused[i][0]
		subject := "all credentials together"
		if r.index >= 0 {
			subject = creds[r.index].Guest
		}
		reasons = append(reasons, fmt.Sprintf("%s does not carry %s: %s", c.Name, subject, r.why))
	}
	return strings.Join(reasons, "; ")
}

// judge checks every limit of one channel.
func judge(c *plan.Channel, creds []credential.Credential, images func(*plan.Channel) *refusal) []refusal {
	if c.Refused != "" {
		return []refusal{{index: -1, why: c.Refused, cure: c.Cure, key: "CredentialChannel"}}
	}
	if c.Encoding == plan.CPIO {
		if r := images(c); r != nil {
			return []refusal{*r}
		}
	}
	var out []refusal
	for i, cred := range creds {
		if c.MaxName > 0 && len(cred.Guest) > c.MaxName {
			out = append(out, refusal{index: i, why: fmt.Sprintf("the name has %d bytes, at most %d are possible", len(cred.Guest), c.MaxName)})
		}
		if c.RefuseInName != "" && strings.ContainsAny(cred.Guest, c.RefuseInName) {
			out = append(out, refusal{index: i, why: fmt.Sprintf("a name cannot have %q in it", c.RefuseInName)})
		}
		if c.Encoding == plan.SMBIOS || c.Encoding == plan.OEMStrings {
			if size := rule.SMBIOSSize(len(cred.Guest), cred.Value.Len()) + rule.SMBIOSHeader + 1; size > c.MaxStructure {
				out = append(out, refusal{index: i, why: fmt.Sprintf("%d bytes and a name of %d become %d, at most %d are possible in a structure",
					cred.Value.Len(), len(cred.Guest), size, c.MaxStructure)})
			}
		}
	}
	if c.MaxCount > 0 && len(creds) > c.MaxCount {
		out = append(out, refusal{index: -1, why: fmt.Sprintf("%d credentials, at most %d are possible", len(creds), c.MaxCount)})
	}
	if len(out) > 0 {
		return out
	}
	if why := together(c, creds); why != "" {
		out = append(out, refusal{index: -1, why: why})
	}
	return out
}

// together says why credentials that each fit a structure do not fit together.
func together(c *plan.Channel, creds []credential.Credential) string {
	items := credential.Items(creds)
	switch c.Encoding {
	case plan.SMBIOS:
		layout, err := rule.LayoutSMBIOS(items, c.MaxStructure)
		switch {
		case err != nil:
			return flatten(err)
		case layout.Bytes > c.MaxTotal:
			return fmt.Sprintf("all together become %d bytes, at most %d are possible", layout.Bytes, c.MaxTotal)
		}
	case plan.OEMStrings: // the hypervisor makes one structure of them
		size := rule.SMBIOSHeader + 1
		for _, item := range items {
			size += rule.SMBIOSSize(len(item.Name), item.Size)
		}
		if size > c.MaxStructure {
			return fmt.Sprintf("all together become %d bytes, at most %d are possible in the one structure that the hypervisor makes", size, c.MaxStructure)
		}
	}
	return ""
}

// flatten writes joined errors on one line.
func flatten(err error) string {
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) {
		return err.Error()
	}
	var parts []string
	for _, e := range joined.Unwrap() {
		parts = append(parts, e.Error())
	}
	return strings.Join(parts, "; ")
}
