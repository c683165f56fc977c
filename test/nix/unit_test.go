package nix

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/testkit/nixeval"
)

// The unit that a host has for a VM that Ampoule starts, line by line, and that of one
// that it does not.
func TestUnit(t *testing.T) {
	for name, w := range worlds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := w.Host(t, configuration("(examples + /credentials.nix)", `
				sops.secrets."test-vm/api-key".path = "/run/secrets/test-vm/100%/api-key";
				microvm.vms.test-vm.ampoule.credentials = {
					CERT = { source = "/etc/credstore.encrypted/cert"; encrypted = true; };
					STORED = { };
					DEFAULT = { source = "/run/vault/default"; value = " 50% of\\it\n"; after = [ "vault-agent.service" ]; };
				};
				microvm.vms.other.config = { };`), "")
			if err != nil {
				t.Fatal(err)
			}
			same(t, "failed assertions", got.Failed, nil)
			same(t, "warnings", got.Warnings, nil)
			unit := got.Units["microvm@test-vm"]
			if w.Lib != "" {
				unit = strings.Replace(unit, "X-Restart-Triggers=STORE-nixos-system-test-vm-26.11.20260810.3b9e7f0\n", "", 1)
			}
			same(t, "unit", strings.Split(unit, "\n"), strings.Split(`[Unit]
Wants=install-microvm-test-vm.service
After=install-microvm-test-vm.service sops-install-secrets.service agenix-install-secrets.service vault-agent.service
[Service]
CacheDirectory=ampoule/vm/test-vm
CacheDirectoryMode=0700
Environment="STATE_DIRECTORY=/var/lib/microvms/test-vm"
ExecStart=
ExecStart=STORE-ampoule/bin/ampoule run --plan STORE-ampoule-test-vm/plan.json
ExecStartPost=
ExecStartPre=STORE-ampoule-test-vm-before
ExecStop=
ExecStopPost=
KillMode=mixed
LimitCORE=0
LoadCredential=API_KEY:/run/secrets/test-vm/100%%/api-key
LoadCredential=DEFAULT:/run/vault/default
LoadCredential=STORED
LoadCredentialEncrypted=CERT:/etc/credstore.encrypted/cert
MemorySwapMax=0
NotifyAccess=main
PrivateMounts=true
RestartPreventExitStatus=2
RuntimeDirectory=ampoule/vm/test-vm
RuntimeDirectoryMode=0700
RuntimeDirectoryPreserve=restart
SetCredential=DEFAULT:\x2050% of\\it\n
SetCredential=ENVIRONMENT:production
SetCredential=API_KEY:ampoule: the source of this credential was missing
SetCredential=CERT:ampoule: the source of this credential was missing
Type=notify
X-RestartIfChanged=
X-RestartIfChanged=true
`, "\n"))
			if other := got.Units["microvm@other"]; strings.Contains(other, "ampoule") || strings.Contains(other, "Exec") {
				t.Errorf("the unit of a VM that is not Ampoule's:\n%s", other)
			}
		})
	}
}

// Each example is a host without mistakes, and its unit starts what it says.
func TestExamples(t *testing.T) {
	for name, w := range worlds() {
		for _, c := range []struct {
			name, lines, unit string
			told              []string
		}{
			{name: "pre-start", unit: "microvm@test-vm", told: []string{
				"ExecStartPre=+STORE-unlock-test-vm",
				"LoadCredential=API_KEY:/run/test-vm-secrets/api-key",
				"SetCredential=API_KEY:ampoule: the source of this credential was missing",
				"ExecStart=STORE-ampoule/bin/ampoule run --plan STORE-ampoule-test-vm/plan.json",
			}},
			{name: "runner", unit: "microvm@test-vm", told: []string{
				"ExecStart=\nExecStart=STORE-test-vm-run", "KillMode=mixed", "Type=notify",
				"LoadCredential=API_KEY:/run/secrets/vars/test-vm-secrets/api-key",
			}},
			{name: "unit", unit: "test-vm", lines: `_module.args.guest = "/guest";`, told: []string{"WantedBy=multi-user.target"}},
		} {
			t.Run(name+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				got, err := w.Host(t, configuration("(examples + /"+c.name+".nix)", c.lines), "")
				if err != nil {
					t.Fatal(err)
				}
				same(t, "failed assertions", got.Failed, nil)
				same(t, "warnings", got.Warnings, nil)
				for _, line := range c.told {
					if !strings.Contains("\n"+got.Units[c.unit], "\n"+line+"\n") {
						t.Errorf("there is no %q in\n%s", line, got.Units[c.unit])
					}
				}
			})
		}
	}
}

