package initrd

import (
	"bytes"
	"encoding/binary"
	"strings"
)

// Bounds of what is looked at in a program. Real ones have about a dozen segments
// and some dozens of entries.
const (
	maxSegmentsELF = 256
	maxDynamic     = 4096
	maxSoname      = 256
)

// program is the content of an ELF file. Reading behind its end gives zeros.
type program struct {
	data  []byte
	order binary.ByteOrder
	wide  bool // 64 bits
}

// word reads size bytes, which is 2, 4 or 8.
func (f *program) word(off uint64, size int) uint64 {
	if off > uint64(len(f.data)) || uint64(len(f.data))-off < uint64(size) {
		return 0
	}
	p := f.data[off:]
	switch size {
	case 2:
		return uint64(f.order.Uint16(p))
	case 4:
		return uint64(f.order.Uint32(p))
	}
	return f.order.Uint64(p)
}

// field reads an address, whose offset and size depend on the width.
func (f *program) field(base, narrow, wide uint64) uint64 {
	if f.wide {
		return f.word(base+wide, 8)
	}
	return f.word(base+narrow, 4)
}

// segments calls each with the program headers.
func (f *program) segments(each func(kind, off, address, size uint64)) {
	table := f.field(0, 28, 32)
	entry, count := f.word(42, 2), f.word(44, 2)
	if f.wide {
		entry, count = f.word(54, 2), f.word(56, 2)
	}
	for i := range min(count, maxSegmentsELF) {
		at := table + i*entry
		each(f.word(at, 4), f.field(at, 4, 8), f.field(at, 8, 16), f.field(at, 16, 32))
	}
}

// linksSystemd reports whether a program, of which all is given, asks the dynamic
// linker for a library that is systemd's own: other programs may mention them in
// their texts. What is not understood does not.
func linksSystemd(data []byte) bool {
	if len(data) < 6 || !bytes.HasPrefix(data, []byte("\x7fELF")) {
		return false
	}
	f := &program{data: data, order: binary.LittleEndian, wide: data[4] == 2}
	if data[5] == 2 {
		f.order = binary.BigEndian
	}
	var dynamic, size uint64
	f.segments(func(kind, off, _, n uint64) {
		if kind == 2 { // PT_DYNAMIC
			dynamic, size = off, n
		}
	})
	const (
		end    = 0
		needed = 1
		texts  = 5
	)
	width := uint64(8)
	if f.wide {
		width = 16
	}
	var names []uint64
	table, found := uint64(0), false
	for i := range min(size/width, maxDynamic) {
		at := dynamic + i*width
		tag, value := f.field(at, 0, 0), f.field(at, 4, 8)
		switch tag {
		case needed:
			names = append(names, value)
		case texts:
			// An address; the file has it where a segment is loaded from.
			f.segments(func(kind, off, address, n uint64) {
				if kind == 1 && value >= address && value-address < n { // PT_LOAD
					table, found = off+value-address, true
				}
			})
		}
		if tag == end {
			break // what comes behind is not read by anybody
		}
	}
	for _, name := range names {
		if found && isSystemds(f.text(table+name)) {
			return true
		}
	}
	return false
}

// text returns the string at an offset, or nothing where it has no end.
func (f *program) text(off uint64) string {
	if off > uint64(len(f.data)) {
		return ""
	}
	p := f.data[off:]
	text, _, ended := bytes.Cut(p[:min(len(p), maxSoname)], []byte{0})
	if !ended {
		return ""
	}
	return string(text)
}

// isSystemds reports whether a library is one that systemd links with and that
// other programs do not that could be a first program. Its version is in its name.
func isSystemds(soname string) bool {
	for _, library := range [...]string{"libsystemd-core-", "libsystemd-shared-"} {
		if version, ok := strings.CutPrefix(soname, library); ok {
			return version != "" && version[0] >= '0' && version[0] <= '9'
		}
	}
	return false
}
