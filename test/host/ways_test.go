package host

import (
	"testing"

	"github.com/ampoule-vm/ampoule/internal/testkit/guest"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// longKey is as long as the example of a runner asks for.
const longKey = secretValue + "-and-more"

const examples = "/usr/share/doc/ampoule/examples/"

// TestWays: a runner of the host's, by Runner= and by ExecStart=, a hook of
// root's that brings the secret, and a unit of one's own: the examples, as the
// package has them, with a guest that reports.
func TestWays(t *testing.T) {
	need.All(t, need.VMAll)
	onEach(t, func(h *host) {
		h.sh("mkdir -p /var/lib/ampoule/guest; cp /var/lib/guest/* /var/lib/ampoule/guest; umask 077; printf %s " + longKey + " >/etc/ampoule/api-key")
		key := map[string]string{"API_KEY": longKey}
		reload := func(way, scripts, to string) {
			h.sh("mkdir -p " + to + "; cp " + examples + way + "/web.microvm " + to + "; install -t /usr/local/bin " + scripts)
			h.sh(`sed -i '/^\[MicroVM\]/a KernelCommandLine=ampoule.test=stay ` + guest.TestParameters + `\nReadiness=console:` + ready + "' " + to + "/web.microvm")
			h.sh("systemctl daemon-reload; systemctl reset-failed")
		}
		stop := func(unit string) {
			h.sh("systemctl stop " + unit)
			h.sh(cat+unit+" | tail -n 20", says("the guest powered off"))
		}

		reload("runner", examples+"runner/web-runner", "/etc/ampoule")
		h.sh("mv /etc/ampoule/api-key /root/; systemctl start microvm@web", fails)
		h.sh(cat+"microvm@web", says("LoadCredential=API_KEY:/etc/ampoule/api-key: "), not("booting\n"))
		h.sh("mv /root/api-key /etc/ampoule; systemctl start microvm@web", within(boots))
		h.sh(cat+"microvm@web", reported(key), says("web: API_KEY has 37 bytes; booting"))
		h.sh("echo short >/etc/ampoule/api-key; kill -KILL $(pgrep qemu-system)") // it is asked again at each start
		h.eventually(cat+"microvm@web", says("web: API_KEY has 6 bytes, and no key"))
		h.sh("systemctl stop microvm@web; printf %s " + longKey + " >/etc/ampoule/api-key")

		reload("exec-start", examples+"exec-start/web-start", "/etc/ampoule")
		h.sh("mv /etc/ampoule/api-key /root/; systemctl start microvm@web", fails)
		h.sh(cat+"microvm@web | tail -n 12", says("LoadCredential=API_KEY:/etc/ampoule/api-key: "), not("start with the credentials"))
		h.sh("mv /root/api-key /etc/ampoule; systemctl reset-failed; systemctl start microvm@web", within(boots))
		h.sh(cat+"microvm@web | sed '1,/web: start with the credentials API_KEY/d'", reported(key))
		stop("microvm@web")

		reload("pre-start", examples+"pre-start/*-secrets", "/etc/ampoule")
		h.sh("systemd-creds setup 2>&1; systemd-creds encrypt --with-key=host --name=api-key /etc/ampoule/api-key /etc/ampoule/api-key.sealed 2>&1")
		h.sh("systemctl start microvm@web", within(boots))
		h.sh(cat+"microvm@web | tail -n 100", reported(key))
		stop("microvm@web")
		h.sh("test ! -e /run/web-secrets")
		h.sh("sed -i /ExecStartPre/d /etc/ampoule/web.microvm; systemctl daemon-reload; systemctl start microvm@web", fails)
		h.sh(cat+"microvm@web | tail -n 12", says("LoadCredential=API_KEY:/run/web-secrets/api-key: "))
		h.sh("rm /etc/ampoule/web.microvm")

		reload("custom-unit", examples+"custom-unit/make-unit", "/etc/vm")
		h.sh("cp /etc/ampoule/api-key /etc/vm; cp " + examples + "custom-unit/make-unit /etc/vm; /etc/vm/make-unit")
		h.sh("systemctl is-enabled web; systemctl enable --now web 2>&1", within(boots), says("multi-user.target.wants/web.service"))
		h.sh(cat+"web", reported(key))
		h.sh("systemctl show -P FragmentPath web", prints("/etc/systemd/system/web.service"))
		stop("web")
	})
}
