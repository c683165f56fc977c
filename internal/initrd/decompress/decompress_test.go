package decompress_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/initrd/decompress"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// pack compresses with the real tool.
func pack(t testing.TB, data []byte, words ...string) []byte {
	t.Helper()
	need.All(t, need.Packers)
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Stdin = bytes.NewReader(data)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %v: %s", words, err, complaint.String())
	}
	return out.Bytes()
}

// packers are what is known to work, by compression.
func packers() []struct{ name, command string } {
	return []struct{ name, command string }{
		{"gzip", "gzip -1"}, {"gzip", "gzip -9 -N"},
		{"bzip2", "bzip2 -1"}, {"bzip2", "bzip2 -9"},
		{"lzma", "xz --format=lzma -1"}, {"lzma", "xz --format=lzma -6"},
		{"xz", "xz --check=crc32 -T1"}, {"xz", "xz --check=none"}, {"xz", "xz --check=crc32 --block-size=65536 -T2"},
		{"xz", "xz --check=crc32 --x86 --lzma2=dict=1MiB"},
		{"lz4", "lz4 -l -1"}, {"lz4", "lz4 -l -9"},
		{"zstd", "zstd -1"}, {"zstd", "zstd -19 --no-check"}, {"zstd", "zstd --ultra -22"}, {"zstd", "zstd -T2 -3"},
	}
}

// samples are contents that take the decoders through their cases.
func samples(t testing.TB) map[string][]byte {
	t.Helper()
	random := make([]byte, 300_000)
	source := rand.New(rand.NewPCG(1, 2))
	for i := range random {
		random[i] = byte(source.Uint32())
	}
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{
		"one byte": {'x'},
		"text":     []byte(strings.Repeat("the quick brown fox\n", 7000)),
		"zeros":    make([]byte, 1<<20+1),
		"random":   random,
		"program":  program[:min(len(program), 1<<20)],
	}
}

func unpack(name string, data []byte, off int64) (out []byte, end int64, err error) {
	end, err = decompress.Unpack(name, bytes.NewReader(data), off, int64(len(data)), func(p []byte) error {
		out = append(out, p...)
		return nil
	})
	return out, end, err
}

// TestTools: what the tools pack is unpacked, and the end is right to the byte
// whatever stands before and behind.
func TestTools(t *testing.T) {
	for _, p := range packers() {
		contents := samples(t)
		if p.name == "lz4" {
			contents["two blocks"] = bytes.Repeat([]byte("block of lz4"), 1<<20)
		}
		for what, data := range contents {
			t.Run(p.command+" "+what, func(t *testing.T) {
				packed := pack(t, data, strings.Fields(p.command)...)
				if got := decompress.Detect(packed); got != p.name {
					t.Fatalf("taken for %q", got)
				}
				behind := []string{"", "\x00", "\x00\x00\x00", "\x00\x00\x00\x00070701", "\x00\x00\x00\x00\x00\x00\x00\x00junk"}
				if p.name != "lz4" {
					behind = append(behind, "B", "Bh", "070701", string(packed), "\x00"+string(packed))
				}
				for i, b := range behind {
					if i > 1 && len(data) > 1<<18 {
						break
					}
					before := strings.Repeat("b", i)
					whole := before + string(packed) + b
					got, end, err := unpack(p.name, []byte(whole), int64(len(before)))
					if err != nil {
						t.Fatalf("with %.20q behind: %v", b, err)
					}
					if !bytes.Equal(got, data) {
						t.Errorf("with %.20q behind: %d bytes, not the %d that were packed", b, len(got), len(data))
					}
					wantEnd := int64(len(before) + len(packed))
					if p.name == "lz4" && len(b) > 0 && len(b) < 4 {
						wantEnd = end // Linux leaves them as well
					}
					if end != wantEnd {
						t.Errorf("with %.20q behind: the end is at %d, want %d", b, end, wantEnd)
					}
				}
			})
		}
	}
}

// step goes over all of the headers, whatever is at the end, and some of what is
// between.
func step(i, size int) int {
	if i < 40 || i > size-30 {
		return 1
	}
	return min(61, size-29-i)
}

// TestCut: a stream that ends early is told as that, wherever it ends.
func TestCut(t *testing.T) {
	data := samples(t)["text"][:5000]
	for _, p := range packers() {
		packed := pack(t, data, strings.Fields(p.command)...)
		for n := 2; n < len(packed); n += step(n, len(packed)) {
			_, _, err := unpack(p.name, packed[:n], 0)
			var e *decompress.Error
			if p.name == "lz4" && n < 8 && err == nil {
				continue // a stream without blocks
			}
			if !errors.As(err, &e) || !e.Truncated || e.Offset > int64(n) {
				t.Errorf("%s cut to %d of %d bytes: %v", p.command, n, len(packed), err)
				break
			}
		}
	}
}