// A host's lines over what is made of the runner.
func TestDropIn(t *testing.T) {
	for name, w := range worlds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := w.Host(t, configuration("", `
				microvm.host.startupTimeout = 200;
				microvm.vms.web.config.systemd.package = pkgs.systemd;
				microvm.vms.web.config.microvm.credentialFiles.FILE = "/run/file";
				systemd.services."microvm@web".serviceConfig.TimeoutStopSec = "5min";
				microvm.vms.web.ampoule = {
					credentials.KEY.source = "/run/secrets/key";
					credentials.COLOUR.value = "light blue ";
					credentials.CERT = { source = "/etc/cert"; encrypted = true; };
					settings = { Readiness = "guest"; HypervisorArgs = [ "-a" "-b" ]; Balloon = true; VSockCID = 7; CPUTopology = null; };
				};
				microvm.vms.db.config = { };
				microvm.vms.db.ampoule.settings.GuestSystemd = 254;`),
				"builtins.mapAttrs (_: p: p.dropin) e.host.config.microvm.ampoule.plans")
			if err != nil {
				t.Fatal(err)
			}
			var files map[string]string
			if err := json.Unmarshal(got.Extra, &files); err != nil {
				t.Fatal(err)
			}
			same(t, "web", strings.Split(files["web"], "\n"), strings.Split(`[MicroVM]
Balloon=yes
GuestSystemd=259
HypervisorArgs=-a
HypervisorArgs=-b
LoadCredential=KEY:/run/secrets/key
LoadCredentialEncrypted=CERT:/etc/cert
Readiness=guest
SetCredential=COLOUR:light blue\x20
VSockCID=7

[Service]
TimeoutStopSec=5min
`, "\n"))
			same(t, "db", strings.Split(files["db"], "\n"), strings.Split("[MicroVM]\nGuestSystemd=254\n\n[Service]\nTimeoutStopSec=200\n", "\n"))
			if unit := got.Units["microvm@web"]; !strings.Contains(unit, "LoadCredential=FILE:/run/file\n") || !strings.Contains(unit, "SetCredential=FILE:ampoule: ") {
				t.Errorf("the unit does not load what the runner has QEMU read:\n%s", unit)
			}
		})
	}
}

// services.ampoule: files of /etc/ampoule, the generator, and what a switch does.
func TestService(t *testing.T) {
	for name, w := range worlds() {
		t.Run(name, func(t *testing.T) { service(t, w) })
	}
}

func service(t *testing.T, w nixeval.World) {
	const base = `{ ampouleModules, examples, pkgs, ... }: { imports = [ ampouleModules.nixosModules.ampoule (examples + /services.nix) ]; _module.args.guest = "/guest"; `
	got, err := w.Host(t, base+"}", `{ etc = builtins.attrNames e.host.config.environment.etc; generators = e.host.config.systemd.generators; text = e.host.config.environment.etc."ampoule/web.microvm".source.drv.text or ""; }`)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "failed assertions", got.Failed, nil)
	var extra struct {
		Etc        []string
		Generators map[string]string
	}
	if err := json.Unmarshal(got.Extra, &extra); err != nil {
		t.Fatal(err)
	}
	same(t, "files", extra.Etc, []string{"ampoule/web.microvm"})
	if generator := extra.Generators["ampoule-generator"]; generator != "STORE-ampoule/lib/systemd/system-generators/ampoule-generator" {
		t.Errorf("the generator is %q", generator)
	}
	if unit := got.Units["ampoule-apply"]; !strings.Contains(unit, "\nExecReload=STORE-ampoule/bin/ampoule apply\n") || !strings.Contains(unit, "RemainAfterExit=true\n") {
		t.Errorf("the unit is\n%s", unit)
	}

	got, err = w.Host(t, base+`
services.ampoule.vms."a/b".MicroVM = { };
services.ampoule.vms.c.MicroVM.LoadCredential =
  [ "A:/run/a" "KEY:${pkgs.writeText "key" "secret"}" ]; }`, "")
	if err != nil {
		t.Fatal(err)
	}
	same(t, "failed assertions", got.Failed, []string{
		`configuration.nix:2: services.ampoule.vms."a/b": a name has at most 48 letters, digits, _ . and -, and begins with a letter or digit`,
		`configuration.nix:3: services.ampoule.vms.c.MicroVM.LoadCredential = "KEY:STORE-key": this lies in the Nix store, which every user of the host, and every machine that it is copied to, can read; name the path at which sops-nix, agenix or a file of root's has it on the running host`,
	})
}

