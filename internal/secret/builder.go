package secret

import "encoding/base64"

// Builder composes a [Value] of plain text and other values, without a copy on
// the heap. The zero Builder is ready to use. An error sticks and comes out of
// [Builder.Value]. It must not be copied after first use, and is for one
// goroutine.
type Builder struct {
	redacted
	_   [0]func() // not comparable
	mem mapping
	n   int
	err error
}

// NewBuilder returns a builder with room for size bytes, where the size is
// known: growing means copying and wiping.
func NewBuilder(size int) *Builder {
	b := new(Builder)
	b.mem, b.err = newMapping(size)
	return b
}

// extend returns the next n bytes to fill, or nil after an error.
func (b *Builder) extend(n int) []byte {
	if b.err != nil {
		return nil
	}
	if need := b.n + n; need > b.mem.size {
		if b.mem, b.err = grow(b.mem, b.n, max(need, 2*b.mem.size)); b.err != nil {
			b.n = 0
			return nil
		}
	}
	b.n += n
	return b.mem.bytes()[b.n-n : b.n : b.n]
}

// Append adds bytes that are no secret by themselves.
func (b *Builder) Append(p ...byte) { copy(b.extend(len(p)), p) }

// AppendString is [Builder.Append] for a string.
func (b *Builder) AppendString(s string) { copy(b.extend(len(s)), s) }

// AppendValue adds the bytes of v.
func (b *Builder) AppendValue(v *Value) {
	b.use(v, func(p []byte) { copy(b.extend(len(p)), p) })
}

// AppendBase64 adds the standard Base64 form of v, with padding.
func (b *Builder) AppendBase64(v *Value) {
	b.use(v, func(p []byte) {
		if dst := b.extend(base64.StdEncoding.EncodedLen(len(p))); dst != nil {
			base64.StdEncoding.Encode(dst, p)
		}
	})
}

func (b *Builder) use(v *Value, f func([]byte)) {
	err := v.Use(func(p []byte) error { f(p); return nil })
	if b.err == nil {
		b.err = err
	}
}

// Len returns the number of bytes so far.
func (b *Builder) Len() int { return b.n }

// Value returns what was built and leaves the builder empty. After an error
// nothing is returned and what there was is wiped.
func (b *Builder) Value() (*Value, error) {
	m, n, err := b.mem, b.n, b.err
	*b = Builder{}
	if err != nil {
		m.release()
		return nil, err
	}
	if m.addr == nil {
		return FromBytes(nil)
	}
	return newValue(m, n), nil
}

// Wipe drops what was built so far.
func (b *Builder) Wipe() {
	b.mem.release()
	*b = Builder{}
}
