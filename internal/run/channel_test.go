package run

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/credential"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/secret"
)

// creds makes credentials NAME=SIZE.
func creds(t testing.TB, sizes ...any) []credential.Credential {
	t.Helper()
	var out []credential.Credential
	for i := 0; i < len(sizes); i += 2 {
		name := sizes[i].(string)
		v, err := secret.FromBytes([]byte(strings.Repeat("S", sizes[i+1].(int))))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, credential.Credential{
			Guest: name, Host: name, Value: v, Key: "LoadCredential", Shown: name, Origin: diag.Origin{File: "f", Line: i/2 + 1},
		})
	}
	t.Cleanup(func() { credential.Wipe(out) })
	return out
}

func many(t testing.TB, n, size int) []credential.Credential {
	t.Helper()
	var sizes []any
	for i := range n {
		sizes = append(sizes, fmt.Sprintf("c%03d", i), size)
	}
	return creds(t, sizes...)
}

// Every limit of QEMU's channels, on both of its sides.
func TestChoose(t *testing.T) {
	// 4096 bytes less header, terminators, prefix, a name of one byte and "=",
	// and of those 3 of 4 bytes in Base64.
	page := (4096 - 6 - 29 - 1 - 1 - 1) / 4 * 3
	name28, name29 := strings.Repeat("n", 28), strings.Repeat("n", 29)
	tests := []struct {
		name    string
		lines   string
		creds   []credential.Credential
		channel string
		why     string // part of why, or of the problem
	}{
		{"nothing", "", nil, "", ""},
		{"small", "", creds(t, "a", 1), "smbios", "the first that the machine has"},
		{"a page", "", creds(t, "a", page), "smbios", ""},
		{"over a page", "", creds(t, "a", page+1), "fw_cfg", "smbios does not carry a: 3043 bytes and a name of 1 become 4098, at most 4096 are possible in a structure"},
		{"over a page, asked", "CredentialChannel=smbios", creds(t, "a", page+1), "", "f:1: LoadCredential=a: does not fit the credential channel: smbios: 3043 bytes"},
		{"over a page, new guest", "GuestSystemd=257", creds(t, "a", page+1), "smbios", ""},
		{"tables full", "", many(t, 15, page-3), "smbios", ""},
		{"tables too full", "", many(t, 16, page-3), "fw_cfg", "all together become 65"},
		{"equals sign", "", creds(t, "a=b", 1), "fw_cfg", `smbios does not carry a=b: a name cannot have "=" in it`},
		{"long name", "", creds(t, name29, 1), "smbios", ""},
		{"longest name", "CredentialChannel=fw_cfg", creds(t, name28, 1), "fw_cfg", ""},
		{"too long a name", "CredentialChannel=fw_cfg", creds(t, name29, 1), "", "the name has 29 bytes, at most 28 are possible"},
		{"200", "CredentialChannel=fw_cfg", many(t, 200, 0), "fw_cfg", ""},
		{"201", "CredentialChannel=fw_cfg", many(t, 201, 0), "", "fw_cfg: 201 credentials, at most 200 are possible"},
		{"201 small", "", many(t, 201, 0), "smbios", ""},
		{"none fits", "", creds(t, "ok", 1, name29, page), "", "f:2: LoadCredential=" + name29 + ": fits none of the credential channels: smbios: 3042 bytes and a name of 29 become"},
		{"microvm", "Machine=microvm", creds(t, "a", 1<<20), "fw_cfg", "the first"},
		{"microvm with a long name", "Machine=microvm Initrd=/i", creds(t, name29, 1), "initrd", "fw_cfg does not carry " + name29 + ": the name has 29 bytes"},
		{"large with a long name", "Initrd=/i", creds(t, name29, page), "initrd", "smbios does not carry"},
		{"initrd asked", "Initrd=/i CredentialChannel=initrd", creds(t, "a", 1), "initrd", "the first"},
		{"201 large", "Initrd=/i", many(t, 201, page), "initrd", "fw_cfg does not carry all credentials together: 201 credentials"},
	}
	for _, tt := range tests {
		p := makePlan(t, strings.Fields(tt.lines)...)
		c, why, problems := choose(p, tt.creds, func(*plan.Channel) *refusal { return nil })
		got := ""
		if c != nil {
			got = c.Name
		}
		if got != tt.channel || !strings.Contains(why+problems.Error(), tt.why) {
			t.Errorf("%s: channel %q, %q, %v", tt.name, got, why, problems)
		}
		if problems.HasErrors() != (tt.channel == "" && tt.creds != nil) {
			t.Errorf("%s: problems %v", tt.name, problems)
		}
	}
}

// Whatever the plan says, credentials are never left out in silence.
func TestChooseWithoutChannels(t *testing.T) {
	if c, _, problems := choose(&plan.Plan{}, creds(t, "a", 1), nil); c != nil || !problems.HasErrors() {
		t.Errorf("%v, %v", c, problems)
	}
}

// What an initial RAM disk tells against its being a channel is said where it
// belongs: at its own line if there is no other channel.
func TestChooseRefusedInitrd(t *testing.T) {
	no := func(*plan.Channel) *refusal {
		return &refusal{index: -1, why: "its init is odd", key: "Initrd", cure: "take another"}
	}
	p := makePlan(t, "Initrd=/i", "CredentialChannel=initrd")
	c, _, problems := choose(p, creds(t, "a", 1), no)
	if c != nil || !strings.HasSuffix(problems.Error(), ": Initrd=/i: its init is odd; take another") {
		t.Errorf("%v: %v", c, problems)
	}
	p = makePlan(t, "Initrd=/i", "Machine=microvm")
	c, _, problems = choose(p, creds(t, strings.Repeat("n", 29), 1), no)
	if text := problems.Error(); c != nil || !strings.Contains(text, "fw_cfg: the name has 29") || !strings.Contains(text, "initrd: its init is odd (take another)") {
		t.Errorf("%v: %v", c, problems)
	}
	p = makePlan(t, "Machine=microvm")
	c, _, problems = choose(p, creds(t, strings.Repeat("n", 29), 1), func(*plan.Channel) *refusal { panic("not asked") })
	if text := problems.Error(); c != nil || !strings.Contains(text, "initrd: the VM has no Initrd=") {
		t.Errorf("%v: %v", c, problems)
	}
}
