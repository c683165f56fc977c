package host

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
)

// OpenImage opens a kernel or an initial RAM disk for reading. Errors do not
// name the path.
func OpenImage(path string) (*os.File, os.FileInfo, error) { return open(path, os.O_RDONLY, false) }

// Kernel is what the head of a kernel tells.
type Kernel struct {
	// Size is that of the file in bytes.
	Size int64
	// Memory is what the kernel takes of the guest's until it runs, in bytes,
	// by its own account.
	Memory int64
}

// The formats of a kernel, in the words of a plan.
const (
	bzImage  = "bzImage"
	pvh      = "pvh"
	elfImage = "elf"
	armImage = "arm-image"
)

// CheckKernel says why a file is no kernel that a hypervisor which boots these
// formats can boot directly, or returns what its head tells. Without formats they
// are those of a PC: bzImage and pvh.
//
// A bzImage has 0xAA55 at 0x1FE and "HdrS" at 0x202 (Documentation/arch/x86/
// boot.rst); a vmlinux is an ELF file, with a PVH note, XEN_ELFNOTE_PHYS32_ENTRY,
// or without; on arm64 an Image has "ARM\x64" at 0x38 (Documentation/arch/arm64/
// booting.rst).
func CheckKernel(path string, formats []string) (Kernel, error) {
	if len(formats) == 0 {
		formats = []string{bzImage, pvh}
	}
	f, info, err := open(path, os.O_RDONLY, false)
	if err != nil {
		return Kernel{}, err
	}
	defer f.Close()
	start, err := head(f, 0x264)
	switch {
	case err != nil:
		return Kernel{}, reason(err)
	case len(start) == 0:
		return Kernel{}, fmt.Errorf("the file is empty")
	case bytes.HasPrefix(start, []byte(elf.ELFMAG)):
		return checkELF(f, info.Size(), formats)
	case len(start) >= 0x206 && start[0x1FE] == 0x55 && start[0x1FF] == 0xAA && string(start[0x202:0x206]) == "HdrS":
		k := Kernel{Size: info.Size(), Memory: info.Size()}
		if len(start) >= 0x264 && binary.LittleEndian.Uint16(start[0x206:]) >= 0x20a {
			k.Memory = int64(binary.LittleEndian.Uint32(start[0x260:])) // init_size
		}
		return k, boots(formats, bzImage, "a bzImage")
	case len(start) >= 0x40 && string(start[0x38:0x3c]) == "ARM\x64":
		k := Kernel{Size: info.Size(), Memory: max(info.Size(), int64(binary.LittleEndian.Uint64(start[0x10:]))&(1<<40-1))} // image_size
		return k, boots(formats, armImage, "an Image for arm64")
	}
	return Kernel{}, fmt.Errorf("not a Linux kernel (%s%s)", neither(formats), kindHint(start))
}

// boots says why the hypervisor does not boot a kernel of a format, or nothing.
func boots(formats []string, format, what string) error {
	if slices.Contains(formats, format) {
		return nil
	}
	return fmt.Errorf("this is %s, and this hypervisor boots %s", what, described(formats, " or "))
}

// described are formats for people.
func described(formats []string, or string) string {
	words := map[string]string{
		bzImage: "a bzImage", pvh: "an ELF file (vmlinux) with the PVH note", elfImage: "an ELF file (vmlinux)", armImage: "an uncompressed Image for arm64",
	}
	var out []string
	for _, f := range formats {
		out = append(out, words[f])
	}
	return strings.Join(out, or)
}

func neither(formats []string) string {
	if slices.Equal(formats, []string{bzImage, pvh}) {
		return "neither a bzImage nor an ELF file"
	}
	return "not " + described(formats, ", nor ")
}

func checkELF(f *os.File, size int64, formats []string) (Kernel, error) {
	if !slices.Contains(formats, pvh) && !slices.Contains(formats, elfImage) {
		return Kernel{}, boots(formats, elfImage, "an ELF file (vmlinux)")
	}
	memory, found, err := checkVMLinux(f)
	switch {
	case err != nil:
		return Kernel{}, err
	case !found && !slices.Contains(formats, elfImage):
		return Kernel{}, fmt.Errorf("an ELF file without the PVH note that a kernel with CONFIG_PVH has")
	}
	return Kernel{size, memory}, nil
}

