package fake

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"strings"
)

const highRAM = 0x100000 // where a kernel may begin

// loadKernel reads a kernel as linux-loader does: an ELF file with the note of the
// PVH entry, or else a bzImage. Where neither will do, the words are about bzImage.
func loadKernel(path string, ram uint64) *failure {
	f, err := os.Open(path)
	if err != nil {
		return fail("Cannot open kernel file", osError(err))
	}
	defer f.Close()
	pvh, ok := loadELF(f, ram)
	if ok && !pvh {
		return fail("Kernel lacks PVH header")
	}
	if ok {
		return nil
	}
	if words := loadBzImage(f, ram); words != "" {
		words = "Kernel Loader: " + words
		if strings.HasSuffix(words, "invalid kernel start address") {
			return fail("Cannot load the kernel into memory", words)
		}
		return fail("Cannot load the kernel into memory", "Kernel Loader: failed to load bzImage kernel image: "+words, words)
	}
	return nil
}

// inRAM says whether the guest has memory there.
func inRAM(start, size, ram uint64) bool {
	end := start + size
	return end >= start && end <= min(ram, lowMemory)
}

// loadELF says whether it is a kernel of this kind, and whether it has the note.
func loadELF(f *os.File, ram uint64) (pvh, ok bool) {
	var h elf.Header64
	if err := binary.Read(io.NewSectionReader(f, 0, 1<<62), binary.LittleEndian, &h); err != nil {
		return false, false
	}
	if string(h.Ident[:4]) != elf.ELFMAG || elf.Data(h.Ident[elf.EI_DATA]) != elf.ELFDATA2LSB ||
		h.Phentsize != 56 || h.Phoff < 64 || h.Phoff >= 1<<62 || h.Entry < highRAM {
		return false, false
	}
	headers := make([]elf.Prog64, h.Phnum)
	if err := binary.Read(io.NewSectionReader(f, int64(h.Phoff), 1<<62-int64(h.Phoff)), binary.LittleEndian, headers); err != nil {
		return false, false
	}
	for _, p := range headers {
		switch {
		case elf.ProgType(p.Type) == elf.PT_NOTE:
			if pvh, ok = hasPVHNote(f, p); !ok {
				return false, false
			}
		case elf.ProgType(p.Type) == elf.PT_LOAD && p.Filesz > 0:
			n, err := io.Copy(io.Discard, io.NewSectionReader(f, int64(p.Off), int64(p.Filesz)))
			if err != nil || uint64(n) != p.Filesz || !inRAM(p.Paddr, p.Filesz, ram) {
				return false, false
			}
		}
	}
	return pvh, true
}

// hasPVHNote looks for the note of type 18 of the owner "Xen".
func hasPVHNote(f *os.File, p elf.Prog64) (found, ok bool) {
	if p.Filesz > 1<<20 {
		return false, false
	}
	data := make([]byte, p.Filesz)
	if _, err := f.ReadAt(data, int64(p.Off)); err != nil {
		return false, false
	}
	for len(data) >= 12 {
		name, desc, kind := binary.LittleEndian.Uint32(data), binary.LittleEndian.Uint32(data[4:]), binary.LittleEndian.Uint32(data[8:])
		data = data[12:]
		if kind == 18 && name == 4 && len(data) >= 4 && string(data[:4]) == "Xen\x00" {
			return true, desc >= 4 && len(data) >= 8
		}
		skip := (uint64(name)+3)&^3 + (uint64(desc)+3)&^3
		if skip > uint64(len(data)) {
			return false, skip <= 1<<32 && len(data) == 0
		}
		data = data[skip:]
	}
	return false, len(data) == 0
}

// loadBzImage returns what is wrong with it.
func loadBzImage(f *os.File, ram uint64) string {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return "Kernel Loader: Unable to seek bzImage end"
	}
	setup := make([]byte, 0x30) // from 0x1f1 on
	if _, err := f.ReadAt(setup, 0x1f1); err != nil && !errors.Is(err, io.EOF) {
		return "Unable to read bzImage header"
	}
	at := func(offset int) []byte { return setup[offset-0x1f1:] }
	if string(at(0x202)[:4]) != "HdrS" || binary.LittleEndian.Uint16(at(0x206)) < 0x200 || at(0x211)[0]&1 == 0 {
		return "Invalid bzImage"
	}
	sectors := int64(at(0x1f1)[0])
	if sectors == 0 {
		sectors = 4
	}
	rest := size - (sectors+1)*512
	start := uint64(binary.LittleEndian.Uint32(at(0x214)))
	switch {
	case rest < 0:
		return "Underflow occurred during an arithmetic operation"
	case start < highRAM:
		return "invalid kernel start address"
	}
	n, err := io.Copy(io.Discard, io.NewSectionReader(f, size-rest, rest))
	if err != nil || n != rest || !inRAM(start, uint64(rest), ram) {
		return "Unable to read bzImage compressed kernel"
	}
	return ""
}
