package disk

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"reflect"
	"slices"
	"testing"
	"unicode/utf16"
)

// part is a partition of a test's disk.
type part struct {
	number int
	guid   [16]byte
	label  string
}

var guid = [16]byte{0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff}

// makeGPT makes a disk of 64 blocks.
func makeGPT(blockSize int, parts ...part) []byte {
	d := make([]byte, 64*blockSize)
	mbr := d[:512]
	mbr[510], mbr[511] = 0x55, 0xaa
	mbr[mbrEntries+4] = typeProtected
	binary.LittleEndian.PutUint32(mbr[mbrEntries+8:], 1)
	table := d[2*blockSize:][:128*gptEntry]
	for _, p := range parts {
		e := table[(p.number-1)*gptEntry:]
		e[0] = 1
		copy(e[16:], p.guid[:])
		binary.LittleEndian.PutUint64(e[32:], 40)
		binary.LittleEndian.PutUint64(e[40:], 50)
		for i, u := range utf16.Encode([]rune(p.label)) {
			binary.LittleEndian.PutUint16(e[56+2*i:], u)
		}
	}
	h := d[blockSize:]
	copy(h, "EFI PART")
	put32 := func(at int, v uint32) { binary.LittleEndian.PutUint32(h[at:], v) }
	put64 := func(at int, v uint64) { binary.LittleEndian.PutUint64(h[at:], v) }
	put32(12, gptHeader)
	put64(24, 1)
	put64(32, 63)
	put64(40, 34)
	put64(48, 60)
	put64(72, 2)
	put32(80, 128)
	put32(84, gptEntry)
	put32(88, crc32.ChecksumIEEE(table))
	sign(d, blockSize)
	return d
}

// sign computes the header's checksum anew.
func sign(d []byte, blockSize int) {
	h := d[blockSize:]
	binary.LittleEndian.PutUint32(h[16:], 0)
	size := min(int(binary.LittleEndian.Uint32(h[12:])), blockSize)
	binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h[:size]))
}

func parse(d []byte, blockSize int) (Table, error) {
	return Parse(func(p []byte, at int64) error {
		if at < 0 || at > int64(len(d)) || copy(p, d[at:]) != len(p) {
			return errors.New("behind the end")
		}
		return nil
	}, blockSize, uint64(len(d)/blockSize))
}

func TestGPT(t *testing.T) {
	for _, size := range []int{512, 4096} {
		d := makeGPT(size, part{1, guid, "first"}, part{3, [16]byte{15: 7}, "the root \u00e9\u4e00 more"}, part{128, guid, ""})
		got, err := parse(d, size)
		want := Table{GPT: []Entry{
			{1, "00112233-4455-6677-8899-aabbccddeeff", "first"},
			{3, "00000000-0000-0000-0000-000000000007", "the root \xe9"},
			{128, "00112233-4455-6677-8899-aabbccddeeff", ""},
		}}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("blocks of %d: got %+v, %v", size, got, err)
		}
		if got.UUID(3) != want.GPT[1].UUID || got.UUID(2) != "" || got.UUID(-1) != "" || got.Label(1) != "first" || got.Label(2) != "" {
			t.Errorf("%q %q %q", got.UUID(3), got.UUID(2), got.Label(1))
		}
	}
	d := makeGPT(512, part{1, guid, "a\u0007\u007f\u009fb"})
	if got, _ := parse(d, 512); got.Label(1) != "a!!!b" {
		t.Errorf("label %q", got.Label(1))
	}
}

