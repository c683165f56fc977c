package decompress

import (
	"encoding/binary"
)

// lz4Block is what a block unpacks to at most; the format leaves it open, Linux
// does not.
const lz4Block = 8 << 20

// unpackLZ4 takes what "lz4 -l" writes: a magic number, then blocks, each with
// its size. The format has no end. For Linux it is the end of the input, or a
// size of zero: what follows must be padded by four zeros at least. The magic
// number may come again anywhere between blocks.
func unpackLZ4(in *input, emit func([]byte) error) error {
	const magic = 0x184c2102
	head, err := in.take(4, LZ4)
	if err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(head) != magic {
		return in.damaged("the lz4 stream has a header that Linux does not take (lz4 -l writes the right one)")
	}
	var packed, unpacked []byte
	for in.size-in.off >= 4 {
		if err := in.into(head, LZ4); err != nil {
			return err
		}
		n := int64(binary.LittleEndian.Uint32(head))
		if n == magic {
			continue
		}
		if n == 0 {
			in.off -= 4
			return nil
		}
		if n > in.size-in.off {
			return &Error{Truncated: true, Offset: in.off - 4, What: "the lz4 stream is cut off, or followed by something else than zeros,"}
		}
		if n > lz4Block+lz4Block/255+16 {
			return in.damaged("the lz4 stream is damaged")
		}
		// A byte stands for 255 at most.
		if most := min(lz4Block, 256*n); int64(len(unpacked)) < most {
			unpacked = make([]byte, most)
		}
		if int64(cap(packed)) < n {
			packed = make([]byte, n)
		}
		if err := in.into(packed[:n], LZ4); err != nil {
			return err
		}
		m, ok := lz4Decode(unpacked, packed[:n])
		if !ok {
			return in.damaged("the lz4 stream is damaged before")
		}
		if err := emit(unpacked[:m]); err != nil {
			return err
		}
	}
	// Linux leaves up to three bytes. If they are no padding, they are the
	// beginning of a size.
	end := in.off
	for in.off < in.size {
		c, err := in.ReadByte()
		if err != nil {
			return err
		}
		if c != 0 {
			return in.early(LZ4)
		}
	}
	in.off = end
	return nil
}

// lz4Decode unpacks one block into dst and returns its length. A block is a row
// of sequences: a token with two lengths of four bits, literal bytes, and a
// distance back to what is copied; the last one ends behind its literals.
func lz4Decode(dst, src []byte) (n int, ok bool) {
	for i := 0; i < len(src); {
		token := int(src[i])
		i++
		literals, ok := lz4Length(token>>4, src, &i)
		if !ok || literals > len(src)-i || literals > len(dst)-n {
			return 0, false
		}
		n += copy(dst[n:], src[i:i+literals])
		i += literals
		if i == len(src) {
			return n, true
		}
		if len(src)-i < 2 {
			return 0, false
		}
		distance := int(src[i]) | int(src[i+1])<<8
		i += 2
		length, ok := lz4Length(token&15, src, &i)
		length += 4
		if !ok || distance == 0 || distance > n || length > len(dst)-n {
			return 0, false
		}
		for length > 0 {
			// Where source and destination overlap, what was copied is copied again.
			m := copy(dst[n:n+length], dst[n-distance:n])
			n += m
			length -= m
			distance += m
		}
	}
	return 0, false
}

// lz4Length goes on with a length of four bits: 15 means that bytes follow, which
// are added up, until one is not 255.
func lz4Length(nibble int, src []byte, i *int) (n int, ok bool) {
	n = nibble
	if n != 15 {
		return n, true
	}
	for *i < len(src) && n <= lz4Block {
		c := src[*i]
		*i++
		n += int(c)
		if c != 255 {
			return n, true
		}
	}
	return 0, false
}
