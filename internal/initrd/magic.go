package initrd

import "bytes"

// begins is what a file of some format has at some offset.
type begins struct {
	offset int
	magic  string
	name   string
}

// foreignPackers are those that Linux does not read, or not in this form.
func foreignPackers() []begins {
	return []begins{
		{0, "\x04\x22\x4d\x18", "lz4 in its frame format"},
		{1, "\x2a\x4d\x18", "zstd in several frames"},
		{0, "\x1f\x9d", "compress"},
		{0, "\x1f\xa0", "compress"},
		{0, "\x1f\x1e", "pack"},
		{0, "LZIP", "lzip"},
		{0, "7z\xbc\xaf\x27\x1c", "7-Zip"},
		{0, "PK\x03\x04", "zip"},
		{0, "Rar!", "rar"},
		{0, "\x06\x06\x06LZFS", "lzfse"},
		{0, "SZDD", "compress.exe"},
	}
}

// formats are what is given by mistake, or was given in old times.
func formats() []begins {
	return []begins{
		{0, "07070", "a cpio archive (an archive that is not compressed must begin at a multiple of 4)"},
		{0, "\xc7\x71", "a cpio archive in the old binary format"},
		{0, "\x71\xc7", "a cpio archive in the old binary format"},
		{257, "ustar", "a tar archive"},
		{0, "\x7fELF", "an ELF program"},
		{0, "MZ", "an EFI program, a kernel or a unified kernel image"},
		{0, "#!", "a script"},
		{1024, "\xe2\xe1\xf5\xe0", "an erofs file system"},
		{0, "QFI\xfb", "a qcow2 disk"},
		{0, "\xd0\x0d\xfe\xed", "a device tree"},
		{0, "-----BEGIN", "a PEM file"},
	}
}

// ramDisks are the file systems that Linux looks for in the image of a RAM disk
// (init/do_mounts_rd.c).
func ramDisks() []begins {
	return []begins{
		{0, "-rom1fs-", "a romfs file system"},
		{0, "hsqs", "a squashfs file system"},
		{0, "\x45\x3d\xcd\x28", "a cramfs file system"},
		{512, "\x45\x3d\xcd\x28", "a cramfs file system"},
		{1080, "\x53\xef", "an ext2, ext3 or ext4 file system"},
		{1040, "\x7f\x13", "a minix file system"},
		{1040, "\x8f\x13", "a minix file system"},
		{1040, "\x68\x24", "a minix file system"},
		{1040, "\x78\x24", "a minix file system"},
	}
}

// ramDisk names the file system that a file begins with whose first bytes are
// head. Two bytes are no evidence against an archive: it is asked last.
func ramDisk(head []byte) string { return match(head, ramDisks()) }

func match(head []byte, table []begins) string {
	for _, b := range table {
		if len(head) > b.offset && bytes.HasPrefix(head[b.offset:], []byte(b.magic)) {
			return b.name
		}
	}
	return ""
}

// foreignPacker names what a file is compressed by where Linux cannot read it.
func foreignPacker(head []byte) string { return match(head, foreignPackers()) }

// looksLike describes what begins with head for a message: never with the bytes
// themselves, since nobody knows what file was named.
func looksLike(head []byte) string {
	if name := match(head, formats()); name != "" {
		return name
	}
	if name := ramDisk(head); name != "" {
		return name
	}
	if name := foreignPacker(head); name != "" {
		return "something compressed by " + name
	}
	return "something unknown"
}