// TestDamage: no changed byte goes unnoticed where the format has a checksum,
// and none leads to a panic or to more than was packed.
func TestDamage(t *testing.T) {
	data := samples(t)["random"][:3000]
	data = append(data, bytes.Repeat([]byte("abcdefgh"), 500)...)
	for _, p := range packers() {
		packed := pack(t, data, strings.Fields(p.command)...)
		checked := p.name == "gzip" || p.name == "bzip2" || p.name == "xz" && !strings.Contains(p.command, "none")
		for i := 0; i < len(packed); i += step(i, len(packed)) {
			for _, flip := range []byte{1, 0x80} {
				bad := bytes.Clone(packed)
				bad[i] ^= flip
				got, _, err := unpack(p.name, bad, 0)
				harmless := err == nil && bytes.Equal(got, data)
				header := p.name == "gzip" && i >= 3 && i <= 10 // time, system
				if checked && err == nil && !harmless && !header {
					t.Errorf("%s: byte %d changed by %#x: nothing is noticed", p.command, i, flip)
				}
			}
		}
	}
}

// TestLinuxRefuses: streams that the tools take and Linux does not.
func TestLinuxRefuses(t *testing.T) {
	data := samples(t)["text"]
	long := pack(t, data, "zstd", "--long=28", "-1", "--no-check")
	cases := []struct {
		name string
		data []byte
		want string
	}{
		{"xz", pack(t, data, "xz"), "CRC-64 checksums (xz --check=crc32 writes the one that Linux takes)"},
		{"xz", pack(t, data, "xz", "--check=sha256"), "of another kind than CRC-32"},
		{"xz", pack(t, data, "xz", "--check=crc32", "--delta", "--lzma2"), "xz with filter 0x3 is not unpacked here"},
		{"lz4", pack(t, data, "lz4"), "lz4 -l writes the right one"},
		{"lz4", append(pack(t, data, "lz4", "-l"), "070701"...), "followed by something else than zeros"},
		{"gzip", append([]byte{0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0, 0, 0}, pack(t, data, "gzip", "-n")[10:]...), "optional fields"},
		{"gzip", []byte("\x1f\x9e3456789012"), "header that Linux does not take"},
		{"zstd", long, "zstd with a window of 256 MiB is not unpacked here"},
		{"lzo", []byte("\x89LZO"), "lzo is not unpacked here"},
	}
	for _, c := range cases {
		if _, _, err := unpack(c.name, c.data, 0); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", c.name, err, c.want)
		}
	}
}

// failing fails from some offset on.
type failing struct {
	data []byte
	from int64
}

var errDisk = errors.New("the disk is broken")

func (f *failing) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.from {
		n := copy(p, f.data[min(off, f.from):f.from])
		return n, errDisk
	}
	return copy(p, f.data[off:]), nil
}

// TestErrorsComeThrough: an error of the file or of the caller is not taken for
// one of the stream.
func TestErrorsComeThrough(t *testing.T) {
	data := samples(t)["random"]
	errFull := errors.New("enough")
	for _, p := range packers() {
		packed := pack(t, data, strings.Fields(p.command)...)
		_, err := decompress.Unpack(p.name, &failing{packed, int64(len(packed) / 2)}, 0, int64(len(packed)), func([]byte) error { return nil })
		if !errors.Is(err, errDisk) {
			t.Errorf("%s: a broken disk: %v", p.command, err)
		}
		_, err = decompress.Unpack(p.name, bytes.NewReader(packed), 0, int64(len(packed)), func([]byte) error { return errFull })
		if !errors.Is(err, errFull) {
			t.Errorf("%s: an error of the caller: %v", p.command, err)
		}
		// The file shrank after it was measured.
		_, err = decompress.Unpack(p.name, bytes.NewReader(packed[:len(packed)/2]), 0, int64(len(packed)), func([]byte) error { return nil })
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: a file that shrank: %v", p.command, err)
		}
	}
}

func FuzzUnpack(f *testing.F) {
	for _, p := range packers() {
		for _, data := range [][]byte{[]byte("x"), bytes.Repeat([]byte("some words "), 300)} {
			f.Add(pack(f, data, strings.Fields(p.command)...))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		name := decompress.Detect(data)
		if name == "" {
			return
		}
		errFull := errors.New("enough")
		n := 0
		end, err := decompress.Unpack(name, bytes.NewReader(data), 0, int64(len(data)), func(p []byte) error {
			if n += len(p); n > 8<<20 {
				return errFull
			}
			return nil
		})
		var bad *decompress.Error
		var unsupported *decompress.UnsupportedError
		switch {
		case err == nil && (end < 2 || end > int64(len(data))):
			t.Errorf("%s: the end is at %d of %d", name, end, len(data))
		case err != nil && !errors.As(err, &bad) && !errors.As(err, &unsupported) && !errors.Is(err, errFull):
			t.Errorf("%s: an error of no known kind: %v", name, err)
		}
	})
}
