package initrd_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/initrd"
	"github.com/ampoule-vm/ampoule/internal/initrd/cpio"
)

// bootconfig is what "bootconfig -a" puts behind an archive of the given size.
func bootconfig(before int, text string) []byte {
	out := []byte(text + "\x00")
	for (before+len(out)+20)%4 != 0 {
		out = append(out, 0)
	}
	sum := uint32(0)
	for _, c := range out {
		sum += uint32(c)
	}
	out = binary.LittleEndian.AppendUint32(out, uint32(len(out)))
	out = binary.LittleEndian.AppendUint32(out, sum)
	return append(out, "#BOOTCONFIG\n"...)
}

// TestBootconfig: it is no part of the archives, whatever is in front of it.
func TestBootconfig(t *testing.T) {
	const text = "kernel.rdinit = /x\nfeature.a = 1, 2\n"
	for _, command := range packers() {
		data := simple(elf)
		if command != "" {
			data = pack(t, command, data)
		}
		without := mustInspect(t, data)
		for padding := range 5 {
			whole := join(data, bootconfig(len(data), text), padding)
			r, err := inspect(whole, initrd.Options{})
			if padding == 4 { // Linux does not look there
				if err == nil && r.Bootconfig {
					t.Errorf("%q: found in front of four zeros", command)
				}
				continue
			}
			if err != nil || !r.Bootconfig || !slices.Equal(r.BootconfigParameters, []string{"kernel.rdinit"}) || len(r.Flaws) != 0 || r.Ignored != 0 ||
				!slices.Equal(r.Segments, without.Segments) || r.Init != without.Init {
				t.Errorf("%q and %d zeros: %+v, %v", command, padding, r, err)
			}
		}
	}
	data := simple(elf)
	whole := join(data, bootconfig(len(data), text))
	for name, c := range map[string]struct {
		data []byte
		what string
	}{
		"a wrong sum":       {flip(whole, len(data)), "does not have its checksum"},
		"another wrong sum": {flip(whole, len(whole)-16), "does not have its checksum"},
		"a wrong size":      {flip(whole, len(whole)-18), "which are not there"},
	} {
		r := mustInspect(t, c.data)
		if r.Bootconfig || len(r.Flaws) != 2 || !strings.Contains(r.Flaws[0].What, c.what) || !strings.Contains(r.Flaws[1].What, "Linux looks no further") || r.Ignored != int64(len(whole)-len(data)) {
			t.Errorf("%s: %+v", name, r)
		}
	}
	for name, c := range map[string]struct {
		data []byte
		what string
	}{
		"nothing else":   {bootconfig(0, text), "empty but for a bootconfig"},
		"the magic only": {[]byte("#BOOTCONFIG\n"), "no cpio archive"},
		"a short footer": {[]byte("1234567#BOOTCONFIG\n"), "no cpio archive"},
	} {
		var e *initrd.Error
		if _, err := inspect(c.data, initrd.Options{}); !errors.As(err, &e) || !strings.Contains(e.What, c.what) {
			t.Errorf("%s: %v", name, err)
		}
	}
	empty := join(data, binary.LittleEndian.AppendUint64(nil, 0), "#BOOTCONFIG\n")
	if r := mustInspect(t, empty); !r.Bootconfig || r.BootconfigParameters != nil || len(r.Flaws) != 0 {
		t.Errorf("an empty one: %+v", r)
	}
}

