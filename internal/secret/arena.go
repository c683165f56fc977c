package secret

import (
	"io"
	"sync/atomic"
	"unsafe"
)

const (
	// blockSize is what an [Arena] maps at once. An unprivileged user may lock
	// twice as much on any kernel.
	blockSize = 32 << 10
	// blockShare is the size from which a value gets a mapping of its own.
	blockShare = blockSize / 4
)

// Arena reads small secrets into mappings that they share: to map, protect and
// lock memory for each of many takes longer than to read it, and a page for
// each is more than an unprivileged user may lock. The values are wiped one by
// one as ever; the memory goes back to the system when the last of a mapping
// is wiped and the Arena takes no more from it. The zero Arena is ready to use.
// It is for one goroutine, its values are not; it must not be copied.
type Arena struct {
	redacted
	_    [0]func() // not comparable
	now  *block
	used int // bytes of now, those of wiped values too
}

// block is a mapping that several values share.
type block struct {
	mem mapping
	// users are the values that are not wiped, and an Arena that may add more.
	users atomic.Int32
}

// leave gives up the hold of one user, who has left zeros behind.
func (b *block) leave() {
	if b.users.Add(-1) == 0 {
		b.mem.release()
	}
}

// Take is [ReadFrom] for a source whose size is known, with any other it is
// no better.
func (a *Arena) Take(r io.Reader, limit int) (*Value, error) {
	if err := checkLimit(limit); err != nil {
		return nil, err
	}
	size := sizeHint(r)
	if size == 0 || size >= blockShare || size > limit {
		return ReadFrom(r, limit)
	}
	mem, err := a.room(size + 1)
	if err != nil {
		return nil, err
	}
	return readInto(mem, r, limit)
}

// room returns zeroed memory for size bytes, which is less than a block.
func (a *Arena) room(size int) (mapping, error) {
	if a.now == nil || size > a.now.mem.size-a.used {
		mem, err := newMapping(blockSize)
		if err != nil {
			return mapping{}, err
		}
		a.Close()
		a.now = &block{mem: mem}
		a.now.users.Add(1)
	}
	at := a.used
	a.used += size
	a.now.users.Add(1)
	return mapping{addr: unsafe.Add(a.now.mem.addr, at), size: size, locked: a.now.mem.locked, of: a.now}, nil
}

// Close is for when no more is to be read. The values stay what they are.
func (a *Arena) Close() {
	if a.now != nil {
		a.now.leave()
	}
	a.now, a.used = nil, 0
}
