package nixeval

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// Store is a Nix store of a test's own, in which things are really built.
type Store string

// NewStore makes one that goes with the test.
func NewStore(t testing.TB) Store {
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
		if out, err := exec.Command("sh", "-c", `chmod -R u+w "$0" && rm -rf "$0"`, dir).CombinedOutput(); err != nil {
			t.Errorf("removing the store: %v\n%s", err, out)
		}
	})
	return Store(dir)
}

// Path is where a file of the store lies, by the path under which the store has it.
func (s Store) Path(name string) string { return filepath.Join(string(s), name) }

// Read is the text of a file of the store.
func (s Store) Read(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(s.Path(name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Build builds what wanted evaluates to, in which e.host is a host with text as its
// configuration.nix (see [World.Host]), and Ampoule is what Install made. It returns the
// paths of the results; an error has what the builder said.
func (s Store) Build(t testing.TB, w World, text, wanted string) ([]string, error) {
	t.Helper()
	_, expression := w.expression(t, text)
	out, err := run(t, "nix-build", "--no-out-link", "--store", string(s), "--option", "sandbox", "true", "--option", "sandbox-fallback", "false", "--option", "build-users-group", "",
		"--option", "substitute", "false", "--option", "sandbox-paths", sandboxPaths(), "--expr", expression+"in "+wanted)
	return strings.Fields(string(out)), err
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

var installed struct {
	once sync.Once
	dir  string
	err  error
}

// Install builds and installs this tree as the package does, once for all tests of a
// program, and returns the directory. [Remove] removes it.
func Install(t testing.TB) string {
	t.Helper()
	installed.once.Do(func() {
		if installed.dir, installed.err = os.MkdirTemp("", "ampoule-nix-"); installed.err != nil {
			return
		}
		const steps = `make --silent build BIN="$0/bin" && BIN="$0/bin" PREFIX="$0/out" sh scripts/install`
		cmd := exec.Command("sh", "-euc", steps, installed.dir)
		cmd.Dir = Root()
		// A tree for somewhere else: nothing of this machine's is to notice.
		cmd.Env = append(os.Environ(), "DESTDIR=/")
		if out, err := cmd.CombinedOutput(); err != nil {
			installed.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	if installed.err != nil {
		t.Fatal(installed.err)
	}
	return filepath.Join(installed.dir, "out")
}

// Remove removes what Install made; TestMain calls it.
func Remove() {
	if installed.dir != "" {
		os.RemoveAll(installed.dir)
	}
}
