package nix

import (
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/testkit/nixeval"
)

// What services.ampoule makes is what Ampoule takes; a mistake ends the build, with its
// line.
func TestBuildOfService(t *testing.T) {
	for name, w := range worlds() {
		w.Ampoule = nixeval.Install(t)
		t.Run(name, func(t *testing.T) { buildOfService(t, w) })
	}
}

func buildOfService(t *testing.T, w nixeval.World) {
	s := nixeval.NewStore(t)
	const config = `{ ampouleModules, ... }: { imports = [ ampouleModules.nixosModules.ampoule ]; services.ampoule.enable = true; services.ampoule.vms.web = {
		MicroVM = { Kernel = "/guest/vmlinuz"; Memory = "1G"; LoadCredential = [ "API_KEY:/run/secrets/web" "B:/run/b" ]; Balloon = true; };
		Install.WantedBy = "multi-user.target"; Unit.Description = "The web"; `
	const wanted = `e.pkgs.writeText "result" (toString e.host.config.environment.etc."ampoule/web.microvm".source)`
	out, err := s.Build(t, w, config+"}; }", wanted)
	if err != nil {
		t.Fatal(err)
	}
	const want = `[Unit]
Description=The web

[MicroVM]
Balloon=yes
Kernel=/guest/vmlinuz
LoadCredential=API_KEY:/run/secrets/web
LoadCredential=B:/run/b
Memory=1G

[Install]
WantedBy=multi-user.target
`
	if got := s.Read(t, s.Read(t, out[0])); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}

	out, err = s.Build(t, w, config+`Service.ExceStart = "x"; MicroVM.Memroy = "2G"; }; }`, wanted)
	for _, want := range []string{"./web.microvm:10: Memroy=2G: unknown key in [MicroVM]; did you mean Memory=?", "ExceStart="} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q, %v, want %s", out, err, want)
		}
	}
}

// The unit that the example makes of a file is one of Ampoule's.
func TestBuildOfUnit(t *testing.T) {
	for name, w := range worlds() {
		w.Ampoule = nixeval.Install(t)
		t.Run(name, func(t *testing.T) { buildOfUnit(t, w) })
	}
}

func buildOfUnit(t *testing.T, w nixeval.World) {
	s := nixeval.NewStore(t)
	out, err := s.Build(t, w, configuration("(examples + /unit.nix)", `_module.args.guest = "/guest";`), "builtins.head e.host.config.systemd.packages")
	if err != nil {
		t.Fatal(err)
	}
	unit := s.Read(t, out[0]+"/lib/systemd/system/test-vm.service")
	for _, line := range []string{
		"LoadCredential=API_KEY:/run/secrets/vars/test-vm-secrets/api-key\n",
		"SetCredential=API_KEY:ampoule: the source of this credential was missing\n",
		"-ampoule/bin/ampoule run --plan=%d/ampoule.plan --digest=sha256:",
		"DynamicUser=yes\n",
	} {
		if !strings.Contains(unit, line) {
			t.Errorf("there is no %q in\n%s", line, unit)
		}
	}
}

// The example of a runner takes the installed runner as it is, with the credential of the
// service, and ends where that cannot be started.
func TestBuildOfRunner(t *testing.T) {
	s := nixeval.NewStore(t)
	w := nixeval.World{Ampoule: nixeval.Install(t)}
	out, err := s.Build(t, w, configuration("(examples + /runner.nix)", `microvm.vms.test-vm.config.microvm.hypervisor = lib.mkForce "qemu";`), `e.pkgs.runCommand "tried" { } ''
				mkdir "$out" state && cd state
				ln -s ${e.host.config.microvm.vms.test-vm.config.config.microvm.declaredRunner} current
				code=0
				RUNTIME_DIRECTORY="$out" CREDENTIALS_DIRECTORY="$PWD" ${builtins.elemAt e.host.config.systemd.services."microvm@test-vm".serviceConfig.ExecStart 1} 2>"$out/said" || code=$?
				echo "$code" >"$out/code"
			''`)
	if err != nil {
		t.Fatal(err)
	}
	if text := s.Read(t, out[0]+"/test-vm.microvm"); !strings.Contains(text, "\nLoadCredential=API_KEY:/run/secrets/vars/test-vm-secrets/api-key\n") || !strings.Contains(text, "\nHypervisor=qemu\n") {
		t.Errorf("the file is\n%s", text)
	}
	said := s.Read(t, out[0]+"/said")
	if code := s.Read(t, out[0]+"/code"); code != "2\n" || !strings.Contains(said, "LoadCredential=API_KEY:") || !strings.Contains(said, "nothing was started") {
		t.Errorf("it ended with %s\n%s", code, said)
	}
}
