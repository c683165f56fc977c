package initrd

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/ampoule-vm/ampoule/internal/initrd/cpio"
	"github.com/ampoule-vm/ampoule/internal/initrd/decompress"
)

// Inspect reads the first size bytes of r as Linux reads an initial RAM disk. The
// error is an *[Error], or what r returned, wrapped.
//
// That is also how an inspection is ended before its time: by a reader that
// returns an error, that of a context for one. It is asked at least once for
// every four MiB that are unpacked, also where nothing new is to be read, and
// following the links of all entries is bounded; so it ends within seconds.
func Inspect(r io.ReaderAt, size int64, o Options) (*Report, error) {
	in := &inspector{r: r, size: size, options: o.withDefaults(), tree: newTree(), report: &Report{}}
	in.cpio = cpio.NewReader(in)
	if err := in.all(); err != nil {
		return nil, err
	}
	in.conclude()
	return in.report, nil
}

// inspector goes through an initial RAM disk. It is the cpio.Handler of all its
// archives.
type inspector struct {
	r       io.ReaderAt
	size    int64
	options Options
	cpio    *cpio.Reader
	tree    *tree
	report  *Report

	segment  Segment // the current one
	unpacked int64   // so far, of all segments
	// whole is whether the last entry was a trailer, and wholeEnd where that
	// ended. What comes then is another archive.
	whole    bool
	wholeEnd int64
	// deaf: Linux does not listen any more, having met a flaw.
	deaf bool
	// pending is what is wrong with the archive in the current stream, unless the
	// stream turns out to be damaged.
	pending error

	// head is what the first stream begins with, once unpacked.
	head []byte
	// asked is what unpacked was when r was last asked for the sake of its error.
	asked int64

	names   int64 // bytes of all names and targets
	node    *node // whose content comes
	watcher watcher
}

// Bounds of what a small file can make large, far above what any real one has.
const (
	maxNames    = 128 << 20 // bytes
	maxSegments = 1000
	// askEvery is how many bytes are unpacked at most before the reader is asked
	// whether to go on.
	askEvery = 4 << 20
)

// all goes from segment to segment.
func (in *inspector) all() error {
	if err := in.passBootconfig(); err != nil {
		return err
	}
	off := int64(0)
	for !in.deaf && in.report.NotInspected == "" {
		next, head, err := in.passZeros(off)
		if err != nil {
			return err
		}
		if len(in.report.Segments) > maxSegments {
			return fatal(TooMany, off, "it is made of more than %d archives", maxSegments)
		}
		if off = next; off == in.size {
			break
		}
		if head[0] == '0' && off%4 == 0 {
			off, err = in.plain(off)
		} else {
			off, err = in.packed(off, head)
		}
		if err != nil {
			return err
		}
	}
	if in.deaf {
		in.report.Ignored = in.size - off
	}
	switch {
	case in.size == 0:
		if in.report.Bootconfig {
			return fatal(Empty, 0, "it is empty but for a bootconfig")
		}
		return fatal(Empty, 0, "it is empty")
	case len(in.report.Segments) == 0 && in.report.NotInspected == "":
		return fatal(Empty, 0, "it holds nothing but zeros")
	}
	return nil
}

// flaw notes what Linux stops at.
func (in *inspector) flaw(offset int64, format string, args ...any) {
	in.report.Flaws = append(in.report.Flaws, Flaw{offset, fmt.Sprintf(format, args...)})
}

// read fills p with what is at off.
func (in *inspector) read(p []byte, off int64) error {
	n, err := in.r.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF // it shrank
	}
	return fmt.Errorf("reading at byte %d: %w", off+int64(n), err)
}

const pieceSize = 256 << 10

// headSize is enough for what a file begins with to be recognised by.
const headSize = 2048

// passZeros returns the offset of the first byte from off on that is not zero, and
// up to headSize bytes from there.
func (in *inspector) passZeros(off int64) (next int64, head []byte, err error) {
	buf := make([]byte, headSize)
	for off < in.size {
		p := buf[:min(int64(len(buf)), in.size-off)]
		if err := in.read(p, off); err != nil {
			return 0, nil, err
		}
		rest := bytes.TrimLeft(p, "\x00")
		off += int64(len(p) - len(rest))
		if len(rest) == 0 {
			buf = make([]byte, pieceSize)
			continue
		}
		head = make([]byte, min(headSize, in.size-off))
		return off, head, in.read(head, off)
	}
	return off, nil, nil
}

