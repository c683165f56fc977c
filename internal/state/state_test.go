package state

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

func TestFindDirectories(t *testing.T) {
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	find := func(env map[string]string) Directories {
		return FindDirectories("vm", func(name string) string { return env[name] })
	}
	for _, tt := range []struct {
		name string
		env  map[string]string
		want Directories
	}{
		{"systemd", map[string]string{"STATE_DIRECTORY": "/a:/b", "RUNTIME_DIRECTORY": "/c:/d", "CACHE_DIRECTORY": "/e"}, Directories{"/a", "/c", "/e", true, "/run/ampoule/run/vm"}},
		{"by hand, relative", map[string]string{"STATE_DIRECTORY": "x", "RUNTIME_DIRECTORY": "y"}, Directories{wd + "/x", wd + "/y", "/var/cache/ampoule", true, "/run/ampoule/run/vm"}},
		{"others of the user's", map[string]string{"STATE_DIRECTORY": "/var/lib/a:/var/lib/ampoule/vm/vm", "RUNTIME_DIRECTORY": "/run/a:/run/ampoule/vm/vm:/run/z", "CACHE_DIRECTORY": "/e"},
			Directories{"/var/lib/ampoule/vm/vm", "/run/ampoule/vm/vm", "/e", true, "/run/ampoule/run/vm"}},
		{"root", map[string]string{"HOME": "/root"}, Directories{"/var/lib/ampoule/vm/vm", "/run/ampoule/run/vm", "/var/cache/ampoule", false, "/run/ampoule/vm/vm"}},
	} {
		if got := find(tt.env); os.Geteuid() == 0 && got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

func TestClaim(t *testing.T) {
	d := Directories{Runtime: filepath.Join(t.TempDir(), "deep", "run")}
	first, err := Take(d)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Take(d); !errors.Is(err, ErrRunning) {
		t.Errorf("a second one: %v", err)
	}
	if err := first.Write(Record{Name: "one"}); err != nil {
		t.Fatal(err)
	}
	if err := first.Write(Record{Name: "two"}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(d.Runtime, recordName))
	if err != nil || !strings.Contains(string(data), `"name": "two"`) {
		t.Errorf("%s, %v", data, err)
	}
	if info, err := os.Stat(filepath.Join(d.Runtime, recordName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if err := first.WritePlan([]byte("{}")); err != nil {
		t.Fatal(err)
	}
	if text, err := ReadPlan(d.Runtime, 2); err != nil || string(text) != "{}" {
		t.Errorf("%s, %v", text, err)
	}
	if _, err := ReadPlan(d.Runtime, 1); err == nil || !strings.Contains(err.Error(), "larger than 1 byte") {
		t.Error(err)
	}
	if info, err := os.Stat(filepath.Join(d.Runtime, planName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	first.Release()
	if _, err := ReadPlan(d.Runtime, 2); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if _, err := os.Stat(d.Runtime); !os.IsNotExist(err) {
		t.Error("the directory is left")
	}
	// One that a service manager made stays, empty.
	given := Directories{Runtime: t.TempDir(), Given: true}
	// What a killed predecessor left is in nobody's way.
	for _, name := range []string{lockName, recordName, newRecord, planName, newPlan} {
		if err := os.WriteFile(filepath.Join(given.Runtime, name), []byte("stale"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, err := Take(given)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Write(Record{}); err != nil {
		t.Error(err)
	}
	r.Release()
	if entries, err := os.ReadDir(given.Runtime); err != nil || len(entries) != 0 {
		t.Errorf("%v, %v", entries, err)
	}
	// Nowhere to keep anything: that is no error.
	r, err = Take(Directories{})
	if err != nil || r.Write(Record{}) != nil || r.WritePlan(nil) != nil {
		t.Error(err)
	}
	r.Release()
	// A link is not followed.
	if err := os.Symlink("/dev/null", filepath.Join(given.Runtime, lockName)); err != nil {
		t.Fatal(err)
	}
	if _, err := Take(given); err == nil {
		t.Error("a symbolic link is taken for the lock")
	}
	dangling := filepath.Join(t.TempDir(), "run")
	if err := os.Symlink("nowhere", dangling); err != nil {
		t.Fatal(err)
	}
	if _, err := Take(Directories{Runtime: dangling}); err == nil {
		t.Error("a link that leads nowhere is taken for a directory")
	}
}

// A lock on a file that its last owner has removed keeps nobody out.
func TestLockGone(t *testing.T) {
	path := filepath.Join(t.TempDir(), lockName)
	open := func() *os.File {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	late := open()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := lockFile(late, path); !errors.Is(err, errLockGone) {
		t.Errorf("removed: %v", err)
	}
	if err := lockFile(open(), path); err != nil {
		t.Errorf("new: %v", err)
	}
	if err := lockFile(late, path); !errors.Is(err, errLockGone) {
		t.Errorf("removed and made again: %v", err)
	}
}

// However starts and ends of a VM meet, two never run at once. A file that
// the last owner removes while the next has it open is where that goes wrong.
func TestClaimRace(t *testing.T) {
	d := Directories{Runtime: filepath.Join(t.TempDir(), "run")}
	var inside, most, claimed atomic.Int32
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 1500 {
				r, err := Take(d)
				if errors.Is(err, ErrRunning) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				claimed.Add(1)
				if n := inside.Add(1); n > 1 {
					most.Store(n)
				}
				inside.Add(-1)
				r.Release()
			}
		})
	}
	group.Wait()
	if most.Load() > 1 || claimed.Load() < 100 {
		t.Errorf("%d held the lock at once; it was taken %d times", most.Load(), claimed.Load())
	}
}

func ExampleFindDirectories() {
	env := map[string]string{"STATE_DIRECTORY": "/var/lib/ampoule/vm/web", "RUNTIME_DIRECTORY": "/run/ampoule/vm/web"}
	d := FindDirectories("web", func(name string) string { return env[name] })
	fmt.Println(d.State, d.Runtime)
	// Output: /var/lib/ampoule/vm/web /run/ampoule/vm/web
}

// TestServices: a directory, or a link to one, and nothing that is left of one.
func TestServices(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, Root)
	for _, d := range []string{filepath.Join(dir, "plain"), filepath.Join(root, "run/private/there")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"dynamic": "../../private/there", "left": "../../private/gone", "file": "../../../etc"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "junk"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	names, err := Services(root)
	if err != nil || !slices.Equal(names, []string{"dynamic", "plain"}) {
		t.Errorf("%q, %v", names, err)
	}
	t.Chdir(filepath.Dir(root))
	if names, err := Services(filepath.Base(root)); err != nil || len(names) != 2 {
		t.Errorf("by a relative root: %q, %v", names, err)
	}
	if names, err := Services(t.TempDir()); err != nil || len(names) != 0 {
		t.Errorf("%q, %v", names, err)
	}
}
