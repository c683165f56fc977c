package nix

import (
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/testkit/nixeval"
)

// The unit of the evaluation is followed to its end: its command is a program, the plan is
// there and can be carried out, and it has what the guest's configuration says, and the
// credentials that the unit loads.
func TestBuildOfPlan(t *testing.T) {
	const lines = `
		microvm.vms.web.config.microvm = {
			mem = 768;
			interfaces = [ { type = "tap"; id = "vm-web"; mac = "02:00:00:00:00:01"; } ];
			credentialFiles.FILE = "/run/file";
			preStart = "mkdir -p scratch\n\n# and\necho $(id -u)\n";
		};
		microvm.vms.web.ampoule = {
			credentials.API_KEY.source = "/run/secrets/api-key";
			credentials.ENVIRONMENT.value = "pro\\du%ction ";
			preStart = "service";
			settings.Balloon = true;
		};`
	for name, w := range worlds() {
		t.Run(name, func(t *testing.T) {
			s := nixeval.NewStore(t)
			w.Ampoule = nixeval.Install(t)
			out, err := s.Build(t, w, configuration("", lines), `e.pkgs.writeText "unit" e.units."microvm@web"`)
			if err != nil {
				t.Fatal(err)
			}
			unit := s.Read(t, out[0])
			before := executed(t, unit, "ExecStartPre")
			if len(before) != 1 {
				t.Fatalf("before the start %q", before)
			}
			script := s.Read(t, before[0][0])
			if hook := strings.Fields(script); !slices.ContainsFunc(hook, func(w string) bool {
				return strings.HasSuffix(w, "-microvm-web-pre-start") && strings.Contains(s.Read(t, w), "mkdir -p scratch\n")
			}) {
				t.Errorf("the guest's preStart is not in\n%s", script)
			}
			start := executed(t, unit, "ExecStart")
			if len(start) != 1 || len(start[0]) != 4 || start[0][1] != "run" || start[0][2] != "--plan" {
				t.Fatalf("the start is %q", start)
			}
			if info, err := os.Stat(s.Path(start[0][0])); err != nil || info.Mode()&0o111 == 0 {
				t.Errorf("%s is no program: %v", start[0][0], err)
			}
			p, err := plan.Parse([]byte(s.Read(t, start[0][3])))
			if err != nil {
				t.Fatal(err)
			}
			var credentials []string
			for _, c := range p.VM.Credentials {
				credentials = append(credentials, c.Kind+" "+c.ID+" "+c.Path+string(c.Value))
			}
			slices.Sort(credentials)
			same(t, "credentials", credentials, []string{"load API_KEY /run/secrets/api-key", "load FILE /run/file", `set ENVIRONMENT pro\du%ction `})
			if p.VM.Name != "web" || p.VM.Memory != 768<<20 || !p.VM.Balloon || len(p.VM.Networks) != 1 || p.VM.Networks[0].Name != "vm-web" || !p.VM.Networks[0].External {
				text, _ := json.MarshalIndent(p.VM, "", "  ")
				t.Errorf("the VM is %s", text)
			}
			for _, c := range p.VM.Credentials {
				if !strings.Contains(unit, "LoadCredential="+c.ID+":"+c.Path+"\n") && !strings.Contains(unit, "SetCredential="+c.ID+":") {
					t.Errorf("the unit does not load %s:\n%s", c.ID, unit)
				}
			}
		})
	}
}

// executed are the words of the commands of a key, without those that an empty one clears.
func executed(t *testing.T, unit, key string) [][]string {
	t.Helper()
	var out [][]string
	for line := range strings.Lines(unit) {
		value, ok := strings.CutPrefix(strings.TrimSpace(line), key+"=")
		switch {
		case !ok:
		case value == "":
			out = nil
		default:
			out = append(out, strings.Fields(value))
		}
	}
	return out
}

// What cannot be carried over ends the build, with the line of the runner's script.
func TestBuildRefuses(t *testing.T) {
	for name, w := range worlds() {
		t.Run(name, func(t *testing.T) {
			s := nixeval.NewStore(t)
			w.Ampoule = nixeval.Install(t)
			_, err := s.Build(t, w, configuration("", `microvm.vms.web.config.microvm.extraArgsScript = "/bin/more"; microvm.vms.web.ampoule.enable = true;`), "e.host.config.microvm.ampoule.plans.web")
			if err == nil || !strings.Contains(err.Error(), "/bin/microvm-run:") || !strings.Contains(err.Error(), "/bin/more") {
				t.Errorf("%v", err)
			}
		})
	}
}

// What the unit executes first makes the volumes that the guest's configuration wants, once,
// and stops where another runner is installed than that of which the plan was made.
func TestBeforeStart(t *testing.T) {
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		t.Skip(err)
	}
	s := nixeval.NewStore(t)
	config := configuration("", `microvm.vms.web.ampoule.enable = true; microvm.vms.web.config.microvm.volumes = [
		{ image = "it's data.img"; size = 16; label = "some data"; fsType = "ext4"; autoCreate = true; mkfsExtraArgs = [ "-m" "0" ]; }
		{ image = "own.img"; size = 16; label = null; fsType = "ext4"; autoCreate = false; mkfsExtraArgs = [ ]; } ];`)
	const before = `toString (builtins.head e.host.config.systemd.services."microvm@web".serviceConfig.ExecStartPre)`
	w := nixeval.World{Ampoule: nixeval.Install(t)}
	out, err := s.Build(t, w, config, `e.pkgs.runCommand "state" { } "mkdir $out; cd $out; ln -s ${e.host.config.microvm.vms.web.config.config.microvm.declaredRunner} current; ${`+before+`}; echo x >>it\\'s\\ data.img; ${`+before+`}"`)
	if err != nil {
		t.Fatal(err)
	}
	image := s.Read(t, out[0]+"/it's data.img")
	// The magic number and the label in the super block of ext4.
	if len(image) != 16<<20+2 || image[0x438:0x43a] != "\x53\xef" || strings.TrimRight(image[0x478:0x488], "\x00") != "some data" {
		t.Errorf("%d bytes, %q, %q", len(image), image[0x438:0x43a], image[0x478:0x488])
	}
	entries, err := os.ReadDir(s.Path(out[0]))
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 2 {
		t.Errorf("%v", entries)
	}

	_, err = s.Build(t, w, config, `e.pkgs.runCommand "state" { } "mkdir $out; cd $out; ln -s /elsewhere current; ${`+before+`}"`)
	if err == nil || !strings.Contains(err.Error(), "/var/lib/microvms/web/current leads to /elsewhere, and this system starts web from /nix/store/") {
		t.Errorf("%v", err)
	}
}
