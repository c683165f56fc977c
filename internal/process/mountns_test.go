package process

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mount namespaces")
	}
}

// mountNamespaces returns the distinct mount namespaces of our threads.
func mountNamespaces(t *testing.T) map[string]bool {
	t.Helper()
	links, err := filepath.Glob("/proc/self/task/*/ns/mnt")
	if err != nil || len(links) == 0 {
		t.Fatalf("no threads found: %v", err)
	}
	found := map[string]bool{}
	for _, link := range links {
		// A thread may have ended since.
		if ns, err := os.Readlink(link); err == nil {
			found[ns] = true
		}
	}
	return found
}

// sharedDir returns a directory from which mounts propagate into every other
// namespace, as they do from the whole of an ordinary systemd host.
func sharedDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("needs to mount: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	inner := filepath.Join(dir, "inner")
	if err := os.Mkdir(inner, 0o700); err != nil {
		t.Fatal(err)
	}
	return inner
}

func TestMountNamespace(t *testing.T) {
	needRoot(t)
	dir := sharedDir(t)
	before := mountNamespaces(t)
	for round := range 20 {
		spec := shell("cat " + dir + "/secret; stat -f -c %T " + dir)
		spec.MountNamespace = func() error {
			if err := unix.Mount("ramfs", dir, "ramfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0700"); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, "secret"), []byte("only here\n"), 0o400)
		}
		if got := output(t, spec); got != "only here\nramfs\n" {
			t.Fatalf("round %d: the child sees %q", round, got)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
			t.Fatalf("round %d: outside: %v, %v", round, entries, err)
		}
		if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), dir) {
			t.Fatalf("round %d: the mount is seen outside, %v", round, err)
		}
	}
	// The thread, and with it the last holder of the namespace, goes too.
	for end := time.Now().Add(5 * time.Second); len(mountNamespaces(t)) > len(before); {
		if time.Now().After(end) {
			t.Fatalf("namespaces before %v, after %v", before, mountNamespaces(t))
		}
		time.Sleep(time.Millisecond)
	}
}

func TestMountNamespaceLivesAsLongAsTheChild(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	p := start(t, Spec{
		Path: "/bin/sleep", Args: []string{"sleep", "1000"},
		MountNamespace: func() error {
			if err := unix.Mount("ramfs", dir, "ramfs", 0, ""); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, "secret"), nil, 0o400)
		},
	})
	churn(50)
	inside := filepath.Join("/proc", strconv.Itoa(p.Pid()), "root", dir, "secret")
	if _, err := os.Stat(inside); err != nil {
		t.Error(err)
	}
}

func TestMountNamespaceError(t *testing.T) {
	needRoot(t)
	want := errors.New("no room")
	_, err := Start(Spec{
		Path: "/bin/true", Args: []string{"true"},
		MountNamespace: func() error { return want },
	})
	if !errors.Is(err, want) {
		t.Errorf("got %v", err)
	}
}
