package nix

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// installed is a directory into which the package's build and installation put Ampoule,
// made once for all tests.
var installed = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "ampoule-nix-")
	if err != nil {
		return "", err
	}
	steps := "make --silent build BIN=" + dir + "/bin0 && BIN=" + dir + "/bin0 PREFIX=" + dir + "/out sh scripts/install && rm -r " + dir + "/bin0"
	cmd := exec.Command("sh", "-euc", steps)
	cmd.Dir = "../.."
	// Nothing of this machine is to take notice of an installation for another.
	cmd.Env = append(os.Environ(), "DESTDIR=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return dir, &exec.Error{Name: string(out), Err: err}
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if started {
		if dir, _ := installed(); dir != "" {
			os.RemoveAll(dir)
		}
	}
	os.Exit(code)
}

// started: installed was called.
var started bool

// store is a Nix store of a test's own, in which things are really built.
type store string

func newStore(t *testing.T) store {
	t.Helper()
	need.All(t, need.Nix, need.Root)
	if testing.Short() {
		t.Skip("not in short mode: this builds in a sandbox")
	}
	dir, err := os.MkdirTemp("", "nix-store-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Nix takes the right to write from the directories of a store.
		exec.Command("chmod", "-R", "u+w", dir).Run()
		os.RemoveAll(dir)
	})
	return store(dir)
}

// path is where a file of the store really lies.
func (s store) path(name string) string { return filepath.Join(string(s), name) }

// read is the text of a file of the store, with the paths of the store in it.
func (s store) read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(s.path(name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// build builds an expression in which e is a host with text as its configuration.nix, and
// in which Ampoule is what this tree comes to. It returns the paths of the results in the
// store, or what the builder said.
func (s store) build(t *testing.T, w world, text, wanted string) ([]string, string) {
	t.Helper()
	started = true
	ampoule, err := installed()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	module := filepath.Join(dir, "configuration.nix")
	if err := os.WriteFile(module, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	w.ampoule = ampoule + "/out"
	cmd := exec.Command("nix-build", "--no-out-link", "--store", string(s), "--option", "sandbox", "true", "--option", "build-users-group", "",
		"--option", "substitute", "false", "--option", "sandbox-paths", sandboxPaths(), "--expr", w.expression(module)+"; in "+wanted)
	cmd.Env = append(os.Environ(), "HOME="+dir, "NIX_CONF_DIR="+dir, "NIX_PATH=")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, stderr.String()
	}
	return strings.Fields(stdout.String()), stderr.String()
}

// sandboxPaths are what the stand-ins for packages are built with.
func sandboxPaths() string {
	var paths []string
	for _, path := range []string{"/bin", "/usr", "/lib", "/lib64"} {
		if _, err := os.Stat(path); err == nil {
			paths = append(paths, path)
		}
	}
	return strings.Join(paths, " ")
}

// What services.ampoule makes is what Ampoule takes; a mistake ends the build, with its
// line.
func TestBuildOfService(t *testing.T) {
	s := newStore(t)
	const config = `{ ampouleModules, ... }: { imports = [ ampouleModules.nixosModules.ampoule ]; services.ampoule.enable = true; services.ampoule.vms.web = {
		MicroVM = { Kernel = "/guest/vmlinuz"; Memory = "1G"; LoadCredential = [ "API_KEY:/run/secrets/web" "B:/run/b" ]; Balloon = true; };
		Install.WantedBy = "multi-user.target"; Unit.Description = "The web"; `
	const wanted = `e.pkgs.writeText "result" (toString e.host.config.environment.etc."ampoule/web.microvm".source)`
	out, log := s.build(t, world{}, config+"}; }", wanted)
	if len(out) != 1 {
		t.Fatal(log)
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
	if got := s.read(t, s.read(t, out[0])); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}

	out, log = s.build(t, world{}, config+`Service.ExceStart = "x"; MicroVM.Memroy = "2G"; }; }`, wanted)
	if out != nil || !strings.Contains(log, "./web.microvm:10: Memroy=2G: unknown key in [MicroVM]; did you mean Memory=?") || !strings.Contains(log, "ExceStart=") {
		t.Errorf("%q\n%s", out, log)
	}
}

// The unit that the example makes of a file is one of Ampoule's.
func TestBuildOfUnit(t *testing.T) {
	s := newStore(t)
	out, log := s.build(t, world{}, configuration("(examples + /unit.nix)", `_module.args.guest = "/guest";`), "builtins.head e.host.config.systemd.packages")
	if len(out) != 1 {
		t.Fatal(log)
	}
	unit := s.read(t, out[0]+"/lib/systemd/system/test-vm.service")
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