// TestBroken: a table that the kernel would not take has no names.
func TestBroken(t *testing.T) {
	cases := map[string]struct {
		at    int
		value []byte
		sign  bool
	}{
		"no boot signature":            {510, []byte{0}, false},
		"no protective partition":      {mbrEntries + 8, []byte{2}, false},
		"no signature":                 {512, []byte("efi"), true},
		"checksum":                     {512 + 16, []byte{1, 2, 3, 4}, false},
		"a header that is too short":   {512 + 12, []byte{91, 0, 0, 0}, true},
		"a header that is too long":    {512 + 12, []byte{1, 2, 0, 0}, true},
		"another place":                {512 + 24, []byte{2}, true},
		"first block behind the end":   {512 + 40, []byte{64}, true},
		"last block behind the end":    {512 + 48, []byte{64}, true},
		"last before first":            {512 + 48, []byte{33}, true},
		"table behind the end":         {512 + 72, []byte{64}, true},
		"table far behind the end":     {512 + 72, []byte{0, 0, 0, 0, 0, 0, 0, 0xff}, true},
		"no entries":                   {512 + 80, []byte{0}, true},
		"too many entries":             {512 + 80, []byte{0xff, 0xff, 0xff, 0xff}, true},
		"more entries than the disk":   {512 + 80, []byte{0, 2}, true},
		"entries of another size":      {512 + 84, []byte{0, 1}, true},
		"checksum of the table":        {512 + 88, []byte{1, 2, 3, 4}, true},
		"an entry changed":             {1024 + 17, []byte{9}, false},
		"an entry behind the end":      {1024 + 32, []byte{64}, false},
		"an entry that ends behind it": {1024 + 40, []byte{64}, false},
	}
	for name, c := range cases {
		d := makeGPT(512, part{1, guid, "first"})
		copy(d[c.at:], c.value)
		if c.at > 1024 && name != "an entry changed" {
			binary.LittleEndian.PutUint32(d[512+88:], crc32.ChecksumIEEE(d[1024:][:128*gptEntry]))
			c.sign = true
		}
		if c.sign {
			sign(d, 512)
		}
		if got, err := parse(d, 512); err != nil || !reflect.DeepEqual(got, Table{}) {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
	for _, size := range []int{0, -1, 511, 513, 1 << 20} {
		if got, err := Parse(nil, size, 100); err != nil || !reflect.DeepEqual(got, Table{}) {
			t.Errorf("blocks of %d: got %+v, %v", size, got, err)
		}
	}
	for _, blocks := range []uint64{0, 1, 1 << 62, ^uint64(0)} {
		if got, err := Parse(nil, 512, blocks); err != nil || !reflect.DeepEqual(got, Table{}) {
			t.Errorf("%d blocks: got %+v, %v", blocks, got, err)
		}
	}
}

func TestMBR(t *testing.T) {
	d := make([]byte, 4096)
	d[510], d[511] = 0x55, 0xaa
	binary.LittleEndian.PutUint32(d[mbrSignature:], 0x01abcdef)
	got, err := parse(d, 512)
	if err != nil || !got.MBR || got.UUID(1) != "01abcdef-01" || got.UUID(16) != "01abcdef-10" || got.UUID(0) != "" || got.UUID(256) != "" || got.Label(1) != "" {
		t.Errorf("got %+v, %v: %q", got, err, got.UUID(1))
	}
	// What only says that there is a GPT has no names, wherever it says so.
	d[mbrEntries+16*3+4] = typeProtected
	if got, err := parse(d, 512); err != nil || !reflect.DeepEqual(got, Table{}) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestReadErrors(t *testing.T) {
	whole := makeGPT(512, part{1, guid, "first"})
	for reads := range 3 {
		want := errors.New("the disk")
		n := 0
		_, err := Parse(func(p []byte, at int64) error {
			if n++; n > reads {
				return want
			}
			copy(p, whole[at:])
			return nil
		}, 512, 64)
		if !errors.Is(err, want) {
			t.Errorf("read %d: %v", reads, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	// Small, so that many are tried: four entries on a disk of four blocks.
	small := makeGPT(512, part{1, guid, "first"}, part{4, guid, "last"})[:4*512]
	for at, v := range map[int]byte{40: 3, 48: 3, 80: 4} {
		small[512+at] = v
	}
	for _, e := range []int{0, 3} {
		small[1024+e*gptEntry+32], small[1024+e*gptEntry+40] = 3, 3
	}
	f.Add(small, uint16(512))
	f.Add([]byte{}, uint16(0))
	f.Fuzz(func(t *testing.T, d []byte, blockSize uint16) {
		if blockSize == 0 {
			return
		}
		// Headers with a right checksum lead further.
		d = slices.Clone(d)
		if len(d) > 2*int(blockSize) && blockSize >= 512 {
			sign(d, int(blockSize))
			h := d[blockSize:]
			at, n := binary.LittleEndian.Uint64(h[72:]), uint64(binary.LittleEndian.Uint32(h[80:]))*gptEntry
			if at < uint64(len(d)) && at*uint64(blockSize)+n <= uint64(len(d)) {
				binary.LittleEndian.PutUint32(h[88:], crc32.ChecksumIEEE(d[at*uint64(blockSize):][:n]))
				sign(d, int(blockSize))
			}
		}
		table, err := parse(d, int(blockSize))
		if err != nil {
			return
		}
		for _, e := range table.GPT {
			if e.Number < 1 || e.Number > gptMaxNumber || len(e.UUID) != 36 || len(e.Label) > 36 || table.MBR {
				t.Errorf("%+v", e)
			}
		}
	})
}
