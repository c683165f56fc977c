package host

import (
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/testkit/guest"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// newest adds a guest with a systemd that mounts by itself, in /var/lib/newest.
func newest(g guest.Guest) []string {
	return []string{"--bind-ro=" + g.Kernel + ":/var/lib/newest/vmlinuz", "--bind-ro=" + g.Initrd + ":/var/lib/newest/initrd"}
}

// many fills the working directory with ten thousand files, a hundred in a
// directory, of a hundred owners and of several modes.
const many = `for d in $(seq 100); do mkdir $d; for f in $(seq 100); do echo $d.$f >$d/$f; done; chown -R $((1000 + d)):$((2000 + d)) $d; done
chmod 600 ./?/*; chmod 755 ./1?/*; chmod 4711 20/*`

// sum is of all that is below the working directory: names, owners, modes, lengths.
const sum = `find . -mindepth 1 -printf '%P %U %G %m %s\n' | sort | sha256sum; find . -type f | wc -l`

// newestVM is the text of a VM with the guest of newest.
func (h *host) newest(name, script string, lines ...string) {
	h.Helper()
	h.scripted(name, script, lines...)
	path := "/etc/ampoule/" + name + ".microvm"
	h.sh("sed -i 's,/var/lib/guest/,/var/lib/newest/,; s/^Readiness=/GuestSystemd=257\\n&/' " + path)
}

// TestShares: a guest mounts its shares by itself. What the host put there it sees
// with the owners that it has, ten thousand files; what it writes, the host sees so;
// and it writes nothing where it may only read.
func TestShares(t *testing.T) {
	need.All(t, need.VMAll, need.Guest)
	t.Run("257", func(t *testing.T) {
		h := newHost(t, 257, append(withNetworks(t), newest(guest.Get(t, "trixie"))...)...)
		h.sh("mkdir -p /srv/ro /srv/rw; cd /srv/ro; " + many)
		script := "cd /mnt/ro; " + sum + "\ntouch new 2>&1\nmount -o remount,rw /mnt/ro 2>&1; touch new; echo x >1/1; rm 2/2; mkdir d; chmod 777 .\n" +
			"ls -A /mnt/rw; mkdir /mnt/rw/many; cd /mnt/rw/many; " + many + "\n" + sum + "\nsync\necho done\n"
		h.newest("web", script, "Share=/srv/ro:src:/mnt/ro:ro", "Share=/srv/rw:dst:/mnt/rw")
		h.sh("ampoule check web && systemctl daemon-reload")
		h.sh("systemd-analyze verify --man=no /run/systemd/generator/microvm@web.service", prints(""))
		h.sh("systemd-analyze security --no-pager --threshold=15 microvm@web.service", exposed(1.5))
		h.sh("touch /srv/rw/first; systemctl start microvm@web", within(boots))
		h.eventually(cat+"microvm@web", within(2*boots), said("done"))
		for _, dir := range []string{"/srv/ro", "/srv/rw/many"} {
			h.sh(cat+"microvm@web", said(lines(h.sh("cd "+dir+"; "+sum))...))
		}
		h.sh(cat+"microvm@web", said("first", "10000"), says("Read-only file system"))
		h.sh("cat /srv/ro/1/1 /srv/ro/2/2; ls /srv/ro | wc -l; stat -c %a /srv/ro", prints("1.1", "2.2", "100", "755"))
		h.unbroken()
		h.sh("systemctl stop microvm@web", within(boots))
		h.sh("pgrep -l virtiofsd", exits(1))
	})
}

// TestNineP: a guest mounts by itself what QEMU serves by 9p. The owners and modes that
// it gives to its files it finds again after it has unmounted, and the host has all of
// them as the VM's user's; where it may only read, it sees the host's own.
func TestNineP(t *testing.T) {
	need.All(t, need.VMAll, need.Guest)
	t.Run("257", func(t *testing.T) {
		h := newHost(t, 257, append(withNetworks(t), newest(guest.GetGeneric(t, "trixie"))...)...)
		h.sh("mkdir -p /srv/ro; mkdir -m 0777 /srv/rw; cd /srv/ro; " + many)
		script := "grep ' 9p ' /proc/mounts\ncd /mnt/ro; " + sum + "\ntouch new 2>&1\nmount -o remount,rw /mnt/ro 2>&1; touch new 2>&1; echo x >1/1; rm 2/2; mkdir d; chmod 777 . 30\n" +
			"ls -A /mnt/rw; mkdir /mnt/rw/many; cd /mnt/rw/many; " + many + "\n" + sum + "\nsync; cd /\n" +
			"systemctl stop mnt-rw.mount && ls -A /mnt/rw | wc -l; systemctl start mnt-rw.mount\ncd /mnt/rw/many; echo again; " + sum + "; cat 7/7; stat -c '%u %g %a' 7/7 20/20\necho done\n"
		h.newest("web", script, "Share=/srv/ro:src:/mnt/ro:9p,ro", "Share=/srv/rw:dst:/mnt/rw:9p,security=mapped")
		h.sh("ampoule check web && systemctl daemon-reload")
		h.sh("systemd-analyze verify --man=no /run/systemd/generator/microvm@web.service", prints(""))
		h.sh("systemd-analyze security --no-pager --threshold=15 microvm@web.service", exposed(1.5))
		h.sh("touch /srv/rw/first; systemctl start microvm@web", within(boots))
		h.eventually(cat+"microvm@web", within(2*boots), said("done"))
		all := h.sh("cd /srv/ro; " + sum)
		h.sh(cat+"microvm@web", said(append(lines(all), "first", "again", "7.7", "1007 2007 600", "1020 2020 4711")...), says("Read-only file system"))
		// The host's own sum thrice: of the one share, and of the other twice.
		h.sh(cat+"microvm@web | grep -c 'said "+lines(all)[0]+"'", prints("3"))
		h.sh("cat /srv/ro/1/1 /srv/ro/2/2; ls /srv/ro | wc -l; stat -c %a /srv/ro /srv/ro/30", prints("1.1", "2.2", "100", "755", "755"))
		// With nobody's rights but the VM's, whatever the guest has set.
		h.sh("find /srv/rw/many -type f | wc -l; find /srv/rw -perm /7077 ! -path /srv/rw | grep -v first", prints("10000"), exits(1))
		h.sh("find /srv/rw/many ! -user $(stat -c %u /proc/$(pgrep qemu-system))", prints(""))
		h.unbroken()
		h.sh("systemctl stop microvm@web", within(boots))
	})
}

// lines of a text, without an empty last one.
func lines(text string) []string { return strings.Split(strings.TrimSpace(text), "\n") }
