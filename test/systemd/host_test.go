package systemd

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/nspawn"
)

// release is one Debian release, and with it one version of systemd.
type release struct {
	name    string
	version string   // what "systemctl --version" begins with
	corpus  []string // packages whose units are read but not installed
}

// debianRoot returns the directory of a root with systemd and D-Bus in it.
// corpus/PACKAGE in it holds what these packages have in their systemd
// directories.
func debianRoot(t *testing.T, r release) string {
	t.Helper()
	recipe := nspawn.Recipe{Suite: r.name}
	if len(r.corpus) > 0 {
		// The environment variable leads apt to the package lists of the new root.
		recipe.Hook = `set -eu
corpus="$1/corpus"
mkdir -p "$corpus"
cd "$corpus"
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
apt-get -o APT::Sandbox::User=root download ` + strings.Join(r.corpus, " ") + `
for deb in *.deb; do
	mkdir "${deb%%_*}"
	dpkg-deb --fsys-tarfile "$deb" | tar -x -C "${deb%%_*}" --wildcards './*lib/systemd/system/*' './*lib/systemd/user/*' 2>/dev/null || :
	rm "$deb"
done`
	}
	return nspawn.Root(t, recipe)
}

// boot starts the systemd of a root with units as its /etc/systemd/system and
// shared as its /ampoule, and waits until it has powered off. The root itself
// stays as it is.
func boot(t *testing.T, root, units, shared string) {
	t.Helper()
	journald, err := filepath.Abs("testdata/journald.conf")
	if err != nil {
		t.Fatal(err)
	}
	out, err := nspawn.Boot(t, root, 5*time.Minute, []string{
		"--bind-ro=" + units + ":/etc/systemd/system",
		"--bind-ro=" + journald + ":/etc/systemd/journald.conf.d/ampoule.conf",
		"--bind=" + shared + ":/ampoule",
	}, []string{"--unit=collect.service"})
	if _, statErr := os.Stat(filepath.Join(shared, "out", "done")); err != nil || errors.Is(statErr, os.ErrNotExist) {
		log, _ := os.ReadFile(filepath.Join(shared, "out", "log"))
		t.Fatalf("booting %s: %v\n%s\n%s", root, err, nspawn.Tail(out), nspawn.Tail(log))
	}
}
