package host

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/guest"
	"github.com/ampoule-vm/ampoule/internal/testkit/leak"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
	"github.com/ampoule-vm/ampoule/internal/testkit/nixeval"
)

// TestNixOS: the units of a NixOS host with microvm.nix and Ampoule's module, evaluated and
// built, boot the guest of the runner that microvm.nix made, with the interface that its own
// unit made; the credential is in the guest and nowhere else.
func TestNixOS(t *testing.T) {
	need.All(t, need.VM, need.Nix, need.Tun)
	configuration := fmt.Sprintf(`{ microvmHost, ampouleModules, ... }: {
		imports = [ microvmHost ampouleModules.nixosModules.host ];
		microvm.vms.web.config.microvm = {
			kernel = "/var/lib/guest/vmlinuz";
			initrdPath = "/var/lib/guest/initrd";
			kernelParams = [ "console=ttyS0" "panic=-1" "ampoule.test=stay" %q ];
			interfaces = [ { type = "tap"; id = "vm-web"; mac = "02:00:00:00:00:01"; } ];
		};
		microvm.vms.web.ampoule = {
			credentials.API_KEY.source = "/etc/secrets/api-key";
			credentials.ENVIRONMENT.value = "production";
			settings.Readiness = "console:%s";
		};
	}`, guest.TestParameters, ready)
	store := nixeval.NewStore(t)
	out, err := store.Build(t, nixeval.World{Ampoule: nixeval.Install(t)}, configuration, `e.pkgs.writeText "units" (builtins.toJSON e.files)`)
	if err != nil {
		t.Fatal(err)
	}
	var units map[string]string
	if err := json.Unmarshal([]byte(store.Read(t, out[0])), &units); err != nil {
		t.Fatal(err)
	}

	h := newHost(t, 257, "--bind="+device(t, "0666", "10", "200")+":/dev/net/tun", "--capability=CAP_NET_ADMIN", "--bind-ro="+store.Path("/nix/store")+":/nix/store")
	h.sh("groupadd --system --force kvm && useradd --system --gid kvm microvm")
	for name, text := range units {
		h.file(filepath.Join("/etc/systemd/system", name), text)
	}
	key := string(leak.Random(24))
	h.file("/etc/secrets/api-key", key)
	planted := string(leak.Random(24))
	scan := newScan(h, map[string][]byte{"API_KEY": []byte(key)}, planted)
	stop := scan.Watch(50 * time.Millisecond)
	defer stop()

	h.sh("systemctl daemon-reload")
	h.sh("systemctl start microvm@web", within(5*time.Minute))
	h.sh("systemctl show -p Type -p User -p SubState microvm@web", says("Type=notify\n", "User=microvm\n", "SubState=running\n"))
	h.sh("journalctl -u microvm@web -o cat --no-pager", reported(map[string]string{"API_KEY": key, "ENVIRONMENT": "production"}))
	h.sh("readlink /var/lib/microvms/web/current /var/lib/microvms/web/booted", says("-microvm-qemu-web\n"))
	h.sh("ip -details link show vm-web", says("tun type tap", "user microvm", "LOWER_UP"))
	h.sh("tr '\\0' ' ' </proc/$(pgrep qemu-system)/cmdline", says("-name web"), not(key))
	lookForLeaks(h, scan, planted)
	h.sh("nsenter --target $(systemctl show -P MainPID microvm@web) --mount ls /run/credentials", prints("microvm@web.service"))

	// microvm.nix's own shutdown script has no part in it.
	h.sh("systemctl stop microvm@web", prints(""))
	h.sh("journalctl -u microvm@web -o cat --no-pager", says("orderly-stop", "the guest powered off"))
	h.sh("systemctl show -p Result -p ActiveState microvm@web", says("Result=success", "ActiveState=inactive"))
	h.sh("ip link show vm-web", fails)

	// Another runner than that of which the plan was made.
	const other = "/var/lib/microvms/web/other"
	h.sh("mkdir -p " + other + "/bin; ln -s /bin/true " + other + "/bin/microvm-run; ln -sTf " + other + " /var/lib/microvms/web/current")
	h.file("/run/systemd/system/install-microvm-web.service.d/never.conf", "[Unit]\nConditionPathExists=/nowhere\n")
	h.sh("systemctl daemon-reload")
	h.sh("systemctl start microvm@web", fails)
	h.sh("journalctl -u microvm@web -o cat --no-pager", says("/var/lib/microvms/web/current leads to "+other+", and this system starts web from /nix/store/"))
	h.sh("systemctl stop microvm@web; rm /run/systemd/system/install-microvm-web.service.d/never.conf; systemctl daemon-reload")

	// A secret that is not there.
	h.sh("rm /etc/secrets/api-key; systemctl reset-failed")
	h.sh("systemctl start microvm@web", fails)
	h.sh("journalctl -u microvm@web -o cat --no-pager", says("web.microvm.d/50-nixos.conf:", ": LoadCredential=API_KEY:/etc/secrets/api-key: "))
}