// TestBootconfigParameters: keys are found in every way in which they can be
// written, and not in values or comments.
func TestBootconfigParameters(t *testing.T) {
	const (
		rdinit = "kernel.rdinit"
		retain = "kernel.retain_initrd"
		keep   = "kernel.keepinitrd"
	)
	for text, want := range map[string][]string{
		"kernel.rdinit = /x":                                    {rdinit},
		"kernel.rdinit=/x;kernel.retain_initrd":                 {rdinit, retain},
		"kernel.retain-initrd\nkernel.keepinitrd # all":         {keep, retain},
		"kernel {\n\trdinit += \"/x\"\n\tquiet\n}\n":            {rdinit},
		"kernel { quiet; a { b = c }; keepinitrd }":             {keep},
		"kernel.rdinit := '/x'":                                 {rdinit},
		"a = b, # c\n  # d\n  e,\n  f\nkernel.rdinit = x":       {rdinit},
		"a = \"}\"\nkernel { b = '{' , \"#\" }\nkernel.rdinit=": {rdinit},
		"a =\n\"{\"\nkernel.rdinit = x":                         {rdinit},
		"a = b }\nkernel.rdinit = x":                            {rdinit},
		"# kernel.rdinit = /x\na = kernel.rdinit":               nil,
		"a = \"\nkernel.rdinit = /x\n\"":                        nil,
		"a = b,\nkernel.rdinit":                                 nil,
		"init.rdinit\nrdinit = x\nkernel.rdinit.a = b":          nil,
		"kernel { a } rdinit = x":                               nil,
		"a { kernel.rdinit = x }":                               nil,
		"kernel { rdinit { a = b } }":                           nil,
		"":                                                      nil,
		"}}}{{{===,,,\"":                                        nil,
	} {
		data := simple(elf)
		r := mustInspect(t, join(data, bootconfig(len(data), text)))
		if !r.Bootconfig || !slices.Equal(r.BootconfigParameters, want) {
			t.Errorf("%q: %v, want %v", text, r.BootconfigParameters, want)
		}
	}
}

// TestUnpadded: zeros that only a reader of the next entry needs may be missing.
func TestUnpadded(t *testing.T) {
	end := simple(elf) // three zeros behind the trailer
	body := new(archive).exec("init", elf+strings.Repeat(".", 5-len(elf)%4)).out
	name := new(archive).exec("init", elf).dir("etc").out // two behind "etc\0"
	link := new(archive).exec("init", elf).link("l", "").out
	for label, c := range map[string]struct {
		data        []byte
		missing     int
		plain, what string
		entries     int64
	}{
		"trailer": {end, 3, "", "the padding is missing of the last entry", 1},
		"body":    {body, 3, "has no end (an entry TRAILER!!!)", "the padding is missing of the last entry", 1},
		"name":    {name, 2, "so that Linux does not make it", "does not make the entry", 1},
		"link":    {link, 0, "", "", 2},
	} {
		for cut := 1; cut <= c.missing; cut++ {
			short := c.data[:len(c.data)-cut]
			r := mustInspect(t, short)
			if flawed := c.plain != ""; flawed != (len(r.Flaws) == 1) || flawed && !strings.Contains(r.Flaws[0].What, c.plain) ||
				r.Segments[0].Bytes != int64(len(short)) || r.Init.Kind != initrd.ELF || r.Entries != c.entries {
				t.Errorf("%s, %d missing: %+v", label, cut, r)
			}
			for _, command := range []string{"gzip", "zstd", "lz4 -l"} {
				r := mustInspect(t, join(pack(t, command, short), 4, pack(t, "gzip", simple(script))))
				if len(r.Flaws) != 1 || !strings.Contains(r.Flaws[0].What, c.what) || r.Ignored == 0 || r.Init.Kind != initrd.ELF || r.Entries != c.entries {
					t.Errorf("%s, %d missing, %s: %+v", label, cut, command, r)
				}
			}
		}
		var e *initrd.Error
		short := c.data[:len(c.data)-c.missing-1]
		for _, data := range [][]byte{short, zip(t, short)} {
			if _, err := inspect(data, initrd.Options{}); !errors.As(err, &e) || e.Reason != initrd.Truncated {
				t.Errorf("%s, one more byte missing: %v", label, err)
			}
		}
	}
	// A trailer with a content is passed over with it.
	long := new(archive).exec("init", elf).file("TRAILER!!!", "content").out
	var e *initrd.Error
	if _, err := inspect(long[:len(long)-3], initrd.Options{}); !errors.As(err, &e) || e.Reason != initrd.Truncated {
		t.Error(err)
	}
}