// checkVMLinux returns the memory that the program's segments take, and whether it
// has the note.
func checkVMLinux(f *os.File) (memory int64, note bool, err error) {
	file, err := elf.NewFile(f)
	if err != nil {
		return 0, false, fmt.Errorf("a damaged ELF file")
	}
	defer file.Close()
	if file.Machine != elf.EM_X86_64 {
		return 0, false, fmt.Errorf("an ELF file for %v, not for x86-64", file.Machine)
	}
	for _, p := range file.Progs {
		if p.Type == elf.PT_LOAD {
			memory += int64(min(p.Memsz, 1<<40))
		}
		if p.Type != elf.PT_NOTE || p.Filesz > 1<<20 {
			continue
		}
		notes := make([]byte, p.Filesz)
		if _, err := p.ReadAt(notes, 0); err != nil {
			return 0, false, fmt.Errorf("a damaged ELF file")
		}
		note = note || hasPVHNote(notes, file.ByteOrder)
	}
	return memory, note, nil
}

// hasPVHNote walks the notes: three words (length of name, of contents, type),
// name and contents each padded to 4 bytes.
func hasPVHNote(notes []byte, order binary.ByteOrder) bool {
	const phys32Entry = 18
	for len(notes) >= 12 {
		nameLen, descLen, kind := int(order.Uint32(notes)), int(order.Uint32(notes[4:])), order.Uint32(notes[8:])
		notes = notes[12:]
		name := (nameLen + 3) &^ 3
		desc := (descLen + 3) &^ 3
		if nameLen < 0 || descLen < 0 || name > len(notes) || desc > len(notes)-name {
			return false
		}
		if kind == phys32Entry && bytes.HasPrefix(notes[:nameLen], []byte("Xen")) {
			return true
		}
		notes = notes[name+desc:]
	}
	return false
}

// signature is how a kind of file begins.
type signature struct {
	kind  string
	magic string
}

func initrdSignatures() []signature {
	return []signature{
		{"cpio", "070701"}, {"cpio", "070702"}, {"gzip", "\x1f\x8b"}, {"xz", "\xfd7zXZ\x00"},
		{"zstd", "\x28\xb5\x2f\xfd"}, {"lz4", "\x02\x21\x4c\x18"}, {"bzip2", "BZh"}, {"lzma", "\x5d\x00\x00"}, {"lzo", "\x89LZO"},
	}
}

// CheckInitrd says why a file is no initial RAM disk, or returns its size.
func CheckInitrd(path string) (int64, error) {
	f, info, err := open(path, os.O_RDONLY, false)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	start, err := head(f, 0x210)
	switch {
	case err != nil:
		return 0, reason(err)
	case len(start) == 0:
		return 0, fmt.Errorf("the file is empty")
	}
	for _, s := range initrdSignatures() {
		if bytes.HasPrefix(start, []byte(s.magic)) {
			return info.Size(), nil
		}
	}
	return 0, fmt.Errorf("not an initial RAM disk (neither a cpio archive nor a compression that Linux unpacks%s)", kindHint(start))
}

// kindHint names what a file seems to be instead.
func kindHint(start []byte) string {
	kinds := append([]signature{
		{"a qcow2 image", qcow2Magic}, {"a vhdx image", vhdxMagic}, {"a vhd image", vhdMagic}, {"an ELF file", elf.ELFMAG}, {"a script", "#!"}, {"a zip archive", "PK\x03\x04"},
	}, initrdSignatures()...)
	for _, s := range kinds {
		if bytes.HasPrefix(start, []byte(s.magic)) {
			return "; it begins like " + s.kind
		}
	}
	if len(start) >= 0x206 && string(start[0x202:0x206]) == "HdrS" {
		return "; it begins like a kernel"
	}
	return ""
}
