package nix

import (
	"encoding/json"
	"os"
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
