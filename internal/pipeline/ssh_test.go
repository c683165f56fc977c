package pipeline

import (
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/driver/all"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// TestSSHKey: a key that the guest could not take is refused where it is asked for,
// and so is another credential of its name.
func TestSSHKey(t *testing.T) {
	const head = "[MicroVM]\nHypervisor=%h\nKernel=/k\n"
	const key = "GuestSystemd=257\nVSockCID=auto\nSSH=ephemeral\n"
	for lines, want := range map[string]string{
		"GuestSystemd=257\nSSH=ephemeral\n":                ":5: SSH=ephemeral: the guest takes the key over its vsock, and the VM has none; add VSockCID=auto",
		"VSockCID=auto\nSSH=ephemeral\n":                   ":5: SSH=ephemeral: the guest's systemd has to be 256 or later, and nothing says that it is; add GuestSystemd= with",
		"GuestSystemd=255\nVSockCID=auto\nSSH=ephemeral\n": ":6: SSH=ephemeral: a guest's systemd below 256 (/etc/ampoule/web.microvm:4) has no sshd at its vsock",
		key + "SetCredential=ssh.ephemeral-authorized_keys-all:x\n": ":7: SetCredential=ssh.ephemeral-authorized_keys-all:…: with SSH= (/etc/ampoule/web.microvm:6) " +
			"Ampoule itself gives the guest's sshd the key of ampoule ssh; remove it, or remove SSH=",
		key + "KernelCommandLine=systemd.import_credentials=no\n": ":7: KernelCommandLine=systemd.import_credentials=…: this parameter decides whether the guest takes its credentials " +
			"(/etc/ampoule/web.microvm:6); remove it, or SSH=",
		key: "",
		"VSockCID=auto\nSSH=no\nSetCredential=ssh.ephemeral-authorized_keys-all:x\n": "",
	} {
		for _, hypervisor := range driver.Names(all.Drivers()) {
			text := strings.Replace(head, "%h", hypervisor, 1) + lines + "Initrd=/i\n"
			res := load(t, tree(t, map[string]string{"etc/ampoule/web.microvm": text}), "web")
			switch got := res.Problems.Error(); {
			case want == "" && res.Plan == nil:
				t.Errorf("%s, %q: %s", hypervisor, lines, got)
			case want != "" && (res.Plan != nil || !strings.Contains(got, "/etc/ampoule/web.microvm"+want)):
				t.Errorf("%s, %q: %s, want %s", hypervisor, lines, got, want)
			}
		}
	}
}

// TestSSHPlan: the key itself is in no plan, and a VM that asks for none has the plan
// that it had before there were any.
func TestSSHPlan(t *testing.T) {
	const text = "[MicroVM]\nKernel=/k\nInitrd=/i\nGuestSystemd=257\nVSockCID=auto\n"
	without := mustPlan(t, tree(t, map[string]string{"etc/ampoule/web.microvm": text}), "web")
	no := mustPlan(t, tree(t, map[string]string{"etc/ampoule/web.microvm": text + "SSH=no\n"}), "web")
	with := mustPlan(t, tree(t, map[string]string{"etc/ampoule/web.microvm": text + "SSH=ephemeral\n"}), "web")
	if without.Digest != no.Digest || without.Digest.VM == with.Digest.VM || strings.Contains(string(no.JSON()), `"given"`) {
		t.Errorf("digests %v, %v, %v", without.Digest, no.Digest, with.Digest)
	}
	if want := (plan.Given{Name: spec.SSHCredential, Ask: plan.AskSSHKey, From: "SSH"}); len(with.VM.Given) != 2 || with.VM.Given[0] != want || !strings.Contains(with.VM.Given[1].Value, spec.SSHCredential) || !with.VM.MakesKey() || no.VM.MakesKey() {
		t.Errorf("%+v", with.VM.Given)
	}
	if _, err := plan.Parse(with.JSON()); err != nil {
		t.Error(err)
	}
}
