package cpio

import (
	"errors"
	"fmt"
	"strings"
)

// Handler is told what is in an archive, in its order. An error of any of its
// methods ends the reading and is returned by [Reader.Feed] as it is.
type Handler interface {
	// Entry is called with each entry but trailers. Where the entry is a
	// symbolic link, target is where it leads.
	Entry(h Header, target string) error
	// Body is called with the content of a regular file, none or several
	// times, h.Size bytes in all. It must not keep p.
	Body(p []byte) error
	// Done is called behind the content of a regular file.
	Done() error
	// Trailer is called for the entry TRAILER!!!.
	Trailer() error
}

// Error is what is wrong with an archive.
type Error struct {
	// Offset counts from the beginning of what the reader was fed.
	Offset int64
	// What is a sentence without the place.
	What string
	// Err is nil or ErrPadding.
	Err error
}

// Error returns the text with the place.
func (e *Error) Error() string { return fmt.Sprintf("%s at byte %d", e.What, e.Offset) }

// Unwrap returns what kind of error it is.
func (e *Error) Unwrap() error { return e.Err }

// ErrPadding is in the tree of the error of an archive that begins, after zeros,
// where none is looked for: at an offset that is no multiple of four.
var ErrPadding = errors.New("an offset that is no multiple of 4")

type state int

const (
	between state = iota // zeros, then a header
	header
	name
	target
	body
	skip // to the next header
)

// Reader takes archives apart, one behind the other, as Linux does: a trailer is
// an entry like others, zeros may stand between entries, and the numbers of a
// header are taken as they come. It holds no more than a name and the target of
// a link. What Linux would pass over in ways that depend on the version (a name
// of no bytes, a directory with a body) is an error here, as is a checksum that
// does not fit.
type Reader struct {
	handler Handler
	state   state
	// pos is the offset of the next byte.
	pos int64
	// start is the offset of the header of the current entry, next the one
	// behind the entry.
	start, next int64
	// buf collects what may come in pieces: header, name, name and target.
	buf  []byte
	want int

	entry    Header
	nameSize int
	checked  bool // the entry has a checksum
	checksum uint32
	sum      uint32
	left     int64 // of the body
}

// NewReader returns a reader that stands before the first entry.
func NewReader(h Handler) *Reader {
	return &Reader{handler: h, buf: make([]byte, 0, HeaderLen)}
}

// Offset returns how many bytes have been taken, counted from the last Restart.
func (r *Reader) Offset() int64 { return r.pos }

// EntryOffset returns where the entry begins that was begun last.
func (r *Reader) EntryOffset() int64 { return r.start }

// Between reports whether what was taken ends behind a whole entry.
func (r *Reader) Between() bool { return r.state == between }

// End is how what was taken ends.
type End int

// The ends.
const (
	Whole End = iota // behind a whole entry
	Cut              // inside an entry
	// Nothing is missing of the last entry but zeros up to a multiple of four:
	UnpaddedName    // behind the name, for which Linux waits before it makes the entry
	UnpaddedTrailer // behind the name of a trailer
	UnpaddedBody    // behind the content; the entry is made
)

// End tells how what was taken so far ends.
func (r *Reader) End() End {
	switch r.state {
	case between:
		return Whole
	case name, target:
		if r.entry.Size != 0 || len(r.buf) < r.nameSize || r.buf[r.nameSize-1] != 0 {
			return Cut
		}
		if r.entry.Mode&TypeMask != TypeSymlink && strings.HasPrefix(string(r.buf), trailer+"\x00") {
			return UnpaddedTrailer
		}
		return UnpaddedName
	case skip:
		if r.pos >= r.start+HeaderLen+int64(nameSpace(r.nameSize))+int64(r.entry.Size) {
			return UnpaddedBody
		}
	}
	return Cut
}

// Restart makes the next byte the one at the given offset, for alignment and
// messages. It must not be called inside an entry.
func (r *Reader) Restart(offset int64) { r.pos = offset }