// plain reads archives that are not packed, and returns where something else
// begins.
func (in *inspector) plain(off int64) (int64, error) {
	in.segment, in.whole = Segment{Offset: off}, false
	in.cpio.Restart(off)
	buf := make([]byte, pieceSize)
	for off < in.size {
		p := buf[:min(int64(len(buf)), in.size-off)]
		if err := in.read(p, off); err != nil {
			return 0, err
		}
		n, err := in.cpio.Feed(p)
		off += int64(n)
		if err := in.count(n); err != nil {
			return 0, err
		}
		switch {
		case err != nil:
			return in.plainFailed(err)
		case n < len(p):
			in.closePlain(off)
			return off, nil
		}
	}
	end := in.cpio.End()
	switch end {
	case cpio.Cut:
		return 0, fatal(Truncated, in.size, "it is cut off: at byte %d it ends inside the entry that begins at byte %d", in.size, in.cpio.EntryOffset())
	case cpio.UnpaddedTrailer: // nothing comes of it
		in.whole, in.wholeEnd = true, off
	}
	in.closePlain(off)
	switch {
	case end == cpio.UnpaddedName:
		in.flaw(in.size, "the last archive has no end (an entry TRAILER!!!): maybe it was cut off at byte %d, where the padding is missing of the entry that begins at byte %d, so that Linux does not make it", in.size, in.cpio.EntryOffset())
	case !in.whole:
		in.flaw(in.size, "the last archive has no end (an entry TRAILER!!!): maybe it was cut off at byte %d", in.size)
	}
	return off, nil
}

// plainFailed tells what follows the end of an archive from what is inside one.
func (in *inspector) plainFailed(err error) (int64, error) {
	var e *cpio.Error
	if !errors.As(err, &e) {
		return 0, err
	}
	if in.whole {
		in.closePlain(in.wholeEnd)
		in.stop(e.Offset, e)
		return e.Offset, nil
	}
	if err := in.image(); err != nil {
		return 0, err
	}
	return 0, in.notArchive(e.Offset, e)
}

// stop notes that Linux looks no further.
func (in *inspector) stop(offset int64, why error) {
	in.deaf = true
	in.flaw(offset, "behind the end of an archive, %v; Linux looks no further", why)
}

// notArchive is the error about an archive that the reader gave up on.
func (in *inspector) notArchive(offset int64, why error) error {
	if in.report.Entries == 0 {
		return fatal(NotArchive, offset, "it is no cpio archive (cpio -H newc writes one): %v", why)
	}
	return fatal(Damaged, offset, "it is damaged: %v", why)
}

// closePlain ends the current segment, unless it is empty.
func (in *inspector) closePlain(end int64) {
	if in.whole {
		end = in.wholeEnd
	}
	in.segment.Bytes = end - in.segment.Offset
	in.segment.Unpacked = in.segment.Bytes
	in.report.Segments = append(in.report.Segments, in.segment)
}

// count keeps a small file from becoming a large tree.
func (in *inspector) count(n int) error {
	in.unpacked += int64(n)
	if in.unpacked > in.options.MaxUnpacked {
		return fatal(TooLarge, in.segment.Offset, "it unpacks to more than %d bytes", in.options.MaxUnpacked)
	}
	return nil
}

// packed reads a compressed stream, and returns where it ends.
func (in *inspector) packed(off int64, head []byte) (int64, error) {
	compression := decompress.Detect(head)
	if compression == "" {
		return off, in.unknown(off, head)
	}
	in.segment, in.whole = Segment{Offset: off, Compression: compression}, false
	in.cpio.Restart(0)
	end, err := decompress.Unpack(compression, in.r, off, in.size, in.piece)
	if err != nil {
		return off, in.packedFailed(err)
	}
	if in.pending != nil {
		if name := ramDisk(in.head); in.report.Entries == 0 && name != "" {
			return 0, fatal(RAMDiskImage, off, "what the %s stream that begins at byte %d unpacks to is %s%s", compression, off, name, ofOldTimes)
		}
		return 0, in.pending
	}
	s := &in.segment
	s.Bytes = end - off
	tail := cpio.Whole
	if !in.deaf {
		tail = in.cpio.End()
	}
	switch {
	case s.Unpacked == 0 && len(in.report.Segments) == 0:
		return 0, fatal(Empty, off, "the %s stream that begins at byte %d is empty", compression, off)
	case tail == cpio.Cut:
		return 0, fatal(Truncated, off, "the archive in the %s stream that begins at byte %d is cut off", compression, off)
	case tail != cpio.Whole:
		in.deaf = true
		lost := ""
		if tail == cpio.UnpaddedName {
			lost = ", does not make the entry"
		}
		in.flaw(off, "in what the %s stream that begins at byte %d unpacks to, the padding is missing of the last entry, at byte %d; Linux says that there is junk%s and looks no further", compression, off, in.cpio.EntryOffset(), lost)
	}
	in.report.Segments = append(in.report.Segments, *s)
	return end, nil
}

