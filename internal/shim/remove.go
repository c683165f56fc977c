package shim

import (
	"syscall"

	"github.com/ampoule-vm/ampoule/internal/shim/layout"
)

// removeOverlay removes all that came with the overlay, this program's own file
// included, and overwrites what it can.
func removeOverlay() error {
	return first(empty(layout.Dir, maxDepth), doing("removing "+layout.Dir, syscall.Rmdir(layout.Dir)))
}

// maxDepth is how many levels of directories the shim goes into. The overlay
// has two.
const maxDepth = 8

// empty overwrites and removes all that is in a directory. It goes on after an
// error and returns the first.
func empty(path string, depth int) error {
	names, err := list(path)
	if err != nil {
		return doing("reading "+path, err)
	}
	var out error
	for _, name := range names {
		below := path + "/" + name
		switch is, err := isDirectory(below); {
		case err != nil:
			out = first(out, doing("looking at "+below, err))
		case is && depth > 1:
			out = first(out, empty(below, depth-1), doing("removing "+below, syscall.Rmdir(below)))
		default:
			out = first(out, removeFile(below))
		}
	}
	return out
}

// first returns the first error.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// removeFile overwrites a regular file and removes it. One with a second name
// may be a part of the guest and is not overwritten; this running program
// cannot be.
func removeFile(path string) error {
	var overwritten error
	if fd, err := syscall.Open(path, syscall.O_WRONLY|syscall.O_NOFOLLOW|syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0); err == nil {
		var st syscall.Stat_t
		if err := syscall.Fstat(fd, &st); err == nil && st.Mode&syscall.S_IFMT == syscall.S_IFREG && st.Nlink == 1 {
			overwritten = overwrite(fd, st.Size, make([]byte, 32<<10))
		}
		closeFile(fd)
	}
	return first(doing("overwriting "+path, overwritten), doing("removing "+path, syscall.Unlink(path)))
}

// image is where a kernel with RAM disks built in keeps the whole initial RAM
// disk if some part of it could not be unpacked.
const image = "/initrd.image"

// removeImage removes that file if it begins with the overlay, whose values it
// has then.
func removeImage() {
	fd, err := syscall.Open(image, syscall.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	const header = 110 // bytes of a cpio header, and then the name
	want := layout.Dir[1:] + "\x00"
	begin := make([]byte, header+len(want))
	n, err := syscall.Pread(fd, begin, 0)
	closeFile(fd)
	if err == nil && n == len(begin) && string(begin[:6]) == "070701" && string(begin[header:]) == want {
		_ = removeFile(image)
	}
}
