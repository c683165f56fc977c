// Package disk reads partition tables, GPT's and the MBR's, for the unique
// names that they give to partitions. It takes a table for valid where Linux
// does, since only partitions that Linux has made are looked for.
//
// It reads through a function of the caller and knows no devices. It must stay
// small: it is linked into the first program of a guest.
package disk

// Read fills p with the bytes of a disk at an offset, all of them or none.
type Read func(p []byte, offset int64) error

// Table is what a partition table says about names.
type Table struct {
	// Signature is the disk's in an MBR, if MBR says that there is one.
	Signature uint32
	MBR       bool
	// GPT has an element for each entry in use, in the order of the numbers.
	GPT []Entry
}

// Entry is a partition of a GPT.
type Entry struct {
	// Number counts from one, over unused entries too.
	Number int
	// UUID is in lower case with hyphens.
	UUID string
	// Label is in the kernel's form: one byte for each character, and an
	// exclamation mark for what cannot be printed.
	Label string
}

// UUID returns the kernel's name of the partition with a number, or "".
func (t Table) UUID(number int) string {
	if t.MBR {
		if number < 1 || number > 255 {
			return ""
		}
		out := appendHex(nil, uint64(t.Signature), 8)
		return string(appendHex(append(out, '-'), uint64(number), 2))
	}
	for _, e := range t.GPT {
		if e.Number == number {
			return e.UUID
		}
	}
	return ""
}

// Label returns the label of the partition with a number, or "".
func (t Table) Label(number int) string {
	for _, e := range t.GPT {
		if e.Number == number {
			return e.Label
		}
	}
	return ""
}

const (
	sector        = 512 // of the MBR, whatever the disk's blocks are
	mbrSignature  = 0x1b8
	mbrEntries    = 0x1be
	typeProtected = 0xee // what an MBR before a GPT says

	gptHeader    = 92 // bytes of a header that mean something
	gptEntry     = 128
	gptMaxBytes  = 4 << 20 // of a table that the kernel takes
	gptMaxNumber = 255     // of a partition that the kernel makes
)

// Parse reads the table of a disk with blocks of blockSize bytes. A disk with
// no table, or a broken one, has no names; that is no error. What read says is
// returned as it is.
func Parse(read Read, blockSize int, blocks uint64) (Table, error) {
	if blockSize < sector || blockSize > 1<<16 || blockSize&(blockSize-1) != 0 || blocks < 2 || blocks > 1<<63/uint64(blockSize)-1 {
		return Table{}, nil
	}
	mbr := make([]byte, sector)
	if err := read(mbr, 0); err != nil {
		return Table{}, err
	}
	if mbr[510] != 0x55 || mbr[511] != 0xaa {
		return Table{}, nil
	}
	protected, gpt := false, false
	for i := range 4 {
		e := mbr[mbrEntries+16*i:]
		if e[4] == typeProtected {
			protected = true
			gpt = gpt || le32(e[8:]) == 1
		}
	}
	switch {
	case gpt:
		return parseGPT(read, blockSize, blocks)
	case protected:
		return Table{}, nil
	}
	return Table{MBR: true, Signature: le32(mbr[mbrSignature:])}, nil
}

// parseGPT reads the first header. The one at the end of the disk does not
// count for the kernel as long as it is not told to trust it.
func parseGPT(read Read, blockSize int, blocks uint64) (Table, error) {
	block := make([]byte, blockSize)
	if err := read(block, int64(blockSize)); err != nil {
		return Table{}, err
	}
	size := le32(block[12:])
	if string(block[:8]) != "EFI PART" || size < gptHeader || size > uint32(blockSize) {
		return Table{}, nil
	}
	sum := le32(block[16:])
	clear(block[16:20])
	last := blocks - 1
	first, end := le64(block[40:]), le64(block[48:])
	if checksum(block[:size]) != sum || le64(block[24:]) != 1 || first > last || end > last || end < first {
		return Table{}, nil
	}
	at, count := le64(block[72:]), le32(block[80:])
	if le32(block[84:]) != gptEntry || count == 0 || count > gptMaxBytes/gptEntry || at > last {
		return Table{}, nil
	}
	entries := make([]byte, count*gptEntry)
	if uint64(len(entries)) > (blocks-at)*uint64(blockSize) {
		return Table{}, nil
	}
	if err := read(entries, int64(at)*int64(blockSize)); err != nil {
		return Table{}, err
	}
	if checksum(entries) != le32(block[88:]) {
		return Table{}, nil
	}
	var t Table
	for i := range min(int(count), gptMaxNumber) {
		e := entries[i*gptEntry:][:gptEntry]
		if unused(e[:16]) || le64(e[32:]) > last || le64(e[40:]) > last {
			continue
		}
		t.GPT = append(t.GPT, Entry{Number: i + 1, UUID: uuid(e[16:32]), Label: label(e[56:128])})
	}
	return t, nil
}

func unused(kind []byte) bool {
	for _, b := range kind {
		if b != 0 {
			return false
		}
	}
	return true
}

// uuid writes the 16 bytes of a GUID, whose first three fields are little
// endian.
func uuid(b []byte) string {
	out := appendHex(make([]byte, 0, 36), uint64(le32(b)), 8)
	out = appendHex(append(out, '-'), uint64(b[4])|uint64(b[5])<<8, 4)
	out = appendHex(append(out, '-'), uint64(b[6])|uint64(b[7])<<8, 4)
	out = append(out, '-')
	for i, c := range b[8:16] {
		if i == 2 {
			out = append(out, '-')
		}
		out = appendHex(out, uint64(c), 2)
	}
	return string(out)
}

// label reads 36 characters of two bytes up to a NUL. Of each the kernel keeps
// the lower byte.
func label(b []byte) string {
	var out []byte
	for i := 0; i+1 < len(b); i += 2 {
		c := b[i]
		if c == 0 {
			break
		}
		if c < ' ' || c >= 0x7f && c < 0xa0 {
			c = '!'
		}
		out = append(out, c)
	}
	return string(out)
}

// checksum is CRC-32 by the bit: a table of disk entries is 16 KiB, and the
// code is small.
func checksum(b []byte) uint32 {
	crc := ^uint32(0)
	for _, c := range b {
		crc ^= uint32(c)
		for range 8 {
			crc = crc>>1 ^ 0xedb88320&-(crc&1)
		}
	}
	return ^crc
}

func appendHex(dst []byte, n uint64, width int) []byte {
	for shift := 4 * (width - 1); shift >= 0; shift -= 4 {
		dst = append(dst, "0123456789abcdef"[n>>shift&15])
	}
	return dst
}

func le32(b []byte) uint32 {
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}

func le64(b []byte) uint64 { return uint64(le32(b)) | uint64(le32(b[4:]))<<32 }
