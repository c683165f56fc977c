package nix

import "testing"

// What would be lost is an error, or, where Ampoule has nothing to do with the VM, a
// warning; with the line on which it stands, and what to write instead.
func TestNothingIsLostQuietly(t *testing.T) {
	for name, w := range worlds() {
		t.Run(name, func(t *testing.T) {
			for _, c := range refusals {
				t.Run(c.name, func(t *testing.T) {
					t.Parallel()
					got, err := w.Host(t, configuration(c.imports, c.lines), "")
					if err != nil {
						t.Fatal(err)
					}
					same(t, "failed assertions", got.Failed, c.failed)
					same(t, "warnings", got.Warnings, c.warnings)
				})
			}
		})
	}
}

// key gives the VM web a credential in its right form.
const key = `microvm.vms.web.ampoule.credentials.KEY.source = "/run/secrets/key";`

const (
	notRun  = "nothing of this script would run: microvm.nix puts its own in its place (lib/runner.nix)"
	atHost  = "nothing of this script runs: microvm.nix puts its own in its place (lib/runner.nix). For secrets write "
	inGuest = " in the guest of web: "
	inList  = "; name the path at which sops-nix, agenix or a file of root's has it on the running host, such as config.sops.secrets.NAME.path"
	naming  = "; a name has 1 to 255 printable ASCII characters, without blanks, /, : and \\"
	sets    = ": microvm.vms.web.ampoule sets it, and one of the two would be lost; remove this one"
)

