package diagnose

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/nixhost"
)

// What the document of the seed tells of.
const (
	seedDeployed = "/nix/store/mc5gi9pjf5a2a19c0syr42ahddslg5a9-microvm-test-vm-microvm-run"
	seedBuilt    = "/nix/store/2fa1lq73q9c0509hxwdxkyq2kywj5z7k-microvm-test-vm-microvm-run"
	seedSystem   = "/nix/store/aga6qnphnjzwvxg0zp9cp6szfldl9jjk-nixos-system-britton-desktop-25.11.20250921.a1f79a1"
	seedSource   = "machines/britton-desktop/configuration.nix:148-230"
	seedSecret   = "/run/secrets/vars/test-vm-secrets/api-key"
)

// seed is the host of the document: test-vm with a run script that was lost, and
// app-vm-01 with the same text, which works.
func seed(h *nixhost.Host) {
	h.Name = "britton-desktop"
	h.Sops(map[string]string{"vars/test-vm-secrets/api-key": key, "vars/app-vm-01-secrets/api-key": key + "-of-app"})
	h.Source = h.Store("source", nixhost.Files{
		"flake.nix": nixhost.Text("{\n  outputs = inputs: { };\n}\n"),
		"machines/britton-desktop/configuration.nix": nixhost.Text(seedConfiguration()),
	})
	h.Fix("microvm-test-vm-microvm-run", seedDeployed[11:43])
	h.Fix("microvm-test-vm-microvm-run", seedBuilt[11:43])
	h.VM("test-vm", nixhost.Loads("API_KEY", seedSecret), binScript(seedLoader("test-vm")), guest("LoadCredential=API_KEY"))
	app := h.VM("app-vm-01", nixhost.ByHand("git+https://git.example.org/app-vm-01"), nixhost.Loads("API_KEY", "/run/secrets/vars/app-vm-01-secrets/api-key"), func(vm *nixhost.VM) {
		vm.Runner, vm.Argv = seedLoader("app-vm-01"), strings.Split("--cpus boot=2 --memory size=1024M --kernel /var/lib/kernel/vmlinux --platform oem_strings=[io.systemd.credential:API_KEY="+key+"-of-app] --api-socket app-vm-01.sock", " ")
	}, guest("LoadCredential=API_KEY"))
	// Rebuilds of all kinds, and each time the same runner.
	for range 3 {
		h.Change()
		h.Switch()
		h.Later(time.Hour)
	}
	h.Create(app)
	h.Change()
	h.Fix("nixos-system-britton-desktop-"+h.Version, seedSystem[11:43])
	h.Switch()
	h.Switch()
}

// seedLoader is the script of the document.
func seedLoader(vm string) string {
	return strings.ReplaceAll(loader("API_KEY"), "test-vm", vm)
}

// seedConfiguration has the override at its lines in the document.
func seedConfiguration() string {
	lines := []string{"# HOST: machines/britton-desktop/configuration.nix", "{ config, lib, pkgs, inputs, ... }:", "{", "  networking.hostName = \"britton-desktop\";"}
	for len(lines) < 130 {
		lines = append(lines, fmt.Sprintf("  environment.etc.\"note-%d\".text = \"line %d\";", len(lines), len(lines)+1))
	}
	lines = append(lines, strings.Split(`  microvm.vms = {
    test-vm = {
      autostart = true;
      config = { pkgs, lib, config, ... }: {
        imports = [ inputs.microvm.nixosModules.microvm ];

        microvm = {
          hypervisor = "cloud-hypervisor";
          vcpu = 2;
          mem = 1024;
          shares = [ {
            tag = "ro-store";
            source = "/nix/store";
            mountPoint = "/nix/.ro-store";
            proto = "virtiofs";
          } ];
`, "\n")...)
	lines = append(lines, strings.Split(`          binScripts.microvm-run = lib.mkForce (
            let microvmCfg = config.microvm; in
            ''
              # Custom script with credential loading`, "\n")...)
	for len(lines) < 228 {
		lines = append(lines, fmt.Sprintf("              echo \"Loading Runtime Secrets %d\"", len(lines)+1))
	}
	lines = append(lines, "            ''", "          );", "        };", "      };", "    };", "  };",
		"  systemd.services.\"microvm@test-vm\".serviceConfig.LoadCredential = [ \"API_KEY:"+seedSecret+"\" ];", "}", "")
	return strings.Join(lines, "\n")
}

// rest is what is so beside the cause of the document: the text of app-vm-01 works at
// the price that its secret stands in a command line.
const rest = "- root-runs-replaceable,app-vm-01 secret-in-argv"

// TestSeed: the first screen says what it took days to find out, with the paths of the
// document.
func TestSeed(t *testing.T) {
	t.Parallel()
	h := nixhost.New(t)
	seed(h)
	root := h.Finish()
	for _, path := range []string{seedDeployed, seedBuilt, seedSystem} {
		if _, err := os.Stat(root + path); err != nil {
			t.Fatal(err)
		}
	}
	if lines := strings.Split(seedConfiguration(), "\n"); !strings.Contains(lines[147], "binScripts.microvm-run = lib.mkForce (") || strings.TrimSpace(lines[229]) != ");" {
		t.Fatal("the override is not at the lines of the document")
	}
	r := diagnose(t, root)
	if got := strings.Join(r.causes(), ","); got != rest+",test-vm runner-override-lost" {
		t.Errorf("found: %s", got)
	}
	first := r.Findings[0]
	if first.Code != "runner-override-lost" {
		t.Fatalf("the first is %s", first.Code)
	}
	_, stdout, _ := run(t, false, "--root", root)
	screen := strings.Join(strings.Split(stdout, "\n")[:40], "\n")
	for _, want := range []string{seedDeployed, seedBuilt, seedSystem, "-source/" + seedSource, "LoadCredential=API_KEY:" + seedSecret, "system-44-link"} {
		if !strings.Contains(screen, want) {
			t.Errorf("no %q on the first screen:\n%s", want, screen)
		}
	}
	for _, pair := range [][]string{{"app-vm-01", "--against", "test-vm"}, {"test-vm", "--against", "app-vm-01"}} {
		_, stdout, _ := run(t, false, append([]string{"--root", root}, pair...)...)
		if !strings.Contains(strings.Join(strings.Fields(stdout), " "), "differs run script: "+pair[0]) {
			t.Errorf("%v does not say that their scripts differ:\n%s", pair, stdout)
		}
		if pair[0] == "test-vm" && !strings.Contains(stdout, "explains runner-override-lost") {
			t.Errorf("no difference explains the cause:\n%s", stdout)
		}
	}
}
