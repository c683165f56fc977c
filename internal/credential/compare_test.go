package credential

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/diag"
)

// TestCompare: what a unit holds against what the sources have now.
func TestCompare(t *testing.T) {
	sources, held := t.TempDir(), t.TempDir()
	write := func(dir, name, value string, mode os.FileMode) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(value), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	load := func(id, path string) Request {
		return Request{Kind: Load, ID: id, Guest: "guest-" + id, Path: path, Key: "LoadCredential", Shown: id + ":" + path, Origin: diag.Origin{File: "web.microvm", Line: 3}}
	}
	reqs := []Request{
		load("same", write(sources, "same", "one", 0o600)),
		load("rotated", write(sources, "rotated", "new", 0o600)),
		load("open", write(sources, "open", "x", 0o644)),
		load("new", write(sources, "new", "x", 0o600)),
		load("gone", filepath.Join(sources, "gone")),
		load("fifo", filepath.Join(sources, "fifo")),
		load("link", write(sources, "link", "x", 0o600)),
		{Kind: Set, ID: "set", Value: []byte("value")},
		{Kind: Pass, ID: "same", Guest: "again"},
	}
	write(sources, "dir/a", "x", 0o600)
	write(sources, "dir/b", "y", 0o600)
	reqs = append(reqs, load("dir", filepath.Join(sources, "dir")))
	if err := unix.Mkfifo(filepath.Join(sources, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"same": "one", "rotated": "old", "open": "x", "gone": "x", "fifo": "x", "set": "value", "dir_a": "x", "dir_b": "before"} {
		write(held, name, value, 0o400)
	}
	if err := os.Symlink(filepath.Join(sources, "link"), filepath.Join(held, "link")); err != nil {
		t.Fatal(err)
	}
	got, problems := Compare(context.Background(), reqs, Env{}, held)
	var lines []string
	for _, c := range got {
		lines = append(lines, c.Host+" "+string(c.Outcome))
	}
	want := "dir_a same,dir_b changed,fifo not asked,link changed,new changed,open same,rotated changed,same same,set same"
	if strings.Join(lines, ",") != want {
		t.Errorf("%q\nwant %q", strings.Join(lines, ","), want)
	}
	if len(problems) != 2 || problems[0].Severity == problems[1].Severity {
		t.Fatalf("%v", problems)
	}
	for _, p := range problems {
		if p.Severity == diag.Error && !strings.Contains(p.What, "gone does not exist") || p.Severity == diag.Warning && p.Accepted != "chmod 0600 "+filepath.Join(sources, "open") {
			t.Errorf("%v", p)
		}
	}
	// Without a unit that holds anything, nothing is read: a directory without
	// the right to look into it has no word said about it.
	got, again := Compare(context.Background(), reqs, Env{}, "")
	if len(got) != 0 || again.Error() != problems.Error() {
		t.Errorf("%v, %v", got, again)
	}
}
