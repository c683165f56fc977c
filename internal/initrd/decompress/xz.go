package decompress

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/ulikunitz/xz/lzma"
)

// The filters of an xz block, by their numbers in the format.
const (
	xzX86   = 0x04
	xzLZMA2 = 0x21
)

// xzCureCheck is what most tools must be told.
const xzCureCheck = "(xz --check=crc32 writes the one that Linux takes)"

// xzBlock is one block: what its header says, and where its data are.
type xzBlock struct {
	x86      bool
	window   uint64
	packed   uint64 // ^0: not said
	unpacked uint64 // ^0: not said

	data, end int64  // offsets of the LZMA2 chunks
	size      uint64 // what they say they unpack to
}

// unpackXZ takes one stream. The container is read here and LZMA2 by the
// library: Linux takes no other checksum than CRC-32 and has filters that the
// library lacks.
func unpackXZ(in *input, emit func([]byte) error) error {
	head, err := in.take(12, XZ)
	if err != nil {
		return err
	}
	if !bytes.Equal(head[:6], []byte("\xfd7zXZ\x00")) || !crcFits(head[6:12]) || head[6] != 0 {
		return in.damaged("the xz stream has a header that Linux does not take")
	}
	check := head[7]
	switch check {
	case 0, 1:
	case 4:
		return in.damaged("the xz stream has CRC-64 checksums %s", xzCureCheck)
	default:
		return in.damaged("the xz stream has checksums of another kind than CRC-32 %s", xzCureCheck)
	}

	index := []byte(nil)
	for blocks := uint64(0); ; blocks++ {
		begin := in.off
		first, err := in.take(1, XZ)
		if err != nil {
			return err
		}
		if first[0] == 0 {
			return passXZIndex(in, blocks, index, check)
		}
		block, err := readXZBlockHeader(in, first[0])
		if err != nil {
			return err
		}
		sum, err := unpackXZBlock(in, block, emit)
		if err != nil {
			return err
		}
		if check == 1 {
			want, err := in.take(4, XZ)
			if err != nil {
				return err
			}
			if binary.LittleEndian.Uint32(want) != sum {
				return in.damaged("the xz stream is damaged (wrong checksum)")
			}
		}
		unpadded := uint64(in.off-begin) - uint64(-(block.end-block.data)&3)
		index = binary.AppendUvarint(binary.AppendUvarint(index, unpadded), block.size)
	}
}

// crcFits reports whether the last four bytes of p are the sum of the others.
func crcFits(p []byte) bool {
	n := len(p) - 4
	return binary.LittleEndian.Uint32(p[n:]) == crc32.ChecksumIEEE(p[:n])
}

// readXZBlockHeader reads the header that begins with a byte of the given value.
func readXZBlockHeader(in *input, first byte) (*xzBlock, error) {
	header := make([]byte, 4*(int(first)+1))
	header[0] = first
	if err := in.into(header[1:], XZ); err != nil {
		return nil, err
	}
	if !crcFits(header) {
		return nil, in.damaged("the xz stream is damaged")
	}
	b := &xzBlock{packed: ^uint64(0), unpacked: ^uint64(0)}
	flags, p := header[1], &fields{header[2 : len(header)-4], true}
	if flags&0x40 != 0 {
		b.packed = p.number()
	}
	if flags&0x80 != 0 {
		b.unpacked = p.number()
	}
	for i := range flags&3 + 1 {
		id, properties := p.number(), p.bytes(p.number())
		switch last := i == flags&3; {
		case !p.ok:
			return nil, in.damaged("the xz stream is damaged")
		case id == xzLZMA2 && last && len(properties) == 1 && properties[0] <= 40:
			b.window = lzma2Window(properties[0])
		case id == xzX86 && flags&3 == 1 && len(properties) == 0:
			b.x86 = true
		default:
			return nil, &UnsupportedError{fmt.Sprintf("xz with filter %#x", id)}
		}
	}
	if b.window > maxWindow {
		return nil, &UnsupportedError{fmt.Sprintf("xz with a window of %d MiB", b.window>>20)}
	}
	return b, nil
}

// lzma2Window decodes the size of a dictionary: two bits of mantissa.
func lzma2Window(b byte) uint64 {
	if b == 40 {
		return 1<<32 - 1
	}
	return (2 | uint64(b&1)) << (b/2 + 11)
}

