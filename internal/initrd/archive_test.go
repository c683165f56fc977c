package initrd_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/initrd"
	"github.com/ampoule-vm/ampoule/internal/initrd/cpio"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// The contents of programs.
const (
	elf    = "\x7fELF\x02\x01\x01 a program"
	script = "#! /usr/bin/busybox sh\nexec /sbin/init\n"
)

// elfSystemd is the content of a program that is linked with a library of
// systemd's.
var elfSystemd = linked(2, binary.LittleEndian, 0, "libsystemd-core-252.so", "libc.so.6")

// linked is an ELF file of the given class (1 for 32 bits, 2 for 64) that asks for
// libraries, with a gap before the tables.
func linked(class byte, order binary.AppendByteOrder, gap int, libraries ...string) string {
	const base = 0x400000
	data := byte(1)
	if order.String() == "BigEndian" {
		data = 2
	}
	word := func(p []byte, v int) []byte {
		if class == 1 {
			return order.AppendUint32(p, uint32(v))
		}
		return order.AppendUint64(p, uint64(v))
	}
	size := func(narrow, wide int) int {
		if class == 1 {
			return narrow
		}
		return wide
	}
	header, ph, dyn := size(52, 64), size(32, 56), size(8, 16)
	dynamic := header + 2*ph + gap
	texts := dynamic + (len(libraries)+2)*dyn
	names, dynamics := "\x00", []byte(nil)
	for _, l := range libraries {
		dynamics = word(word(dynamics, 1), len(names))
		names += l + "\x00"
	}
	dynamics = word(word(word(word(dynamics, 5), base+texts), 0), 0)
	total := texts + len(names)

	out := append([]byte("\x7fELF"), class, data, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	out = word(word(word(out, base), header), 0)
	out = append(out, 0, 0, 0, 0)
	for _, v := range []int{header, ph, 2, 0, 0, 0} {
		out = order.AppendUint16(out, uint16(v))
	}
	for _, s := range [][3]int{{1, 0, total}, {2, dynamic, len(dynamics)}} {
		out = order.AppendUint32(out, uint32(s[0]))
		if class == 2 {
			out = append(out, 0, 0, 0, 0)
		}
		out = word(word(word(word(word(out, s[1]), base+s[1]), 0), s[2]), s[2])
		for (len(out)-header)%ph != 0 {
			out = append(out, 0)
		}
	}
	out = append(out, make([]byte, gap)...)
	return string(append(append(out, dynamics...), names...))
}

// archive builds an archive entry by entry.
type archive struct {
	out []byte
	ino uint32
}

func (a *archive) entry(h cpio.Header, body string) *archive {
	if a.ino++; h.Ino == 0 {
		h.Ino = a.ino
	}
	if h.NLink == 0 {
		h.NLink = 1
	}
	h.Size = uint32(len(body))
	a.out = cpio.AppendHeader(a.out, h)
	a.out = append(append(a.out, body...), make([]byte, cpio.Padding(len(body)))...)
	return a
}

func (a *archive) dir(names ...string) *archive {
	for _, n := range names {
		a.entry(cpio.Header{Mode: cpio.TypeDir | 0o755, NLink: 2, Name: n}, "")
	}
	return a
}

func (a *archive) exec(name, body string) *archive {
	return a.entry(cpio.Header{Mode: cpio.TypeRegular | 0o755, Name: name}, body)
}

func (a *archive) file(name, body string) *archive {
	return a.entry(cpio.Header{Mode: cpio.TypeRegular | 0o644, Name: name}, body)
}

func (a *archive) link(name, target string) *archive {
	return a.entry(cpio.Header{Mode: cpio.TypeSymlink | 0o777, Name: name}, target)
}

func (a *archive) hard(name string, ino uint32, body string) *archive {
	return a.entry(cpio.Header{Ino: ino, Mode: cpio.TypeRegular | 0o755, NLink: 3, Name: name}, body)
}

// end returns the archive with a trailer.
func (a *archive) end() []byte { return cpio.AppendTrailer(a.out) }

// simple is an archive with an /init of the given content.
func simple(body string) []byte { return new(archive).exec("init", body).end() }

func zip(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func pack(t testing.TB, command string, data []byte) []byte {
	t.Helper()
	need.All(t, need.Packers)
	words := strings.Fields(command)
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	return out
}

func join(parts ...any) []byte {
	var out []byte
	for _, p := range parts {
		switch p := p.(type) {
		case []byte:
			out = append(out, p...)
		case string:
			out = append(out, p...)
		case int: // zeros
			out = append(out, make([]byte, p)...)
		}
	}
	return out
}

func inspect(data []byte, o initrd.Options) (*initrd.Report, error) {
	return initrd.Inspect(bytes.NewReader(data), int64(len(data)), o)
}

func mustInspect(t testing.TB, data []byte) *initrd.Report {
	t.Helper()
	r, err := inspect(data, initrd.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func packers() []string {
	return []string{"", "gzip", "bzip2", "xz --format=lzma", "xz --check=crc32", "xz --check=crc32 --x86 --lzma2", "lz4 -l", "zstd", "zstd -19"}
}

// TestJoined: archives one behind the other in every combination that Linux
// takes; the last /init counts.
func TestJoined(t *testing.T) {
	early := new(archive).dir("kernel", "kernel/x86").file("kernel/x86/microcode.bin", strings.Repeat("m", 5000)).end()
	first, second := simple(script), simple(elfSystemd)
	for _, a := range packers() {
		for _, b := range packers() {
			one, two := first, second
			if a != "" {
				one = pack(t, a, first)
			}
			if b != "" {
				two = pack(t, b, second)
			}
			for _, align := range []int{4, 512, 4096} {
				head := join(early, cpio.Pad(len(early), align), one)
				gap := cpio.Pad(len(head), align)
				if a == "lz4 -l" && gap < 4 {
					gap += align
				}
				data := join(head, gap, two, 7)
				r, err := inspect(data, initrd.Options{})
				if err != nil {
					t.Fatalf("%q and %q at %d: %v", a, b, align, err)
				}
				want := []initrd.Segment{
					{Bytes: int64(len(early)), Unpacked: int64(len(early)), Entries: 3},
					{Offset: int64(len(head) - len(one)), Bytes: int64(len(one)), Compression: name(a), Unpacked: int64(len(first)), Entries: 1},
					{Offset: int64(len(head) + gap), Bytes: int64(len(two)), Compression: name(b), Unpacked: int64(len(second)), Entries: 1},
				}
				if b == "lz4 -l" {
					want[2].Bytes = r.Segments[2].Bytes // its end is a matter of taste
				}
				if !slices.Equal(r.Segments, want) || r.Entries != 5 || len(r.Flaws) != 0 || r.Ignored != 0 ||
					r.Init.Kind != initrd.Systemd || r.Pages != 8192+4096 {
					t.Errorf("%q and %q at %d: %+v\nwant segments %+v", a, b, align, r, want)
				}
			}
		}
	}
}

func name(command string) string {
	switch {
	case strings.Contains(command, "lzma "), strings.HasSuffix(command, "=lzma"):
		return "lzma"
	case command == "":
		return ""
	}
	n, _, _ := strings.Cut(command, " ")
	return n
}

// TestOddOffsets: a packed archive may begin anywhere behind a packed one; one
// that is not packed is lost unless zeros bring it to a multiple of four.
func TestOddOffsets(t *testing.T) {
	gz := zip(t, simple(script))
	for len(gz)%4 == 0 {
		gz = zip(t, simple(script+strings.Repeat("#", len(gz)%7+1)))
	}
	plain, gz2 := simple(elf), zip(t, simple(elf))
	for gap := range 9 {
		if r := mustInspect(t, join(gz, gap, gz2)); r.Init.Kind != initrd.ELF || len(r.Flaws) != 0 {
			t.Errorf("packed behind packed and %d zeros: %+v", gap, r)
		}
		aligned := (len(gz)+gap)%4 == 0
		r := mustInspect(t, join(gz, gap, plain))
		if aligned && (r.Init.Kind != initrd.ELF || len(r.Flaws) != 0) || !aligned && (r.Init.Kind != initrd.Script || len(r.Flaws) != 1 ||
			r.Ignored != int64(len(plain)) || !strings.Contains(r.Flaws[0].What, "must begin at a multiple of 4")) {
			t.Errorf("plain behind packed and %d zeros: %+v", gap, r)
		}
		// Behind a plain one zeros must end at a multiple of four, whatever comes.
		r = mustInspect(t, join(plain, gap, gz))
		if good := gap%4 == 0; good != (r.Init.Kind == initrd.Script) || good != (len(r.Flaws) == 0) || !good && r.Ignored != int64(len(gz)) {
			t.Errorf("packed behind plain and %d zeros: %+v", gap, r)
		}
	}
}

// TestFlaws: what Linux stops at and boots on.
func TestFlaws(t *testing.T) {
	plain := simple(elf)
	gz := zip(t, plain)
	cases := map[string]struct {
		data    []byte
		what    string
		ignored int
	}{
		"text behind plain":     {join(plain, "garbage"), "behind the end of an archive there is something unknown at byte", 7},
		"text behind packed":    {join(gz, "garbage"), "there is something unknown at byte", 7},
		"one byte":              {join(plain, "g"), "something unknown", 1},
		"digit behind plain":    {join(plain, "0garbage", 200), "no entry where one should begin", 208},
		"script behind packed":  {join(gz, "#!/bin/sh"), "there is a script", 9},
		"no trailer":            {new(archive).exec("init", elf).out, "has no end (an entry TRAILER!!!)", 0},
		"inside a packed one":   {zip(t, join(plain, "garbage")), "in what the gzip stream that begins at byte 0 unpacks to, there is something unknown at byte", 0},
		"packed inside packed":  {zip(t, join(plain, gz)), "in what the gzip stream that begins at byte 0 unpacks to, there is", 0},
		"odd inside packed":     {zip(t, join(plain, 3, plain)), "no multiple of 4", 0},
		"what follows is lost":  {join(zip(t, join(plain, "garbage")), zip(t, simple(script))), "Linux looks no further", len(zip(t, simple(script)))},
		"without its directory": {join(new(archive).exec("init", elf).file("no/such/file", "x").end()), `1 entries lie in directories that have no entry before them, so that Linux does not make them; the first is "no/such/file"`, 0},
	}
	for name, c := range cases {
		r, err := inspect(c.data, initrd.Options{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(r.Flaws) != 1 || !strings.Contains(r.Flaws[0].What, c.what) || r.Ignored != int64(c.ignored) || r.Init.Kind != initrd.ELF {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func flip(data []byte, at int) []byte {
	out := bytes.Clone(data)
	out[at] ^= 4
	return out
}

// TestRefused: what a guest cannot have been meant to boot with.
func TestRefused(t *testing.T) {
	plain := simple(elf)
	tar := join("some/name", 248, "ustar", 600)
	cases := map[string]struct {
		data   []byte
		reason initrd.Reason
		offset int64
		what   string
	}{
		"nothing":            {nil, initrd.Empty, 0, "it is empty"},
		"zeros":              {make([]byte, 300_000), initrd.Empty, 0, "nothing but zeros"},
		"empty stream":       {zip(t, nil), initrd.Empty, 0, "the gzip stream that begins at byte 0 is empty"},
		"text":               {[]byte("password=hunter2"), initrd.NotArchive, 0, "it is no cpio archive, and not a compressed one: there is something unknown at byte 0"},
		"text with a zero":   {[]byte("0password" + strings.Repeat("=", 200)), initrd.NotArchive, 0, "it is no cpio archive (cpio -H newc writes one): there is no entry"},
		"tar":                {tar, initrd.NotArchive, 0, "a tar archive"},
		"packed tar":         {zip(t, tar), initrd.NotArchive, 0, "in what the gzip stream that begins at byte 0 unpacks to, there is a tar archive at byte 0"},
		"packed tar, second": {join(plain, zip(t, tar)), initrd.Damaged, int64(len(plain)), "a tar archive"},
		"program":            {[]byte(elf), initrd.NotArchive, 0, "an ELF program"},
		"kernel":             {join("MZ", 500), initrd.NotArchive, 0, "a unified kernel image"},
		"old cpio":           {join("070707", 200), initrd.NotArchive, 0, "the old portable format (070707)"},
		"odd offset":         {join(1, plain), initrd.NotArchive, 1, "must begin at a multiple of 4"},
		"lz4 frame":          {pack(t, "lz4", plain), initrd.Compression, 0, "compressed by lz4 in its frame format, which Linux does not read here"},
		"lz4 frame, second":  {join(plain, pack(t, "lz4", plain)), initrd.Compression, int64(len(plain)), "lz4 in its frame format"},
		"zip":                {join("PK\x03\x04", 100), initrd.Compression, 0, "compressed by zip"},
		"xz by default":      {pack(t, "xz", plain), initrd.Damaged, 12, "CRC-64 checksums (xz --check=crc32"},
		"damaged between":    {join(new(archive).exec("init", elf).out, "xxxxxxxx", plain), initrd.Damaged, int64(len(new(archive).exec("init", elf).out)), "inside an archive there is something unknown instead of an entry"},
		"damaged stream":     {flip(pack(t, "bzip2", plain), 60), initrd.Damaged, 106, "the bzip2 stream is damaged"},
		"half an entry":      {zip(t, plain[:130]), initrd.Truncated, 0, "the archive in the gzip stream that begins at byte 0 is cut off"},
	}
	for name, c := range cases {
		_, err := inspect(c.data, initrd.Options{})
		var e *initrd.Error
		if !errors.As(err, &e) || e.Reason != c.reason || e.Offset != c.offset || !strings.Contains(e.What, c.what) {
			t.Errorf("%s: %#v; want %s at %d: %q", name, err, c.reason, c.offset, c.what)
		}
		if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "password")) {
			t.Errorf("%s: a file that was named by mistake is shown: %v", name, err)
		}
	}
}

// TestCut: cut anywhere, it is refused, or the report says that the end is
// missing; only between archives nothing can be noticed.
func TestCut(t *testing.T) {
	plain := new(archive).dir("etc").file("etc/motd", "hello").exec("init", elf).link("sbin", "etc").end()
	for _, command := range packers()[:7] {
		one, two := plain, simple(script)
		if command != "" {
			one, two = pack(t, command, one), pack(t, command, two)
		}
		whole := join(one, cpio.Pad(len(one), 4)+4, two)
		for n := range whole {
			r, err := inspect(whole[:n], initrd.Options{})
			var e *initrd.Error
			switch {
			case errors.As(err, &e) && (e.Reason == initrd.Truncated || n < 8):
			case err == nil && n >= len(one) && n <= len(one)+8:
			case err == nil && command == "lz4 -l" && n > len(one) && n <= len(one)+12: // a magic number and no block
			case err == nil && command == "" && len(r.Flaws) == 0 && (n >= len(one)-3 && n < len(one) || n >= len(whole)-3): // padding of a trailer
			case err == nil && command == "" && len(r.Flaws) == 1 && strings.Contains(r.Flaws[0].What, "cut off"):
			case command != "" && n-len(whole)+len(two) == 1: // one byte of a magic number is garbage
			default:
				t.Errorf("%q: cut to %d of %d bytes: %+v, %v", command, n, len(whole), r, err)
			}
		}
	}
}

// TestLimits: a small file cannot take all of the host.
func TestLimits(t *testing.T) {
	large := new(archive).file("zeros", strings.Repeat("\x00", 40<<20)).exec("init", elf).end()
	many := new(archive)
	for range 2000 {
		many.file("f", "")
	}
	for _, command := range []string{"gzip", "bzip2", "xz --check=crc32", "lz4 -l", "zstd"} {
		bomb := pack(t, command, large)
		var e *initrd.Error
		if _, err := inspect(bomb, initrd.Options{MaxUnpacked: 32 << 20}); !errors.As(err, &e) || e.Reason != initrd.TooLarge || !strings.Contains(e.What, "more than 33554432 bytes") {
			t.Errorf("%s: %d bytes that unpack to %d: %v", command, len(bomb), len(large), err)
		}
		if r, err := inspect(bomb, initrd.Options{MaxUnpacked: int64(len(large))}); err != nil || r.Pages != 40<<20+4096 {
			t.Errorf("%s: %+v, %v", command, r, err)
		}
	}
	var e *initrd.Error
	if _, err := inspect(zip(t, many.end()), initrd.Options{MaxEntries: 1999}); !errors.As(err, &e) || e.Reason != initrd.TooMany || !strings.Contains(e.What, "more than 1999 entries") {
		t.Error(err)
	}
	if _, err := inspect(zip(t, many.end()), initrd.Options{MaxEntries: 2000}); err != nil {
		t.Error(err)
	}
	if _, err := inspect(join(zip(t, simple(elf)), bytes.Repeat(zip(t, nil), 2000)), initrd.Options{}); !errors.As(err, &e) || e.Reason != initrd.TooMany || !strings.Contains(e.What, "more than 1000 archives") {
		t.Error(err)
	}
	if _, err := inspect(bytes.Repeat(simple(elf), 2000), initrd.Options{}); !errors.As(err, &e) || e.Reason != initrd.TooMany {
		t.Error(err)
	}
	names := new(archive)
	for i := range 34_000 {
		names.link(fmt.Sprintf("%04000d", i), "x")
	}
	if _, err := inspect(names.end(), initrd.Options{}); !errors.As(err, &e) || e.Reason != initrd.TooMany || !strings.Contains(e.What, "names in it take more than 128 MiB") {
		t.Error(err)
	}
}

// TestSteps: chains of links whose targets go up and down do not keep it busy.
func TestSteps(t *testing.T) {
	chain := func(links, entries int) []byte {
		a := new(archive).dir("d", "e")
		up := strings.Repeat("/../e", 700)
		for i := range links {
			a.link(fmt.Sprintf("e/l%d", i), fmt.Sprintf("l%d%s", i+1, up))
		}
		a.link(fmt.Sprintf("e/l%d", links), "../e")
		for i := range entries {
			a.file(fmt.Sprintf("e/l0/f%d", i), "")
		}
		return a.exec("init", elf).end()
	}
	data := chain(38, 20_000)
	start := time.Now()
	var e *initrd.Error
	if _, err := inspect(data, initrd.Options{}); !errors.As(err, &e) || e.Reason != initrd.TooMany || !strings.Contains(e.What, "steps to follow") {
		t.Error(err)
	}
	t.Logf("%d bytes: %v", len(data), time.Since(start))
	if r, err := inspect(chain(38, 20), initrd.Options{}); err != nil || len(r.Flaws) != 0 || r.Init.Kind != initrd.ELF {
		t.Errorf("a few of them: %+v, %v", r, err)
	}
	// One long name is looked up again with each of its other names.
	hard := new(archive).dir("d").hard("d/"+strings.Repeat("../d/", 800)+"f", 7, "")
	for i := range 40_000 {
		hard.hard(fmt.Sprintf("h%d", i), 7, "")
	}
	if _, err := inspect(hard.end(), initrd.Options{}); !errors.As(err, &e) || e.Reason != initrd.TooMany || !strings.Contains(e.What, "steps to follow") {
		t.Error(err)
	}
	// What is large and as it should be is far from it.
	deep, path := new(archive), "d"
	for range 20 {
		deep.dir(path)
		path += "/dir"
	}
	for i := range 30_000 {
		deep.file(path[:len(path)-4]+fmt.Sprintf("/%d", i), "")
	}
	if _, err := inspect(deep.end(), initrd.Options{}); err != nil {
		t.Error(err)
	}
}
