package clean

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, target, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

func find(t *testing.T, root string, known ...string) map[string][]Item {
	t.Helper()
	found, err := Find(root, func(name string) bool { return slices.Contains(known, name) })
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestFind: all places, each thing once, and nothing of a VM that there is.
func TestFind(t *testing.T) {
	root := t.TempDir()
	put(t, filepath.Join(root, "var/lib/private/ampoule/vm/old/data.raw"), strings.Repeat("x", 100<<10))
	link(t, "../../private/ampoule/vm/old", filepath.Join(root, "var/lib/ampoule/vm/old"))
	if err := os.Link(filepath.Join(root, "var/lib/private/ampoule/vm/old/data.raw"), filepath.Join(root, "var/lib/private/ampoule/vm/old/again.raw")); err != nil {
		t.Fatal(err)
	}
	link(t, "/", filepath.Join(root, "var/lib/private/ampoule/vm/old/everything"))
	put(t, filepath.Join(root, "var/cache/ampoule/vm/old/seen"), "x")
	put(t, filepath.Join(root, "run/ampoule/generator/old"), "[Unit]")
	put(t, filepath.Join(root, "run/ampoule/privileged/old/prepared.json"), "{}")
	put(t, filepath.Join(root, "run/ampoule/privileged/web/prepared.json"), "{}")
	put(t, filepath.Join(root, "run/ampoule/share/old@data/s"), "")
	put(t, filepath.Join(root, "run/ampoule/share/web@old/s"), "")
	put(t, filepath.Join(root, "var/cache/ampoule/vm/old@data/x"), "x")
	put(t, filepath.Join(root, "var/lib/ampoule/vm/web/data.raw"), "x")
	put(t, filepath.Join(root, "var/lib/ampoule/vm/no name/data.raw"), "x")
	found := find(t, root, "web")
	if len(found) != 1 {
		t.Fatalf("%+v", found)
	}
	var got []string
	for _, item := range found["old"] {
		got = append(got, string(item.Kind)+" "+item.Path)
		if item.Link != (item.Path == "/var/lib/ampoule/vm/old") {
			t.Errorf("%s: a link: %v", item.Path, item.Link)
		}
		if strings.Contains(item.Path, "private") && (item.Bytes < 100<<10 || item.Bytes > 200<<10) {
			t.Errorf("%s has %d bytes", item.Path, item.Bytes)
		}
	}
	want := []string{"state /var/lib/ampoule/vm/old", "state /var/lib/private/ampoule/vm/old", "cache /var/cache/ampoule/vm/old",
		"runtime /run/ampoule/share/old@data", "prepared /run/ampoule/privileged/old", "unit /run/ampoule/generator/old"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if found := find(t, t.TempDir()); len(found) != 0 {
		t.Errorf("%+v", found)
	}
}

// TestRemove: what a VM's user has put there leads nowhere.
func TestRemove(t *testing.T) {
	root := t.TempDir()
	outside := filepath.Join(root, "precious")
	put(t, filepath.Join(outside, "data"), "x")
	state := filepath.Join(root, "var/lib/ampoule/vm/old")
	put(t, filepath.Join(state, "data.raw"), "x")
	put(t, filepath.Join(state, "locked/deep/file"), "x")
	link(t, outside, filepath.Join(state, "a"))
	link(t, "../../../../../precious", filepath.Join(state, "b"))
	link(t, "../../../../precious", filepath.Join(root, "var/cache/ampoule/vm/old"))
	if err := syscall.Mkfifo(filepath.Join(state, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(root, "var/lib/ampoule/vm/older/data.raw"), "x")
	for _, item := range find(t, root)["old"] {
		if err := Remove(item); err != nil {
			t.Error(err)
		}
	}
	if found := find(t, root); len(found) != 1 || len(found["older"]) != 1 {
		t.Errorf("%+v", found)
	}
	if _, err := os.Stat(filepath.Join(outside, "data")); err != nil {
		t.Errorf("what is outside: %v", err)
	}
}

// TestRemoveMounted: a file system that is mounted there is somebody's.
func TestRemoveMounted(t *testing.T) {
	need.All(t, need.Root)
	root := t.TempDir()
	state := filepath.Join(root, "var/lib/ampoule/vm/old")
	put(t, filepath.Join(state, "m y/x"), "x")
	put(t, filepath.Join(root, "precious"), "x")
	at := filepath.Join(state, "m y")
	if err := syscall.Mount(filepath.Join(root, "var"), at, "", syscall.MS_BIND, ""); err != nil {
		t.Skipf("nothing can be mounted here: %v", err)
	}
	defer func() { _ = syscall.Unmount(at, syscall.MNT_DETACH) }()
	err := Remove(Item{Path: "/var/lib/ampoule/vm/old", dir: filepath.Dir(state), name: "old"})
	if err == nil || !strings.Contains(err.Error(), at+" is mounted there") {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(root, "var/lib/ampoule/vm/old")); err != nil {
		t.Error(err)
	}
}

// TestUsers: a unit of somebody's own, and a mask, say that a VM is meant to be.
func TestUsers(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "etc/systemd/system")
	put(t, filepath.Join(dir, "mine.service"), "[Service]\nStateDirectory=ampoule/vm/a\nExecStart=/usr/bin/ampoule run --plan=x\n")
	put(t, filepath.Join(dir, "other.service.d/10.conf"), "[Service]\nSetCredential=ampoule.plan:{\"vm\":{\"name\":\"b\",\"x\":1}}\n")
	put(t, filepath.Join(dir, "third.service"), "[Service]\nExecStart=/usr/bin/ampoule run c\n")
	put(t, filepath.Join(dir, "notes.txt"), "ampoule/vm/d")
	link(t, "/dev/null", filepath.Join(dir, "microvm@m.service"))
	users := FindUsers(root)
	for name, want := range map[string]string{
		"a": "/etc/systemd/system/mine.service uses it", "b": "/etc/systemd/system/other.service.d/10.conf uses it", "c": "/etc/systemd/system/third.service uses it",
		"d": "", "m": "microvm@m.service is masked", "a-": "", "ab": "",
	} {
		if got := users.Of(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
