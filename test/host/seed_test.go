package host

import (
	"strings"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
	"github.com/ampoule-vm/ampoule/internal/verify"
)

const (
	seedFile = "/etc/ampoule/test-vm.microvm"
	images   = "/var/lib/images/"
)

// imageConf is what a guest says of itself; its kernel lies beside it.
func imageConf(h *host, number string, lines ...string) {
	h.Helper()
	h.sh("mkdir -p " + images + number + "/bin; ln -sf /var/lib/guest/vmlinuz /var/lib/guest/initrd " + images + number + "/; " +
		"cp --remove-destination /var/lib/guest/vmlinuz /var/lib/guest/initrd " + images + number + "/")
	text := strings.NewReplacer("/var/lib/guest/", "").Replace(vm("stay", lines...))
	h.file(images+number+"/microvm.conf", text)
}

// seedRunner is a customised runner, which says its version.
func seedRunner(h *host, number, version, last string) {
	h.Helper()
	h.file(images+number+"/bin/run", "#!/bin/sh\necho \"runner "+version+" sees: $(ls $CREDENTIALS_DIRECTORY | tr '\\n' ' ')\"\n"+last+"\n")
	h.sh("chmod 755 " + images + number + "/bin/run")
}

// TestSeed replays the failure for which Ampoule was written: a VM is declared on
// the host, its runner is customised by the guest, and is edited, rebuilt and
// deployed. At each step the customisation is in what runs, or verify says why it
// is not and what puts it there.
func TestSeed(t *testing.T) {
	need.All(t, need.VMAll)
	onEach(t, func(h *host) {
		h.file("/etc/secrets/key", secretValue)
		imageConf(h, "1")
		h.sh("ln -s 1 " + images + "current")
		h.file(seedFile, "[MicroVM]\nImage="+images+"current\nLoadCredential=API_KEY:/etc/secrets/key\n"+install)
		h.sh("systemctl daemon-reload; systemctl start microvm@test-vm", within(boots))
		h.sh(cat+"microvm@test-vm", reported(map[string]string{"API_KEY": secretValue}))
		h.sh("ampoule verify --strict", prints("test-vm: whole"))

		// Customised by the guest, built, and not deployed.
		imageConf(h, "1", "Runner=bin/run")
		seedRunner(h, "1", "one", "exec ampoule boot")
		h.sh("ampoule explain test-vm Runner", says("effective", images+"current/microvm.conf", "(image)"))
		f := h.broken("test-vm", verify.Loaded, verify.ReloadDue)
		if !strings.Contains(f.What, "Runner") {
			h.Errorf("%q does not name the key", f.What)
		}
		h.cured(f)
		h.sh(cat+"microvm@test-vm", says("runner one sees: API_KEY ampoule.plan"), reported(map[string]string{"API_KEY": secretValue}))

		// Edited, while the old one runs.
		seedRunner(h, "1", "two", "exec ampoule boot")
		f = h.broken("test-vm", verify.Running, verify.FileReplaced)
		if !strings.Contains(f.What, images+"current/bin/run") {
			h.Errorf("%q does not name the runner", f.What)
		}
		h.cured(f)
		h.sh(cat+"microvm@test-vm", says("runner two sees:"))

		deployed(h)
		overridden(h)
	})
}

// deployed: a newer image is built beside the old one; then the link is moved.
func deployed(h *host) {
	h.Helper()
	imageConf(h, "2", "Runner=bin/run")
	seedRunner(h, "2", "three", "exec ampoule boot")
	h.unbroken() // nothing says that it is to run
	h.sh("ampoule verify test-vm", says(images+"current/bin/run"))
	h.sh("ln -sfn 2 " + images + "current")
	h.sh("ampoule verify test-vm", exits(12), says("kernel", "runner", "is another file now", "cure: systemctl restart microvm@test-vm.service"))
	h.sh("systemctl restart microvm@test-vm", within(boots))
	h.unbroken()
	h.sh(cat+"microvm@test-vm", says("runner three sees:"))
}

