package host

import (
	"strings"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// standIn is a VM whose runner only stays: what it boots is not the point here.
func standIn(lines ...string) string {
	return "[MicroVM]\nKernel=/var/lib/guest/vmlinuz\nReadiness=started\nRunner=/usr/local/bin/stay\nDisk=data.raw:size=1M\n" + strings.Join(lines, "\n") + "\n" + install
}

// TestApply: what runs becomes what is declared, and nothing else is touched.
func TestApply(t *testing.T) {
	need.All(t, need.VMAll)
	onEach(t, func(h *host) {
		h.sh("printf '#!/bin/sh\nexec sleep infinity\n' >/usr/local/bin/stay; chmod 755 /usr/local/bin/stay")
		for _, name := range []string{"one", "two", "kept", "gone"} {
			h.file("/etc/ampoule/"+name+".microvm", standIn())
		}
		h.file("/etc/ampoule/kept.microvm.d/x.conf", "[MicroVM]\nRestartIfChanged=no\n")
		h.sh("ampoule apply --dry-run", exits(1), says("one", "start"))
		h.sh("systemctl is-active microvm@one", fails)
		h.sh("ampoule apply", within(time.Minute))
		h.sh("systemctl is-active microvm@one microvm@two microvm@kept microvm@gone", prints("active", "active", "active", "active"))
		h.sh("ampoule apply", says("nothing to do"))
		h.sh("ampoule diff")

		pids := func() map[string]string {
			out := map[string]string{}
			for _, name := range []string{"one", "two", "kept", "gone"} {
				out[name] = strings.TrimSpace(h.sh("systemctl show -P MainPID microvm@" + name))
			}
			return out
		}
		before := pids()
		h.sh("sed -i 's/^Readiness/Memory=300M\\n&/' /etc/ampoule/one.microvm /etc/ampoule/kept.microvm; rm /etc/ampoule/gone.microvm")
		h.file("/etc/ampoule/new.microvm", standIn())
		h.file("/etc/ampoule/bad.microvm", "[MicroVM]\nKernl=/x\n")
		h.sh("ampoule diff one", exits(1), says("Memory", "512M", "300M", "/etc/ampoule/one.microvm:"))
		h.Logf("%s", h.sh("ampoule apply", exits(20), within(time.Minute), says("one: restarted", "kept: left", "gone: stopped", "new: started", "bad: left")))
		after := pids()
		for name, same := range map[string]bool{"one": false, "two": true, "kept": true} {
			if (before[name] == after[name]) != same {
				h.Errorf("%s: process %s before, %s after", name, before[name], after[name])
			}
		}
		if after["gone"] != "0" {
			h.Errorf("gone runs as %s", after["gone"])
		}
		h.sh("systemctl is-active microvm@new", prints("active"))
		h.sh("ampoule apply", exits(20), says("nothing to do"))
		h.sh("test -e /var/lib/private/ampoule/vm/gone -o -e /var/lib/ampoule/vm/gone")
		h.sh("ampoule clean", says("gone"), not("two ", "kept"))
		h.sh("ampoule clean --remove one", fails)
		h.sh("ampoule clean --remove gone")
		h.sh("test ! -e /var/lib/private/ampoule/vm/gone")
		h.sh("rm /etc/ampoule/bad.microvm; ampoule apply; ampoule apply", says("nothing to do"))

		// The start limit (5 in 10 s) is there for VMs that end, not for changes.
		for _, size := range []string{"301M", "302M", "303M", "304M", "305M", "306M", "307M"} {
			h.sh("sed -i 's/^Memory=.*/Memory="+size+"/' /etc/ampoule/one.microvm; ampoule apply", says("one: restarted"))
		}

		killed(h)
	})
}

// killed: whenever an apply is killed, the next one ends where it would have.
func killed(h *host) {
	h.Helper()
	for i, wait := range []string{"0.02", "0.05", "0.1", "0.2", "0.4", "0.8"} {
		size := []string{"310M", "320M", "330M", "340M", "350M", "360M"}[i]
		h.sh("sed -i 's/^Memory=.*/Memory=" + size + "/' /etc/ampoule/one.microvm; rm -f /etc/ampoule/late.microvm")
		if i%2 == 0 {
			h.file("/etc/ampoule/late.microvm", standIn())
		}
		h.sh("timeout -s KILL "+wait+" ampoule apply", ends)
		h.sh("ampoule apply", within(time.Minute))
		h.sh("ampoule apply", says("nothing to do"))
		h.sh("ampoule diff one")
		h.sh("tr '\\0' ' ' </proc/$(systemctl show -P MainPID microvm@one)/cmdline", says("--digest="+strings.TrimSpace(h.sh("ampoule plan one --json | grep -o '\"vm\":\"sha256:[0-9a-f]*' | head -n 1 | cut -d'\"' -f4"))))
		if i%2 == 0 {
			h.sh("systemctl is-active microvm@late", prints("active"))
		} else {
			h.sh("systemctl is-active microvm@late", fails)
		}
	}
}
