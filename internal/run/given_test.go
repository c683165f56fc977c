package run

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/credential"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/secret"
)

// gives adds a credential of Ampoule's own to a plan.
func gives(p *plan.Plan, name, value string) {
	p.VM.Given = append(p.VM.Given, plan.Given{Name: name, Value: value, From: "VCPU"})
}

// text is the value of a credential.
func text(t testing.TB, v *secret.Value) string {
	t.Helper()
	var out string
	if err := v.Use(func(p []byte) error { out = string(p); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestWithGiven(t *testing.T) {
	for _, c := range []struct {
		name   string
		vsock  bool
		own    []credential.Credential
		static bool
		want   []string
	}{
		{name: "nothing"},
		{name: "nothing of its own", vsock: true},
		{name: "own", own: creds(t, "a", 1), want: []string{"a=S"}},
		{name: "own and vsock", vsock: true, own: creds(t, "a", 1), want: []string{"a=S", "vmm.notify_socket=there"}},
		{name: "an import of the host's", vsock: true, own: creds(t, plan.NotifyCredential, 1, "b", 1), want: []string{"b=S", "vmm.notify_socket=there"}},
		{name: "static", static: true, want: []string{"fstab.extra=a b"}},
		{name: "all", static: true, vsock: true, own: creds(t, "a", 1), want: []string{"a=S", "fstab.extra=a b", "vmm.notify_socket=there"}},
	} {
		lines := []string{"VCPU=2"}
		if c.vsock {
			lines = append(lines, "VSockCID=auto")
		}
		p := makePlan(t, lines...)
		if c.static {
			gives(p, "fstab.extra", "a b")
		}
		all, given, err := withGiven(p, c.own, moment{notify: "there"})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, cred := range all {
			got = append(got, cred.Guest+"="+text(t, cred.Value))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q", c.name, got)
		}
		wipeGiven(all, given)
		for i, cred := range all {
			err := cred.Value.Use(func([]byte) error { return nil })
			if wiped := err != nil; wiped != (i >= len(all)-given) {
				t.Errorf("%s: %s is wiped: %v", c.name, cred.Guest, wiped)
			}
		}
	}
}

// What is given obeys the channel's limits, and is refused at the line behind it.
func TestGivenDoesNotFit(t *testing.T) {
	p := makePlan(t, "VCPU=2", "CredentialChannel=fw_cfg")
	gives(p, strings.Repeat("n", 29), "x")
	all, given, err := withGiven(p, nil, room())
	if err != nil {
		t.Fatal(err)
	}
	defer wipeGiven(all, given)
	_, _, problems := choose(p, all, nil)
	if got, want := problems.Error(), "test.microvm:3: VCPU=…: the credential "+strings.Repeat("n", 29)+
		", which Ampoule gives the guest for it, does not fit the credential channel: fw_cfg: the name has 29 bytes"; !strings.Contains(got, want) {
		t.Errorf("%s\nwant %s", got, want)
	}
}

func TestGivenIsImported(t *testing.T) {
	p := makePlan(t, "VCPU=2")
	gives(p, "fstab.extra", "x")
	imported := creds(t, "a", 1, "fstab.extra", 1)
	imported[1].Key, imported[1].Shown, imported[1].Source = "ImportCredential", "*", "credstore /etc/credstore/fstab.extra"
	imported[1].Origin = diag.Origin{File: "/x.microvm", Line: 7}
	problems := refuseImported(p, imported)
	if got := problems.Error(); len(problems) != 1 || !strings.Contains(got,
		"/x.microvm:7: ImportCredential=*: it brings along fstab.extra (credstore /etc/credstore/fstab.extra), which with VCPU= (") {
		t.Error(got)
	}
}

// A VM that has none of its own gets what Ampoule gives by its channel, and with
// it where it is heard.
func TestAPIGiven(t *testing.T) {
	forEachAPI(t, func(t *testing.T, c apiCase) {
		tr := c.trial(t, "echo-secret-digest,notify:READY=1,say:done", "VCPU=2", "VSockCID=auto", "GuestSystemd=257")
		gives(tr.options.Plan, "fstab.extra", "tag /mnt")
		tr.start()
		tr.await("\ndone\n")
		tr.stderr.await(t, "test: ready\n")
		if want := fmt.Sprintf("%x", sha256.Sum256([]byte("tag /mnt"))); !strings.Contains(tr.stdout.String(), want) {
			t.Errorf("it did not arrive:\n%s", tr.stdout)
		}
		tr.cancel()
		tr.want(ExitPoweredOff, "")
		tr.wantNothingLeft()
	})
}
