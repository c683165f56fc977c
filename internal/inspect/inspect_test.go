package inspect

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// ask looks for a size; one of 99 is no answer.
func ask(m Memory, what, path string, c *counter) (Identity, int64, error) {
	return look(context.Background(), m, path, question[int64]{what, c.see, func(n int64) bool { return n != 99 }})
}

// counter sees how long a file is, and counts how often it had to look.
type counter struct{ looked int }

func (c *counter) see(_ io.ReaderAt, size int64) (int64, error) {
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
		_, size, err := ask(m, what, file, &c)
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
	if entries, err := os.ReadDir(m.Dir); err != nil || len(entries) != 2 {
		t.Errorf("%d entries for one path and two questions: %v", len(entries), err)
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
	_, _, err := ask(m, "size", file, &c)
	if err != nil {
		t.Fatal(err)
	}
	name := m.name("size", file)
	for i, junk := range []string{"", "{", "null", `{"version":"0","what":"size","seen":7}`, `{"identity":{"device":-1}}`} {
		write(t, name, junk)
		if _, size, err := ask(m, "size", file, &c); size != 3 || err != nil || c.looked != i+2 {
			t.Errorf("%q: %d, looked %d times: %v", junk, size, c.looked, err)
		}
	}
	// An entry of this very file whose answer is none.
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	write(t, name, string(bytes.Replace(data, []byte(`"seen":3`), []byte(`"seen":99`), 1)))
	looked := c.looked
	if _, size, err := ask(m, "size", file, &c); size != 3 || err != nil || c.looked != looked+1 {
		t.Errorf("%d: %v", size, err)
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", name); err != nil {
		t.Fatal(err)
	}
	if _, size, err := ask(m, "size", file, &c); size != 3 || err != nil {
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
		if _, _, err := ask(m, "size", file, &c); err == nil {
			t.Error("no error")
		}
	}
	if c.looked != 2 {
		t.Errorf("looked %d times", c.looked)
	}
	if _, _, err := ask(m, "size", dir, &c); err == nil || c.looked != 2 {
		t.Errorf("a directory: %v", err)
	}
	// A place where nothing can be kept.
	write(t, file, "abc")
	m.Dir = filepath.Join(file, "below a file")
	if _, size, err := ask(m, "size", file, &c); size != 3 || err != nil {
		t.Errorf("%d: %v", size, err)
	}
}

// TestGivesUp: who does not want to know any more need not wait.
func TestGivesUp(t *testing.T) {
	file := filepath.Join(t.TempDir(), "image")
	write(t, file, "abc")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	read := func(r io.ReaderAt, _ int64) (int64, error) {
		n, err := r.ReadAt(make([]byte, 3), 0)
		return int64(n), err
	}
	if _, _, err := look(ctx, Memory{}, file, question[int64]{"x", read, func(int64) bool { return true }}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
