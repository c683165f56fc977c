package decompress

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// unpackZstd takes one frame. Its end is found from the sizes of the blocks
// before anything is unpacked, since the library reads ahead.
func unpackZstd(in *input, emit func([]byte) error) error {
	begin := in.off
	if err := passZstdFrame(in); err != nil {
		return err
	}
	end := in.off

	frame := &input{r: in.r, off: begin, size: end}
	r, err := zstd.NewReader(frame,
		zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderMaxMemory(1<<62))
	if err != nil {
		return fmt.Errorf("starting the zstd decoder: %w", err)
	}
	defer r.Close()
	out := &emitter{emit: emit}
	_, err = r.WriteTo(out)
	switch {
	case frame.err != nil:
		return frame.err
	case out.err != nil:
		return out.err
	case errors.Is(err, zstd.ErrWindowSizeExceeded):
		return &UnsupportedError{"zstd with a large window"}
	case err != nil:
		in.off = begin
		return in.damaged("the zstd stream is damaged that begins")
	}
	return nil
}

// emitter makes a function a writer.
type emitter struct {
	emit func([]byte) error
	err  error
}

func (e *emitter) Write(p []byte) (int, error) {
	if e.err == nil {
		e.err = e.emit(p)
	}
	if e.err != nil {
		return 0, e.err
	}
	return len(p), nil
}

var _ io.Writer = (*emitter)(nil)

// passZstdFrame reads the headers of a frame and its blocks, up to the end.
func passZstdFrame(in *input) error {
	const (
		single   = 0x20
		reserved = 0x08
		checksum = 0x04
	)
	head, err := in.take(5, Zstd)
	if err != nil {
		return err
	}
	flags := head[4]
	if binary.LittleEndian.Uint32(head) != 0xfd2fb528 || flags&reserved != 0 {
		return in.damaged("the zstd stream has a header that Linux does not take")
	}
	rest := []int{0, 1, 2, 4}[flags&3] // the number of a dictionary
	if rest != 0 {
		return in.damaged("the zstd stream needs a dictionary, which Linux does not have,")
	}
	window := uint64(0)
	if flags&single == 0 {
		b, err := in.take(1, Zstd)
		if err != nil {
			return err
		}
		base := uint64(1) << (10 + b[0]>>3)
		window = base + base/8*uint64(b[0]&7)
	}
	sizeLen := []int{0, 2, 4, 8}[flags>>6]
	if sizeLen == 0 && flags&single != 0 {
		sizeLen = 1
	}
	var content [8]byte
	if err := in.into(content[:sizeLen], Zstd); err != nil {
		return err
	}
	if flags&single != 0 {
		window = binary.LittleEndian.Uint64(content[:])
		if sizeLen == 2 {
			window += 256
		}
	}
	if window > maxWindow {
		return &UnsupportedError{fmt.Sprintf("zstd with a window of %d MiB", window>>20)}
	}

	for last := false; !last; {
		const (
			runLength = 1
			invalid   = 3
		)
		b, err := in.take(3, Zstd)
		if err != nil {
			return err
		}
		v := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16
		last = v&1 != 0
		n := int64(v >> 3)
		switch v >> 1 & 3 {
		case runLength:
			n = 1
		case invalid:
			return in.damaged("the zstd stream is damaged")
		}
		if err := in.pass(n, Zstd); err != nil {
			return err
		}
	}
	if flags&checksum != 0 {
		return in.pass(4, Zstd)
	}
	return nil
}
