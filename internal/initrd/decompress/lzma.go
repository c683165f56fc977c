package decompress

import (
	"encoding/binary"
	"fmt"

	"github.com/ulikunitz/xz/lzma"
)

// unpackLZMA takes a stream of the old format, which has neither a real magic
// number nor a checksum.
func unpackLZMA(in *input, emit func([]byte) error) error {
	begin := in.off
	head, err := in.take(lzma.HeaderLen, LZMA)
	if err != nil {
		return err
	}
	if window := binary.LittleEndian.Uint32(head[1:]); window > maxWindow {
		return &UnsupportedError{fmt.Sprintf("lzma with a window of %d MiB", window>>20)}
	}
	in.off = begin
	// in is an io.ByteReader, so that the library does not read ahead.
	r, err := lzma.ReaderConfig{DictCap: maxWindow}.NewReader(in)
	if err != nil {
		return in.fail(LZMA)(err)
	}
	return pour(r, in, emit, in.fail(LZMA))
}
