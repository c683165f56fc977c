package cpio

// HeaderLen is the number of bytes of an entry before its name.
const HeaderLen = 110

// MaxName is the longest name that Linux takes, in bytes without the NUL.
const MaxName = 4095

// The bits of Header.Mode that say what an entry is.
const (
	TypeMask    = 0o170000
	TypeSocket  = 0o140000
	TypeSymlink = 0o120000
	TypeRegular = 0o100000
	TypeBlock   = 0o060000
	TypeDir     = 0o040000
	TypeChar    = 0o020000
	TypeFIFO    = 0o010000
)

const (
	magicNewc     = "070701"
	magicChecksum = "070702"
	magicOld      = "070707"
	trailer       = "TRAILER!!!"
)

// Header is one entry. What a field says is what it means to mknod(2) and
// chown(2); the numbers go into the archive as they are.
type Header struct {
	// Ino, with the device of the file, tells which entries are names of the
	// same file, where NLink is at least two. The writer's caller counts.
	Ino, Mode uint32
	UID, GID  uint32
	NLink     uint32
	// MTime is in seconds since 1970; zero keeps archives reproducible.
	MTime uint32
	// Size is the length of the body in bytes: the content of a regular file,
	// the target of a symbolic link. It is zero for everything else.
	Size                 uint32
	DevMajor, DevMinor   uint32
	RDevMajor, RDevMinor uint32
	// Name is the path without a leading slash, at most MaxName bytes, none
	// of them NUL.
	Name string
}

// HeaderSize returns the bytes that an entry takes before its body, where its
// name has nameLen bytes: header, name, NUL and padding.
func HeaderSize(nameLen int) int {
	n := HeaderLen + nameLen + 1
	return n + Padding(n)
}

// Padding returns how many zeros bring n bytes to the next multiple of four.
func Padding(n int) int { return Pad(n, 4) }

// Pad returns how many zeros bring n bytes to the next multiple of align, which
// is above zero.
func Pad(n, align int) int {
	if rest := n % align; rest != 0 {
		return align - rest
	}
	return 0
}

// AppendHeader appends what stands before the body of h. The caller appends
// h.Size bytes of body and Padding(h.Size) zeros. It allocates nothing if dst
// has room for HeaderSize(len(h.Name)) more bytes.
func AppendHeader(dst []byte, h Header) []byte {
	const checksum = 0 // is for the other magic
	nameSize := uint32(len(h.Name)) + 1
	dst = append(dst, magicNewc...)
	for _, v := range [...]uint32{
		h.Ino, h.Mode, h.UID, h.GID, h.NLink, h.MTime, h.Size,
		h.DevMajor, h.DevMinor, h.RDevMajor, h.RDevMinor, nameSize, checksum,
	} {
		dst = appendHex(dst, v)
	}
	dst = append(dst, h.Name...)
	dst = append(dst, 0)
	return appendZeros(dst, Padding(HeaderLen+len(h.Name)+1))
}

// AppendTrailer appends the entry that ends an archive, HeaderSize(10) bytes.
func AppendTrailer(dst []byte) []byte {
	return AppendHeader(dst, Header{NLink: 1, Name: trailer})
}

func appendHex(dst []byte, v uint32) []byte {
	const digits = "0123456789ABCDEF"
	for shift := 28; shift >= 0; shift -= 4 {
		dst = append(dst, digits[v>>shift&15])
	}
	return dst
}

// appendZeros is for up to three of them.
func appendZeros(dst []byte, n int) []byte {
	return append(dst, "\x00\x00\x00"[:n]...)
}