// Feed takes the next bytes. It returns less than len(p) without an error where,
// between two entries, there is something else than zeros and a header; what to
// make of it is the caller's business. After an error the reader is of no use.
func (r *Reader) Feed(p []byte) (n int, err error) {
	for n < len(p) {
		var took int
		switch r.state {
		case between:
			took = zeros(p[n:])
			r.pos += int64(took)
			n += took
			if n == len(p) {
				return n, nil
			}
			if r.pos%4 != 0 {
				return n, &Error{r.pos, "after zeros, something begins where nothing is looked for, no multiple of 4,", ErrPadding}
			}
			if p[n] != magicNewc[0] {
				return n, nil
			}
			r.start = r.pos
			r.collect(header, HeaderLen)
			continue
		case header, name, target:
			took = min(len(p)-n, r.want-len(r.buf))
			r.buf = append(r.buf, p[n:n+took]...)
			r.pos += int64(took)
			if len(r.buf) == r.want {
				err = r.collected()
			}
		case body:
			took = int(min(int64(len(p)-n), r.left))
			err = r.content(p[n : n+took])
		case skip:
			took = int(min(int64(len(p)-n), r.next-r.pos))
			r.pos += int64(took)
			if r.pos == r.next {
				r.state = between
			}
		}
		n += took
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func zeros(p []byte) int {
	for i, c := range p {
		if c != 0 {
			return i
		}
	}
	return len(p)
}

// collect makes the reader gather size bytes for s.
func (r *Reader) collect(s state, size int) {
	r.state, r.want, r.buf = s, size, r.buf[:0]
}

// collected goes on where a part of an entry is complete.
func (r *Reader) collected() error {
	switch r.state {
	case header:
		return r.parse()
	case name:
		text, err := r.text()
		if err != nil {
			return err
		}
		r.entry.Name = text
		return r.named("")
	default:
		text, err := r.text()
		if err != nil {
			return err
		}
		r.entry.Name = text
		// The target ends at its first NUL, as the kernel's string does.
		to, _, _ := strings.Cut(string(r.buf[nameSpace(r.nameSize):]), "\x00")
		return r.named(to)
	}
}

// text returns the name at the beginning of the buffer, which must end with a
// NUL where the header says.
func (r *Reader) text() (string, error) {
	if r.buf[r.nameSize-1] != 0 {
		return "", r.damaged("the name of an entry has no end")
	}
	text, _, _ := strings.Cut(string(r.buf[:r.nameSize]), "\x00")
	return text, nil
}

func (r *Reader) damaged(format string, args ...any) error {
	return &Error{Offset: r.start, What: fmt.Sprintf(format, args...)}
}

// nameSpace is what a name of n bytes, NUL included, takes up: the header has 110
// bytes, so that both end at a multiple of four.
func nameSpace(n int) int { return n + Padding(HeaderLen+n) }

func (r *Reader) parse() error {
	switch string(r.buf[:6]) {
	case magicNewc:
		r.checked = false
	case magicChecksum:
		r.checked = true
	case magicOld:
		return r.damaged("a cpio archive in the old portable format (070707), which Linux does not read, begins")
	default:
		return r.damaged("there is no entry where one should begin")
	}
	var v [13]uint32
	for i := range v {
		n, ok := parseHex(r.buf[6+8*i : 14+8*i])
		if !ok {
			return r.damaged("the header of an entry is not hexadecimal")
		}
		v[i] = n
	}
	r.entry = Header{Ino: v[0], Mode: v[1], UID: v[2], GID: v[3], NLink: v[4], MTime: v[5], Size: v[6],
		DevMajor: v[7], DevMinor: v[8], RDevMajor: v[9], RDevMinor: v[10]}
	r.checksum, r.sum, r.left = v[12], 0, int64(v[6])

	if v[11] == 0 || v[11] > MaxName+1 {
		return r.damaged("an entry has a name of %d bytes (Linux takes 1 to %d)", v[11], MaxName+1)
	}
	r.nameSize = int(v[11])
	space := nameSpace(r.nameSize)
	r.next = r.start + HeaderLen + int64(space) + r.left
	r.next += -r.next & 3

	switch r.entry.Mode & TypeMask {
	case TypeRegular:
		r.collect(name, space)
	case TypeSymlink:
		if r.left > MaxName+1 {
			return r.damaged("a symbolic link has a target of %d bytes (Linux takes %d)", r.left, MaxName+1)
		}
		r.collect(target, space+int(r.left))
	default:
		if r.left != 0 {
			return r.damaged("an entry that is no file has a content of %d bytes", r.left)
		}
		r.collect(name, space)
	}
	return nil
}

// parseHex takes digits of either case.
func parseHex(p []byte) (v uint32, ok bool) {
	for _, c := range p {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		v = v<<4 | uint32(c)
	}
	return v, true
}

// named is called when all of an entry is known but the content of a file.
func (r *Reader) named(to string) error {
	r.state = skip
	if r.pos == r.next {
		r.state = between
	}
	if r.entry.Name == trailer {
		return r.handler.Trailer()
	}
	if err := r.handler.Entry(r.entry, to); err != nil {
		return err
	}
	if r.entry.Mode&TypeMask != TypeRegular {
		return nil
	}
	if r.left != 0 {
		r.state = body
		return nil
	}
	return r.done()
}

func (r *Reader) content(p []byte) error {
	r.pos += int64(len(p))
	r.left -= int64(len(p))
	if r.checked {
		for _, c := range p {
			r.sum += uint32(c)
		}
	}
	if err := r.handler.Body(p); err != nil {
		return err
	}
	if r.left != 0 {
		return nil
	}
	r.state = skip
	if r.pos == r.next {
		r.state = between
	}
	return r.done()
}

func (r *Reader) done() error {
	if r.checked && r.sum != r.checksum {
		return r.damaged("the content of a file does not have its checksum, in the entry that begins")
	}
	return r.handler.Done()
}