var refusals = []struct {
	name, imports, lines string
	failed, warnings     []string
}{
	{
		name:  "a VM that nothing is wrong with",
		lines: `microvm.vms.web.config = { };` + key,
	},
	{
		name:  "a VM without ampoule",
		lines: `microvm.vms.web.config.microvm.preStart = "true";`,
	},
	{
		name:    "the seed's host as it was",
		imports: "(examples + /seed.nix)",
		warnings: []string{
			`nix/examples/seed.nix:13: microvm.binScripts.microvm-run in the guest of test-vm: ` + atHost + `microvm.vms.test-vm.ampoule.credentials.ID.source = "PATH" on the host`,
		},
	},
	{
		name:    "the seed's host, strictly",
		imports: "(examples + /seed.nix)",
		lines:   "microvm.ampoule.strict = true;",
		failed: []string{
			`nix/examples/seed.nix:13: microvm.binScripts.microvm-run in the guest of test-vm: ` + atHost + `microvm.vms.test-vm.ampoule.credentials.ID.source = "PATH" on the host`,
		},
	},
	{
		name:    "the seed's host, with a credential of Ampoule's",
		imports: "(examples + /seed.nix)",
		lines:   `microvm.vms.test-vm.ampoule.credentials.API_KEY.source = "/run/secrets/vars/test-vm-secrets/api-key";`,
		failed: []string{
			`nix/examples/seed.nix:13: microvm.binScripts.microvm-run in the guest of test-vm: ` + notRun + `, without a word. For secrets write microvm.vms.test-vm.ampoule.credentials.ID.source on the host; for other work before the start microvm.preStart in the guest, or an ExecStartPre= of microvm@test-vm on the host`,
		},
	},
	{
		name:  "a service that loads what its runner does not read",
		lines: "microvm.vms.web.config = { };\n" + `systemd.services."microvm@web".serviceConfig.LoadCredential = [ "KEY:/run/key" ];`,
		warnings: []string{
			`configuration.nix:6: microvm@web loads KEY, and the runner of microvm.nix reads no credentials of its service: the guest gets none; write microvm.vms.web.ampoule.credentials.KEY.source on the host instead`,
		},
	},
	{
		name:  "a service with credentials that microvm.preStart reads",
		lines: "microvm.vms.web.config.microvm.preStart = ''cp \"$CREDENTIALS_DIRECTORY/KEY\" /run/web'';\n" + `systemd.services."microvm@web".serviceConfig.LoadCredential = [ "KEY:/run/key" ];`,
	},
	{
		name:  "a service with credentials and a command of its own",
		lines: "microvm.vms.web.config = { };\n" + `systemd.services."microvm@web".serviceConfig = { LoadCredential = [ "KEY:/run/key" ]; ExecStart = [ "" "/bin/start" ]; };`,
	},
	{
		name:  "all scripts that microvm.nix makes itself",
		lines: "microvm.vms.web.config = {\nmicrovm.binScripts = {\nmicrovm-balloon = \"a\";\nmicrovm-shutdown = lib.mkForce \"b\";\nown = \"c\";\n};\n};" + key,
		failed: []string{
			`configuration.nix:7: microvm.binScripts.microvm-balloon` + inGuest + notRun + `, and with Ampoule it is ampoule memory web SIZE`,
			`configuration.nix:8: microvm.binScripts.microvm-shutdown` + inGuest + notRun + `, and Ampoule stops the VM by its power button; for work at the stop, use ExecStopPost= of microvm@web on the host`,
		},
	},
	{
		name:  "a secret in the store",
		lines: "microvm.vms.web.config = { };\nmicrovm.vms.web.ampoule.credentials.KEY.source =\n \"${pkgs.writeText \"key\" \"secret\"}\";\nmicrovm.vms.web.ampoule.credentials.OTHER.source = builtins.storeDir + \"/key\";",
		failed: []string{
			"configuration.nix:6: microvm.vms.web.ampoule.credentials.KEY.source = \"STORE-key\": this lies in the Nix store, which every user of the host, and every machine that it is copied to, can read" + inList,
			"configuration.nix:8: microvm.vms.web.ampoule.credentials.OTHER.source = \"/nix/store/key\": this lies in the Nix store, which every user of the host, and every machine that it is copied to, can read" + inList,
		},
	},
	{
		name:  "sources that are no paths of the host",
		lines: "microvm.vms.web.config = { };\nmicrovm.vms.web.ampoule.credentials = {\nA.source = \"secrets/key\";\nB.source = \"/run/../key\";\nC.source = \"/run/my key\";\nD.source = /run/secrets/key;\n};",
		failed: []string{
			`configuration.nix:7: microvm.vms.web.ampoule.credentials.A.source = "secrets/key": the path is not absolute` + inList,
			`configuration.nix:8: microvm.vms.web.ampoule.credentials.B.source = "/run/../key": the path contains ".."` + inList,
			`configuration.nix:9: microvm.vms.web.ampoule.credentials.C.source = "/run/my key": systemd cannot pass blanks, backslashes, and what is not ASCII, on in the source of a credential` + inList,
		},
	},
	{
		name:  "names that systemd refuses",
		lines: "microvm.vms.web.config = { };\nmicrovm.vms.web.ampoule.credentials = {\n\"a/b\".value = \"1\";\n\"a b\".value = \"1\";\n\"..\".value = \"1\";\n\"ampoule.plan\".value = \"1\";\n\"vmm.notify_socket\".value = \"1\";\n\"\".value = \"1\";\n\"a=b%.c\".value = \"1\";\n};",
		failed: []string{
			`configuration.nix:12: microvm.vms.web.ampoule.credentials."": the name is empty` + naming,
			`configuration.nix:9: microvm.vms.web.ampoule.credentials."..": the name is that of a directory` + naming,
			`configuration.nix:8: microvm.vms.web.ampoule.credentials."a b": the name contains something else than printable ASCII characters without blanks` + naming,
			`configuration.nix:7: microvm.vms.web.ampoule.credentials."a/b": the name contains one of / : \` + naming,
			`configuration.nix:10: microvm.vms.web.ampoule.credentials."ampoule.plan": names that begin with ampoule. are Ampoule's own` + naming,
			`configuration.nix:11: microvm.vms.web.ampoule.credentials."vmm.notify_socket": the name is that by which the guest finds out where to say that it is ready; Ampoule sets it` + naming,
		},
	},
	{
		name:  "what a credential cannot be",
		lines: "microvm.vms.web.config = { };\nmicrovm.vms.web.ampoule.credentials = {\nA.encrypted = true;\nB.value = \"\";\n};",
		failed: []string{
			`configuration.nix:7: microvm.vms.web.ampoule.credentials.A.encrypted = true: there is no source; set microvm.vms.web.ampoule.credentials.A.source`,
			`configuration.nix:8: microvm.vms.web.ampoule.credentials.B.value = "": systemd takes no empty value; leave it out`,
		},
	},
	{
		name:  "one name in two places",
		lines: "microvm.vms.web.config.microvm.credentialFiles = {\nOTHER = \"/run/other\";\nKEY = \"/run/key\";\n};" + key,
		failed: []string{
			`configuration.nix:7: microvm.credentialFiles.KEY` + inGuest + `microvm.vms.web.ampoule.credentials.KEY on the host has that name too; remove one of them`,
		},
	},
	{
		name:  "secrets in strings of the firmware",
		lines: "microvm.vms.web.config.microvm = {\nhypervisor = \"cloud-hypervisor\";\ncloud-hypervisor.platformOEMStrings = [ \"io.systemd.credential:KEY=hunter2\" \"io.systemd.credential.binary:BIN=aGk=\" \"app=x\" \"io.systemd.credential:vmm.notify_socket=vsock:2:8888\" ];\n};\nmicrovm.vms.web.ampoule.enable = true;",
		failed: []string{
			`configuration.nix:7: microvm.cloud-hypervisor.platformOEMStrings` + inGuest + `the value of credential KEY stands in the Nix store and on the hypervisor's command line; write microvm.vms.web.ampoule.credentials.KEY.source = "PATH" on the host, and remove the string`,
			`configuration.nix:7: microvm.cloud-hypervisor.platformOEMStrings` + inGuest + `the value of credential BIN stands in the Nix store and on the hypervisor's command line; write microvm.vms.web.ampoule.credentials.BIN.source = "PATH" on the host, and remove the string`,
		},
	},
	{
		name:  "a hypervisor without a driver",
		lines: "microvm.vms.web.config = { microvm.hypervisor = \"crosvm\"; };\n" + key,
		failed: []string{
			`configuration.nix:5: microvm.hypervisor = "crosvm"` + inGuest + `Ampoule has no driver for it; use one of qemu, cloud-hypervisor, firecracker, or remove microvm.vms.web.ampoule`,
		},
	},
	{
		name:  "commands and directories of somebody else's",
		lines: "microvm.vms.web.config = { };\nsystemd.services.\"microvm@web\".serviceConfig = {\nExecStart = lib.mkForce [ \"\" \"/bin/start\" ];\nExecStop = \"/bin/stop\";\nRuntimeDirectory = lib.mkIf false \"x\";\n};" + key,
		failed: []string{
			`configuration.nix:7: systemd.services."microvm@web".serviceConfig.ExecStart` + sets + `, or set microvm.vms.web.ampoule.enable = false and start web by it`,
			`configuration.nix:8: systemd.services."microvm@web".serviceConfig.ExecStop` + sets + `; ampoule stops the VM by its power button`,
		},
	},
	{
		name:  "a command of somebody else's within a function",
		lines: "microvm.vms.web.config = { };\nsystemd.services.\"microvm@web\" = { lib, ... }: { serviceConfig.ExecStart = lib.mkForce [ \"/bin/start\" ]; };" + key,
		failed: []string{
			`systemd.services."microvm@web".serviceConfig.ExecStart: it is not what microvm.vms.web.ampoule sets (somebody's mkForce?); remove the other, or set microvm.vms.web.ampoule.enable = false`,
		},
	},
	{
		name:  "credentials of the service that are not the guest's",
		lines: "microvm.vms.web.config = { };\nsystemd.services.\"microvm@web\".serviceConfig = {\nLoadCredential = [ \"OTHER:/run/other\" \"KEY:/run/key\" \"KEY:/run/secrets/key\" ];\nImportCredential = \"app.*\";\n};" + key,
		failed: []string{
			`configuration.nix:7: systemd.services."microvm@web".serviceConfig.LoadCredential = "OTHER:…": the service would load it, and the guest would not get it; write microvm.vms.web.ampoule.credentials.OTHER.source instead`,
			`configuration.nix:7: systemd.services."microvm@web".serviceConfig.LoadCredential = "KEY:…": microvm.vms.web.ampoule.credentials.KEY loads it too; remove this one`,
			`configuration.nix:8: systemd.services."microvm@web".serviceConfig.ImportCredential = "app.*": the service would load it, and the guest would not get it; write microvm.vms.web.ampoule.credentials, with the name of each`,
		},
	},
	{
		name:  "credentials among the settings",
		lines: "microvm.vms.web.config = { };\nmicrovm.vms.web.ampoule.settings.LoadCredential = \"A:/run/a\";\n",
		failed: []string{
			`configuration.nix:6: microvm.vms.web.ampoule.settings.LoadCredential: credentials are set by microvm.vms.web.ampoule.credentials`,
		},
	},
	{
		name:  "what the guest's script does first",
		lines: "microvm.vms.web.config = {\nmicrovm.preStart = \"mkdir -p scratch\"; };\n" + key,
		failed: []string{
			`configuration.nix:6: microvm.preStart` + inGuest + `it is part of a script that Ampoule does not run; set microvm.vms.web.ampoule.preStart = "service" if it does well as an ExecStartPre= of the service, or write it on the host`,
		},
	},
	{
		name:  "the same as the service's",
		lines: "microvm.vms.web.config.microvm.preStart = \"mkdir -p scratch\"; microvm.vms.web.ampoule.preStart = \"service\";\n" + key,
	},
	{
		name:  "microvm -u",
		lines: "microvm.vms.web = {\nflake = { outPath = \"/etc/vms\"; nixosConfigurations.web = config.microvm.vms.model.config; };\nupdateFlake = \"git+file:///etc/vms\";\n};\nmicrovm.vms.model.config = { };\n" + key,
		failed: []string{
			`configuration.nix:7: microvm.vms.web.updateFlake: microvm -u would change what is installed, and Ampoule starts what this system was built with; remove updateFlake, and update the input of the host's flake, or remove microvm.vms.web.ampoule`,
		},
	},
	{
		name:  "names that are nearly those that are delivered",
		lines: "microvm.vms.web.config.systemd.services.app.serviceConfig = { LoadCredential = [ \"key\" \"KEY\" \"a.b:/etc/x\" \"other\" ]; ImportCredential = \"A_B\"; };\nmicrovm.vms.web.ampoule.credentials.a-b.value = \"1\";" + key,
		warnings: []string{
			"the guest of web: app.service asks for the credential key, and KEY is delivered, which is another name",
			"the guest of web: app.service asks for the credential A_B, and a-b is delivered, which is another name",
		},
	},
	{
		name:  "credentials that the guest says it needs",
		lines: "microvm.vms.web.config = { imports = [ ampouleModules.nixosModules.microvm ];\nmicrovm.ampoule.credentials = [ \"KEY\" \"API-KEY\" ]; };\nmicrovm.vms.web.ampoule.credentials.API_KEY.value = \"1\";" + key,
		failed: []string{
			"configuration.nix:6: microvm.ampoule.credentials in the guest of web: nobody delivers API-KEY, and API_KEY is delivered, which is another name; write microvm.vms.web.ampoule.credentials.API-KEY.source on the host, or remove it here",
		},
	},
	{
		name:  "everything at once, of two VMs",
		lines: "microvm.vms.web.config.microvm = {\nhypervisor = \"kvmtool\";\nbinScripts.microvm-run = \"a\"; };\nmicrovm.vms.db.config = { };\nmicrovm.vms.db.ampoule.credentials.KEY.source = \"key\";\n" + key,
		failed: []string{
			`configuration.nix:9: microvm.vms.db.ampoule.credentials.KEY.source = "key": the path is not absolute` + inList,
			`configuration.nix:7: microvm.binScripts.microvm-run` + inGuest + notRun + `, without a word. For secrets write microvm.vms.web.ampoule.credentials.ID.source on the host; for other work before the start microvm.preStart in the guest, or an ExecStartPre= of microvm@web on the host`,
			`configuration.nix:6: microvm.hypervisor = "kvmtool"` + inGuest + `Ampoule has no driver for it; use one of qemu, cloud-hypervisor, firecracker, or remove microvm.vms.web.ampoule`,
		},
	},
}
