package host

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/testkit/guest"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

const secretValue = "correct-horse-battery-staple"

// ready is what the guest says last in its report.
const ready = "AMPOULE-REPORT action"

// vm is the file of a VM that reports on its console and does what the word
// says: see internal/testkit/guest/agent.
func vm(word string, lines ...string) string {
	return "[MicroVM]\nKernel=/var/lib/guest/vmlinuz\nInitrd=/var/lib/guest/initrd\nMemory=512M\nReadiness=console:" + ready + "\n" +
		"KernelCommandLine=ampoule.test=" + word + " " + guest.TestParameters + "\n" + strings.Join(lines, "\n") + "\n"
}

// reported are the lines of the guest's report about credentials with these
// values. The journal trims lines, so that the report as a whole does not have
// its sum any more.
func reported(values map[string]string) want {
	var lines []string
	for name, value := range values {
		item := guest.Of(name, []byte(value))
		for _, who := range []string{"cred", "load"} {
			lines = append(lines, fmt.Sprintf("AMPOULE-REPORT %s %d %s %s\n", who, item.Bytes, item.SHA256, name))
		}
	}
	return says(lines...)
}

const makeUnit = "ampoule plan web --unit >/etc/systemd/system/web.service && systemctl daemon-reload"

// TestUnitFails: what is missing is named in the journal, and by whom it is
// wanted; a plan that was replaced is refused. No guest boots.
func TestUnitFails(t *testing.T) {
	need.All(t, need.VMAll)
	onEach(t, func(h *host) {
		h.file("/etc/ampoule/web.microvm", vm("stay", "LoadCredential=KEY:/etc/secrets/absent", "LoadCredential=OTHER:/etc/secrets/gone", "SetCredential=OTHER:default"))
		h.sh(makeUnit)
		h.sh("systemctl start web", fails)
		h.sh("journalctl -u web -o cat --no-pager", says("/etc/ampoule/web.microvm:7: LoadCredential=KEY:/etc/secrets/absent: "),
			not("OTHER")) // it has a default
		h.sh("systemctl show -p Result -p ExecMainStatus -p NRestarts web", says("Result=exit-code", "ExecMainStatus=2", "NRestarts=0"))

		h.sh("mkdir -p /etc/secrets /home/kernel; echo x >/etc/secrets/absent; echo x >/etc/secrets/gone; install -m 0600 /var/lib/guest/vmlinuz /home/kernel/vmlinuz")
		h.sh("sed -i s,/var/lib/guest/vmlinuz,/home/kernel/vmlinuz, /etc/ampoule/web.microvm; " + makeUnit)
		h.sh("systemctl start web", fails)
		h.sh("journalctl -u web -o cat --no-pager -n 5", says("Kernel=/home/kernel/vmlinuz: permission denied for uid "))

		h.file("/etc/systemd/system/web.service.d/reset.conf", "[Service]\nSetCredential=\n")
		h.sh("systemctl daemon-reload; systemctl start web", fails)
		h.sh("journalctl -u web -o cat --no-pager -n 5", says("the unit does not carry the plan ampoule.plan; SetCredential= is cleared at /etc/systemd/system/web.service.d/reset.conf:2"))
	})
}

// exposed reads what systemd-analyze security comes to.
func exposed(most float64) want {
	return check(func(s *step) string {
		_, after, ok := strings.Cut(s.out, "Overall exposure level for ")
		_, after, _ = strings.Cut(after, ": ")
		level, err := strconv.ParseFloat(strings.TrimSpace(strings.Split(after+" ", " ")[0]), 64)
		if !ok || err != nil || level > most {
			return fmt.Sprintf("the exposure is %v, want at most %v: %v", level, most, err)
		}
		return ""
	})
}
