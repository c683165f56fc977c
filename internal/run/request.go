package run

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/credential"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/secret"
)

// maxBody is the largest body that a hypervisor's API takes, in bytes: the limit
// of micro-http, which both have whose API starts guests. What is beyond it would
// be read as further requests, and refused with its own words.
const maxBody = 51200

// addRequests answers the questions of the requests that start the guest. Bodies
// are made where credentials are kept: some have them.
func (c *commandLine) addRequests(p *plan.Plan, a answers) error {
	if p.VM.API == nil {
		return nil
	}
	for _, r := range p.VM.API.Start {
		body, err := c.body(p, r, a)
		if err != nil {
			return err
		}
		request := apiRequest{method: r.Method, path: r.Path}
		if body != nil {
			request.body = body
		}
		if r.Ask == plan.AskNetwork {
			request.files = a.networks[r.From].taps
		}
		c.requests = append(c.requests, request)
	}
	return nil
}

// body makes the body of a request; nil without one.
func (c *commandLine) body(p *plan.Plan, r plan.Request, a answers) (*secret.Value, error) {
	chunks, err := r.Render(func(q plan.Question) (plan.Answer, error) { return c.answer(p, q, a) })
	if err != nil || len(chunks) == 0 {
		return nil, err
	}
	var b secret.Builder
	defer b.Wipe()
	for _, chunk := range chunks {
		b.Append(chunk.JSON...)
		if chunk.Ask == plan.AskChannel {
			credential.AppendOEMStrings(&b, a.credentials)
		}
	}
	v, err := b.Value()
	if err != nil {
		return nil, fmt.Errorf("making the request %s: %w", r.Path, err)
	}
	c.bodies = append(c.bodies, v)
	c.unlocked = c.unlocked || !v.Locked()
	if v.Len() > maxBody {
		return nil, fmt.Errorf("the request %s has %d bytes, and the hypervisor takes at most %d: it needs fewer disks, a shorter kernel command line or smaller credentials", r.Path, v.Len(), maxBody)
	}
	return v, nil
}

// answer answers a question of a body.
func (c *commandLine) answer(p *plan.Plan, q plan.Question, a answers) (plan.Answer, error) {
	text := func(s string, err error) (plan.Answer, error) {
		if err != nil || s == "" {
			return plan.Answer{}, err
		}
		return plan.Text(s), nil
	}
	switch q {
	case plan.AskCommandLine:
		return text(kernelLine(p, a))
	case plan.AskInitrd:
		return text(c.initrd(p, a))
	case plan.AskKernel:
		return text("/proc/self/fd/"+c.inherit(a.kernel), nil)
	case plan.AskVSock:
		return text(a.vsockPath, nil)
	case plan.AskChannel:
		return plan.Answer{Hole: a.channel != nil && a.channel.Encoding == plan.OEMStrings}, nil
	case plan.AskLandlock:
		// The kernel has no rule for a file that lies in no directory, as the
		// memory does that the credentials travel in.
		if a.landlock && (a.channel == nil || a.channel.Encoding != plan.CPIO) {
			return plan.True(), nil
		}
		return plan.Answer{}, nil
	}
	return plan.Answer{}, fmt.Errorf("the plan asks %q, which this version of Ampoule cannot answer", q)
}

// inBody reports whether the credentials travel in the body of a request.
func (c *commandLine) inBody(a answers) bool {
	return a.channel != nil && a.channel.Encoding == plan.OEMStrings && len(c.bodies) > 0
}

// repeated is the length of a piece of a credential that may stand in a text by
// chance.
const repeated = 6

// quoted reports whether a text repeats some of a credential, as it is or in
// Base64: a hypervisor says what it does not like.
func quoted(text string, creds []credential.Credential) bool {
	pieces := map[string]bool{}
	for i := 0; i+repeated <= len(text); i++ {
		pieces[text[i:i+repeated]] = true
	}
	in := func(value []byte) bool {
		if len(value) < repeated {
			return len(value) > 2 && strings.Contains(text, string(value))
		}
		for i := 0; i+repeated <= len(value); i++ {
			if pieces[string(value[i:i+repeated])] {
				return true
			}
		}
		return false
	}
	found := false
	for _, cred := range creds {
		_ = cred.Value.Use(func(value []byte) error {
			encoded := make([]byte, base64.StdEncoding.EncodedLen(len(value)))
			base64.StdEncoding.Encode(encoded, value)
			found = found || in(value) || in(encoded)
			clear(encoded)
			return nil
		})
	}
	return found
}

// masked is a hypervisor's words, without those that repeat a credential.
func masked(words string, creds []credential.Credential) string {
	if quoted(words, creds) {
		return "its words (" + strconv.Itoa(len(words)) + " bytes) are not shown, since they repeat a credential"
	}
	return words
}

// blameRequest names the assignment behind a request that was refused: the only
// one that it is made of, or that whose path the hypervisor repeats.
func blameRequest(requests []plan.Request, e *refusedError) string {
	only, ok := "", true
	for _, f := range requests[e.index].Body {
		switch {
		case f.From == "":
		case only == "" || only == f.From:
			only = f.From
		default:
			ok = false
		}
	}
	if ok && only != "" {
		return only
	}
	for _, r := range requests {
		for _, f := range r.Body {
			if strings.HasPrefix(f.Value, "/") && strings.Contains(e.words, f.Value) {
				return f.From
			}
		}
	}
	return ""
}