// TestRAMDiskImage: what initial RAM disks were once is told from what is no
// archive at all.
func TestRAMDiskImage(t *testing.T) {
	at := func(off int, magic string, inodes string) []byte {
		out := make([]byte, 8192)
		copy(out[1024:], inodes)
		copy(out[off:], magic)
		return out
	}
	for name, data := range map[string][]byte{
		"ext2, ext3 or ext4": at(1080, "\x53\xef", "\x80\x10\x00\x00"),
		"ext2":               at(1080, "\x53\xef", "0\x10\x00\x00"), // looks like the beginning of an entry
		"ext4":               at(1080, "\x53\xef", "\x00\x00\x01\x00"),
		"squashfs":           at(0, "hsqs", "x"),
		"cramfs":             at(512, "\x45\x3d\xcd\x28", ""),
		"cramfs ":            at(0, "\x45\x3d\xcd\x28", ""),
		"romfs":              at(0, "-rom1fs-", ""),
		"minix":              at(1040, "\x8f\x13", "\x60\x00"),
	} {
		for _, command := range append(packers(), "small") {
			packed := data
			switch command {
			case "":
			case "small":
				packed = pack(t, "gzip", data[:1200])
			default:
				packed = pack(t, command, data)
			}
			_, err := inspect(packed, initrd.Options{})
			var e *initrd.Error
			if !errors.As(err, &e) || e.Reason != initrd.RAMDiskImage || e.Offset != 0 || !strings.Contains(e.What, strings.Fields(name)[0]) || !strings.Contains(e.What, "CONFIG_BLK_DEV_RAM") {
				t.Errorf("%s by %q: %#v", name, command, err)
			}
		}
		if r := mustInspect(t, join(simple(elf), data)); len(r.Flaws) != 1 {
			t.Errorf("%s behind an archive: %+v", name, r)
		}
	}
	// Bytes by chance in an archive, or behind it, are no evidence.
	plain := new(archive).exec("init", elf).file("x", strings.Repeat("\x53\xef", 2000)).end()
	for _, data := range [][]byte{plain, zip(t, plain)} {
		if r := mustInspect(t, data); r.Init.Kind != initrd.ELF {
			t.Errorf("%+v", r)
		}
	}
	var e *initrd.Error
	if _, err := inspect(at(1080, "\x53\xee", "\x01"), initrd.Options{}); !errors.As(err, &e) || e.Reason != initrd.NotArchive {
		t.Error(err)
	}
}

// stopping is a reader that gives an error from the given call on.
type stopping struct {
	bytes.Reader
	calls, from int
	err         error
}

func (s *stopping) ReadAt(p []byte, off int64) (int, error) {
	if s.calls++; s.calls > s.from {
		return 0, s.err
	}
	return s.Reader.ReadAt(p, off)
}

// TestStopped: an error of the reader ends it at every call, as it is, and a
// stream that grows without being read asks for it.
func TestStopped(t *testing.T) {
	data := new(archive).file("x", strings.Repeat("abc", 30_000)).exec("init", elfSystemd).end()
	for _, command := range packers() {
		packed := data
		if command != "" {
			packed = pack(t, command, data)
		}
		packed = join(packed, 8, packed)
		s := &stopping{Reader: *bytes.NewReader(packed), from: 1 << 30, err: context.Canceled}
		if _, err := initrd.Inspect(s, int64(len(packed)), initrd.Options{}); err != nil {
			t.Fatalf("%q: %v", command, err)
		}
		for from := range s.calls {
			s := &stopping{Reader: *bytes.NewReader(packed), from: from, err: context.Canceled}
			_, err := initrd.Inspect(s, int64(len(packed)), initrd.Options{})
			var e *initrd.Error
			if !errors.Is(err, context.Canceled) || errors.As(err, &e) {
				t.Errorf("%q, from call %d: %v", command, from, err)
			}
		}
	}
	zeros := cpio.AppendTrailer(new(archive).file("zeros", strings.Repeat("\x00", 64<<20)).out)
	for _, command := range []string{"gzip", "bzip2", "zstd"} {
		bomb := pack(t, command, zeros)
		start := time.Now()
		s := &stopping{Reader: *bytes.NewReader(bomb), from: 1 << 30}
		if _, err := initrd.Inspect(s, int64(len(bomb)), initrd.Options{}); err != nil || s.calls < 64/4 {
			t.Errorf("%s: asked %d times; %v", command, s.calls, err)
		}
		t.Logf("%s: %d bytes in %v, %d calls", command, len(bomb), time.Since(start), s.calls)
	}
}

// TestRealPrograms: those of the system the test runs on.
func TestRealPrograms(t *testing.T) {
	for path, want := range map[string]initrd.Kind{
		"/usr/lib/systemd/systemd": initrd.Systemd, "/bin/journalctl": initrd.Systemd, "/bin/cat": initrd.ELF, "/proc/self/exe": initrd.ELF,
	} {
		program, err := os.ReadFile(path)
		if err != nil {
			t.Logf("not looked at: %v", err)
			continue
		}
		if r := mustInspect(t, simple(string(program))); r.Init.Kind != want {
			t.Errorf("%s: %+v", path, r.Init)
		}
	}
}
