package host

import (
	"fmt"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/testkit/guest"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// withNetworks are the arguments of a host whose administrator may make network
// interfaces. It has a network namespace of its own, as every host here.
func withNetworks(t testing.TB) []string {
	return []string{"--capability=CAP_NET_ADMIN", "--bind=/dev/net/tun", "--bind-ro=" + guest.Agent(t) + ":/usr/local/bin/agent"}
}

// scripted writes a VM whose guest carries out a script.
func (h *host) scripted(name, script string, lines ...string) {
	h.Helper()
	h.file("/etc/secrets/"+name+".sh", script)
	h.file("/etc/ampoule/"+name+".microvm", vm("stay", append(lines, "LoadCredential="+guest.ScriptName+":/etc/secrets/"+name+".sh")...))
}

// said are lines that a guest's script printed.
func said(lines ...string) want {
	for i, line := range lines {
		lines[i] = "AMPOULE-REPORT said " + line + "\n"
	}
	return says(lines...)
}

// asked is what a line of shell prints that connects to a TCP port, or what is wrong
// with the network.
func asked(address string) string {
	return fmt.Sprintf("timeout 5 bash -c 'cat </dev/tcp/%s'", address)
}

// host answers by this service who connects from a guest.
func (h *host) answers() {
	h.Helper()
	h.sh("ip link set lo up; systemd-run --quiet --unit=answers /usr/local/bin/agent answer :7000 host")
	h.eventually(asked("127.0.0.1/7000"), says("host"))
}

// TestUserNetwork: a guest behind QEMU's own network reaches its host, and is
// reached by the port that is published, and by no other.
func TestUserNetwork(t *testing.T) {
	need.All(t, need.VMAll)
	onEachWith(t, func(t *testing.T, version int) {
		h := newHost(t, version, withNetworks(t)...)
		h.answers()
		h.scripted("web", "agent address any 10.0.2.15/24\nagent ask 10.0.2.2:7000\nagent answer :80 web &\nagent answer :81 more &\nwait\n",
			"Network=user", "PublishPort=127.0.0.1:8080:80")
		h.sh("ampoule check web && systemctl daemon-reload")
		h.sh("systemd-analyze verify --man=no /run/systemd/generator/microvm@web.service", prints(""))
		h.sh("systemctl start microvm@web", within(boots))
		h.eventually(cat+"microvm@web", within(boots), said("to 127.0.0.1: host"))
		h.eventually(asked("127.0.0.1/8080"), within(boots), prints("to 10.0.2.2: web"))
		h.sh("ss -Hltn | grep -v :7000", says("127.0.0.1:8080"), not(":81"))
		h.unbroken()
		// Its own port does not stand in its way.
		h.sh("ampoule check web", says("web: ok"))

		// A port that somebody has is named where it is asked for.
		h.scripted("late", "", "Network=user", "PublishPort=127.0.0.1:8080:80")
		h.sh("systemctl daemon-reload; systemctl start microvm@late", fails)
		h.sh("journalctl --no-pager -o cat -u microvm@late", says("/etc/ampoule/late.microvm:8: PublishPort=127.0.0.1:8080:80/tcp: ", "port 8080 (tcp) of this host cannot be published", "address already in use"))
		h.sh("systemctl show -p ExecMainStatus -p NRestarts microvm@late", says("ExecMainStatus=2", "NRestarts=0"))

		h.sh("systemctl stop microvm@web", within(boots))
		h.sh("ss -Hltn", not(":8080"))
	})
}
