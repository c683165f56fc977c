package host

import (
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// TestTrouble: whatever is wrong with files and the host, the right unit fails
// with the right words, and the VM that runs all the while does not notice.
func TestTrouble(t *testing.T) {
	need.All(t, need.VMAll)
	onEach(t, func(h *host) {
		h.file("/etc/secrets/key", secretValue)
		h.file("/etc/ampoule/web.microvm", vm("stay", "LoadCredential=KEY:/etc/secrets/key")+install)
		h.sh("systemctl daemon-reload && systemctl start microvm@web", within(boots))
		running := h.sh("systemctl show -p MainPID -p InvocationID microvm@web")
		troubleInFiles(h)
		troubleOfUnits(h)
		troubleAtStart(h)
		fullRun(h)
		manyFiles(h)
		h.sh("systemctl show -p MainPID -p InvocationID microvm@web", prints(running[:len(running)-1]))
		h.sh("systemctl stop microvm@web")
		h.sh(cat+"microvm@web", says("orderly-stop", "the guest powered off"))
	})
}

// refused: a unit does not start, and says why in its status and its journal.
func refused(h *host, vm string, words ...string) {
	h.Helper()
	h.sh("systemctl start microvm@"+vm, fails)
	h.sh("journalctl --no-pager -o cat -n 40 -u microvm@"+vm, says(words...))
}

func troubleInFiles(h *host) {
	h.Helper()
	h.file("/etc/ampoule/ghost.microvm.d/10.conf", "[MicroVM]\nVCPU=2\n")
	h.file("/etc/ampoule/typo.microvm", vm("stay")+"[Service]\nRestrat=always\n")
	h.file("/etc/ampoule/dropin.microvm", vm("stay"))
	h.file("/etc/ampoule/dropin.microvm.d/10", "[MicroVM]\nVCPU=2\n")
	h.file("/etc/ampoule/toonew.microvm", vm("stay")+"[Service]\nRefreshOnReload=credentials\n")
	h.file("/etc/ampoule/depends.microvm", vm("stay")+"[Unit]\nAfter=\n")
	h.file("/etc/ampoule/closed.microvm", vm("stay"))
	h.file("/etc/ampoule/closed.microvm.d/10.conf", "[MicroVM]\nVCPU=2\n")
	// Times ahead of the clock and before it change nothing.
	h.file("/etc/ampoule/future.microvm", vm("stay"))
	h.file("/etc/ampoule/past.microvm", vm("stay"))
	h.sh("touch -d 2038-01-01 /etc/ampoule/future.microvm; touch -d 1971-01-01 /etc/ampoule/past.microvm; chmod 0000 /etc/ampoule/closed.microvm.d")
	h.sh("systemctl daemon-reload")
	refused(h, "ghost", "/etc/ampoule/ghost.microvm.d", "ghost.microvm")
	refused(h, "typo", "/etc/ampoule/typo.microvm:9: ", "Restrat", "did you mean Restart")
	const unread = "/etc/ampoule/dropin.microvm.d/10:1: not read, since the name of a drop-in ends in .conf; rename it to 10.conf"
	refused(h, "dropin", unread)
	h.sh("ampoule check dropin", exits(2), says(unread))
	refused(h, "toonew", "/etc/ampoule/toonew.microvm:9: ", "RefreshOnReload", "260")
	refused(h, "depends", "/etc/ampoule/depends.microvm:9: ", "After")
	h.sh("systemctl show -P LoadState microvm@future microvm@past", prints("loaded", "", "loaded"))
	h.sh("systemctl show -P Description microvm@future microvm@past", prints("microVM future", "", "microVM past"))
	// Root may look into any directory; whoever may not is told.
	h.sh("systemctl show -P Description microvm@closed", prints("microVM closed"))
	h.sh("setpriv --reuid=65534 --regid=65534 --clear-groups ampoule check closed", exits(2), says("/etc/ampoule/closed.microvm.d", "permission denied"))
	h.sh("systemctl show -P Description microvm@web", prints("microVM web"))
	h.sh("rm -r /etc/ampoule/ghost* /etc/ampoule/typo* /etc/ampoule/dropin* /etc/ampoule/toonew* /etc/ampoule/depends* /etc/ampoule/closed* /etc/ampoule/future* /etc/ampoule/past*")
}

// troubleOfUnits: a unit of the name that somebody else has made stays theirs,
// and a drop-in that takes the plan from ours is named.
func troubleOfUnits(h *host) {
	h.Helper()
	h.file("/etc/systemd/system/microvm@theirs.service", "[Service]\nType=oneshot\nExecStart=/bin/echo this is theirs\n")
	h.file("/etc/ampoule/theirs.microvm", vm("stay"))
	h.file("/etc/ampoule/reset.microvm", vm("stay"))
	h.file("/etc/systemd/system/microvm@reset.service.d/10.conf", "[Service]\nSetCredential=\n")
	h.sh("systemctl daemon-reload")
	h.sh("systemctl start microvm@theirs")
	h.sh("journalctl --no-pager -o cat -u microvm@theirs", says("this is theirs", "/etc/ampoule/theirs.microvm:1: ", "/etc/systemd/system/microvm@theirs.service"))
	h.sh("ampoule check theirs", ends)
	refused(h, "reset", "the unit does not carry the plan ampoule.plan; SetCredential= is cleared at /etc/systemd/system/microvm@reset.service.d/10.conf:2")
	h.sh("rm -r /etc/systemd/system/microvm@* /etc/ampoule/theirs.microvm /etc/ampoule/reset.microvm; systemctl daemon-reload")
}

// troubleAtStart: what only the start can know fails the start, and is named; the
// generator does not mind.
func troubleAtStart(h *host) {
	h.Helper()
	h.file("/etc/ampoule/late.microvm", vm("stay", "LoadCredential=A:/etc/secrets/a", "LoadCredential=B:/etc/secrets/b", "Disk=/var/images/root.raw"))
	h.file("/etc/secrets/a", "aaaaaaaaaaaa")
	h.sh("systemctl daemon-reload; systemctl show -P Description microvm@late", prints("microVM late"))
	refused(h, "late", "/etc/ampoule/late.microvm:8: LoadCredential=B:/etc/secrets/b: ", "/etc/ampoule/late.microvm:9: Disk=/var/images/root.raw: ")
	h.sh("systemctl show -p Result -p NRestarts -p ExecMainStatus microvm@late", says("Result=exit-code", "ExecMainStatus=2", "NRestarts=0"))
	h.sh("rm /etc/ampoule/late.microvm")

	// A hypervisor that is gone.
	h.file("/etc/ampoule/bare.microvm", vm("stay"))
	h.sh("mv /usr/bin/qemu-system-x86_64 /usr/bin/away; systemctl daemon-reload")
	refused(h, "bare", "qemu-system-x86_64")
	h.sh("mv /usr/bin/away /usr/bin/qemu-system-x86_64")

	// /var comes after the generator.
	h.sh("mkdir /mnt/out; unshare --mount sh -c 'mount -t tmpfs none /var && /usr/lib/systemd/system-generators/ampoule-generator /mnt/out'", prints(""))
	h.sh("diff -r /mnt/out /run/systemd/generator; ls /mnt/out", says("microvm@web.service"), not("diff -r", "<", ">"))
	h.sh("rm -r /mnt/out /etc/ampoule/bare.microvm; systemctl daemon-reload")
}

// fullRun: without room the units of before, or none, but never half of one, and
// room again is all it takes.
func fullRun(h *host) {
	h.Helper()
	h.file("/etc/ampoule/small.microvm", vm("stay"))
	h.sh("size=$(df --output=used -k /run | tail -n 1); mount -o remount,size=${size}k /run; cat /dev/zero >/run/full 2>/dev/null; systemctl daemon-reload", ends)
	h.sh("for f in /run/systemd/generator/microvm@*.service; do [ -e $f ] || continue; grep -q '^SetCredential=ampoule.plan:' $f || { echo half: $f; exit 1; }; done")
	h.sh("systemctl is-active microvm@web", prints("active"))
	h.sh("rm /run/full; mount -o remount,size=20% /run; systemctl daemon-reload")
	h.sh("systemctl show -P Description microvm@web microvm@small", prints("microVM web", "", "microVM small"))
	h.sh("systemctl show -P KillMode microvm@web", prints("mixed"))
	h.sh("rm /etc/ampoule/small.microvm; systemctl daemon-reload")
}

// manyFiles: a reload with ten thousand VMs works.
func manyFiles(h *host) {
	h.Helper()
	h.file("/root/one", vm("stay", "LoadCredential=KEY:/etc/secrets/key"))
	h.sh("for i in $(seq 10000); do cp /root/one /etc/ampoule/many$i.microvm; done", within(5*time.Minute))
	h.sh("echo VCPU=many >>/etc/ampoule/many77.microvm")
	began := time.Now()
	h.sh("systemctl daemon-reload", within(5*time.Minute))
	h.Logf("daemon-reload with 10,000 VMs: %s", time.Since(began).Round(time.Millisecond))
	h.sh("ls /run/systemd/generator | grep -c many", prints("10000"))
	h.sh("systemctl show -P Description microvm@many9999", prints("microVM many9999"))
	h.sh("systemctl show -P Description microvm@many77", says("cannot start: /etc/ampoule/many77.microvm:8: VCPU=many"))
	h.sh("find /etc/ampoule -name 'many*' -delete; systemctl daemon-reload")
	h.sh("ls /run/systemd/generator /run/ampoule/generator", not("many"))
}
