package inspect

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// counter sees how long a file is, and counts how often it had to look.
type counter struct{ looked int }

func (c *counter) see(f *os.File, size int64) (int64, error) {
	c.looked++
	if size == 0 {
		return 0, errors.New("empty")
	}
	return size, nil
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestLooksOnce(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "image")
	m := Memory{Dir: filepath.Join(dir, "cache", "x")}
	var c counter
	look := func(what string, wantSize int64, wantLooked int) {
		t.Helper()
		_, size, err := look(m, what, file, c.see)
		if err != nil || size != wantSize || c.looked != wantLooked {
			t.Errorf("%d bytes, looked %d times, want %d and %d: %v", size, c.looked, wantSize, wantLooked, err)
		}
	}
	write(t, file, "abc")
	look("size", 3, 1)
	look("size", 3, 1)
	look("another question", 3, 2)
	look("another question", 3, 2)

	// The same size and time of modification, and other contents.
	now := time.Now()
	write(t, file, "abd")
	if err := os.Chtimes(file, now, now); err != nil {
		t.Fatal(err)
	}
	look("size", 3, 3)
	// Another file with the same name.
	write(t, file+".new", "abcd")
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	look("size", 4, 4)

	m.ReadOnly = true
	look("size", 4, 4)
	write(t, file, "abcde")
	look("size", 5, 5)
	look("size", 5, 6)
	if entries, err := os.ReadDir(m.Dir); err != nil || len(entries) != 3 {
		t.Errorf("%d entries for two files and two questions: %v", len(entries), err)
	}
	m = Memory{}
	look("size", 5, 7)
	look("size", 5, 8)
}

// TestForgets: what is no memory of ours is looked at again, and does no harm.
func TestForgets(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "image")
	write(t, file, "abc")
	m := Memory{Dir: dir}
	var c counter
	id, _, err := look(m, "size", file, c.see)
	if err != nil {
		t.Fatal(err)
	}
	name := m.name("size", id)
	for i, junk := range []string{"", "{", "null", `{"version":"0","what":"size","seen":7}`, `{"identity":{"device":-1}}`} {
		write(t, name, junk)
		if _, size, err := look(m, "size", file, c.see); size != 3 || err != nil || c.looked != i+2 {
			t.Errorf("%q: %d, looked %d times: %v", junk, size, c.looked, err)
		}
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", name); err != nil {
		t.Fatal(err)
	}
	if _, size, err := look(m, "size", file, c.see); size != 3 || err != nil {
		t.Errorf("%d: %v", size, err)
	}
	if target, err := os.Readlink(name); err == nil {
		t.Errorf("the link to %s was followed or kept", target)
	}
}

// TestMistakesAreNotRemembered: a file that was wrong is looked at every time,
// and one that cannot be opened is an error of its own.
func TestMistakesAreNotRemembered(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "image")
	write(t, file, "")
	m := Memory{Dir: filepath.Join(dir, "cache")}
	var c counter
	for range 2 {
		if _, _, err := look(m, "size", file, c.see); err == nil {
			t.Error("no error")
		}
	}
	if c.looked != 2 {
		t.Errorf("looked %d times", c.looked)
	}
	if _, _, err := look(m, "size", dir, c.see); err == nil || c.looked != 2 {
		t.Errorf("a directory: %v", err)
	}
	// A place where nothing can be kept.
	write(t, file, "abc")
	m.Dir = filepath.Join(file, "below a file")
	if _, size, err := look(m, "size", file, c.see); size != 3 || err != nil {
		t.Errorf("%d: %v", size, err)
	}
}
