package credential

import (
	"fmt"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/initrd/cpio"
	"github.com/ampoule-vm/ampoule/internal/secret"
	"github.com/ampoule-vm/ampoule/internal/shim/layout"
)

// PackOverlay puts credentials into the beginning of an initial RAM disk: an
// archive that [OverlayTail] goes on with. The result is as secret as its
// input, and the caller's to wipe.
func PackOverlay(creds []Credential) (*secret.Value, error) {
	size := 0
	for _, dir := range overlayDirectories() {
		size += cpio.HeaderSize(len(dir))
	}
	for _, c := range creds {
		size += cpio.HeaderSize(len(archived(stored(c)))) + c.Value.Len() + cpio.Padding(c.Value.Len())
	}
	b := secret.NewBuilder(size)
	defer b.Wipe()
	for i, dir := range overlayDirectories() {
		b.Append(cpio.AppendHeader(nil, cpio.Header{Ino: uint32(i), Mode: cpio.TypeDir | 0o700, NLink: 2, Name: dir})...)
	}
	for i, c := range creds {
		n := c.Value.Len()
		b.Append(header(overlayInodes+uint32(i), 0o400, stored(c), int64(n))...)
		b.AppendValue(c.Value)
		b.Append(make([]byte, cpio.Padding(n))...)
	}
	v, err := b.Value()
	if err == nil && v.Len() != size { // a value was changed meanwhile
		got := v.Len()
		v.Wipe()
		return nil, fmt.Errorf("an archive of %d bytes came out with %d", size, got)
	}
	return v, err
}

// OverlayTail is what follows the credentials in the archive and is public:
// before is the path that the shim executes, where the user named one, and the
// shim's header; then come shimSize bytes of the shim, which has to be the last
// entry (see package layout), and after ends the archive.
func OverlayTail(shimSize int64, next string) (before, after []byte) {
	if next != "" {
		before = append(header(2, 0o400, layout.Next, int64(len(next))), next...)
		before = append(before, make([]byte, cpio.Padding(len(next)))...)
	}
	before = append(before, header(3, 0o755, layout.Init, shimSize)...)
	after = make([]byte, cpio.Padding(int(shimSize)))
	return before, cpio.AppendTrailer(after)
}

// stored is where the shim finds a credential.
func stored(c Credential) string { return layout.Credentials + "/" + c.Guest }

// header stands before the body of a file.
func header(ino, mode uint32, path string, size int64) []byte {
	return cpio.AppendHeader(nil, cpio.Header{Ino: ino, Mode: cpio.TypeRegular | mode, NLink: 1, Size: uint32(size), Name: archived(path)})
}

// overlayInodes is the inode number of the first credential; those below are
// the overlay's own.
const overlayInodes = 4

func overlayDirectories() []string {
	return []string{archived(layout.Dir), archived(layout.Credentials)}
}

// archived is how a path stands in an archive.
func archived(path string) string { return strings.TrimPrefix(path, "/") }
