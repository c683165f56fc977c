package systemd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// needSystemdHost skips a test where no systemd can be booted, or where only
// quick tests are wanted.
func needSystemdHost(t *testing.T) {
	t.Helper()
	need.All(t, need.Nspawn)
	if testing.Short() {
		t.Skip("not in short mode: this boots a systemd")
	}
}

// release is one Debian release, and with it one version of systemd.
type release struct {
	name    string
	version string   // what "systemctl --version" begins with
	corpus  []string // packages whose units are read but not installed
}

// debianRoot returns the directory of a root with systemd and D-Bus in it. It
// is built when its recipe changes and shared by everybody who finds the cache.
// corpus/PACKAGE in it holds what these packages have in their systemd
// directories.
func debianRoot(t *testing.T, r release) string {
	t.Helper()
	// The directory comes as $1; the environment variable leads apt to the
	// package lists of the new root.
	download := `set -eu
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
	args := []string{"--quiet", "--variant=minbase", "--include=systemd,systemd-sysv,dbus"}
	if len(r.corpus) > 0 {
		args = append(args, "--customize-hook="+download)
	}
	sum := sha256.Sum256([]byte(strings.Join(append(args, r.name), "\x00")))
	root := filepath.Join(cacheDir(t), "systemd-"+r.name+"-"+hex.EncodeToString(sum[:4]))

	lock, err := os.OpenFile(root+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatalf("locking %s: %v", lock.Name(), err)
	}
	if _, err := os.Stat(root); err == nil {
		return root
	}
	t.Logf("building %s", root)
	partial := root + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "mmdebstrap", append(args, r.name, partial)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building a root of %s: %v\n%s", r.name, err, tail(out))
	}
	if err := os.Rename(partial, root); err != nil {
		t.Fatal(err)
	}
	return root
}

// cacheDir is $AMPOULE_CACHE, else .cache in the repository.
func cacheDir(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("AMPOULE_CACHE")
	if dir == "" {
		// Tests run in their own folder, two below the repository's.
		dir = filepath.Join("..", "..", ".cache")
	}
	dir, err := filepath.Abs(dir)
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
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
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	// The journal's socket holds ten messages unless told otherwise when it is
	// made, and PID 1 drops what it has no room for. The limit belongs to the
	// network namespace, so the root gets one of its own.
	cmd := exec.CommandContext(ctx, "unshare", "--net", "sh", "-c",
		`echo 10000 >/proc/sys/net/unix/max_dgram_qlen && exec "$@"`, "sh",
		"systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--link-journal=no",
		"--machine=ampoule-"+fmt.Sprint(os.Getpid()),
		"--directory="+root, "--volatile=overlay",
		"--bind-ro="+units+":/etc/systemd/system",
		"--bind-ro="+journald+":/etc/systemd/journald.conf.d/ampoule.conf",
		"--bind="+shared+":/ampoule",
		"--boot", "--", "--unit=collect.service")
	// Versions from 256 on refuse the mixed hierarchy that an older nspawn
	// would give them.
	cmd.Env = append(os.Environ(), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
	// SIGTERM is the power button; what does not obey is killed.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	out, err := cmd.CombinedOutput()
	if _, statErr := os.Stat(filepath.Join(shared, "out", "done")); err != nil || errors.Is(statErr, os.ErrNotExist) {
		log, _ := os.ReadFile(filepath.Join(shared, "out", "log"))
		t.Fatalf("booting %s: %v\n%s\n%s", root, errors.Join(err, ctx.Err()), tail(out), tail(log))
	}
}

// tail returns the last lines of a log.
func tail(out []byte) []byte {
	const enough = 4000
	if len(out) > enough {
		out = out[len(out)-enough:]
		if i := bytes.IndexByte(out, '\n'); i >= 0 {
			out = out[i+1:]
		}
	}
	return out
}