// overridden: by the host, in Ampoule's way and in systemd's; and by a runner
// that ignores what it is given.
func overridden(h *host) {
	h.Helper()
	h.file("/usr/local/bin/host-runner", "#!/bin/sh\necho host runner\nexec ampoule boot\n")
	h.sh("chmod 755 /usr/local/bin/host-runner")
	h.file(seedFile+".d/10.conf", "[MicroVM]\nRunner=/usr/local/bin/host-runner\n")
	h.cured(h.broken("test-vm", verify.Loaded, verify.ReloadDue))
	h.sh(cat+"microvm@test-vm", says("host runner"))
	h.noted("test-vm", "current/microvm.conf:7: Runner= does not count: shadowed by "+seedFile+".d/10.conf:2")

	const dropIn = "/etc/systemd/system/microvm@test-vm.service.d/override.conf"
	h.file(dropIn, "[Service]\nExecStart=\nExecStart=/usr/local/bin/host-runner\n")
	h.sh("systemctl daemon-reload")
	h.done(h.broken("test-vm", verify.Loaded, verify.OwnCommand), "rm "+dropIn+"; systemctl daemon-reload", "remove ExecStart= from "+dropIn+":3")

	h.file("/usr/local/bin/host-runner", "#!/bin/sh\nexec sleep infinity\n")
	h.file(seedFile+".d/20.conf", "[MicroVM]\nReadiness=started\n")
	h.sh("chmod 755 /usr/local/bin/host-runner; systemctl daemon-reload; systemctl restart microvm@test-vm", within(boots))
	f := h.broken("test-vm", verify.Credentials, verify.Undelivered)
	if !strings.Contains(f.What, "what it did with API_KEY is not known") {
		h.Errorf("%q", f.What)
	}
	h.file("/usr/local/bin/host-runner", "#!/bin/sh\nexec ampoule boot\n")
	h.done(f, "systemctl restart microvm@test-vm", "exec ampoule boot", "systemctl restart")

	h.sh("echo '[Service]' >>" + images + "current/microvm.conf; echo User=root >>" + images + "current/microvm.conf; systemctl daemon-reload")
	f = h.broken("test-vm", verify.Declared, verify.Mistakes)
	if !strings.Contains(f.What, "only the host may set this key of [Service]") {
		h.Errorf("%q", f.What)
	}
}

// TestImageLater: an image on a file system that is mounted only for the VM is
// read at its start.
func TestImageLater(t *testing.T) {
	need.All(t, need.VMAll)
	onEach(t, func(h *host) {
		imageConf(h, "late", "VCPU=2")
		h.sh("mkdir /srv/late")
		h.file("/etc/systemd/system/srv-late.mount", "[Mount]\nWhat="+images+"late\nWhere=/srv/late\nType=none\nOptions=bind\n")
		h.file("/etc/secrets/key", secretValue)
		h.file("/etc/ampoule/web.microvm", "[MicroVM]\nImage=/srv/late\nMemory=520M\nLoadCredential=KEY:/etc/secrets/key\n"+install)
		h.sh("ampoule check web", exits(2), says("/etc/ampoule/web.microvm:2: Image=/srv/late: nothing is there"))
		h.sh("ampoule plan web", says("read at the start"))
		h.reboot()
		h.eventually("systemctl show -P StatusText microvm@web", within(boots), prints("ready"))
		h.sh("mountpoint /srv/late")
		h.sh(cat+"microvm@web", reported(map[string]string{"KEY": secretValue}), says("info cpus 2"))
		h.sh("pgrep -af qemu-system", says("-smp 2", "-m 520M"))
		h.sh("ampoule list", says("ready"), not("another plan"))
		h.unbroken()
		h.sh("ampoule diff web && ampoule apply --dry-run", says("as it is declared"))
		h.sh("systemctl daemon-reload")
		h.unbroken()
		h.sh("ampoule list", says("ready"), not("another plan"))
		h.sh("ampoule diff web && ampoule apply", says("nothing to do"))

		// The image changes, and the host's line stays above it.
		h.sh("sed -i 's/^VCPU=2/VCPU=1/' " + images + "late/microvm.conf")
		h.cured(h.broken("web", verify.Loaded, verify.ReloadDue))
		h.sh(cat+"microvm@web | tail -n 300", says("info cpus 1"))
		h.sh("pgrep -af qemu-system", says("-smp 1", "-m 520M"))
		h.sh("ampoule apply", says("nothing to do"))

		// apply brings a change as the cure has, and names it; nothing but that.
		h.sh("sed -i 's/^VCPU=1/VCPU=2/' " + images + "late/microvm.conf")
		h.sh("ampoule diff web", exits(1), says("VCPU", "1 -> 2", "microvm.conf:"), not("Memory", "520M"))
		h.sh("ampoule apply", within(boots), says("web: restarted", "VCPU"))
		h.sh("pgrep -af qemu-system", says("-smp 2", "-m 520M"))
		h.unbroken()
		h.sh("ampoule apply", says("nothing to do"))
		h.sh("cp " + images + "late/vmlinuz /tmp/k && mv /tmp/k " + images + "late/vmlinuz")
		h.cured(h.broken("web", verify.Running, verify.FileReplaced))
		h.sh("systemctl stop microvm@web srv-late.mount", within(2*time.Minute))
		h.sh("systemctl start microvm@web", within(boots))
	})
}
