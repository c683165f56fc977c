// Package decompress unpacks what Linux unpacks for itself: the compressions of
// initial RAM disks and of kernels.
//
// It differs from the libraries it stands on in what Linux needs: a stream is
// found by two bytes, there is exactly one, and what matters most is where it
// ends, since something else may follow. A stream that Linux would not take is
// an error, also where other tools take it. Everything is streamed.
//
// What is in the streams, and files, are not here.
package decompress

import (
	"errors"
	"fmt"
	"io"
)

// The names of the compressions, as Linux calls them.
const (
	Gzip  = "gzip"
	Bzip2 = "bzip2"
	LZMA  = "lzma"
	XZ    = "xz"
	LZO   = "lzo"
	LZ4   = "lz4"
	Zstd  = "zstd"
)

// MagicLen is the number of bytes by which Linux tells a compression.
const MagicLen = 2

// Detect returns the compression for which Linux takes a stream that begins like
// head, or "". Being taken for it does not mean that it is one.
func Detect(head []byte) string {
	if len(head) < MagicLen {
		return ""
	}
	switch [MagicLen]byte(head) {
	case [...]byte{0x1f, 0x8b}, [...]byte{0x1f, 0x9e}:
		return Gzip
	case [...]byte{0x42, 0x5a}:
		return Bzip2
	case [...]byte{0x5d, 0x00}:
		return LZMA
	case [...]byte{0xfd, 0x37}:
		return XZ
	case [...]byte{0x89, 0x4c}:
		return LZO
	case [...]byte{0x02, 0x21}:
		return LZ4
	case [...]byte{0x28, 0xb5}:
		return Zstd
	}
	return ""
}

// Error is what is wrong with a stream.
type Error struct {
	// Truncated: all there is is right, but it ends too early.
	Truncated bool
	// Offset is where in the input, as exactly as is known.
	Offset int64
	// What is a sentence without the place.
	What string
}

// Error returns the text with the place.
func (e *Error) Error() string { return fmt.Sprintf("%s at byte %d", e.What, e.Offset) }

// UnsupportedError says that Linux may well take a stream that this package
// does not unpack.
type UnsupportedError struct {
	// What is the compression, with what is special about the stream.
	What string
}

func (e *UnsupportedError) Error() string { return e.What + " is not unpacked here" }

// maxWindow bounds the memory for what a stream refers back to, in bytes. Streams
// may ask for more, and Linux may grant it; they are not unpacked here.
const maxWindow = 128 << 20

// Unpack calls emit with what the stream of the given compression, which begins
// at off in the first size bytes of r, unpacks to, piece by piece; emit must not
// keep a piece. It returns the offset behind the stream.
//
// The error is an *[Error], an *[UnsupportedError], what emit returned, or what
// r returned.
func Unpack(compression string, r io.ReaderAt, off, size int64, emit func([]byte) error) (end int64, err error) {
	in := &input{r: r, off: off, size: size}
	switch compression {
	case Gzip:
		err = unpackGzip(in, emit)
	case Bzip2:
		err = unpackBzip2(in, emit)
	case LZMA:
		err = unpackLZMA(in, emit)
	case XZ:
		err = unpackXZ(in, emit)
	case LZ4:
		err = unpackLZ4(in, emit)
	case Zstd:
		err = unpackZstd(in, emit)
	default:
		return 0, &UnsupportedError{compression}
	}
	if in.err != nil {
		// The decoder may have wrapped it, or said something else instead.
		return 0, in.err
	}
	if err != nil {
		return 0, err
	}
	return in.off, nil
}

// pieceSize is how much is unpacked at a time.
const pieceSize = 128 << 10

// pour calls emit with all that r gives. An error of r that is no error of the
// input or of emit goes through explain.
func pour(r io.Reader, in *input, emit func([]byte) error, explain func(error) error) error {
	buf := make([]byte, pieceSize)
	for {
		n, err := r.Read(buf)
		// What comes with an error may be made up.
		if n > 0 && (err == nil || err == io.EOF) {
			if err := emit(buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case in.err != nil:
			return in.err
		case err != nil:
			return explain(err)
		}
	}
}

// input is a section of an io.ReaderAt that is read byte by byte without reading
// ahead, as far as off tells. It remembers an error that is not the end.
type input struct {
	r    io.ReaderAt
	off  int64 // of the next byte
	size int64
	err  error

	buf   []byte
	start int64 // of buf
}

// damaged returns an error about what was read last.
func (in *input) damaged(format string, args ...any) error {
	return &Error{Offset: in.off, What: fmt.Sprintf(format, args...)}
}

// early returns the error of a stream that ends too early.
func (in *input) early(compression string) error {
	return &Error{Truncated: true, Offset: in.size, What: "the " + compression + " stream is cut off"}
}

// fail is damaged, or early where err says so.
func (in *input) fail(compression string) func(error) error {
	return func(err error) error {
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || in.off >= in.size {
			return in.early(compression)
		}
		return in.damaged("the %s stream is damaged", compression)
	}
}

// fill makes buf hold the byte at off.
func (in *input) fill() error {
	if in.err != nil {
		return in.err
	}
	if in.off >= in.start && in.off < in.start+int64(len(in.buf)) {
		return nil
	}
	if in.off >= in.size {
		return io.EOF
	}
	if in.buf == nil {
		in.buf = make([]byte, 0, 64<<10)
	}
	in.start = in.off
	in.buf = in.buf[:min(int64(cap(in.buf)), in.size-in.off)]
	if err := readAt(in.r, in.buf, in.off); err != nil {
		in.err, in.buf = err, in.buf[:0]
		return err
	}
	return nil
}

// readAt fills p, and tells a file that is shorter than was said from its end.
func readAt(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return fmt.Errorf("reading at byte %d: %w", off+int64(n), io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("reading at byte %d: %w", off+int64(n), err)
}

// ReadByte implements io.ByteReader.
func (in *input) ReadByte() (byte, error) {
	if err := in.fill(); err != nil {
		return 0, err
	}
	b := in.buf[in.off-in.start]
	in.off++
	return b, nil
}

// Read implements io.Reader.
func (in *input) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := in.fill(); err != nil {
		return 0, err
	}
	n := copy(p, in.buf[in.off-in.start:])
	in.off += int64(n)
	return n, nil
}

// take reads exactly the n bytes of a header of the given compression.
func (in *input) take(n int, compression string) ([]byte, error) {
	p := make([]byte, n)
	return p, in.into(p, compression)
}

// into fills p from the stream of the given compression.
func (in *input) into(p []byte, compression string) error {
	if in.size-in.off < int64(len(p)) {
		return in.early(compression)
	}
	if _, err := io.ReadFull(in, p); err != nil {
		return err
	}
	return nil
}

// pass goes n bytes on, unseen.
func (in *input) pass(n int64, compression string) error {
	if in.size-in.off < n {
		return in.early(compression)
	}
	in.off += n
	return nil
}
