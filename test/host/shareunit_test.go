package host

import (
	"os"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
	"github.com/ampoule-vm/ampoule/internal/testkit/tinykernel"
)

// TestShareUnit: what serves a share starts before its VM, restarts with it after a
// crash too, and stops after it; only the VM's user may open its socket. What it
// cannot serve is said of the VM, at the line.
func TestShareUnit(t *testing.T) {
	need.All(t, need.VMAll)
	t.Run("257", func(t *testing.T) {
		h := newHost(t, 257)
		const share = "'microvm-share@web:data.service'"
		state := "systemctl is-active microvm@web " + share
		pid := "systemctl show -P MainPID " + share
		h.sh("mkdir -m 0700 /srv/data")
		h.file("/etc/ampoule/web.microvm", vm("stay", "Share=/srv/data:data"))
		h.sh("ampoule check web && systemctl daemon-reload")
		// Of a path with a colon in it systemd-analyze takes the end for an alias.
		h.sh("cp /run/systemd/generator/*:data.service /tmp/data.service; systemd-analyze verify --man=no /run/systemd/generator/microvm@web.service /tmp/data.service", prints(""))
		h.sh("systemd-analyze security --no-pager --threshold=30 "+share, exposed(2.5))
		h.sh("systemctl start microvm@web", within(boots))
		h.sh(state, prints("active", "active"))
		h.sh("test $(stat -c %u /run/ampoule/share/web@data/s) = $(stat -c %u /proc/$(pgrep qemu-system))")
		h.sh("stat -c %a /run/ampoule/share/web@data/s /run/ampoule/share/web@data", prints("600", "711"))
		h.sh("grep -E '^(CapEff|CapBnd|NoNewPrivs):' /proc/$("+pid+")/status", says("CapEff:\t00000000000000db\nCapBnd:\t0000000000000000\nNoNewPrivs:\t1\n"))
		h.sh("readlink /proc/$("+pid+")/root", says("/run/ampoule/share/web@data/d"))

		for _, crash := range []string{"systemctl restart microvm@web", "kill -9 $(systemctl show -P MainPID microvm@web)", "kill -9 $(pgrep qemu-system)"} {
			before := strings.TrimSpace(h.sh(pid))
			h.sh(crash, within(boots))
			h.eventually("test $("+pid+") != "+before+" && "+state+" && ampoule status web", within(boots), says("active\nactive\n", "ready"))
		}

		h.sh("kill -9 $(" + pid + ")")
		h.eventually("ampoule verify web", ends, says("the guest cannot reach its share data (/etc/ampoule/web.microvm:", "systemctl restart microvm@web.service"))
		h.sh("systemctl restart microvm@web", within(boots))
		h.sh("ampoule verify web", ends, not("cannot reach"))
		h.sh("systemctl stop microvm@web", within(boots))
		h.sh(state, fails, prints("inactive", "inactive"))
		h.sh("pgrep virtiofsd; find /run/ampoule/share /run/ampoule/privileged -mindepth 1", prints(""))

		// Whatever becomes of the directory, and whoever changed what it leads to.
		h.sh("rmdir /srv/data; systemctl start microvm@web", fails)
		h.sh("journalctl -u microvm@web -o cat --no-pager | tail -n 12", says("web.microvm:", "Share=/srv/data:data: there is no directory /srv/data"))
		h.sh("mkdir -p /run/secrets/x; ln -s /run/secrets/x /srv/data; systemctl start microvm@web", fails)
		h.sh("journalctl -u microvm@web -o cat --no-pager | tail -n 12", says("it leads to /run/secrets/x: nothing in /run/secrets is for a guest"))
		h.sh("pgrep 'qemu-system|virtiofsd'", exits(1))
	})
}

// newShareHost is a host with virtiofsd, and with a guest that knows the power button
// alone.
func newShareHost(t *testing.T) *host {
	t.Helper()
	h := newHost(t, 257)
	if err := os.WriteFile(h.Path("/var/lib/guest/tiny"), tinykernel.ELF(tinykernel.Word+tinykernel.Button), 0o644); err != nil {
		t.Fatal(err)
	}
	h.sh("mkdir /srv/data")
	return h
}

