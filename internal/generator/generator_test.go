package generator

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/ampoule-vm/ampoule/internal/driver/all"
	"github.com/ampoule-vm/ampoule/internal/source"
)

const good = "[MicroVM]\nKernel=/boot/vmlinuz\nLoadCredential=A:/run/a\n[Install]\nWantedBy=multi-user.target\nAlias=other@%i.service\n"

// tree writes files below a new root, in random order; a text that begins with
// "-> " makes a link.
func tree(t testing.TB, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	var names []string
	for name := range files {
		names = append(names, name)
	}
	rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for _, name := range names {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(files[name], "-> "); ok {
			err = os.Symlink(target, path)
		} else {
			err = os.WriteFile(path, []byte(files[name]), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func input(root string) Input {
	return Input{Root: root, Dirs: source.SearchPath(), Drivers: all.Drivers(), Program: "/usr/bin/ampoule", Last: func(string) []byte { return nil }}
}

// contents are all files and links below a directory.
func contents(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if d.Type()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(path)
			out[name] = "-> " + target
			return err
		}
		data, err := os.ReadFile(path)
		out[name] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// host is a generator's surroundings: what systemd empties, and what lasts.
type host struct {
	t       testing.TB
	in      Input
	out     string
	store   string
	running []string
}

func newHost(t testing.TB, files map[string]string) *host {
	dir := t.TempDir()
	return &host{t: t, in: input(tree(t, files)), out: filepath.Join(dir, "out"), store: filepath.Join(dir, "run", "store")}
}

// reload does what systemd does at daemon-reload.
func (h *host) reload() (units map[string]string, said string, code int) {
	h.t.Helper()
	if err := os.RemoveAll(h.out); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Mkdir(h.out, 0o755); err != nil {
		h.t.Fatal(err)
	}
	in := h.in
	in.Running = h.running
	in.Last = func(vm string) []byte { return Last(h.store, vm) }
	var out bytes.Buffer
	code = generate(&Writer{Out: h.out, Store: h.store}, &Log{Errors: &out}, in)
	return contents(h.t, h.out), out.String(), code
}

func (h *host) write(name, text string) {
	h.t.Helper()
	path := filepath.Join(h.in.Root, name)
	if err := os.RemoveAll(path); err != nil {
		h.t.Fatal(err)
	}
	if target, ok := strings.CutPrefix(text, "-> "); ok {
		if err := os.Symlink(target, path); err != nil {
			h.t.Fatal(err)
		}
	} else if text != "" {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			h.t.Fatal(err)
		}
	}
}

// TestUnits: what becomes of every kind of file.
func TestUnits(t *testing.T) {
	h := newHost(t, map[string]string{
		"etc/ampoule/web.microvm":                                          good,
		"etc/ampoule/bad.microvm":                                          good + "Wantdby=x.target\n[MicroVM]\nVCPU=x\n",
		"etc/ampoule/empty.microvm":                                        "",
		"etc/ampoule/masked.microvm":                                       "-> /dev/null",
		"usr/lib/ampoule/masked.microvm":                                   good,
		"etc/ampoule/a b@c.microvm":                                        good,
		"etc/ampoule/orphan.microvm.d/10.conf":                             "[MicroVM]\nVCPU=2\n",
		"etc/ampoule/pre-.microvm.d/10.conf":                               "[MicroVM]\nVCPU=2\n",
		"etc/ampoule/mine.microvm":                                         good,
		"etc/systemd/system/microvm@mine.service":                          "[Service]\nExecStart=/bin/true\n",
		"etc/ampoule/nix.microvm":                                          good,
		"etc/systemd/system/microvm@.service":                              "[Service]\nExecStart=/bin/true\n",
		"etc/systemd/system/microvm@nix.service.d/overrides.conf":          "[Service]\n",
		"etc/systemd/system/microvm@web.service.d/override.conf":           "[Service]\n",
		"etc/systemd/system/microvm@bad.service":                           "-> /dev/null",
		"etc/ampoule/web.microvm.d/readme":                                 "x",
		"etc/ampoule/new.microvm":                                          good + "[Service]\nImportCredential=x\n",
		"usr/lib/systemd/libsystemd-shared-252.so":                         "",
		"usr/lib/systemd/system/multi-user.target.wants/microvm@x.service": "-> nowhere",
	})
	units, said, code := h.reload()
	if code != ExitTrouble {
		t.Errorf("exit code %d", code)
	}
	var names []string
	for name, text := range units {
		if strings.HasPrefix(text, "-> ") {
			name += " " + text
		} else if strings.Contains(text, " unit refuse ") {
			name += " fails"
		}
		names = append(names, name)
	}
	slices.Sort(names)
	want := []string{
		`microvm@a\x20b\x40c.service fails`, "microvm@bad.service fails", "microvm@empty.service fails", "microvm@masked.service -> /dev/null",
		"microvm@new.service fails", "microvm@orphan.service fails", "microvm@web.service",
		`multi-user.target.wants/microvm@a\x20b\x40c.service -> ../microvm@a\x20b\x40c.service`,
		"multi-user.target.wants/microvm@bad.service -> ../microvm@bad.service", "multi-user.target.wants/microvm@new.service -> ../microvm@new.service",
		"multi-user.target.wants/microvm@web.service -> ../microvm@web.service",
		"other@bad.service -> microvm@bad.service", "other@new.service -> microvm@new.service", "other@web.service -> microvm@web.service",
	}
	if !slices.Equal(names, want) {
		t.Errorf("made are\n%s\nwant\n%s", strings.Join(names, "\n"), strings.Join(want, "\n"))
	}
	for _, want := range []string{
		"/etc/ampoule/bad.microvm:7: Wantdby=x.target: unknown key",
		"/etc/ampoule/bad.microvm:9: VCPU=x: ",
		"/etc/ampoule/mine.microvm:1: microvm@mine.service is provided by /etc/systemd/system/microvm@mine.service",
		"/etc/ampoule/nix.microvm:1: microvm@nix.service is provided by /etc/systemd/system/microvm@.service",
		"/etc/ampoule/pre-.microvm.d:1: note: drop-ins for no VM: no name begins with pre-",
		"/etc/ampoule/web.microvm.d/readme:1: warning: not read",
		"/etc/ampoule/orphan.microvm.d:1: drop-ins for a VM that does not exist",
		"/etc/ampoule/new.microvm:8: ImportCredential=…: systemd has this key from version 254 on, and this host has 252",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("nothing says %q in\n%s", want, said)
		}
	}
}

// TestNames: whatever a file is called, its unit is there, is whole, and fails
// with words.
func TestNames(t *testing.T) {
	h := newHost(t, map[string]string{
		"etc/ampoule/a\nb.microvm": good, "etc/ampoule/a\rb.microvm": good, "etc/ampoule/ .microvm": good, "etc/ampoule/x\xff.microvm": good, "etc/ampoule/%n\x1b.microvm": good,
		"etc/ampoule/\\.microvm": good, "etc/ampoule/..microvm": good, "etc/ampoule/ok.microvm": good, "etc/ampoule/ok.microvm.d/x\r\n[Service].conf": "[Unit]\nOnFailure=x.service\n",
	})
	units, said, _ := h.reload()
	made := 0
	for name, text := range units {
		if !strings.HasPrefix(text, "-> ") {
			made++
		}
		switch {
		case strings.HasPrefix(text, "-> "):
		case name == "microvm@ok.service":
			if !strings.Contains(text, "\n# /etc/ampoule/ok.microvm.d/x\\x0d\\x0a[Service].conf:2\nOnFailure=x.service\n") {
				t.Errorf("%s", text)
			}
		case !strings.Contains(text, " unit refuse "):
			t.Errorf("%q is\n%s", name, text)
		}
		if !utf8.ValidString(text) || strings.ContainsAny(text, "\r\x1b") {
			t.Errorf("%q is\n%q", name, text)
		}
	}
	if made != 8 {
		t.Errorf("%d units", made)
	}
	if strings.Contains(said, "written") || strings.ContainsAny(said, "\r\x1b") {
		t.Errorf("said is %q", said)
	}
}

// TestKept: the unit of a running VM survives what happens to its file.
func TestKept(t *testing.T) {
	h := newHost(t, map[string]string{"etc/ampoule/web.microvm": good, "etc/ampoule/other.microvm": good})
	first, _, code := h.reload()
	if code != ExitDone {
		t.Fatalf("exit code %d", code)
	}
	const name, wants = "microvm@web.service", "multi-user.target.wants/microvm@web.service"
	for _, c := range []struct {
		what, text  string
		restart, ln bool
	}{
		{"broken", "[MicroVM]\nVCPU=x\n", true, false},
		{"empty", " \n", true, false},
		{"masked", "-> /dev/null", false, false},
		{"removed", "", false, false},
	} {
		h.write("etc/ampoule/web.microvm", c.text)
		h.running = []string{"web"}
		for range 2 { // as often as one likes
			units, _, _ := h.reload()
			plan := first[name][strings.Index(first[name], "SetCredential=ampoule.plan:"):]
			plan, _, _ = strings.Cut(plan, "\n")
			if !strings.Contains(units[name], plan) || !strings.Contains(units[name], "KillMode=mixed") {
				t.Errorf("%s: the plan or the way to stop is lost:\n%s", c.what, units[name])
			}
			if got := !strings.Contains(units[name], "\nRestart=no\n"); got != c.restart {
				t.Errorf("%s: restarts after a crash: %v", c.what, got)
			}
			if _, ok := units[wants]; ok {
				t.Errorf("%s: it is still wanted", c.what)
			}
		}
		// Then it is stopped.
		h.running = nil
		units, _, _ := h.reload()
		if text := units[name]; strings.Contains(text, "ampoule.plan") {
			t.Errorf("%s: stopped, and the old plan is there:\n%s", c.what, text)
		}
		// What was not good is forgotten; mended, it is as before.
		if Last(h.store, "web") != nil || Last(h.store, "other") == nil {
			t.Errorf("%s: kept are %v", c.what, contents(t, h.store))
		}
		h.write("etc/ampoule/web.microvm", good)
		if units, _, _ := h.reload(); units[name] != first[name] {
			t.Errorf("%s: mended, the unit is\n%s", c.what, units[name])
		}
	}
}

// TestUnfinishedLast: a copy that a generator did not write to its end, killed
// or still at it, is nobody's last good unit.
func TestUnfinishedLast(t *testing.T) {
	h := newHost(t, map[string]string{"etc/ampoule/web.microvm": good})
	whole, _, _ := h.reload()
	copied := filepath.Join(h.store, "web")
	if string(Last(h.store, "web")) != whole["microvm@web.service"] {
		t.Fatal("no last good unit")
	}
	if err := os.Remove(copied); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(copied, []byte("[Unit]\nDescr"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := Last(h.store, "web"); got != nil {
		t.Errorf("half a unit is kept: %q", got)
	}
	again, said, code := h.reload()
	if code != 0 || again["microvm@web.service"] != whole["microvm@web.service"] || string(Last(h.store, "web")) != whole["microvm@web.service"] {
		t.Errorf("code %d, %s, %v", code, said, again)
	}
}

// TestTwoFileSystems: where no link leads from the store to the units, both are
// written, the first time and later.
func TestTwoFileSystems(t *testing.T) {
	h := newHost(t, map[string]string{"etc/ampoule/web.microvm": good})
	want, _, _ := h.reload()
	store, err := os.MkdirTemp("/dev/shm", "ampoule-test-")
	if err != nil {
		t.Skipf("no second file system: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(store) })
	probe := filepath.Join(store, "probe")
	if err := os.WriteFile(probe, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if os.Link(probe, filepath.Join(h.out, "probe")) == nil {
		t.Skip("/dev/shm and the temporary directory are on one file system")
	}
	h.store = filepath.Join(store, "store")
	for range 2 {
		got, said, code := h.reload()
		if code != 0 || got["microvm@web.service"] != want["microvm@web.service"] || string(Last(h.store, "web")) != want["microvm@web.service"] {
			t.Errorf("code %d, %s, %v", code, said, got)
		}
	}
}

// TestRunningWithoutLast: a VM that runs, and whose unit nobody has kept, can
// still be stopped in order.
func TestRunningWithoutLast(t *testing.T) {
	h := newHost(t, map[string]string{"etc/ampoule/web.microvm": "[MicroVM]\nVCPU=x\n[Service]\nTimeoutStopSec=7min\n"})
	h.running = []string{"gone", "web"}
	units, _, _ := h.reload()
	if got := units["microvm@web.service"]; !strings.Contains(got, "\nKillMode=mixed\nTimeoutStopSec=420s\n") {
		t.Errorf("%s", got)
	}
	// Nobody ever made a unit for this one: it runs in another, or not at all.
	if got, ok := units["microvm@gone.service"]; ok {
		t.Errorf("%s", got)
	}
}

// TestSame: the same bytes whatever the order of the directory, and whoever
// writes at the same time.
func TestSame(t *testing.T) {
	files := map[string]string{"etc/ampoule/microvm.d/50.conf": "[MicroVM]\nVCPU=2\n"}
	for i := range 40 {
		files[fmt.Sprintf("etc/ampoule/vm%d.microvm", i)] = good
		files[fmt.Sprintf("etc/ampoule/bad%d.microvm", i)] = good + "x=y\n"
		files[fmt.Sprintf("etc/ampoule/vm%d.microvm.d/10.conf", i)] = "[Install]\nRequiredBy=a.target\n"
	}
	var first map[string]string
	var firstSaid string
	for i := range 50 {
		h := newHost(t, files)
		units, said, _ := h.reload()
		if i == 0 {
			first, firstSaid = units, said
			continue
		}
		if !equal(first, units) || said != firstSaid {
			t.Fatalf("run %d differs", i)
		}
	}
	if len(first) != 40*2+40*2+40*2+40 {
		t.Errorf("%d files and links", len(first))
	}
}

func equal(a, b map[string]string) bool {
	for name, text := range a {
		if b[name] != text {
			return false
		}
	}
	return len(a) == len(b)
}

// TestTwoAtOnce: two generators in one directory; whoever reads meanwhile finds
// a file whole or not at all, and nothing is left over.
func TestTwoAtOnce(t *testing.T) {
	files := map[string]string{}
	for i := range 50 {
		files[fmt.Sprintf("etc/ampoule/vm%d.microvm", i)] = good
	}
	h := newHost(t, files)
	want, _, _ := h.reload()
	stop := make(chan struct{})
	var readers, writers sync.WaitGroup
	readers.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			for name, text := range want {
				if !strings.HasPrefix(text, "-> ") {
					if data, err := os.ReadFile(filepath.Join(h.out, name)); err != nil || string(data) != text {
						t.Errorf("%s: %d bytes, %v", name, len(data), err)
						return
					}
				}
			}
		}
	})
	in := h.in
	in.Last = func(vm string) []byte { return Last(h.store, vm) }
	for range 4 {
		writers.Go(func() {
			for range 5 {
				// Names of temporary files differ between processes, so these
				// are as near as one process comes to two.
				if code := generate(&Writer{Out: h.out, Store: h.store, id: rand.Int()}, &Log{Errors: io.Discard}, in); code != ExitDone {
					t.Errorf("exit code %d", code)
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
	if got := contents(t, h.out); !equal(got, want) {
		t.Errorf("%d files and links, want %d", len(got), len(want))
	}
	if got := contents(t, h.store); len(got) != 50 {
		t.Errorf("%d are kept", len(got))
	}
}

// TestNoDirectory: a unit that cannot be written is said, and what can be is.
func TestNoDirectory(t *testing.T) {
	h := newHost(t, map[string]string{"etc/ampoule/a.microvm": good, "etc/ampoule/b.microvm": good})
	h.reload()
	if err := os.Mkdir(filepath.Join(h.out, "keep"), 0o755); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	in := h.in
	// A directory in the place of a unit.
	dir := filepath.Join(t.TempDir(), "out")
	if err := os.MkdirAll(filepath.Join(dir, "microvm@a.service", "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	if code := generate(&Writer{Out: dir}, &Log{Errors: &out}, in); code != ExitTrouble || !strings.Contains(out.String(), "microvm@a.service") {
		t.Errorf("exit code %d: %s", code, out.String())
	}
	if got := contents(t, dir); got["microvm@b.service"] == "" || len(got) != 3 {
		t.Errorf("made are %v", got)
	}
}
