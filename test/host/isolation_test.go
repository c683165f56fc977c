package host

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// TestTwoVMs: what runs as the user of one VM reaches nothing of another; and an
// upgrade of the package, or its removal, changes nothing for both.
func TestTwoVMs(t *testing.T) {
	need.All(t, need.VMAll)
	onEach(t, func(h *host) {
		h.file("/etc/secrets/key", secretValue)
		for _, name := range []string{"one", "two"} {
			h.file("/etc/ampoule/"+name+".microvm", vm("stay", "LoadCredential=KEY:/etc/secrets/key", "Disk=data.raw:size=1M")+install)
		}
		h.sh("systemctl daemon-reload; systemctl start microvm@one microvm@two", within(boots))
		isolated(h)
		packaged(h)
	})
}

// isolated tries from the uid of one VM, in its view of the file system and in
// the host's, everything that the other has. The same on its own proves that
// the attempts are worth something.
func isolated(h *host) {
	h.Helper()
	pid := func(name string) string { return fmt.Sprint(h.mainPid("microvm@" + name)) }
	one, two := pid("one"), pid("two")
	// Not the owner of /proc/PID: that is root, since no core of them is dumped.
	id := func(what, pid string) string {
		return strings.TrimSpace(h.sh("awk '/^" + what + ":/ { print $2 }' /proc/" + pid + "/status"))
	}
	if id("Uid", one) == id("Uid", two) || id("Uid", one) == "0" {
		h.Errorf("the VMs have one user, %s", id("Uid", one))
	}
	as := "setpriv --reuid=" + id("Uid", one) + " --regid=" + id("Gid", one) + " --clear-groups "
	inside := "nsenter --mount --target=" + one + " " + as
	for _, view := range []struct{ name, as string }{{"inside", inside}, {"on the host", as}} {
		for _, file := range []string{"/var/lib/ampoule/vm/NAME/data.raw", "/var/lib/private/ampoule/vm/NAME/data.raw"} {
			h.sh(view.as+"head -c 1 "+strings.Replace(file, "NAME", "two", 1), fails)
		}
		for _, dir := range []string{"/run/ampoule/vm/two/", "/run/private/ampoule/vm/two", "/var/cache/ampoule/vm/two/", "/run/credentials/microvm@two.service"} {
			h.sh(view.as+"ls "+dir, fails)
		}
		for _, file := range []string{"mem", "environ", "maps", "io"} {
			h.sh(view.as+"head -c 1 /proc/"+two+"/"+file, fails)
		}
		for _, dir := range []string{"fd", "root/", "cwd/", "map_files"} {
			h.sh(view.as+"ls /proc/"+two+"/"+dir, fails)
		}
		h.sh(view.as+"sh -c 'kill -CONT "+two+"'", fails)
	}
	h.sh(inside + "head -c 1 /var/lib/ampoule/vm/one/data.raw")
	h.sh(inside+"cat /run/credentials/microvm@one.service/KEY", prints(secretValue))
	h.sh(inside+"ls /run/credentials", prints("microvm@one.service"))
	h.sh(inside + "sh -c 'kill -CONT " + one + "'")
	h.sh(inside+"ls /proc/"+two, fails) // it is not even seen
}

// packaged: dpkg restarts nothing and stops nothing.
func packaged(h *host) {
	h.Helper()
	const pids = "systemctl show -p MainPID -p InvocationID -p NRestarts microvm@one microvm@two; pgrep qemu-system"
	running := strings.TrimSpace(h.sh(pids))
	h.sh("dpkg --install /media/ampoule.deb", within(time.Minute))
	h.sh(pids, prints(running))
	h.sh("systemctl show -P Description microvm@one", prints("microVM one"))

	h.sh("dpkg --remove ampoule", within(time.Minute))
	h.sh("test ! -e /usr/bin/ampoule; test ! -e /run/systemd/generator/microvm@one.service")
	h.sh(pids, prints(running))
	h.sh("systemctl show -p KillMode -p TimeoutStopUSec microvm@one", prints("TimeoutStopUSec=1min", "KillMode=mixed"))
	h.sh("systemctl stop microvm@one")
	h.sh(cat+"microvm@one", says("orderly-stop", "the guest powered off"))
	h.sh("systemctl start microvm@one", fails)

	h.sh("dpkg --install /media/ampoule.deb", within(time.Minute))
	h.sh("systemctl show -P Description microvm@one microvm@two", prints("microVM one", "", "microVM two"))
	h.sh("systemctl stop microvm@two")
	h.sh(cat+"microvm@two", says("orderly-stop", "the guest powered off"))
	h.sh("dpkg --purge ampoule", within(time.Minute), says("the disks of the VMs remain"))
	h.sh("ls /var/lib/private/ampoule/vm/one/data.raw")
}
