package pipeline

import (
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/driver/all"
)

// TestVSock: what does not go together with the guest's socket, and with waiting
// for its word, is an error at the line that asks for it.
func TestVSock(t *testing.T) {
	const head = "[MicroVM]\nKernel=/k\nInitrd=/i\n"
	for lines, want := range map[string]string{
		"Readiness=guest\n": ":4: Readiness=guest: the guest's own word comes over vsock, and the VM has none; add VSockCID=auto",
		"GuestSystemd=253\nVSockCID=auto\nReadiness=guest\n":                              ":6: Readiness=guest: a guest's systemd below 254 (/etc/ampoule/web.microvm:4) does not say",
		"VSockCID=auto\nSetCredential=vmm.notify_socket:vsock:2:1\n":                      ":5: SetCredential=vmm.notify_socket:…: with VSockCID= (/etc/ampoule/web.microvm:4) Ampoule itself tells",
		"VSockCID=auto\nLoadCredential=vmm.notify_socket:/x\n":                            ":5: LoadCredential=vmm.notify_socket:/x: with VSockCID=",
		"VSockCID=auto\nImportCredential=vmm.notify_socket\n":                             ":5: ImportCredential=vmm.notify_socket: with VSockCID=",
		"VSockCID=auto\nImportCredential=x:vmm.notify_socket\n":                           ":5: ImportCredential=x:vmm.notify_socket: with VSockCID=",
		"VSockCID=auto\nCredential=vmm.notify_socket:o\n[Service]\nLoadCredential=o:/o\n": ":5: Credential=vmm.notify_socket:o: with VSockCID=",

		"SetCredential=vmm.notify_socket:vsock:2:1\n":                 "",
		"VSockCID=auto\nImportCredential=vmm.notify_socket:other\n":   "",
		"VSockCID=auto\nLoadCredential=ssh.authorized_keys.root:/x\n": "",
		"VSockCID=auto\nReadiness=guest\n":                            "",
		"VSockCID=auto\nReadiness=guest\nGuestSystemd=254\n":          "",
	} {
		res := load(t, tree(t, map[string]string{"etc/ampoule/web.microvm": head + lines}), "web")
		switch got := res.Problems.Error(); {
		case want == "" && res.Plan == nil:
			t.Errorf("%q: %s", lines, got)
		case want != "" && (res.Plan != nil || !strings.Contains(got, "/etc/ampoule/web.microvm"+want)):
			t.Errorf("%q: %s, want %s", lines, got, want)
		}
	}
}

// TestReadinessAuto: the guest's word is waited for where it is known to give one,
// with every hypervisor.
func TestReadinessAuto(t *testing.T) {
	for _, hypervisor := range driver.Names(all.Drivers()) {
		for lines, want := range map[string]string{
			"":                                  "started",
			"VSockCID=auto\n":                   "started",
			"GuestSystemd=257\n":                "started",
			"VSockCID=auto\nGuestSystemd=253\n": "started",
			"VSockCID=auto\nGuestSystemd=254\n": "guest",
			"VSockCID=77\nGuestSystemd=257\nReadiness=auto\n":    "guest",
			"VSockCID=77\nGuestSystemd=257\nReadiness=started\n": "started",
			"VSockCID=77\nReadiness=guest\n":                     "guest",
			"VSockCID=77\nGuestSystemd=257\nRunner=/r\n":         "started",
			"VSockCID=77\nReadiness=guest\nRunner=/r\n":          "guest",
		} {
			p := mustPlan(t, tree(t, map[string]string{"etc/ampoule/web.microvm": "[MicroVM]\nHypervisor=" + hypervisor + "\nKernel=/k\nInitrd=/i\n" + lines}), "web")
			if got := p.VM.Readiness.Mode; got != want {
				t.Errorf("%s, %q: %s, want %s", hypervisor, lines, got, want)
			}
			if asked := strings.Contains(lines, "VSockCID=77"); asked && p.VM.VSock.CID != 77 || (p.VM.VSock == nil) == strings.Contains(lines, "VSockCID") {
				t.Errorf("%s, %q: %+v", hypervisor, lines, p.VM.VSock)
			}
		}
	}
}

// TestChosen: what a hypervisor refuses names the line that chose it, wherever that
// stands, and not where nobody chose it.
func TestChosen(t *testing.T) {
	root := tree(t, map[string]string{
		"etc/ampoule/web.microvm":           "[MicroVM]\nKernel=/k\nInitrd=/i\nMachine=q35\n",
		"etc/ampoule/web.microvm.d/10.conf": "[MicroVM]\nHypervisor=firecracker\n",
		"etc/ampoule/odd.microvm":           "[MicroVM]\nKernel=/k\nMachine=pc\n",
	})
	const want = "/etc/ampoule/web.microvm:4: Machine=q35: firecracker has one machine and no types of it (Hypervisor=firecracker, /etc/ampoule/web.microvm.d/10.conf:2); remove it"
	if got := load(t, root, "web").Problems.Error(); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := load(t, root, "odd").Problems.Error(); strings.Contains(got, "Hypervisor=") || got == "" {
		t.Error(got)
	}
}
