// Package guest gives tests a real guest to boot, built once by guest/build with
// the test overlay in it: Debian's kernel and an initramfs that is all of it
// ([Get]), or one that mounts a root disk ([GetDisk]); and a parser for the
// report which that overlay prints on the guest's console.
//
// Nothing here starts a hypervisor. Shipped code must not import it.
package guest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Guest is a kernel and an initramfs that is the whole root file system.
type Guest struct {
	// Suite is Debian's name of the release: "bookworm" or "trixie".
	Suite string
	// Systemd is the major version of the systemd inside.
	Systemd int
	// Kernel and Initrd are absolute paths of files that may be read but must
	// not be changed: every test of every package shares them.
	Kernel, Initrd string
}

// suites are the guests that can be had, with the systemd each carries.
var suites = map[string]int{"bookworm": 252, "trixie": 257}

// TestParameters are the words a test puts on the kernel command line beside
// its own. Without the mask a login prompt hangs up the console and swallows
// part of the report. The others leave out self-tests of the kernel and
// seccomp filters of the guest's services, which take three seconds of a boot
// under software emulation and prove nothing about the host.
const TestParameters = "systemd.mask=serial-getty@ttyS0.service " +
	"cryptomgr.notests initcall_blacklist=crypto_kdf108_init,init_encrypted,jent_mod_init " +
	"SYSTEMD_SECCOMP=0"

// ScriptName is the credential that the guest's shell carries out when its file
// systems are mounted. On the console each line that it prints is "AMPOULE-REPORT
// said LINE", and its end is "AMPOULE-REPORT script-end STATUS". The programs of the
// guest are few; the agent beside them has verbs of its own (agent/network.go).
const ScriptName = "test.script"

// Get returns the guest of a suite and builds it first where the cache does not
// have it, which takes a minute, the network and root. The cache is
// $AMPOULE_CACHE, else .cache in the repository. Processes that ask at the same
// time wait for one build. A guest that cannot be had fails the test.
func Get(t testing.TB, suite string) Guest {
	t.Helper()
	g, err := Build(suite)
	if err != nil {
		t.Fatalf("guest %s: %v", suite, err)
	}
	return g
}

// GetSSH returns trixie's guest with OpenSSH's server in it, which its systemd has
// listen at the guest's vsock. It is built and cached as [Get] says.
func GetSSH(t testing.TB) Guest {
	t.Helper()
	root, cache, err := places()
	if err != nil {
		t.Fatal(err)
	}
	g, _, err := build(root, cache, "trixie", "--include", "openssh-server")
	if err != nil {
		t.Fatalf("guest trixie with sshd: %v", err)
	}
	return g
}

// GetGeneric is [Get] with Debian's kernel for any machine, which has 9p.
func GetGeneric(t testing.TB, suite string) Guest {
	t.Helper()
	root, cache, err := places()
	if err != nil {
		t.Fatal(err)
	}
	g, _, err := build(root, cache, suite, "--kernel", "generic", "--module", "9p,9pnet_virtio")
	if err != nil {
		t.Fatalf("guest %s with the generic kernel: %v", suite, err)
	}
	return g
}

// GetWatchdog is [Get] with Debian's kernel for any machine and its driver for the
// watchdog of QEMU.
func GetWatchdog(t testing.TB, suite string) Guest {
	t.Helper()
	root, cache, err := places()
	if err != nil {
		t.Fatal(err)
	}
	g, _, err := build(root, cache, suite, "--kernel", "generic", "--module", "i6300esb")
	if err != nil {
		t.Fatalf("guest %s with a watchdog: %v", suite, err)
	}
	return g
}

// Build is [Get] without a test.
func Build(suite string) (Guest, error) {
	root, cache, err := places()
	if err != nil {
		return Guest{}, err
	}
	g, _, err := build(root, cache, suite)
	return g, err
}

