package kernel_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/ampoule-vm/ampoule/internal/initrd/kernel"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
)

// table is what lib/decompress.c becomes, with decoders for what is named.
func table(with string, zstd bool) []byte {
	var out []byte
	name := uint64(0xffffffff82a00000)
	for _, row := range []struct{ magic, name string }{
		{"\x1f\x8b", "gzip"}, {"\x1f\x9e", "gzip"}, {"BZ", "bzip2"}, {"\x5d\x00", "lzma"}, {"\xfd7", "xz"},
		{"\x89L", "lzo"}, {"\x02!", "lz4"}, {"\x28\xb5", "zstd"},
	} {
		if row.name == "zstd" && !zstd {
			continue
		}
		if row.magic != "\x1f\x9e" {
			name += 6
		}
		decoder := uint64(0)
		if slices.Contains(strings.Fields(with), row.name) {
			decoder = name + 0x1000000
		}
		out = append(append(out, row.magic...), make([]byte, 6)...)
		out = binary.LittleEndian.AppendUint64(out, name)
		out = binary.LittleEndian.AppendUint64(out, decoder)
	}
	return append(out, make([]byte, 24)...)
}

func config(t testing.TB, lines string) []byte {
	t.Helper()
	var b bytes.Buffer
	b.WriteString("IKCFG_ST")
	z := gzip.NewWriter(&b)
	if _, err := z.Write([]byte(lines)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	b.WriteString("IKCFG_ED")
	return b.Bytes()
}

// elf is something around it that is as large as a kernel's parts are.
func elf(at int, inner []byte) []byte {
	out := bytes.Repeat([]byte("\x1f\x8b\x08\x00 code "), 60_000)
	copy(out, "\x7fELF\x02\x01\x01")
	copy(out[at:], inner)
	return out
}

// bzImage is a boot sector, setup code and a payload.
func bzImage(payload []byte) []byte {
	out := make([]byte, 5*512+100)
	out[0x1f1] = 4
	copy(out[0x1fe:], "\x55\xaa\xeb\x66HdrS\x0f\x02")
	binary.LittleEndian.PutUint32(out[0x248:], 100)
	binary.LittleEndian.PutUint32(out[0x24c:], uint32(len(payload)))
	return append(append(out, payload...), "signature"...)
}

func zboot(payload []byte) []byte {
	out := make([]byte, 4096)
	copy(out, "MZ\x00\x00zimg")
	binary.LittleEndian.PutUint32(out[8:], 4096)
	binary.LittleEndian.PutUint32(out[12:], uint32(len(payload)))
	return append(append(out, payload...), "more"...)
}

func pack(t testing.TB, command string, data []byte, withSize bool) []byte {
	t.Helper()
	need.All(t, need.Packers)
	words := strings.Fields(command)
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	if withSize {
		out = binary.LittleEndian.AppendUint32(out, uint32(len(data)))
	}
	return out
}

func compressions(t testing.TB, image []byte) kernel.Support {
	t.Helper()
	got, err := kernel.Compressions(bytes.NewReader(image), int64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

const all = "gzip bzip2 lzma xz lzo lz4 zstd"

// TestTable: what has a decoder is known, wherever the table lies.
func TestTable(t *testing.T) {
	for _, with := range []string{all, "zstd", "gzip", "xz lz4", ""} {
		want := strings.Fields(with)
		slices.Sort(want)
		for _, at := range []int{64, 1000, 256<<10 - 216, 256<<10 - 215, 256<<10 - 100, 256<<10 - 1, 256 << 10, 400_001} {
			got := compressions(t, elf(at, table(with, true)))
			if got.Source != "table" || !slices.Equal(got.Compressions, want) {
				t.Errorf("%q at %d: %+v", with, at, got)
			}
			for _, c := range strings.Fields(all) {
				if got.Takes(c) != slices.Contains(want, c) || !got.Takes("") {
					t.Errorf("%q: Takes(%q) is %v", with, c, got.Takes(c))
				}
			}
		}
	}
	if got := compressions(t, elf(64, table(all, false))); slices.Contains(got.Compressions, "zstd") || len(got.Compressions) != 6 {
		t.Errorf("before zstd: %+v", got)
	}
}

// TestAlmostATable: one wrong byte, and nothing is said.
func TestAlmostATable(t *testing.T) {
	right := table(all, true)
	for i := range right {
		bad := bytes.Clone(right)
		bad[i] ^= 0x40
		got := compressions(t, elf(4096, bad))
		// The lower bytes of an address may be anything; those of the names of the
		// two rows of gzip must agree.
		field := i % 24
		free := i < 8*24 && (field >= 16 && field < 22 || field >= 8 && field < 14 && i >= 48)
		if gzip := i < 48 && field >= 16; gzip {
			free = false
		}
		if (got.Source == "table") != free {
			t.Errorf("byte %d (%d of a row): %+v", i, field, got)
		}
		if free && len(got.Compressions) != 7 {
			t.Errorf("byte %d: %+v", i, got)
		}
	}
	for name, image := range map[string][]byte{
		"relocated at start": bytes.ReplaceAll(table(all, true), []byte("\xff\xff\xff\xff"), []byte{0, 0, 0, 0}),
		"cut":                table(all, true)[:200],
		"nothing":            nil,
	} {
		got := compressions(t, image)
		if got.Source != "" || got.Why == "" || !got.Takes("zstd") || !got.Takes("") {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestConfig(t *testing.T) {
	long := strings.Repeat("# CONFIG_SOMETHING_ELSE is not set\n", 5000)
	cases := []struct {
		name, lines string
		want        kernel.Support
	}{
		{"two", "CONFIG_BLK_DEV_INITRD=y\nCONFIG_RD_GZIP=y\n# CONFIG_RD_XZ is not set\nCONFIG_RD_ZSTD=y\n" + long,
			kernel.Support{Source: "config", Compressions: []string{"gzip", "zstd"}}},
		{"none", long + "CONFIG_BLK_DEV_INITRD=y\n# CONFIG_RD_GZIP is not set\n", kernel.Support{Source: "config"}},
		{"what is built only", "CONFIG_BLK_DEV_INITRD=y\nCONFIG_DECOMPRESS_GZIP=y\nCONFIG_DECOMPRESS_ZSTD=y\n" + long,
			kernel.Support{Source: "config", Compressions: []string{"gzip", "zstd"}}},
		{"one of each", "CONFIG_BLK_DEV_INITRD=y\n# CONFIG_RD_XZ is not set\nCONFIG_DECOMPRESS_XZ=y\nCONFIG_RD_LZ4=y\nCONFIG_RD_LZO=m\n" + long,
			kernel.Support{Source: "config", Compressions: []string{"lz4", "xz"}}},
		{"no line about any", "CONFIG_BLK_DEV_INITRD=y\n" + long, kernel.Support{Source: "table", Compressions: []string{"lzo"}}},
		{"no initrd", long + "# CONFIG_BLK_DEV_INITRD is not set\nCONFIG_RD_GZIP=y\n", kernel.Support{Source: "config", NoInitrd: true}},
	}
	for _, c := range cases {
		for _, at := range []int{64, 256<<10 - 4, 256<<10 + 3, 300_001} {
			// The table says something else: the configuration counts, if it is first.
			image := append(elf(at, config(t, c.lines)), table("lzo", true)...)
			if got := compressions(t, image); !reflect.DeepEqual(got, c.want) {
				t.Errorf("%s at %d: %+v", c.name, at, got)
			}
		}
	}
	silent := config(t, "CONFIG_BLK_DEV_INITRD=y\nCONFIG_RD_=y\n")
	if got := compressions(t, elf(64, silent)); got.Source != "" || got.Why == "" || !got.Takes("zstd") {
		t.Errorf("no line about any, and no table: %+v", got)
	}
	// In one piece with the mark, and before it.
	if got := compressions(t, elf(64, append(table("xz", true), silent...))); got.Source != "table" || !slices.Equal(got.Compressions, []string{"xz"}) {
		t.Errorf("a table before a configuration without a line about any: %+v", got)
	}
	none := compressions(t, elf(64, config(t, "# CONFIG_BLK_DEV_INITRD is not set\nCONFIG_RD_GZIP=y\n")))
	if none.Takes("") || none.Takes("gzip") {
		t.Error("a kernel without it takes an initial RAM disk")
	}
	for name, noise := range map[string]string{"mark alone": "IKCFG_ST", "rubbish between marks": "IKCFG_ST rubbish IKCFG_ED",
		"another's configuration": string(config(t, "CONFIG_BUSYBOX=y\n"))} {
		image := append(elf(64, []byte(noise)), table("xz", true)...)
		if got := compressions(t, image); !slices.Equal(got.Compressions, []string{"xz"}) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// TestImages: every way in which a kernel is packed.
func TestImages(t *testing.T) {
	inner := elf(200_000, table("gzip zstd", true))
	for _, command := range []string{"gzip -9", "bzip2", "xz --format=lzma", "xz --check=crc32 --x86 --lzma2=dict=8MiB", "lz4 -l", "zstd --ultra -22", "zstd -19"} {
		bz := bzImage(pack(t, command, inner, !strings.HasPrefix(command, "gzip")))
		for name, image := range map[string][]byte{"bzImage": bz, "zboot": zboot(pack(t, command, inner, true)), "alone": pack(t, command, inner, false)} {
			if got := compressions(t, image); !slices.Equal(got.Compressions, []string{"gzip", "zstd"}) {
				t.Errorf("%s, %s: %+v", command, name, got)
			}
		}
		// Cut before the table, it is not known; never wrong.
		for n := 0; n < len(bz); n += 97 {
			if got := compressions(t, bz[:n]); got.Source != "" && !slices.Equal(got.Compressions, []string{"gzip", "zstd"}) {
				t.Errorf("%s cut to %d: %+v", command, n, got)
			}
		}
	}
}

type broken struct{}

func (broken) ReadAt([]byte, int64) (int, error) { return 0, iotest.ErrTimeout }

func TestReadError(t *testing.T) {
	if _, err := kernel.Compressions(broken{}, 1<<20); !errors.Is(err, iotest.ErrTimeout) {
		t.Error(err)
	}
}

func FuzzCompressions(f *testing.F) {
	small := append([]byte("\x7fELF"), table("gzip xz", true)...)
	f.Add(small)
	f.Add(bzImage(small))
	f.Add(zboot(small))
	f.Add(append(config(f, "CONFIG_BLK_DEV_INITRD=y\nCONFIG_RD_XZ=y\n"), small...))
	for _, command := range []string{"gzip -9", "bzip2", "xz --format=lzma", "xz --check=crc32 --x86 --lzma2=dict=8MiB", "lz4 -l", "zstd -19"} {
		f.Add(bzImage(pack(f, command, small, true)))
	}
	f.Fuzz(func(t *testing.T, image []byte) {
		got, err := kernel.Compressions(bytes.NewReader(image), int64(len(image)))
		if err != nil {
			t.Error(err)
		}
		if (got.Source == "") != (got.Why != "") || got.Source == "" && len(got.Compressions) != 0 || !slices.IsSorted(got.Compressions) {
			t.Errorf("%+v", got)
		}
	})
}
