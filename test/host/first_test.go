package host

import (
	"fmt"
	"maps"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/leak"
)

// TestFirstStart: a file becomes a service, which boots a real guest in its
// sandbox, hands it its secrets from every kind of source, lets nothing of them
// out on the host, and stops in order.
func TestFirstStart(t *testing.T) {
	onEach(t, func(h *host) {
		values := map[string]string{"ENV": "pro\ndu%c "}
		secrets := map[string][]byte{}
		secret := func(name string) string {
			secrets[name] = leak.Random(24)
			values[name] = string(secrets[name])
			return values[name]
		}
		lines := []string{
			"LoadCredential=KEY:/etc/secrets/key", "LoadCredentialEncrypted=SEALED:/etc/secrets/sealed", "SetCredential=ENV:pro\\ndu%c\\x20",
			"Disk=data.raw:size=16M", `Disk=/home/my disks/a\:b%%c.raw:ro,serial=far`, "Disk=/tmp/scratch.raw",
		}
		h.file("/etc/secrets/key", secret("KEY"))
		h.sh("systemd-creds setup 2>&1")
		h.file("/etc/secrets/plain", secret("SEALED"))
		h.sh("cd /etc/secrets; systemd-creds encrypt --with-key=host --name=SEALED plain sealed 2>&1")
		h.file("/etc/secrets/plain", secret("SET"))
		h.sh("cd /etc/secrets; systemd-creds encrypt --with-key=host --name=SET --pretty plain - >pretty; rm plain")
		set := h.sh("cat /etc/secrets/pretty", says("SetCredentialEncrypted=SET: \\\n"))
		lines = append(lines, strings.TrimSpace(set))
		if h.systemd >= 254 {
			h.file("/etc/secrets/kept", secret("kept.one"))
			h.sh("mkdir -m 0700 /run/credstore; mv /etc/secrets/kept /run/credstore/kept.one")
			lines = append(lines, "ImportCredential=kept.*")
		}
		h.sh("mkdir -p '/home/my disks'; truncate -s 1M '/home/my disks/a:b%c.raw' /tmp/scratch.raw; chmod 755 /home /home/*; chmod 666 /tmp/scratch.raw")
		planted := string(leak.Random(24))
		scan := newScan(h, secrets, planted)
		stop := scan.Watch(50 * time.Millisecond)
		defer stop()

		h.file("/etc/ampoule/web.microvm", "[Unit]\nDescription=The web\n"+vm("stay", lines...))
		h.sh("ampoule check web")
		h.sh("systemctl daemon-reload")
		h.sh("systemd-analyze verify --man=no /run/systemd/generator/microvm@web.service", prints(""))
		h.sh("systemd-analyze security --no-pager --threshold=10 microvm@web.service", exposed(1.0))
		h.sh("systemctl start microvm@web", prints(""))
		h.sh("systemctl status --no-pager --lines=0 microvm@web", says("The web", "active (running)", `Status: "ready"`, "web.microvm; generated)"))
		h.sh("journalctl -u microvm@web -o cat --no-pager", reported(values),
			says("disk vda 16777216 0", "disk vdb 1048576 1 far", "disk vdc 1048576 0"))
		h.sh(`grep -E '^(Uid|CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/$(pgrep qemu-system)/status`,
			says("CapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n"), not("Uid:\t0\t"))
		h.sh(`wc -c </proc/$(pgrep qemu-system)/environ`, prints("0"))
		h.sh("stat -c '%a %u' /var/lib/private/ampoule/vm/web/data.raw", says("600 "), not("600 0"))
		h.sh(`ampoule plan web --json >/tmp/now; { cat /run/credentials/microvm@web.service/ampoule.plan; echo; } | cmp - /tmp/now`)

		lookForLeaks(h, scan, planted)
		h.sh("systemctl stop microvm@web", prints(""))
		h.sh("journalctl -u microvm@web -o cat --no-pager", says("orderly-stop", "the guest powered off"))
		h.sh("systemctl show -p Result -p ExecMainStatus -p ActiveState microvm@web", says("Result=success", "ExecMainStatus=0", "ActiveState=inactive"))
		h.sh("test ! -e /run/ampoule/vm/web")
		h.sh("ls /run/credentials", not("microvm"))
	})
}

