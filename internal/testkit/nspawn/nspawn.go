// Package nspawn gives tests hosts with a real systemd: Debian roots that are
// built once, and their boots in systemd-nspawn, half a second each. What
// happens on a host is up to the test. It is for tests alone.
package nspawn

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// Recipe says what is in a root.
type Recipe struct {
	// Suite is Debian's name of the release.
	Suite string
	// Packages are added to a minimal system with systemd and D-Bus.
	Packages []string
	// Hook is a script of mmdebstrap's that finishes the root, which it gets as
	// $1; may be empty.
	Hook string
}

// Need skips a test where no systemd can be booted, or where only quick tests
// are wanted.
func Need(t testing.TB) {
	t.Helper()
	need.All(t, need.Nspawn)
	if testing.Short() {
		t.Skip("not in short mode: this boots a systemd")
	}
}

// Root returns the directory of a root. It is built when its recipe changes, and
// shared by everybody who finds the cache: it must not be written.
func Root(t testing.TB, r Recipe) string {
	t.Helper()
	include := strings.Join(append([]string{"systemd", "systemd-sysv", "dbus"}, r.Packages...), ",")
	args := []string{"--quiet", "--variant=minbase", "--include=" + include}
	if r.Hook != "" {
		args = append(args, "--customize-hook="+r.Hook)
	}
	sum := sha256.Sum256([]byte(strings.Join(append(args, r.Suite), "\x00")))
	root := filepath.Join(cacheDir(t), "systemd-"+r.Suite+"-"+hex.EncodeToString(sum[:4]))

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
	cmd := exec.CommandContext(ctx, "mmdebstrap", append(args, r.Suite, partial)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building a root of %s: %v\n%s", r.Suite, err, Tail(out))
	}
	if err := os.Rename(partial, root); err != nil {
		t.Fatal(err)
	}
	return root
}

// cacheDir is $AMPOULE_CACHE, else .cache in the repository.
func cacheDir(t testing.TB) string {
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

// machines counts what this process has booted: a name is taken while it is up.
var machines atomic.Int64

// Boot starts the systemd of a root, which itself stays as it is, and waits
// until it has powered off, for limit at most. Args are further arguments of
// systemd-nspawn, pid1 those of systemd. It returns what nspawn said.
func Boot(t testing.TB, root string, limit time.Duration, args, pid1 []string) (said []byte, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	// The journal's socket holds ten messages unless told otherwise when it is
	// made, and PID 1 drops what it has no room for. The limit belongs to the
	// network namespace, so the root gets one of its own.
	group, apart := ownGroup()
	defer group.remove()
	words := []string{"--net", "sh", "-c", apart + `echo 10000 >/proc/sys/net/unix/max_dgram_qlen && exec "$@"`, "sh"}
	words = append(words, command(root, append([]string{"--volatile=overlay"}, args...), pid1)...)
	cmd := exec.CommandContext(ctx, "unshare", words...)
	// Versions from 256 on refuse the mixed hierarchy that an older nspawn
	// would give them.
	cmd.Env = append(os.Environ(), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
	// SIGTERM is the power button; what does not obey is killed.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	said, err = cmd.CombinedOutput()
	if ctx.Err() != nil {
		err = fmt.Errorf("%w (%w)", ctx.Err(), err)
	}
	return said, err
}

// command is the command line that boots a root.
func command(root string, args, pid1 []string) []string {
	words := []string{"systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--link-journal=no",
		fmt.Sprintf("--machine=ampoule-%d-%d", os.Getpid(), machines.Add(1)), "--directory=" + root}
	return append(append(append(words, args...), "--boot", "--"), pid1...)
}

// Tail returns the last lines of a log.
func Tail(out []byte) []byte {
	const enough = 4000
	if len(out) > enough {
		out = out[len(out)-enough:]
		if i := bytes.IndexByte(out, '\n'); i >= 0 {
			out = out[i+1:]
		}
	}
	return out
}
