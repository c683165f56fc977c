package secret

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
)

// ErrWiped is returned for a value whose bytes are gone. It is an error and not
// an empty value, so that a secret used too late cannot arrive as an empty one.
var ErrWiped = errors.New("the secret was wiped")

// ErrTooLarge is returned by [ReadFrom] for a source that holds more bytes than
// the limit.
var ErrTooLarge = errors.New("larger than the limit")

// Value is a secret. Copies of the struct share the bytes, and a wipe through
// one is a wipe for all. The zero Value is empty. Its methods may be called
// from several goroutines.
type Value struct {
	redacted
	r *region
}

// region is the one owner of a mapping.
type region struct {
	mu      sync.RWMutex
	mem     mapping
	n       int // bytes in use
	wiped   bool
	cleanup runtime.Cleanup
}

// newValue makes a value of the first n bytes of m, and its owner.
func newValue(m mapping, n int) *Value {
	r := &region{mem: m, n: n}
	// A value that nobody wiped is wiped by the garbage collector, some day.
	r.cleanup = runtime.AddCleanup(r, mapping.release, m)
	return &Value{r: r}
}

// FromBytes copies b. The caller's copy stays what it is: for values that are
// no secret, and for tests.
func FromBytes(b []byte) (*Value, error) {
	m, err := newMapping(len(b))
	if err != nil {
		return nil, err
	}
	return newValue(m, copy(m.bytes(), b)), nil
}

// Len returns the number of bytes, 0 after a wipe.
func (v Value) Len() int {
	if v.r == nil {
		return 0
	}
	v.r.mu.RLock()
	defer v.r.mu.RUnlock()
	return v.r.n
}

// Locked reports whether the memory is locked and thus never swapped. It is
// false where RLIMIT_MEMLOCK or the sandbox refused.
func (v Value) Locked() bool {
	if v.r == nil {
		return true
	}
	v.r.mu.RLock()
	defer v.r.mu.RUnlock()
	return v.r.wiped || v.r.mem.locked
}

// Wipe zeroes the bytes and returns the memory to the system. Later calls do
// nothing. It waits for a running [Value.Use].
func (v Value) Wipe() {
	if v.r == nil {
		return
	}
	v.r.mu.Lock()
	defer v.r.mu.Unlock()
	if v.r.wiped {
		return
	}
	v.r.cleanup.Stop()
	v.r.mem.release()
	v.r.mem, v.r.n, v.r.wiped = mapping{}, 0, true
}

// Use calls f with the bytes and returns its error, or [ErrWiped]. The slice is
// valid during the call only. f must neither keep, change nor copy it, nor call
// methods of the same value.
func (v Value) Use(f func([]byte) error) error {
	if v.r == nil {
		return f(nil)
	}
	v.r.mu.RLock()
	defer v.r.mu.RUnlock()
	if v.r.wiped {
		return ErrWiped
	}
	n := v.r.n
	return f(v.r.mem.bytes()[:n:n])
}

// WriteTo writes the bytes to w in one call. A w that is an [os.File] or a
// socket makes no copy in this process; most other writers do.
func (v Value) WriteTo(w io.Writer) (int64, error) {
	var n int
	err := v.Use(func(b []byte) (err error) {
		n, err = w.Write(b)
		return err
	})
	return int64(n), err
}

// Equal reports whether both values have the same bytes. The time it takes
// depends on the lengths only. A wiped value equals none.
func (v Value) Equal(other *Value) bool {
	if v.r != nil && v.r == other.r {
		return v.Use(func([]byte) error { return nil }) == nil
	}
	equal := false
	err := v.Use(func(a []byte) error {
		return other.Use(func(b []byte) error {
			equal = subtle.ConstantTimeCompare(a, b) == 1
			return nil
		})
	})
	return err == nil && equal
}

// EqualBytes is [Value.Equal] for bytes that are no secret.
func (v Value) EqualBytes(other []byte) bool {
	equal := false
	err := v.Use(func(b []byte) error {
		equal = subtle.ConstantTimeCompare(b, other) == 1
		return nil
	})
	return err == nil && equal
}

const (
	// maxEmptyReads is how often a reader may return nothing at all.
	maxEmptyReads = 100
	// maxLimit is far above any limit in use, and far below an overflow.
	maxLimit = 1 << 30
)

// ReadFrom reads r to its end, straight into the memory of the value: what r
// delivers into the slice it is given is never on the heap. More than limit
// bytes are refused with [ErrTooLarge]. Errors are those of r and hold no
// content.
func ReadFrom(r io.Reader, limit int) (*Value, error) {
	if limit < 0 || limit > maxLimit {
		return nil, fmt.Errorf("reading a secret: limit %d is not within 0 and %d", limit, maxLimit)
	}
	// One byte more than allowed is asked for, to see that there is more.
	mem, err := newMapping(min(limit, sizeHint(r)) + 1)
	if err != nil {
		return nil, err
	}
	n, empty := 0, 0
	for {
		if n == mem.size {
			if mem, err = grow(mem, n, 2*mem.size); err != nil {
				return nil, err
			}
		}
		k, err := r.Read(mem.bytes()[n:min(mem.size, limit+1)])
		n += k
		switch {
		case n > limit:
			mem.release()
			return nil, fmt.Errorf("%w of %d bytes", ErrTooLarge, limit)
		case err == io.EOF:
			return newValue(mem, n), nil
		case err == nil && k == 0:
			if empty++; empty >= maxEmptyReads {
				err = io.ErrNoProgress
			}
		default:
			empty = 0
		}
		if err != nil {
			mem.release()
			return nil, err
		}
	}
}

// sizeHint returns the size of a regular file, 0 where it is not known.
func sizeHint(r io.Reader) int {
	f, ok := r.(*os.File)
	if !ok {
		return 0
	}
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() || st.Size() > maxLimit {
		return 0
	}
	return int(st.Size())
}

// grow moves the first n bytes of m into a larger mapping. The old one is wiped
// in any case.
func grow(m mapping, n, size int) (mapping, error) {
	defer m.release()
	larger, err := newMapping(size)
	if err != nil {
		return mapping{}, err
	}
	copy(larger.bytes(), m.bytes()[:n])
	return larger, nil
}
