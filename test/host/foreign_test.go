package host

import (
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/testkit/guest"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// othersUnits are the templates of microvm.nix (nixos-modules/host/default.nix at
// 71beea0), as NixOS writes such: one user for all VMs, no sandbox, and interfaces that
// a unit of root's makes before.
var othersUnits = map[string]string{
	"microvm@": `[Unit]
After=network.target systemd-modules-load.service microvm-tap-interfaces@%i.service microvm-set-booted@%i.service
ConditionPathExists=/var/lib/microvms/%i/current/bin/microvm-run
Description=MicroVM '%i'
Requires=microvm-tap-interfaces@%i.service microvm-set-booted@%i.service

[Service]
ExecStart=/var/lib/microvms/%i/current/bin/microvm-run
ExecStartPost=+/bin/sh -c 'if [ -x /var/lib/microvms/%i/current/bin/microvm-register ]; then /var/lib/microvms/%i/current/bin/microvm-register $MAINPID; fi'
ExecStop=/var/lib/microvms/%i/booted/bin/microvm-shutdown
ExecStopPost=+/bin/sh -c 'if [ -x /var/lib/microvms/%i/current/bin/microvm-unregister ]; then /var/lib/microvms/%i/current/bin/microvm-unregister; fi'
Group=kvm
LimitMEMLOCK=infinity
LimitNOFILE=1048576
NotifyAccess=all
Restart=always
RestartSec=5s
SyslogIdentifier=microvm@%i
TimeoutSec=150
Type=simple
User=microvm
WorkingDirectory=/var/lib/microvms/%i
X-RestartIfChanged=false
`,
	"microvm-tap-interfaces@": `[Unit]
After=network.target microvm-set-booted@%i.service
Before=microvm@%i.service
ConditionPathExists=/var/lib/microvms/%i/current/bin/tap-up
Description=Setup MicroVM '%i' TAP interfaces
PartOf=microvm@%i.service

[Service]
ExecStart=/var/lib/microvms/%i/current/bin/tap-up
ExecStop=/var/lib/microvms/%i/booted/bin/tap-down
RemainAfterExit=true
SyslogIdentifier=microvm-tap-interfaces@%i
Type=oneshot
`,
	"microvm-set-booted@": `[Unit]
Before=microvm@%i.service
Description=Save MicroVM '%i' booted configuration
PartOf=microvm@%i.service

[Service]
ExecStart=/bin/sh -e -c 'rm -f booted; ln -s $$(readlink current) booted'
ExecStop=/bin/rm booted
Group=kvm
RemainAfterExit=true
SyslogIdentifier=microvm-set-booted@%i
Type=oneshot
User=microvm
WorkingDirectory=/var/lib/microvms/%i
`,
}

// newForeignHost is a host whose units of VMs are somebody else's, with a VM web of
// which the run script does nothing, and a tap lan0 that its unit makes.
func newForeignHost(t *testing.T, version int) *host {
	// As udev has it: everybody may open it, and is then told what is whose.
	tun := device(t, "0666", "10", "200")
	h := newHost(t, version, append(withNetworks(t), "--bind="+tun+":/dev/net/tun")...)
	h.sh("getent group kvm || groupadd --system kvm; useradd --system --gid kvm --home-dir /var/empty microvm")
	for name, text := range othersUnits {
		h.file("/etc/systemd/system/"+name+".service", text)
	}
	h.sh("mkdir -p /var/lib/microvms/web /var/lib/runner/bin; ln -s /var/lib/runner /var/lib/microvms/web/current; chown -hR microvm:kvm /var/lib/microvms")
	h.file("/etc/systemd/system/microvm@web.service.d/overrides.conf", "[Service]\nX-RestartIfChanged=\nX-RestartIfChanged=true\n")
	h.tapUp("user microvm vnet_hdr")
	h.file("/var/lib/runner/bin/tap-down", "#!/bin/sh\nip link delete lan0\n")
	h.file("/var/lib/runner/bin/microvm-run", "#!/bin/sh\nexit 1\n")
	h.file("/var/lib/runner/bin/microvm-shutdown", "#!/bin/sh\nexit 1\n")
	h.sh("chmod 755 /var/lib/runner/bin/*")
	return h
}

// tapUp writes the script by which the tap is made, as microvm.nix has it, and gives
// the host an address on it.
func (h *host) tapUp(how string) {
	h.Helper()
	h.file("/var/lib/runner/bin/tap-up", "#!/bin/sh -eu\nif [ -e /sys/class/net/lan0 ]; then ip link delete lan0; fi\n"+
		"ip tuntap add name lan0 mode tap "+how+"\nip link set lan0 up\nip address add 192.0.2.1/24 dev lan0\n")
}

// ours is the drop-in by which the VM in such a unit is started by ampoule.
func ours(lines ...string) string {
	return "[Service]\nExecStart=\nExecStart=/usr/bin/ampoule run --plan=/var/lib/microvms/%i/plan.json\nExecStop=\nRestartPreventExitStatus=2\n" + strings.Join(lines, "\n") + "\n"
}

const (
	foreignDropIn = "/etc/systemd/system/microvm@web.service.d/ampoule.conf"
	makePlan      = "ampoule plan /etc/vm/web.microvm --json >/var/lib/microvms/web/plan.json && systemctl daemon-reload"
	foreignSays   = "journalctl -u microvm@web -o cat --no-pager"
)

// TestForeignUnit: in a unit that somebody else made, as another user, without a
// sandbox, with an interface that somebody else makes, a VM has its secret, its disk and
// its network, and is found, stopped and restarted like any other.
func TestForeignUnit(t *testing.T) {
	onEachWith(t, func(t *testing.T, version int) {
		h := newForeignHost(t, version)
		h.answers()
		h.file("/etc/secrets/key", secretValue)
		script, share := "agent address any 192.0.2.2/24\nagent ask 192.0.2.1:7000\n", ""
		if h.systemd >= 257 { // which has virtiofsd
			script += "mkdir -p /tmp/data; mount -t virtiofs data /tmp/data && cat /tmp/data/hello\n"
			share = "Share=/srv/data:data:socket=/var/lib/microvms/web/data.sock"
			h.file("/srv/data/hello", "hello from the host")
		}
		h.file("/etc/secrets/web.sh", script)
		h.file("/etc/vm/web.microvm", vm("stay", "Network=tap:name=lan0,external", share, "Disk=data.raw:size=16M", "LoadCredential=API_KEY:/etc/secrets/key", "LoadCredential="+guest.ScriptName+":/etc/secrets/web.sh"))
		h.file(foreignDropIn, ours("Type=notify", "RuntimeDirectory=ampoule/vm/%i", "Environment=STATE_DIRECTORY=/var/lib/microvms/%i",
			"LoadCredential=API_KEY:/etc/secrets/key", "LoadCredential="+guest.ScriptName+":/etc/secrets/web.sh"))
		h.sh(makePlan)
		h.sh("systemd-analyze verify --man=no microvm@web.service", not("ampoule.conf"))

		// What the host lacks is said at its line, and is not tried again.
		const line = "/etc/vm/web.microvm:7: Network=tap:name=lan0: "
		h.sh("mv /var/lib/runner/bin/tap-up /root; systemctl start microvm@web", fails)
		h.sh(foreignSays, says(line+"there is no interface lan0; whoever makes it has to before the VM starts", "nothing was started"), not("qemu"))
		h.sh("systemctl show -P ExecMainStatus -P NRestarts microvm@web", says("2", "0"))
		h.sh("mv /root/tap-up /var/lib/runner/bin; systemctl reset-failed")
		h.tapUp("user daemon")
		h.sh("systemctl restart microvm@web", fails)
		h.sh(foreignSays, says(line+"the tap lan0 belongs to uid 1, and this is uid "))
		h.tapUp("user microvm vnet_hdr")
		h.sh("systemctl reset-failed; systemctl restart microvm-tap-interfaces@web")

		if share != "" {
			h.sh("systemctl start microvm@web", fails)
			h.sh(foreignSays, says("/etc/vm/web.microvm:8: Share=/srv/data:data: there is no socket /var/lib/microvms/web/data.sock"))
			serve := "rm -f /var/lib/microvms/web/data.sock; systemctl reset-failed; systemd-run --quiet --unit=serves /usr/libexec/virtiofsd --socket-path=/var/lib/microvms/web/data.sock --shared-dir=/srv/data --sandbox=chroot"
			h.sh(serve)
			h.eventually("test -S /var/lib/microvms/web/data.sock")
			h.sh("systemctl start microvm@web", fails)
			h.sh(foreignSays, says("/etc/vm/web.microvm:8: Share=/srv/data:data: uid ", "may not connect to /var/lib/microvms/web/data.sock"))
			h.sh("systemctl stop serves; " + serve + " --socket-group=kvm")
			h.eventually("test -S /var/lib/microvms/web/data.sock")
		}
		h.sh("systemctl start microvm@web", within(boots))
		h.sh(foreignSays, reported(map[string]string{"API_KEY": secretValue}), says("disk vda 16777216 0"))
		h.eventually(foreignSays, within(boots), said("to 192.0.2.2: host"))
		if share != "" {
			h.eventually(foreignSays, within(boots), said("hello from the host"))
		}
		h.sh("stat -c '%U %s' /var/lib/microvms/web/data.raw", prints("microvm 16777216"))
		h.sh("grep -E '^(Uid|CapEff):' /proc/$(pgrep qemu-system)/status; cat /proc/$(pgrep qemu-system)/fdinfo/* | grep ^iff:", says("CapEff:\t0000000000000000", "iff:\tlan0"), not("Uid:\t0\t"))
		h.sh("grep -c -e "+secretValue+" /proc/$(pgrep qemu-system)/cmdline /proc/$(pgrep qemu-system)/environ /var/lib/microvms/web/plan.json", ends, not(":1"))

		// Everybody finds it.
		h.sh("systemctl is-active microvm@web", prints("active"))
		h.sh("{ sleep 3; } | timeout 20 ampoule console web", ends, says("AMPOULE-REPORT"))
		h.sh("ampoule list --json", says(`"web"`, `"ready"`))
		h.sh("ampoule list", says("web", "unit of others"), not("no longer declared"))
		h.sh("ampoule status web", says("ready", "microvm@web.service", "API_KEY"))
		h.sh("ampoule verify web", says("no file declares it; microvm@web.service runs it", "interface lan0"))
		h.ip("link set lan0 down")
		h.sh("ampoule verify web", fails, says("the interface lan0 is switched off", "cure: ip link set lan0 up"))
		h.ip("link set lan0 up")

		// It stops in order, and the interface is its maker's to remove.
		h.sh("ampoule stop web", fails, says("systemctl stop microvm@web.service"))
		h.sh("systemctl stop microvm@web", within(boots))
		h.sh(foreignSays+" | tail -n 20", says("the guest powered off"))
		h.sh("systemctl is-active microvm@web; pgrep -a qemu; ls -A /run/ampoule/vm", ends, prints("inactive"))
		h.eventually("ip link show lan0", fails)

		// A VM of Ampoule's own that has the name does not take the unit's place.
		h.file("/etc/ampoule/web.microvm", vm("stay"))
		h.sh("systemctl daemon-reload; systemctl show -P FragmentPath microvm@web", prints("/etc/systemd/system/microvm@.service"))
		h.sh("ampoule check web", fails, says("microvm@web.service is provided by /etc/systemd/system/microvm@.service"))
	})
}

// TestForeignUnitBare: what the drop-in leaves out is said, and how it comes to it.
func TestForeignUnitBare(t *testing.T) {
	need.All(t, need.VMAll)
	onEachWith(t, func(t *testing.T, version int) {
		h := newForeignHost(t, version)
		h.file("/etc/vm/web.microvm", vm("stay", "Network=tap:name=lan0,external", "Disk=data.raw:size=16M")+"Readiness=\nReadiness=started\n")
		h.file(foreignDropIn, ours())
		h.sh(makePlan+"; systemctl start microvm@web", ends)
		h.eventually(foreignSays, says("/etc/vm/web.microvm:8: Disk=data.raw: the disk lies in the VM's state directory, and nothing says where that is; in a unit, StateDirectory=ampoule/vm/web",
			"there is no runtime directory: ampoule status, list, console and stop do not find the VM", "RuntimeDirectory=ampoule/vm/web in [Service]"))
		h.sh("chmod 600 /var/lib/microvms/web/plan.json; systemctl start microvm@web", ends)
		h.eventually(foreignSays, says("reading the plan: ", "denied for uid "))
		h.sh("chmod 644 /var/lib/microvms/web/plan.json")

		// With neither directory it runs all the same, where all disks have a path.
		h.sh("truncate -s 16M /var/lib/microvms/web/data.raw; chown microvm /var/lib/microvms/web/data.raw; sed -i s,=data.raw:size=16M,=/var/lib/microvms/web/data.raw, /etc/vm/web.microvm")
		h.sh(makePlan + " && systemctl reset-failed && systemctl restart microvm@web")
		h.eventually(foreignSays, says("started, guest not observed"))
		h.sh("ampoule list 2>&1", says("no VMs"))
		// systemd signals all of the unit, and only ampoule heeds it.
		h.eventually(foreignSays, within(boots), says(ready))
		h.sh("systemctl stop microvm@web", within(boots))
		h.sh(foreignSays+" | tail -n 5", says("the guest powered off"))
	})
}
