// Package kernel tells which compressions of initial RAM disks a kernel image has
// built in, from the image alone.
//
// A kernel that was built with its configuration inside says it itself
// (CONFIG_IKCONFIG). In any other the table by which it chooses a decoder
// (lib/decompress.c) is looked for: nine rows, each with the two bytes a stream
// begins with, a name, and a decoder, which is a null pointer where it was not
// built. Whatever else is found is "not known": a wrong no would keep a guest
// from starting that can start.
//
// Files are not opened here.
package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/ampoule-vm/ampoule/internal/initrd/decompress"
)

// Support is what a kernel takes. Its JSON form is stable.
type Support struct {
	// Source is where it stands: "config", "table", or "" where nothing is known.
	Source string `json:"source,omitempty"`
	// NoInitrd says that the kernel takes no initial RAM disk at all.
	NoInitrd bool `json:"noInitrd,omitempty"`
	// Compressions are those that it takes, by Linux's names, sorted.
	Compressions []string `json:"compressions,omitempty"`
	// Why says why nothing is known.
	Why string `json:"why,omitempty"`
}

// Takes reports whether the kernel unpacks a compression, of which "" is none. It
// is true where nothing is known.
func (s Support) Takes(compression string) bool {
	switch {
	case s.Source == "":
		return true
	case s.NoInitrd:
		return false
	}
	return compression == "" || slices.Contains(s.Compressions, compression)
}

// known are the compressions of initial RAM disks that there are.
func known() []string {
	return []string{decompress.Bzip2, decompress.Gzip, decompress.LZ4, decompress.LZMA, decompress.LZO, decompress.XZ, decompress.Zstd}
}

// payload is the part of an image that holds the kernel.
type payload struct {
	compression string // "" where it is not packed
	off, end    int64
}

// Compressions reads the first size bytes of r: a bzImage, an image with EFI's
// zboot, an ELF file, or anything packed by gzip and so on. The error is what r
// returned; an image that is not understood is none, but Support.Why.
func Compressions(r io.ReaderAt, size int64) (Support, error) {
	p, err := locate(r, size)
	if err != nil {
		return Support{}, err
	}
	s := newScanner()
	if p.compression == "" {
		err = stream(io.NewSectionReader(r, p.off, p.end-p.off), s.piece)
	} else {
		_, err = decompress.Unpack(p.compression, r, p.off, p.end, s.piece)
	}
	var bad *decompress.Error
	var unsupported *decompress.UnsupportedError
	switch {
	case errors.Is(err, errFound) || err == nil:
		return s.support(), nil
	case errors.As(err, &bad), errors.As(err, &unsupported):
		out := s.support()
		if out.Source == "" {
			out.Why = "the image cannot be unpacked: " + err.Error()
		}
		return out, nil
	}
	return Support{}, err
}

// locate finds the kernel in an image.
func locate(r io.ReaderAt, size int64) (payload, error) {
	// The offsets of Documentation/arch/x86/boot.rst.
	const (
		setupSectors  = 0x1f1
		bootFlag      = 0x1fe
		magic         = 0x202
		version       = 0x206
		payloadOffset = 0x248
		payloadLength = 0x24c
		headerEnd     = 0x250
		withPayload   = 0x0208
	)
	head := make([]byte, min(headerEnd, size))
	if n, err := r.ReadAt(head, 0); n < len(head) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return payload{}, fmt.Errorf("reading at byte %d: %w", n, err)
	}
	whole := payload{end: size}
	le := binary.LittleEndian
	switch {
	case len(head) == headerEnd && le.Uint16(head[bootFlag:]) == 0xaa55 && string(head[magic:magic+4]) == "HdrS" && le.Uint16(head[version:]) >= withPayload:
		sectors := int64(head[setupSectors])
		if sectors == 0 {
			sectors = 4
		}
		off := (sectors+1)*512 + int64(le.Uint32(head[payloadOffset:]))
		return packed(r, whole, off, off+int64(le.Uint32(head[payloadLength:])))
	case len(head) >= 64 && string(head[:2]) == "MZ" && string(head[4:8]) == "zimg":
		off := int64(le.Uint32(head[8:]))
		return packed(r, whole, off, off+int64(le.Uint32(head[12:])))
	}
	whole.compression = decompress.Detect(head)
	return whole, nil
}

// packed returns the payload between two offsets, or the whole image where there
// is none.
func packed(r io.ReaderAt, whole payload, off, end int64) (payload, error) {
	if off < 0 || end > whole.end || off > end-decompress.MagicLen {
		return whole, nil
	}
	var magic [decompress.MagicLen]byte
	if n, err := r.ReadAt(magic[:], off); n < len(magic) {
		return payload{}, fmt.Errorf("reading at byte %d: %w", off, err)
	}
	p := payload{decompress.Detect(magic[:]), off, end}
	if p.compression == decompress.LZ4 {
		// The four bytes of the size stand behind it; other streams have an end.
		p.end = max(off, end-4)
	}
	return p, nil
}

// stream calls emit with what r gives.
func stream(r io.Reader, emit func([]byte) error) error {
	buf := make([]byte, 256<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if err := emit(buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading the image: %w", err)
		}
	}
}
