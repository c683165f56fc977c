package host

import (
	"strings"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/guest"
	"github.com/ampoule-vm/ampoule/internal/testkit/leak"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// TestNoLeaksBeside: the secret of a VM is not with those who make its interface and
// serve its share, who run as root: in no unit, argument, environment, file or log of
// theirs, and with the server only in the guest's memory.
func TestNoLeaksBeside(t *testing.T) {
	need.All(t, need.VMAll, need.Guest)
	t.Run("257", func(t *testing.T) {
		h := newHost(t, 257, append(withNetworks(t), newest(guest.Get(t, "trixie"))...)...)
		const share = "microvm-share@web:data"
		secrets := map[string][]byte{"KEY": leak.Random(24)}
		h.file("/etc/secrets/key", string(secrets["KEY"]))
		planted := string(leak.Random(24))
		scan := newScan(h, secrets, planted)
		stop := scan.Watch(50 * time.Millisecond)
		defer stop()

		h.answers()
		h.sh(bridge + "; mkdir /srv/data; echo of the host >/srv/data/first")
		script := "agent address any 10.7.0.11/24 >/dev/null\nagent ask 10.7.0.1:7000\ncat /mnt/data/first; echo of the guest >/mnt/data/second\nsync\necho done\n"
		h.newest("web", script, "Network=bridge:br0", "Share=/srv/data:data:/mnt/data", "LoadCredential=KEY:/etc/secrets/key")
		// The share's unit leaks what the VM does not have.
		h.file("/etc/systemd/system/"+share+".service.d/leak.conf", "[Service]\nEnvironment=TOKEN="+planted+"\n")
		h.sh("ampoule check web && systemctl daemon-reload && systemctl start microvm@web", within(boots))
		h.eventually(cat+"microvm@web", within(boots), said("to 10.7.0.11: host", "of the host", "done"))
		h.sh(cat+"microvm@web", reported(map[string]string{"KEY": string(secrets["KEY"])}))
		h.sh("cat /srv/data/second; ip -o link show master br0 | wc -l", prints("of the guest", "1"))

		lookForLeaks(h, scan, planted, share)
		server := h.OuterPid(h.mainPid(share + ".service"))
		before := scan.Report()
		if err := scan.ScanMemory(server); err != nil {
			t.Fatal(err)
		}
		after := scan.Report()
		if places, bytes := after.Looked[leak.Memory]-before.Looked[leak.Memory], after.Bytes-before.Bytes; places < 10 || bytes < 1<<20 {
			t.Errorf("of the memory of virtiofsd %d places with %d bytes were looked at", places, bytes)
		}
		wantOfServer(t, after, share)
		h.sh("systemctl stop microvm@web", within(boots))
	})
}

// wantOfServer: of the two secrets virtiofsd has that of the guest, in the guest's memory,
// whose descriptor it has, and nothing of its own unit's environment; and what stands in
// that unit is found.
func wantOfServer(t *testing.T, report leak.Report, share string) {
	t.Helper()
	found := map[string]bool{}
	for _, row := range report.Rows {
		guests := strings.Contains(row.Place, "/memfd:memory-backend-memfd") && row.Secret != plantedName
		switch {
		case strings.Contains(row.Place, "(virtiofsd)") && !guests:
			t.Errorf("the secret %s is in %s: %s", row.Secret, row.Class, row.Place)
		case strings.Contains(row.Place, "(virtiofsd)"):
			found["the guest's memory"] = true
		case row.Secret != plantedName || row.Allowed != "":
		case strings.Contains(row.Place, "/etc/systemd/system/"+share+".service.d/leak.conf"):
			found["the unit's file"] = true
		default:
			found[row.Place] = true
		}
	}
	for _, what := range []string{"the guest's memory", "the unit's file", "D-Bus Service of " + share, "systemctl cat " + share} {
		if !found[what] {
			t.Errorf("the scan does not find what is there: %s", what)
		}
	}
}
