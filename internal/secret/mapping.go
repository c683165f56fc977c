package secret

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapping is anonymous memory that the Go runtime knows nothing of. It is kept
// as an address, not as a slice, so that a printer that follows pointers by
// reflection has nothing to walk over.
type mapping struct {
	addr   unsafe.Pointer
	size   int
	locked bool
}

// newMapping maps at least size bytes, zeroed. It fails where the memory cannot
// be had or cannot be kept out of core dumps; a refused lock is recorded only,
// because an unprivileged user may lock a few pages at most.
func newMapping(size int) (mapping, error) {
	if size < 0 {
		return mapping{}, fmt.Errorf("mapping memory for a secret: negative size %d", size)
	}
	page := os.Getpagesize()
	size = max(page, (size+page-1)/page*page)
	addr, err := unix.MmapPtr(-1, 0, nil, uintptr(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return mapping{}, fmt.Errorf("mapping %d bytes for a secret: %w", size, err)
	}
	m := mapping{addr: addr, size: size}
	if err := unix.Madvise(m.bytes(), unix.MADV_DONTDUMP); err != nil {
		m.release()
		return mapping{}, fmt.Errorf("keeping a secret out of core dumps: %w", err)
	}
	// Linux 4.14 and later. No child of ours runs Go code after a fork, so an
	// older kernel only loses the second line of defence.
	_ = unix.Madvise(m.bytes(), unix.MADV_WIPEONFORK)
	m.locked = unix.Mlock(m.bytes()) == nil
	return m, nil
}

// bytes returns the whole mapping. The slice must not outlive it.
func (m mapping) bytes() []byte {
	if m.addr == nil {
		return nil
	}
	return unsafe.Slice((*byte)(m.addr), m.size)
}

// release zeroes the memory and gives it back.
func (m mapping) release() {
	if m.addr == nil {
		return
	}
	clear(m.bytes())
	// munmap of a mapping that exists fails only where the process has no
	// memory left for splitting it; it is empty by then.
	_ = unix.MunmapPtr(m.addr, uintptr(m.size))
}
