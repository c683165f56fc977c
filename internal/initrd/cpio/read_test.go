package cpio

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// recorder writes down what it is told.
type recorder struct {
	lines []string
	body  []byte
}

func (r *recorder) Entry(h Header, target string) error {
	r.lines = append(r.lines, fmt.Sprintf("%s %o %d %s", h.Name, h.Mode, h.Size, target))
	return nil
}
func (r *recorder) Body(p []byte) error { r.body = append(r.body, p...); return nil }
func (r *recorder) Done() error {
	r.lines = append(r.lines, fmt.Sprintf("= %q", r.body))
	r.body = nil
	return nil
}
func (r *recorder) Trailer() error { r.lines = append(r.lines, "."); return nil }

// read feeds an archive in pieces of the given size.
func read(data []byte, size int) (lines []string, n int, between bool, err error) {
	rec := &recorder{}
	r := NewReader(rec)
	for n < len(data) {
		piece := data[n:min(n+size, len(data))]
		m, err := r.Feed(piece)
		n += m
		if err != nil || m < len(piece) {
			return rec.lines, n, r.Between(), err
		}
	}
	return rec.lines, n, r.Between(), nil
}

func file(dst []byte, name, content string) []byte {
	dst = AppendHeader(dst, Header{Mode: TypeRegular | 0o644, NLink: 1, Size: uint32(len(content)), Name: name})
	return append(append(dst, content...), make([]byte, Padding(len(content)))...)
}

func sample() []byte {
	out := AppendHeader(nil, Header{Mode: TypeDir | 0o755, NLink: 2, Name: "etc"})
	out = file(out, "etc/motd", "hello")
	out = file(out, "etc/empty", "")
	out = file(out, "etc/zeros", "\x00\x00\x00\x00\x00\x00\x00")
	out = AppendHeader(out, Header{Mode: TypeSymlink | 0o777, NLink: 1, Size: 8, Name: "l"})
	out = append(out, "etc/motd"...)
	out = AppendTrailer(out)
	out = append(out, make([]byte, 512-len(out)%512)...)
	return AppendTrailer(file(out, "second", "abc"))
}

// TestPieces: the same comes out, however it is cut into pieces.
func TestPieces(t *testing.T) {
	data := sample()
	want := []string{"etc 40755 0 ", "etc/motd 100644 5 ", `= "hello"`, "etc/empty 100644 0 ", `= ""`,
		"etc/zeros 100644 7 ", `= "\x00\x00\x00\x00\x00\x00\x00"`, "l 120777 8 etc/motd", ".", "second 100644 3 ", `= "abc"`, "."}
	for size := 1; size < len(data)+2; size++ {
		got, n, between, err := read(data, size)
		if err != nil || n != len(data) || !between || !slices.Equal(got, want) {
			t.Fatalf("in pieces of %d: %d bytes, between %v, %v: %q", size, n, between, err, got)
		}
	}
}

// TestCut: wherever it is cut, what is inside an entry is known.
func TestCut(t *testing.T) {
	data := sample()
	boundaries := 0
	for n := range data {
		_, took, between, err := read(data[:n], 7)
		if err != nil || took != n {
			t.Fatalf("cut to %d: %d, %v", n, took, err)
		}
		if between {
			boundaries++
		}
	}
	// Six entries, a trailer and the zeros behind it, another entry.
	if boundaries < 8 || boundaries > 8+512 {
		t.Errorf("%d places are between entries", boundaries)
	}
}