// newScan looks for secrets on the machine, of which the host is a part. They
// may be where the administrator put them, and where systemd has them for the
// service. What is planted may be nowhere, and is.
func newScan(h *host, secrets map[string][]byte, planted string) *leak.Scanner {
	all := maps.Clone(secrets)
	all[plantedName] = []byte(planted)
	scan, err := leak.New(h, all)
	if err != nil {
		h.Fatal(err)
	}
	for _, source := range []string{"/etc/secrets", "/run/credstore"} {
		scan.Allow(source, "the source")
		for _, name := range h.Names(source) {
			scan.Allow(name, "the source")
		}
	}
	scan.Allow("/run/credentials/microvm@web.service", "systemd's own store of the service")
	return scan
}

const plantedName = "planted"

// views are what any user of the host can ask of systemd about the VM, and what
// journals and logs hold.
func views(h *host, services ...string) map[string]string {
	const nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups "
	out := map[string]string{}
	for _, unit := range services {
		object := "/org/freedesktop/systemd1/unit/" + strings.NewReplacer("@", "_40", ":", "_3a", "-", "_2d").Replace(unit) + "_2eservice"
		for _, face := range []string{"Unit", "Service"} {
			out["D-Bus "+face+" of "+unit] = h.sh(nobody+"busctl call --json=short org.freedesktop.systemd1 "+object+
				" org.freedesktop.DBus.Properties GetAll s org.freedesktop.systemd1."+face, says("{"))
		}
		out["D-Bus introspection of "+unit] = h.sh(nobody + "busctl introspect --full --no-pager org.freedesktop.systemd1 " + object)
		for _, verb := range []string{"show", "cat", "status --no-pager"} {
			out["systemctl "+verb+" "+unit] = h.sh(nobody+"systemctl "+verb+" "+unit, ends)
		}
	}
	for _, line := range []string{"ampoule plan web --json", "ampoule generate --dry-run web", "ampoule status web", "ampoule list"} {
		out[line] = h.sh(nobody+line, ends)
	}
	out["the journal"] = h.sh("journalctl --all --no-pager --output=export")
	return out
}

// lookForLeaks looks everywhere for the secrets, and for one that a service
// leaks on purpose: where that is not found, the scan is blind. More are services
// beside that of the VM.
func lookForLeaks(h *host, scan *leak.Scanner, planted string, more ...string) {
	h.Helper()
	h.file("/etc/systemd/system/leaky.service", fmt.Sprintf("[Service]\nEnvironment=TOKEN=%[1]s\nSetCredential=token:%[1]s\nExecStart=/bin/sh -c 'echo %[1]s; sleep 1000' %[1]s\n", planted))
	h.sh("systemctl start leaky.service")
	h.eventually("journalctl --all --no-pager -u leaky.service", says(planted))
	for name, text := range views(h, append(more, "microvm@web", "leaky")...) {
		scan.ScanBytes(name, []byte(text))
	}
	if err := scan.ScanMemory(h.OuterPid(h.mainPid("microvm@web"))); err != nil {
		h.Errorf("the memory of ampoule: %v", err)
	}
	report := scan.Scan()
	h.Logf("\n%s", report.Table())
	found, leaks := map[leak.Class]string{}, 0
	for _, row := range report.Rows {
		if row.Secret == plantedName {
			found[row.Class] += row.Place + "\n"
		} else if row.Allowed == "" {
			leaks++
		}
	}
	if leaks > 0 {
		h.Errorf("%d leaks", leaks)
	}
	for class, place := range map[leak.Class]string{
		leak.Arguments: "(sh)", leak.Environment: "(sh)", leak.File: "/etc/systemd/system/leaky.service", leak.Text: "the journal",
	} {
		if !strings.Contains(found[class], place) {
			h.Errorf("a secret that leaks is not found among the %s: %s", class, place)
		}
	}
	for _, view := range []string{"D-Bus Service of leaky", "systemctl cat leaky"} {
		if !strings.Contains(found[leak.Text], view) {
			h.Errorf("a secret that everybody can read is not found: %s", view)
		}
	}
}

// mainPid is the host's number of a unit's main process.
func (h *host) mainPid(unit string) int {
	h.Helper()
	pid, err := strconv.Atoi(strings.TrimSpace(h.sh("systemctl show -P MainPID " + unit)))
	if err != nil || pid == 0 {
		h.Fatalf("%s has no main process: %v", unit, err)
	}
	return pid
}
