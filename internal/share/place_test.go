package share

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// TestStrangersLink: who may change a link does not choose for root what is served.
func TestStrangersLink(t *testing.T) {
	need.All(t, need.Root)
	const alice, bob = 12345, 12346
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for name, owner := range map[string]int{"alices": alice, "alices/in": alice, "bobs": bob, "roots": 0} {
		if err := errors.Join(os.MkdirAll(at(name), 0o755), os.Chown(at(name), owner, owner)); err != nil {
			t.Fatal(err)
		}
	}
	link := func(name, target string, owner int) {
		t.Helper()
		if err := errors.Join(os.Symlink(target, at(name)), os.Lchown(at(name), owner, owner)); err != nil {
			t.Fatal(err)
		}
	}
	link("alices/own", "in", alice)
	link("alices/bob", "../bobs", alice)
	link("alices/root", at("roots"), alice)
	link("alices/far", "root/.", alice)
	link("alices/up", "../roots/../bobs", alice)
	if err := os.Mkdir(at("bobs/\x1b[2J\nb"), 0o755); err != nil {
		t.Fatal(err)
	}
	link("alices/clears", "../bobs/\x1b[2J\nb", alice)
	link("given", "alices/in", 0)
	link("through", "alices/bob", 0)
	link("round", "round", 0)
	for source, want := range map[string]string{
		"alices/own": "", "given": "", "alices/../roots": "",
		"alices/bob":    "the link " + at("alices/bob") + " is uid 12345's, who can have it lead anywhere, and it leads to " + at("bobs") + ", which is uid 12346's",
		"alices/root":   "it leads to " + at("roots") + ", which is uid 0's",
		"alices/far":    "the link " + at("alices/far") + " is uid 12345's",
		"alices/up":     "it leads to " + at("bobs"),
		"through":       "the link " + at("alices/bob") + " is uid 12345's",
		"alices/clears": "it leads to " + at("bobs/?[2J?b") + ", which",
		"round":         "too many levels of symbolic links",
	} {
		p := planOf(plan.Share{Source: at(source), Tag: "a"})
		if problems := Judge(p, p.VM.Shares); problems.HasErrors() != (want != "") || !strings.Contains(problems.Error(), want) {
			t.Errorf("%s: %v, want %q", source, problems, want)
		}
	}
}

// TestFollow: it comes to where the kernel comes to.
func TestFollow(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "a/b"), 0o755), os.Symlink("a/../a/./b", filepath.Join(dir, "l")), os.Symlink("/", filepath.Join(dir, "top"))); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "a/b", "l", "l/..", "top", "top/proc"} {
		f, real, err := follow(dir + "/" + name)
		if err != nil {
			t.Fatal(name, err)
		}
		defer f.Close()
		want, err := os.Open(dir + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		defer want.Close()
		if path, err := filepath.EvalSymlinks(dir + "/" + name); !Same(f, want) || real != path || err != nil {
			t.Errorf("%s: %s, want %s (%v)", name, real, path, err)
		}
	}
}

// TestMounted: what is mounted in a directory is as good as what is there.
func TestMounted(t *testing.T) {
	need.All(t, need.Root)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"keys/deep", "none", "shared/in dir", "kernel", "copy"} {
		if err := os.MkdirAll(at(name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(at("keys/deep/key"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for target, source := range map[string]string{"shared/in dir": at("keys/deep"), "kernel": "/proc/self", "copy": at("none")} {
		if err := unix.Mount(source, at(target), "", unix.MS_BIND, ""); err != nil {
			t.Skipf("needs to mount: %v", err)
		}
		t.Cleanup(func() { _ = unix.Unmount(at(target), unix.MNT_DETACH) })
	}
	for source, want := range map[string]string{
		"none": "", "copy": "",
		"shared":        "the guest would see the source of a credential, " + at("keys/deep/key") + " (web.microvm:3, LoadCredential=), at " + at("shared/in dir"),
		"shared/in dir": "the source of a credential, " + at("keys/deep/key"),
		"kernel":        "/proc, or a part of it, is to be seen at " + at("kernel") + " too, and is not for a guest",
	} {
		p := planOf(plan.Share{Source: at(source), Tag: "a"})
		p.Origins["LoadCredential"] = p.Origins["Share[0]"]
		p.VM.Credentials = []plan.Credential{{ID: "key", Path: at("keys/deep/key"), From: "LoadCredential"}}
		problems := Judge(p, p.VM.Shares)
		if problems.HasErrors() != (want != "") || !strings.Contains(problems.Error(), want) {
			t.Errorf("%s: %v, want %q", source, problems, want)
		}
	}
}