// places returns the repository and the cache of guests.
func places() (root, cache string, err error) {
	root, err = repositoryRoot()
	if err != nil {
		return "", "", err
	}
	cache = os.Getenv("AMPOULE_CACHE")
	if cache == "" {
		cache = filepath.Join(root, ".cache")
	}
	return root, filepath.Join(cache, "guest"), nil
}

// build runs guest/build, which answers from its cache where it can, under a
// lock, so that two test processes do not build the same guest side by side. It
// also returns the directory of the result.
func build(root, cache, suite string, options ...string) (g Guest, dir string, err error) {
	systemd, ok := suites[suite]
	if !ok {
		return Guest{}, "", fmt.Errorf("suite %q is not known: bookworm or trixie", suite)
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return Guest{}, "", fmt.Errorf("making the cache: %w", err)
	}
	unlock, err := lock(filepath.Join(cache, suite+".lock"))
	if err != nil {
		return Guest{}, "", err
	}
	defer unlock()

	agent, err := buildAgent(root)
	if err != nil {
		return Guest{}, "", err
	}
	defer os.Remove(agent)
	cmd := exec.Command(filepath.Join(root, "guest", "build"), append([]string{
		"--suite", suite, "--cache", cache,
		"--overlay", filepath.Join(root, "internal", "testkit", "guest", "overlay"),
		"--copy", agent + ":/usr/lib/ampoule-test/agent"}, options...)...)
	var words strings.Builder
	cmd.Stderr = &words
	out, err := cmd.Output()
	if err != nil {
		return Guest{}, "", fmt.Errorf("running %s: %w\n%s", cmd, err, words.String())
	}
	dir = strings.TrimSpace(string(out))
	g = Guest{
		Suite: suite, Systemd: systemd,
		Kernel: filepath.Join(dir, "vmlinuz"), Initrd: filepath.Join(dir, "initrd"),
	}
	return g, dir, present(g.Kernel, g.Initrd)
}

// present checks that guest/build made what it says.
func present(files ...string) error {
	for _, file := range files {
		if _, err := os.Stat(file); err != nil {
			return fmt.Errorf("checking what guest/build made: %w", err)
		}
	}
	return nil
}

// Agent returns the path of the agent, which goes with the test: some of its verbs
// are of use on the guest's host too.
func Agent(t testing.TB) string {
	t.Helper()
	root, err := repositoryRoot()
	if err != nil {
		t.Fatal(err)
	}
	path, err := buildAgent(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(path) })
	return path
}

// buildAgent compiles the program that the overlay's units start. The bytes are
// the same on every machine with the same Go, so they may decide the cache key.
func buildAgent(root string) (string, error) {
	f, err := os.CreateTemp("", "ampoule-agent-")
	if err != nil {
		return "", fmt.Errorf("making a temporary file: %w", err)
	}
	path := f.Name()
	if err := f.Close(); err != nil {
		return "", fmt.Errorf("closing a temporary file: %w", err)
	}
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w",
		"-o", path, "./internal/testkit/guest/agent")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1", "GOFLAGS=")
	if words, err := cmd.CombinedOutput(); err != nil {
		return "", errors.Join(fmt.Errorf("running %s: %w\n%s", cmd, err, words), os.Remove(path))
	}
	if err := os.Chmod(path, 0o755); err != nil {
		return "", errors.Join(fmt.Errorf("making the agent executable: %w", err), os.Remove(path))
	}
	return path, nil
}

// lock takes an exclusive lock on a file, waiting for it, and returns the
// function that gives it back.
func lock(path string) (func(), error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening the lock: %w", err)
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", path, err), f.Close())
	}
	// Closing drops the lock; the file stays, for removing it would let a
	// third process lock another inode of the same name.
	return func() { _ = f.Close() }, nil
}

// repositoryRoot walks up from the test's working directory, which is that of
// its package, to the module.
func repositoryRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("asking for the working directory: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("no go.mod above the working directory")
		}
		dir = parent
	}
}