// The guest's module alone, as in a flake that has the guest and not the host.
func TestGuard(t *testing.T) {
	for name, w := range worlds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			guest := func(lines string) error {
				_, err := w.Host(t, configuration("", "microvm.vms.web.config = { imports = [ ampouleModules.nixosModules.microvm ];\n"+lines+"};"), "e.host.config.microvm.vms.web.config.config.microvm.declaredRunner.outPath")
				return err
			}
			for lines, want := range map[string]string{
				`microvm.binScripts.microvm-run = "x";`:                                   `configuration.nix:6: microvm.binScripts.microvm-run: nothing of this script would run: microvm.nix puts its own in its place \(lib/runner.nix\), without a word\. For secrets write microvm\.vms\.NAME\.ampoule\.credentials\.ID\.source = "PATH" on the host; for other work before the start, microvm\.preStart`,
				`microvm.binScripts.microvm-balloon = "x";`:                               `configuration.nix:6: microvm.binScripts.microvm-balloon: nothing of this script would run`,
				`microvm.ampoule.credentials = [ "a/b" ];`:                                `microvm.ampoule.credentials: "a/b": the name contains one of / : \\`,
				`microvm.binScripts.microvm-run = "x"; microvm.ampoule.guard = false;`:    "",
				`microvm.binScripts.microvm-shutdown = "x"; microvm.socket = null;`:       "",
				`microvm.binScripts.mine = "x"; microvm.ampoule.credentials = [ "KEY" ];`: "",
			} {
				err := guest(lines)
				if want == "" && err != nil {
					t.Errorf("%s: %v", lines, err)
				}
				if want != "" && (err == nil || !regexp.MustCompile(want).MatchString(err.Error())) {
					t.Errorf("%s: %v, want %s", lines, err, want)
				}
			}
		})
	}
}

// Guests that come from a flake, or evaluated, are started as those of the host's own
// configuration are.
func TestOtherGuests(t *testing.T) {
	for name, w := range worlds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := w.Host(t, configuration("", `
				microvm.vms.model.config.microvm.credentialFiles.FILE = "/run/file";
				microvm.vms.web.flake = { outPath = "/etc/vms"; nixosConfigurations.web = config.microvm.vms.model.config; };
				microvm.vms.db.evaluatedConfig = config.microvm.vms.model.config;
				microvm.vms.web.ampoule.credentials.KEY.source = "/run/secrets/web";
				microvm.vms.db.ampoule.credentials.KEY.source = "/run/secrets/db";`), "")
			if err != nil {
				t.Fatal(err)
			}
			same(t, "failed assertions", got.Failed, nil)
			for _, vm := range []string{"web", "db"} {
				unit := got.Units["microvm@"+vm]
				for _, line := range []string{
					"ExecStart=STORE-ampoule/bin/ampoule run --plan STORE-ampoule-" + vm + "/plan.json",
					"LoadCredential=KEY:/run/secrets/" + vm, "LoadCredential=FILE:/run/file", "X-RestartIfChanged=false",
				} {
					if !strings.Contains(unit, "\n"+line+"\n") {
						t.Errorf("there is no %q in\n%s", line, unit)
					}
				}
			}
		})
	}
}
