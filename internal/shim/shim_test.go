package shim

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/shim/layout"
)

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestMove: a file arrives whole, and its old bytes are gone from the place
// where they were, as a descriptor from before shows.
func TestMove(t *testing.T) {
	m, err := newMover()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, 4095, 4096, moverBytes - 1, moverBytes, moverBytes + 1, 3*moverBytes + 7} {
		dir := t.TempDir()
		from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
		data := bytes.Repeat([]byte("secret "), n/7+1)[:n]
		write(t, from, data)
		before, err := os.Open(from)
		if err != nil {
			t.Fatal(err)
		}
		defer before.Close()
		if err := m.move(from, to); err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		got, err := os.ReadFile(to)
		if info, _ := os.Stat(to); err != nil || !bytes.Equal(got, data) || info.Mode() != 0o400 {
			t.Errorf("%d bytes arrived of %d, %v, %v", len(got), n, info, err)
		}
		old := make([]byte, n+1)
		if k, _ := before.ReadAt(old, 0); k != n || len(bytes.Trim(old, "\x00")) != 0 {
			t.Errorf("%d bytes: the old file has %d bytes: %.20q", n, k, old)
		}
		if _, err := os.Lstat(from); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	m.close()
	if len(bytes.Trim(m.buffer, "\x00")) != 0 || len(bytes.Trim(m.zeros, "\x00")) != 0 {
		t.Error("the buffer is not wiped")
	}
}

// TestMoveRefuses: what cannot be a credential of the overlay, and a place that
// is taken.
func TestMoveRefuses(t *testing.T) {
	m, err := newMover()
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	dir := t.TempDir()
	p := func(name string) string { return filepath.Join(dir, name) }
	write(t, p("file"), []byte("secret"))
	write(t, p("taken"), []byte("taken"))
	write(t, p("two"), []byte("secret"))
	for _, err := range []error{
		os.Symlink("file", p("link")), os.Link(p("two"), p("names")), os.Mkdir(p("directory"), 0o700), syscall.Mkfifo(p("fifo"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for from, to := range map[string]string{
		"missing": "new", "link": "new", "names": "new", "directory": "new", "fifo": "new", "file": "taken",
	} {
		err := m.move(p(from), p(to))
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", from, err)
		}
	}
	if _, err := os.Lstat(p("new")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was made: %v", err)
	}
	if data, err := os.ReadFile(p("taken")); err != nil || string(data) != "taken" {
		t.Errorf("%q %v", data, err)
	}
}

// TestMemoryIsLeft: a credential that would take the last memory is refused
// rather than copied.
func TestMemoryIsLeft(t *testing.T) {
	m, err := newMover()
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	from := filepath.Join(t.TempDir(), "from")
	write(t, from, nil)
	if err := os.Truncate(from, 1<<42); err != nil {
		t.Skip(err) // a file system without such files
	}
	if err := m.move(from, from+".to"); !errors.Is(err, syscall.ENOMEM) {
		t.Errorf("got %v", err)
	}
}

func TestEmpty(t *testing.T) {
	dir, other := t.TempDir(), filepath.Join(t.TempDir(), "other")
	write(t, filepath.Join(dir, "a/b/c/secret"), []byte("secret"))
	write(t, filepath.Join(dir, "file"), nil)
	write(t, other, []byte("kept"))
	for _, err := range []error{
		os.Link(other, filepath.Join(dir, "name")), os.Symlink(other, filepath.Join(dir, "link")),
		os.Symlink(filepath.Dir(other), filepath.Join(dir, "a/link")), syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	before, err := os.Open(filepath.Join(dir, "a/b/c/secret"))
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	if err := empty(dir, maxDepth); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v %v", left, err)
	}
	if data, err := os.ReadFile(other); err != nil || string(data) != "kept" {
		t.Errorf("the other file is %q, %v", data, err)
	}
	old := make([]byte, 6)
	if _, err := before.ReadAt(old, 0); err != nil || string(old) != "\x00\x00\x00\x00\x00\x00" {
		t.Errorf("the old file is %q, %v", old, err)
	}

	// Deeper than it goes is an error, and no endless way down.
	deep := t.TempDir()
	write(t, filepath.Join(deep, strings.Repeat("d/", maxDepth+2), "file"), nil)
	if err := empty(deep, maxDepth); err == nil {
		t.Error("no error")
	}
	if err := empty(filepath.Join(deep, "missing"), maxDepth); err == nil {
		t.Error("no error")
	}
}

func TestList(t *testing.T) {
	dir := t.TempDir()
	var want []string
	for i := range 700 { // more than one read of the directory
		name := strings.Repeat("x", i%40) + decimal(uint64(i))
		write(t, filepath.Join(dir, name), nil)
		want = append(want, name)
	}
	slices.Sort(want)
	got, err := list(dir)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%d names, %v", len(got), err)
	}
}

func TestReadFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, want := range []string{"", "a", strings.Repeat("line\n", 3000)} {
		write(t, path, []byte(want))
		if got, err := readFile(path); err != nil || got != want {
			t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
		}
		if got := line(path); got != strings.TrimRight(want, "\n") {
			t.Errorf("line: %.20q", got)
		}
	}
	if got := line(path + "x"); got != "" {
		t.Errorf("got %q", got)
	}
}

