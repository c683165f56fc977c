package decompress

import (
	"encoding/binary"
	"io"
	"math/bits"
)

// x86Reader takes back what xz's x86 filter did. The filter looks for the
// opcodes of call and jump (E8, E9) and replaces the distance that follows, where
// its highest byte is 00 or FF, by the address it leads to. Since the operand of
// one may look like the opcode of another, both sides remember which of the last
// three bytes were opcodes that were left alone.
type x86Reader struct {
	r    io.Reader
	err  error // of r, once it is met
	buf  []byte
	from int // buf[from:done] is ready
	done int

	address uint32 // of buf[done]
	alone   uint8  // one bit for each of the last three bytes, the last one lowest
}

func newX86Reader(r io.Reader) *x86Reader {
	return &x86Reader{r: r, buf: make([]byte, 0, 64<<10)}
}

// Read implements io.Reader.
func (x *x86Reader) Read(p []byte) (int, error) {
	for x.from == x.done {
		if x.err != nil {
			return 0, x.err
		}
		rest := copy(x.buf, x.buf[x.done:])
		x.from, x.done = 0, 0
		n, err := x.r.Read(x.buf[rest:cap(x.buf)])
		x.buf, x.err = x.buf[:rest+n], err
		if x.done = x.undo(x.buf); err != nil {
			x.done = len(x.buf) // too short for an operand
		}
		x.address += uint32(x.done)
	}
	n := copy(p, x.buf[x.from:x.done])
	x.from += n
	return n, nil
}

// undo works on p in place and returns how much of it is done.
func (x *x86Reader) undo(p []byte) int {
	const operand = 4
	last, i := -1, 0
	for ; i < len(p)-operand; i++ {
		if p[i]&0xfe != 0xe8 {
			continue
		}
		x.pass(i - last)
		last = i
		confusing := x.alone != 0 && (bits.OnesCount8(x.alone) > 1 || extends(p[i+operand-bits.Len8(x.alone)]))
		if confusing || !extends(p[i+operand]) {
			x.alone = x.alone<<1 | 1
			continue
		}
		v := binary.LittleEndian.Uint32(p[i+1:])
		for {
			v -= x.address + uint32(i) + 1 + operand
			shift := 8 * bits.Len8(x.alone)
			if shift == 0 || !extends(byte(v>>(24-shift))) {
				break
			}
			v ^= 1<<(32-shift) - 1
		}
		// 25 bits with a sign
		v &= 1<<25 - 1
		v |= -(v & (1 << 24))
		binary.LittleEndian.PutUint32(p[i+1:], v)
		i += operand
	}
	if i == 0 {
		return 0
	}
	x.pass(i - last)
	return i
}

// pass moves on by so many bytes from the last opcode.
func (x *x86Reader) pass(n int) {
	if n > 3 {
		x.alone = 0
		return
	}
	x.alone = x.alone << (n - 1) & 7
}

// extends reports whether b is the highest byte of a small distance.
func extends(b byte) bool { return b == 0 || b == 0xff }