func TestRefused(t *testing.T) {
	right := file(nil, "name", "content")
	change := func(at int, with string) []byte {
		out := bytes.Clone(right)
		copy(out[at:], with)
		return out
	}
	checked := change(5, "2")
	sum := 0
	for _, c := range "content" {
		sum += int(c)
	}
	copy(checked[102:], fmt.Sprintf("%08X", sum))
	if got, _, _, err := read(checked, 3); err != nil || len(got) != 2 {
		t.Errorf("a right checksum: %v", err)
	}
	cases := map[string]struct {
		data []byte
		want string
	}{
		"old format":     {change(5, "7"), "old portable format (070707)"},
		"no entry":       {change(1, "x"), "no entry where one should begin at byte 0"},
		"hexadecimal":    {change(20, "g"), "not hexadecimal at byte 0"},
		"0x":             {change(14, "0x"), "not hexadecimal"},
		"minus":          {change(54, "-1"), "not hexadecimal"},
		"no name":        {change(94, "00000000"), "a name of 0 bytes"},
		"long name":      {change(94, "00001001"), "a name of 4097 bytes"},
		"huge name":      {change(94, "FFFFFFFF"), "a name of 4294967295 bytes"},
		"name end":       {change(94, "00000003"), "the name of an entry has no end"},
		"long target":    {change(14, "0000A1FF000000000000000000000001000000000000F000"), "a target of 61440 bytes"},
		"directory body": {change(14, "000041ED"), "an entry that is no file has a content of 7 bytes"},
		"checksum":       {change(5, "2"), "does not have its checksum"},
		"second":         {append(bytes.Clone(right), change(1, "x")...), "at byte 124"},
		"odd offset":     {append(append(bytes.Clone(right), 0), right...), "no multiple of 4, at byte 125"},
	}
	for name, c := range cases {
		for _, size := range []int{1, 5, 1000} {
			_, _, _, err := read(c.data, size)
			var e *Error
			if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v; want %q", name, err, c.want)
			}
			if errors.Is(err, ErrPadding) != (name == "odd offset") {
				t.Errorf("%s: ErrPadding is %v", name, errors.Is(err, ErrPadding))
			}
		}
	}
	if _, n, between, err := read(append(bytes.Clone(right), "\x00\x00\x00\x00junk"...), 1000); n != len(right)+4 || !between || err != nil {
		t.Errorf("junk behind: %d of %d bytes, %v", n, len(right), err)
	}
	long := strings.Repeat("n", MaxName)
	if got, _, _, err := read(file(nil, long, "x"), 100); err != nil || len(got) != 2 || !strings.HasPrefix(got[0], long) {
		t.Errorf("the longest name: %v", err)
	}
}

// TestTool: what GNU cpio writes is read, and what we write is read by it.
func TestTool(t *testing.T) {
	need.All(t, need.Packers)
	dir := t.TempDir()
	for name, content := range map[string]string{"a/b/file": "content", "a/empty": "", "a/large": strings.Repeat("x", 70_001)} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink("b/file", filepath.Join(dir, "a/link")), syscall.Mkfifo(filepath.Join(dir, "a/pipe"), 0o600)); err != nil {
		t.Fatal(err)
	}
	var want []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if name, _ := filepath.Rel(dir, path); name != "." {
			want = append(want, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"newc", "crc"} {
		cmd := exec.Command("cpio", "--quiet", "-o", "-H", format)
		cmd.Dir, cmd.Stdin = dir, strings.NewReader(strings.Join(want, "\n")+"\n")
		data, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		lines, n, between, err := read(data, 1000)
		if err != nil || n != len(data) || !between {
			t.Fatalf("%s: %d of %d bytes: %v", format, n, len(data), err)
		}
		var got []string
		for _, l := range lines {
			if name, _, _ := strings.Cut(l, " "); name != "=" && name != "." {
				got = append(got, name)
			}
		}
		if !slices.Equal(got, want) || !slices.Contains(lines, `= "content"`) || !slices.Contains(lines, "a/link 120777 6 b/file") {
			t.Errorf("%s: %.2000q", format, lines)
		}
	}

	cmd := exec.Command("cpio", "--quiet", "-itv")
	cmd.Stdin = bytes.NewReader(sample())
	listing, err := cmd.CombinedOutput()
	if err != nil || strings.Count(string(listing), "\n") != 5 || !strings.Contains(string(listing), "l -> etc/motd") || strings.Contains(string(listing), "cpio:") {
		t.Errorf("cpio says of ours: %v\n%s", err, listing)
	}
}

func FuzzReader(f *testing.F) {
	f.Add(sample(), 7)
	f.Add(file(nil, "name", "content"), 1)
	f.Fuzz(func(t *testing.T, data []byte, size int) {
		if size < 1 || size > 1<<16 {
			return
		}
		one, n1, between1, err1 := read(data, size)
		two, n2, between2, err2 := read(data, len(data)+1)
		if n1 != n2 || between1 != between2 || fmt.Sprint(err1) != fmt.Sprint(err2) || !slices.Equal(one, two) {
			t.Errorf("in pieces of %d: %d %v %v %q; whole: %d %v %v %q", size, n1, between1, err1, one, n2, between2, err2, two)
		}
	})
}