func TestSay(t *testing.T) {
	fds := make([]int, 2)
	if err := syscall.Pipe(fds); err != nil {
		t.Fatal(err)
	}
	l := kernelLog{fd: fds[1]}
	b := make([]byte, 4096)
	for _, c := range []struct{ words, want string }{
		{"words", "<3>ampoule-init: error: more words\n"}, {strings.Repeat("x", 2000), ""},
	} {
		l.say(levelError, "more ", c.words)
		n, err := syscall.Read(fds[0], b)
		got := string(b[:n])
		if err != nil || len(got) > 1000 || !strings.HasSuffix(got, "\n") || c.want != "" && got != c.want {
			t.Errorf("got %q, %v", got, err)
		}
	}
	kernelLog{fd: -1}.say(levelError, "to nobody")
}

func TestFileSystems(t *testing.T) {
	k := fileSystems("nodev\tsysfs\nnodev\ttmpfs\n\text3\n\text4\nnodev\tvirtiofs\n\nrubbish\n\t\n\tlast")
	if want := (known{block: []string{"ext3", "ext4", "last"}, nodev: []string{"sysfs", "tmpfs", "virtiofs"}}); !reflect.DeepEqual(k, want) {
		t.Errorf("got %+v, want %+v", k, want)
	}
	if got := k.without([]string{"ext4", "virtiofs", "9p", "tmpfs"}); !slices.Equal(got, []string{"virtiofs", "tmpfs"}) {
		t.Errorf("got %q", got)
	}
}

func TestNumbers(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 7: "7", 10: "10", 1<<64 - 1: "18446744073709551615"} {
		if got := decimal(n); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	for s, want := range map[string]int{"0": 0, "512": 512, "18446744073709551615": -1, "": -1, "-1": -1, "5x": -1} {
		if got, ok := atoi(s); ok != (want >= 0) || ok && got != want {
			t.Errorf("%q: %d %v", s, got, ok)
		}
	}
	// As the kernel's new_encode_dev has it.
	for _, c := range []struct {
		major, minor uint32
		want         int
	}{{1, 11, 0x10b}, {259, 0, 0x10300}, {8, 0x12345, 0x12300845}} {
		if got := deviceNumber(c.major, c.minor); got != c.want {
			t.Errorf("%d:%d is %#x, want %#x", c.major, c.minor, got, c.want)
		}
	}
}

func TestHasPrefixFold(t *testing.T) {
	for _, c := range []struct {
		s, prefix string
		want      bool
	}{{"abc-01", "ABC-01", true}, {"abc-01", "aBc", true}, {"abc", "abcd", false}, {"", "", true}, {"[", "{", false}, {"abd", "abc", false}} {
		if got := hasPrefixFold(c.s, c.prefix); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv(layout.Variable, "/of/the/kernel/command/line")
	t.Setenv("OTHER", "kept")
	for _, delivered := range []bool{true, false} {
		env := (&boot{delivered: delivered}).environment()
		var got []string
		for _, e := range env {
			if strings.HasPrefix(e, layout.Variable) {
				got = append(got, e)
			}
		}
		want := []string{layout.Variable + "=" + layout.Store}
		if !delivered {
			want = nil
		}
		if !slices.Equal(got, want) || !slices.Contains(env, "OTHER=kept") {
			t.Errorf("delivered %v: %q", delivered, env)
		}
	}
}