// TestOwnShareUnit: the units that ampoule plan prints, under a name of one's own,
// start, restart and stop as those of the generator.
func TestOwnShareUnit(t *testing.T) {
	need.All(t, need.VMAll)
	t.Run("257", func(t *testing.T) {
		h := newShareHost(t)
		const share = "'microvm-share@web:data.service'"
		h.file("/etc/vm/web.microvm", wired("Share=/srv/data:data"))
		h.sh("cd /etc/systemd/system; ampoule plan /etc/vm/web.microvm --unit 2>/tmp/notes >web.service && ampoule plan /etc/vm/web.microvm --unit --share data --of web.service >" + share)
		h.sh("cat /tmp/notes", says("/etc/vm/web.microvm:6: note: Share=/srv/data:data: ", "microvm-share@web:data.service"))
		h.sh("systemctl daemon-reload; systemd-analyze verify --man=no web.service", prints(""))
		h.sh("systemctl start web")
		state := "systemctl is-active web " + share
		h.sh(state, prints("active", "active"))
		for _, end := range []string{"systemctl restart web", "kill -9 $(pgrep qemu-system)"} {
			pid := "systemctl show -P MainPID " + share
			before := strings.TrimSpace(h.sh(pid))
			h.sh(end)
			h.eventually("test $("+pid+") != "+before+" && "+state, prints("active", "active"))
		}
		h.sh("systemctl stop web")
		h.sh(state, fails, prints("inactive", "inactive"))
		h.sh("pgrep virtiofsd; find /run/ampoule/share /run/ampoule/privileged -mindepth 1", prints(""))
	})
}

// TestRenamedShare: of a share that a VM has no more, or by another tag, since its file
// was changed while it ran, nothing stays on the host. What is left of a VM whose undo
// was killed, ampoule clean finds.
func TestRenamedShare(t *testing.T) {
	need.All(t, need.VMAll)
	t.Run("257", func(t *testing.T) {
		h := newShareHost(t)
		have := "ls /run/ampoule/share; pgrep -c virtiofsd"
		change := func(lines ...string) {
			h.Helper()
			h.file("/etc/ampoule/web.microvm", wired(lines...))
			h.sh("systemctl daemon-reload")
		}
		change("Share=/srv/data:data", "Share=/srv:all:ro,cache=always")
		h.sh("ampoule check web", ends, says("lies"))
		change("Share=/srv/data:data")
		h.sh("systemctl start microvm@web")
		h.sh(have, prints("web@data", "1"))
		change("Share=/srv/data:other")
		h.sh(have, prints("web@data", "1"))
		h.sh("systemctl restart microvm@web; systemctl is-active microvm@web", prints("active"))
		h.eventually(have, prints("web@other", "1"))
		h.sh("ampoule verify web")
		change("Share=/srv/data:third")
		h.sh("kill -9 $(pgrep qemu-system)")
		h.eventually("systemctl is-active microvm@web; "+have, prints("active", "web@third", "1"))
		change("")
		h.sh("systemctl restart microvm@web; systemctl is-active microvm@web", prints("active"))
		h.eventually("find /run/ampoule/share -mindepth 1; pgrep -c virtiofsd", exits(1), prints("0"))
		change("Share=/srv/data:data")
		h.sh("systemctl restart microvm@web")
		change("Share=/srv/data:more")
		h.sh("systemctl stop microvm@web")
		h.eventually("find /run/ampoule/share /run/ampoule/privileged -mindepth 1; pgrep -c virtiofsd", exits(1), prints("0"))

		// By hand, killed, and again.
		hand := "(setsid ampoule run web </dev/null >/tmp/said 2>&1) & "
		h.sh(hand)
		h.eventually("cat /tmp/said", says("started, guest not observed"))
		h.sh("kill -9 $(pgrep -x ampoule)")
		h.eventually("pgrep 'qemu|virtiofsd'", exits(1))
		h.sh("ls /run/ampoule/share /run/ampoule/privileged", says("web@more", "web\n"))
		h.sh(hand)
		h.eventually("cat /tmp/said", says("started, guest not observed"))
		h.sh("kill -9 $(pgrep -x ampoule)")
		h.eventually("pgrep 'qemu|virtiofsd'", exits(1))
		h.sh("ampoule clean", not("web"))
		h.sh("rm /etc/ampoule/web.microvm; systemctl daemon-reload")
		h.sh("ampoule clean", says("prepared", "/run/ampoule/privileged/web", "runtime", "/run/ampoule/share/web@more"))
		h.sh("ampoule clean --remove web", says("web: removed /run/ampoule/share/web@more", "web: removed /run/ampoule/privileged/web"))
		h.sh("find /run/ampoule/share /run/ampoule/privileged -mindepth 1", prints(""))
	})
}