// piece takes what a stream unpacks to. Behind a flaw or an error it is unpacked
// on, to see whether the stream is in order, but not looked at.
func (in *inspector) piece(p []byte) error {
	if err := in.count(len(p)); err != nil {
		return err
	}
	if in.unpacked-in.asked >= askEvery {
		in.asked = in.unpacked
		if err := in.read(make([]byte, 1), in.segment.Offset); err != nil {
			return err
		}
	}
	in.segment.Unpacked += int64(len(p))
	if len(in.report.Segments) == 0 && len(in.head) < headSize {
		in.head = append(in.head, p[:min(len(p), headSize-len(in.head))]...)
	}
	if in.deaf {
		return nil
	}
	n, err := in.cpio.Feed(p)
	if err == nil && n == len(p) {
		return nil
	}
	at, why := in.cpio.Offset(), fmt.Errorf("there is %s at byte %d", looksLike(p[n:]), in.cpio.Offset())
	if err != nil {
		var e *cpio.Error
		if !errors.As(err, &e) {
			return err
		}
		at, why = e.Offset, e
	}
	why = fmt.Errorf("in what the %s stream that begins at byte %d unpacks to, %w", in.segment.Compression, in.segment.Offset, why)
	if in.whole && at >= in.wholeEnd {
		in.stop(in.segment.Offset, why)
		return nil
	}
	in.deaf, in.pending = true, in.notArchive(in.segment.Offset, why)
	return nil
}

// packedFailed is the error about a stream that was given up, or nil where it is
// one that cannot be unpacked here.
func (in *inspector) packedFailed(err error) error {
	var unsupported *decompress.UnsupportedError
	var bad *decompress.Error
	switch {
	case errors.As(err, &unsupported):
		in.report.NotInspected = unsupported.What
		return nil
	case errors.As(err, &bad) && bad.Truncated:
		return fatal(Truncated, bad.Offset, "it is cut off: %v (the stream begins at byte %d)", bad, in.segment.Offset)
	case errors.As(err, &bad):
		return fatal(Damaged, bad.Offset, "%v (the stream begins at byte %d)", bad, in.segment.Offset)
	}
	return err
}

// unknown is for what Linux takes for nothing it knows.
func (in *inspector) unknown(off int64, head []byte) error {
	if packer := foreignPacker(head); packer != "" {
		return fatal(Compression, off, "at byte %d it is compressed by %s, which Linux does not read here; it knows gzip, bzip2, lzma, xz (--check=crc32), lzo, lz4 (-l) and zstd", off, packer)
	}
	if err := in.image(); err != nil {
		return err
	}
	switch {
	case len(in.report.Segments) == 0:
		return fatal(NotArchive, off, "it is no cpio archive, and not a compressed one: there is %s at byte %d", looksLike(head), off)
	case !in.whole && in.segment.Compression == "":
		return fatal(Damaged, off, "it is damaged: inside an archive there is %s instead of an entry at byte %d", looksLike(head), off)
	}
	in.deaf = true
	in.flaw(off, "behind the end of an archive there is %s at byte %d; Linux looks no further", looksLike(head), off)
	return nil
}

// ofOldTimes is what there is to say about the image of a file system.
const ofOldTimes = ", the image of a RAM disk, and no cpio archive; Linux takes it only if it was built with CONFIG_BLK_DEV_RAM"

// image is for what turned out to be no archive: nil, or the error that it is the
// image of a file system, or what the reader returned. Its superblock may stand
// behind zeros, so that the place at which it was found out says nothing.
func (in *inspector) image() error {
	if in.report.Entries != 0 || len(in.report.Segments) != 0 {
		return nil
	}
	head := make([]byte, min(headSize, in.size))
	if err := in.read(head, 0); err != nil {
		return err
	}
	if name := ramDisk(head); name != "" {
		return fatal(RAMDiskImage, 0, "it is %s%s", name, ofOldTimes)
	}
	return nil
}

// Entry implements cpio.Handler.
func (in *inspector) Entry(h cpio.Header, target string) error {
	if in.whole && in.segment.Compression == "" {
		in.closePlain(in.wholeEnd)
		in.segment = Segment{Offset: in.cpio.EntryOffset()}
	}
	in.whole = false
	in.segment.Entries++
	if in.report.Entries++; in.report.Entries > in.options.MaxEntries {
		return fatal(TooMany, in.segment.Offset, "it has more than %d entries", in.options.MaxEntries)
	}
	if in.names += int64(len(h.Name) + len(target)); in.names > maxNames {
		return fatal(TooMany, in.segment.Offset, "the names in it take more than %d MiB", maxNames>>20)
	}
	if parts := split(h.Name); len(parts) > 0 && parts[0] == ownDirectory {
		in.report.Ampoule = true
	}
	in.node = nil
	n := in.tree.add(h, target)
	if in.tree.steps > maxSteps {
		return fatal(TooMany, in.segment.Offset, "the paths and symbolic links in it take more than %d steps to follow", maxSteps)
	}
	if n != nil && h.Size != 0 {
		in.node = n
		in.watcher.begin(h.Mode&0o111 != 0)
	}
	return nil
}

// Body implements cpio.Handler.
func (in *inspector) Body(p []byte) error {
	if in.node != nil {
		in.watcher.piece(p)
	}
	return nil
}

// Done implements cpio.Handler.
func (in *inspector) Done() error {
	if in.node != nil {
		in.node.content = in.watcher.end()
		in.node = nil
	}
	return nil
}

// Trailer implements cpio.Handler.
func (in *inspector) Trailer() error {
	in.whole, in.wholeEnd = true, in.cpio.Offset()
	clear(in.tree.hard)
	return nil
}
