package decompress

import (
	"compress/bzip2"
	"errors"
	"io"
)

// unpackBzip2 takes one stream. The library reads on into what follows, to see
// whether it is another stream. Two tricks keep it in bounds:
//
//   - a stream is begun by ten bytes that stand nowhere else, so that there the
//     end of the input is pretended;
//   - behind the end there are two bytes that do not begin a stream.
//
// So the library always ends with an error whose place is known.
// What follows and looks like another stream for two bytes only is damage, as it
// would be on its own.
func unpackBzip2(in *input, emit func([]byte) error) error {
	r := &bzip2Input{in: in, first: in.off, limit: in.size}
	const notContinued = bzip2.StructuralError("bad magic value in continuation file")
	return pour(bzip2.NewReader(r), in, emit, func(err error) error {
		if errors.Is(err, notContinued) {
			// It has read two bytes to see that.
			in.off = r.off() - 2
			if in.off <= r.limit {
				return nil
			}
			return in.early(Bzip2)
		}
		if r.past > 0 {
			return in.early(Bzip2)
		}
		return in.damaged("the bzip2 stream is damaged")
	})
}

// bzip2Input gives the bytes of in up to the next stream, and two more.
type bzip2Input struct {
	in    *input
	first int64 // where the stream begins
	limit int64 // the end, or where the next stream begins
	past  int64 // bytes given that are not there
}

func (r *bzip2Input) off() int64 { return r.in.off + r.past }

// ReadByte implements io.ByteReader.
func (r *bzip2Input) ReadByte() (byte, error) {
	in := r.in
	if in.off == r.limit {
		if r.past == 2 {
			return 0, io.EOF
		}
		r.past++
		return 0xff, nil
	}
	c, err := in.ReadByte()
	if err != nil || c != 'B' || in.off-1 == r.first {
		return c, err
	}
	begins, err := r.begins()
	if err != nil {
		return 0, err
	}
	if begins {
		in.off--
		r.limit = in.off
		return r.ReadByte()
	}
	return c, nil
}

// begins reports whether a stream begins with the byte that was just read.
func (r *bzip2Input) begins() (bool, error) {
	in, at := r.in, r.in.off
	defer func() { in.off = at }()
	var head [9]byte
	for i := range head {
		c, err := in.ReadByte()
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		head[i] = c
		if i < 2 && c != "Zh"[i] {
			return false, nil
		}
	}
	const block, end = "\x31\x41\x59\x26\x53\x59", "\x17\x72\x45\x38\x50\x90"
	rest := string(head[3:])
	return head[2] >= '1' && head[2] <= '9' && (rest == block || rest == end), nil
}

// Read implements io.Reader; the library uses ReadByte alone.
func (r *bzip2Input) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c, err := r.ReadByte()
	if err != nil {
		return 0, err
	}
	p[0] = c
	return 1, nil
}
