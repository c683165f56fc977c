package source

import (
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func write(t *testing.T, root, name, text string) {
	t.Helper()
	path := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); err == nil {
		return // chance had it before
	}
	var err error
	if target, ok := strings.CutPrefix(text, "-> "); ok {
		err = os.Symlink(target, path)
	} else {
		err = os.WriteFile(path, []byte(text), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestTreeFindsTheSame: a listing finds for every name what a look at each
// directory finds, problems included, in trees made by chance.
func TestTreeFindsTheSame(t *testing.T) {
	random := rand.New(rand.NewSource(1))
	names := []string{"a", "a-b", "a-b-c", "b", "b-", "-"}
	texts := []string{"x", "", "-> /dev/null", "-> nowhere", "-> ../../usr/lib/ampoule/a.microvm"}
	for round := range 200 {
		root := t.TempDir()
		for range 12 {
			dir := SearchPath()[random.Intn(4)]
			name := names[random.Intn(len(names))]
			text := texts[random.Intn(len(texts))]
			switch random.Intn(5) {
			case 0, 1:
				write(t, root, filepath.Join(dir, name+Suffix), text)
			case 2, 3:
				write(t, root, filepath.Join(dir, name+Suffix+".d", fmt.Sprintf("%d.conf", random.Intn(3))), text)
			default:
				write(t, root, filepath.Join(dir, typeWide, fmt.Sprintf("%d.conf", random.Intn(3))), text)
			}
		}
		tree := Scan(root, SearchPath())
		if got, want := tree.Names(), Names(root, SearchPath()); !slices.Equal(got, want) {
			t.Fatalf("round %d: names %q, want %q", round, got, want)
		}
		for _, name := range names {
			want, wantProblems := Find(name, root, SearchPath())
			got, gotProblems := tree.Find(name)
			if diff := cmp.Diff(want, got) + cmp.Diff(wantProblems, gotProblems); diff != "" {
				t.Fatalf("round %d, %s: %s", round, name, diff)
			}
		}
	}
}

// TestReadRegular: a file that grows, one that does not tell its size, one that
// is too large, and what is none.
func TestReadRegular(t *testing.T) {
	dir := t.TempDir()
	for _, size := range []int{0, 1, 4095, 4096, 4097, MaxFile - 1, MaxFile, MaxFile + 1, MaxFile + 100_000} {
		path := filepath.Join(dir, fmt.Sprint(size))
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		data, what, err := readRegular(path)
		if err != nil || what != "" || len(data) != min(size, MaxFile+1) {
			t.Errorf("%d bytes: %d read, %q, %v", size, len(data), what, err)
		}
	}
	if data, _, err := readRegular("/proc/self/status"); err != nil || !strings.HasSuffix(string(data), "\n") || len(data) < 500 {
		t.Errorf("a file without a size: %d bytes, %v", len(data), err)
	}
	for _, path := range []string{dir, "/dev/zero"} {
		if _, what, _ := readRegular(path); what == "" {
			t.Errorf("%s is read", path)
		}
	}
}

func TestOrphans(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"etc/ampoule/a-b.microvm", "etc/ampoule/gone.microvm.d/1.conf", "usr/lib/ampoule/gone.microvm.d/1.conf", "run/ampoule/a-.microvm.d/1.conf",
		"run/ampoule/x-.microvm.d/1.conf", "etc/ampoule/microvm.d/1.conf", "etc/ampoule/a-b.microvm.d/1.conf"} {
		write(t, root, name, "x")
	}
	names, notes := Scan(root, SearchPath()).Orphans()
	if !slices.Equal(names, []string{"gone"}) || len(notes) != 1 || !strings.HasPrefix(notes[0].Error(), "/run/ampoule/x-.microvm.d:1: note: ") {
		t.Errorf("%q, %v", names, notes)
	}
}