// fields takes numbers and bytes off the front; ok falls when there is nothing
// to be taken, or a number is not written as it should be.
type fields struct {
	p  []byte
	ok bool
}

func (f *fields) number() uint64 {
	v, n := binary.Uvarint(f.p)
	if n <= 0 || n > 9 || n > 1 && f.p[n-1] == 0 {
		f.ok, f.p = false, nil
		return 0
	}
	f.p = f.p[n:]
	return v
}

func (f *fields) bytes(n uint64) []byte {
	if n > uint64(len(f.p)) {
		f.ok, f.p = false, nil
		return nil
	}
	out := f.p[:n]
	f.p = f.p[n:]
	return out
}

// unpackXZBlock unpacks a block and its padding and returns its CRC-32.
func unpackXZBlock(in *input, b *xzBlock, emit func([]byte) error) (sum uint32, err error) {
	b.data = in.off
	if err := passLZMA2(in, b); err != nil {
		return 0, err
	}
	b.end = in.off
	if b.packed != ^uint64(0) && b.packed != uint64(b.end-b.data) || b.unpacked != ^uint64(0) && b.unpacked != b.size {
		return 0, in.damaged("the xz stream is damaged")
	}

	data := &input{r: in.r, off: b.data, size: b.end}
	window := max(lzma.MinDictCap, min(b.window, b.size))
	var r io.Reader
	r, err = lzma.Reader2Config{DictCap: int(window)}.NewReader2(data)
	switch {
	case data.err != nil:
		return 0, data.err
	case err != nil:
		return 0, in.damaged("the xz stream is damaged before")
	}
	if b.x86 {
		r = newX86Reader(r)
	}
	n := uint64(0)
	err = pour(r, data, func(p []byte) error {
		n += uint64(len(p))
		sum = crc32.Update(sum, crc32.IEEETable, p)
		return emit(p)
	}, func(error) error { return in.damaged("the xz stream is damaged before") })
	if err != nil {
		return 0, err
	}
	if n != b.size {
		return 0, in.damaged("the xz stream is damaged before")
	}
	padding, err := in.take(int(-(b.end-b.data)&3), XZ)
	if err != nil {
		return 0, err
	}
	if len(bytes.Trim(padding, "\x00")) != 0 {
		return 0, in.damaged("the xz stream is damaged")
	}
	return sum, nil
}

// passLZMA2 reads the headers of the chunks of a block, up to its end.
func passLZMA2(in *input, b *xzBlock) error {
	for {
		control, err := in.take(1, XZ)
		if err != nil {
			return err
		}
		c := control[0]
		switch {
		case c == 0:
			return nil
		case c < 0x80 && c > 2:
			return in.damaged("the xz stream is damaged")
		}
		size, err := in.take(2, XZ)
		if err != nil {
			return err
		}
		n := int64(binary.BigEndian.Uint16(size)) + 1
		if c < 0x80 { // not packed
			b.size += uint64(n)
			if err := in.pass(n, XZ); err != nil {
				return err
			}
			continue
		}
		b.size += uint64(n) + uint64(c&0x1f)<<16
		if size, err = in.take(2, XZ); err != nil {
			return err
		}
		n = int64(binary.BigEndian.Uint16(size)) + 1
		if c >= 0xc0 {
			n++ // new properties
		}
		if err := in.pass(n, XZ); err != nil {
			return err
		}
	}
}

// passXZIndex reads the index behind the blocks, of which its first byte is
// taken, and the footer.
func passXZIndex(in *input, blocks uint64, records []byte, check byte) error {
	index := append(binary.AppendUvarint([]byte{0}, blocks), records...)
	for len(index)%4 != 0 {
		index = append(index, 0)
	}
	index = binary.LittleEndian.AppendUint32(index, crc32.ChecksumIEEE(index))
	got, err := in.take(len(index)-1, XZ)
	if err != nil {
		return err
	}
	footer, err := in.take(12, XZ)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, index[1:]) || string(footer[10:]) != "YZ" || footer[8] != 0 || footer[9] != check ||
		binary.LittleEndian.Uint32(footer) != crc32.ChecksumIEEE(footer[4:10]) ||
		(uint64(binary.LittleEndian.Uint32(footer[4:]))+1)*4 != uint64(len(index)) {
		return in.damaged("the xz stream is damaged")
	}
	return nil
}
