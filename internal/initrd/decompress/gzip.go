package decompress

import (
	"compress/flate"
	"encoding/binary"
	"hash/crc32"
)

// unpackGzip takes one member. Linux knows no field of the header but the name
// of the file, and passes over the checksum; here a wrong one is an error, since
// what was unpacked is not what was packed.
func unpackGzip(in *input, emit func([]byte) error) error {
	const (
		hasName    = 0x08
		understood = 0x01 | hasName // the other one says that it is text
		deflate    = 8
	)
	head, err := in.take(10, Gzip)
	if err != nil {
		return err
	}
	if head[1] != 0x8b || head[2] != deflate {
		return in.damaged("the gzip stream has a header that Linux does not take")
	}
	if head[3]&^understood != 0 {
		return in.damaged("the gzip stream has optional fields in its header, which Linux takes for data,")
	}
	if head[3]&hasName != 0 {
		for {
			c, err := in.ReadByte()
			if err != nil {
				return in.fail(Gzip)(err)
			}
			if c == 0 {
				break
			}
		}
	}

	sum, length := uint32(0), uint32(0)
	// in is an io.ByteReader, so that flate does not read ahead.
	r := flate.NewReader(in)
	if err := pour(r, in, func(p []byte) error {
		sum = crc32.Update(sum, crc32.IEEETable, p)
		length += uint32(len(p))
		return emit(p)
	}, in.fail(Gzip)); err != nil {
		return err
	}
	tail, err := in.take(8, Gzip)
	if err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(tail) != sum || binary.LittleEndian.Uint32(tail[4:]) != length {
		return in.damaged("the gzip stream is damaged (wrong checksum)")
	}
	return nil
}
