package nixstore

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

const hash = "0123456789abcdfghijklmnpqrsvwxyz"

// newTree makes a tree of files, and of links where the content begins with "->".
func newTree(t *testing.T, files map[string]string) *Tree {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		target, link := strings.CutPrefix(content, "->")
		err := error(nil)
		switch {
		case link:
			err = os.Symlink(target, p)
		case content == "FIFO":
			err = syscall.Mkfifo(p, 0o600)
		default:
			err = os.WriteFile(p, []byte(content), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	tree, err := NewTree(root)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// TestResolve: links are followed as on the host to which the tree belongs, and none
// leads out.
func TestResolve(t *testing.T) {
	tree := newTree(t, map[string]string{
		"etc/static/unit": "text", "etc/systemd": "->/etc/static", "run/up": "->../../../../etc/static/unit",
		"a": "->b", "b": "->a", "gone": "->/nowhere", "pipe": "FIFO", "etc/passwd2": "->/etc/passwd", "slash": "->/etc/static/",
	})
	for p, want := range map[string]string{
		"/etc/systemd/unit": "/etc/static/unit", "/run/up": "/etc/static/unit", "etc/../etc/static/unit": "/etc/static/unit", "/": "/", "/slash/unit": "/etc/static/unit",
	} {
		if got, err := tree.Resolve(p); got != want || err != nil {
			t.Errorf("%s: %s, %v", p, got, err)
		}
	}
	for p, want := range map[string]error{"/a": syscall.ELOOP, "/gone": fs.ErrNotExist, "/etc/passwd2": fs.ErrNotExist, "/etc/static/unit/x": syscall.ENOTDIR} {
		if got, err := tree.Resolve(p); !errors.Is(err, want) {
			t.Errorf("%s: %s, %v", p, got, err)
		}
	}
	if text, err := tree.ReadFile("/run/up", 10); string(text) != "text" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := tree.ReadFile("/run/up", 3); err == nil {
		t.Error("a file that is too large was read")
	}
	if _, err := tree.ReadFile("/pipe", 3); !errors.Is(err, errSpecial) {
		t.Error(err)
	}
	if target, err := tree.Readlink("/etc/systemd"); target != "/etc/static" || err != nil {
		t.Error(target, err)
	}
	if text, err := fs.ReadFile(tree.FS(), "etc/systemd/unit"); string(text) != "text" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
}

func TestNewTree(t *testing.T) {
	if _, err := NewTree(filepath.Join(t.TempDir(), "none")); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Error(err)
	}
	tree, err := NewTree("")
	if err != nil || !tree.Live() {
		t.Error(err)
	}
}

func TestStorePaths(t *testing.T) {
	for p, want := range map[string]string{
		StoreDir + "/" + hash + "-x":              StoreDir + "/" + hash + "-x",
		StoreDir + "/" + hash + "-x/bin/y":        StoreDir + "/" + hash + "-x",
		StoreDir + "/../store/" + hash + "-x.drv": StoreDir + "/" + hash + "-x.drv",
		StoreDir + "/" + hash:                     "", StoreDir: "", "/nix/storey/" + hash + "-x": "", StoreDir + "/.links/x": "", StoreDir + "/" + hash[1:] + "A-x": "",
	} {
		if got := Of(p); got != want {
			t.Errorf("%s: %q", p, got)
		}
	}
	text := "exec " + StoreDir + "/" + hash + "-a/bin/x '" + StoreDir + "/" + hash + "-b_c+d.e' " + StoreDir + "/short-x " + StoreDir + "/" + hash + "-a."
	want := []string{StoreDir + "/" + hash + "-a", StoreDir + "/" + hash + "-b_c+d.e"}
	if got := References([]byte(text)); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestList(t *testing.T) {
	files := map[string]string{}
	for _, name := range []string{"microvm-web-microvm-run", "microvm-web-microvm-run.drv", "microvm-qemu-web", "source", "my-source", "other"} {
		files["nix/store/"+hash+"-"+name] = ""
	}
	files["nix/store/.links/x"] = ""
	l, err := List(newTree(t, files))
	if err != nil || l.Count != 7 || !slices.Equal(l.Scripts, []string{hash + "-microvm-web-microvm-run"}) || !slices.Equal(l.Runners, []string{hash + "-microvm-qemu-web"}) || !slices.Equal(l.Sources, []string{hash + "-my-source", hash + "-source"}) {
		t.Errorf("%+v, %v", l, err)
	}
}

func TestProfileAndRoots(t *testing.T) {
	store := func(name string) string { return StoreDir + "/" + hash + "-" + name }
	tree := newTree(t, map[string]string{
		"nix/var/nix/profiles/system": "->system-10-link", "nix/var/nix/profiles/system-9-link": "->" + store("nine"), "nix/var/nix/profiles/system-10-link": "->" + store("ten"),
		"nix/var/nix/profiles/system-x-link": "->" + store("no"), "nix/var/nix/gcroots/profiles": "->/nix/var/nix/profiles",
		"nix/var/nix/gcroots/auto/abc": "->/home/me/result", "home/me/result": "->" + store("result"),
		"nix/var/nix/gcroots/microvm/web": "->/var/lib/microvms/web/current", "var/lib/microvms/web/current": "->" + store("runner"),
		"nix/var/nix/gcroots/gone": "->/home/me/none", "nix/var/nix/gcroots/" + hash + "-file": "", "run/current-system": "->" + store("test"),
	})
	p, err := ReadProfile(tree, "system")
	if err != nil || p.Number != 10 || p.Target != store("ten") || p.Highest() != 10 || len(p.Generations) != 2 || len(p.Of(store("nine"))) != 1 || p.Generations[0].Made.Before(time.Now().Add(-time.Hour)) {
		t.Errorf("%+v, %v", p, err)
	}
	roots, problems := Roots(tree)
	kept := map[string]bool{}
	for _, r := range roots {
		kept[strings.TrimPrefix(r.Path, StoreDir+"/"+hash+"-")] = true
	}
	for _, name := range []string{"nine", "ten", "result", "runner", "file", "test"} {
		if !kept[name] {
			t.Errorf("%s is not kept by %v", name, roots)
		}
	}
	if len(problems) > 0 || len(kept) != 7 {
		t.Error(roots, problems)
	}
}

// TestHashFile: the hash is Nix's own: nix hash path of a file with "hello\n", and of
// the same file when it may be executed.
func TestHashFile(t *testing.T) {
	tree := newTree(t, map[string]string{"x": "hello\n"})
	for mode, want := range map[fs.FileMode]string{0o444: helloHash, 0o555: helloExecutableHash} {
		if err := os.Chmod(tree.Host("/x"), mode); err != nil {
			t.Fatal(err)
		}
		if got, err := HashFile(tree, "/x", 100); got != want || err != nil {
			t.Errorf("%o: %s, %v", mode, got, err)
		}
	}
	if SHA256("sha256:"+helloHash) != helloHash || SHA256("x") != "" || SHA256("sha256:xyz") != "" {
		t.Error("hashes of a database are not understood")
	}
}

const (
	helloHash           = "1c37d01af40be2e80691de3cc3df44377a699afbb17c68f080964b2fd071fc13"
	helloExecutableHash = "65436039d3f93ca19a8dbf1c60b15739ed58f53f14b8d372acc1b351533010fa"
)
