package console

import "unicode/utf8"

// LineLimit is the longest line, in bytes, that is kept in one piece.
const LineLimit = 16 << 10

// maxControlSequence bounds what one CSI sequence can swallow; real ones have a
// few dozen bytes.
const maxControlSequence = 256

// Cleaner turns a terminal's byte stream into lines of plain text. It removes
// escape sequences and control characters, replaces what is not UTF-8 by
// U+FFFD, and keeps tabs. A line ends at a newline, at a carriage return after
// which text follows (a progress display that starts its line over), or where
// it would exceed the limit.
//
// The lines depend on the bytes alone, not on how they are split over calls. A
// newline always ends a line, even inside an unfinished escape sequence: no
// sequence can swallow what is printed after it.
//
// It is not safe for concurrent use.
type Cleaner struct {
	limit int
	emit  func(line []byte)

	line    []byte
	state   cleanerState
	count   int    // bytes seen in the present sequence
	prev    byte   // the byte before, inside control strings
	partial []byte // beginning of a multi-byte character
	cr      bool   // a carriage return came after line's text
	// taken: the beginning of the present line was handed out by FlushPartial,
	// so that its end alone is no empty line.
	taken bool
}

type cleanerState int

const (
	stText    cleanerState = iota
	stEscape               // after ESC
	stCharset              // ESC with intermediate bytes: charset and the like
	stControl              // CSI
	stCommand              // OSC: ends at BEL or ST
	stPalette              // the Linux console's ESC ] P and 7 digits
	stString               // DCS, SOS, PM, APC: ends at ST
)

const (
	chBell, chTab, chNewline, chReturn = 0x07, 0x09, 0x0a, 0x0d
	chCancel, chSubstitute, chEscape   = 0x18, 0x1a, 0x1b
	chDelete                           = 0x7f
)

// NewCleaner returns a Cleaner that calls emit with each line, without its
// newline; the slice is valid during the call only. Limit is in bytes, at
// least 4.
func NewCleaner(limit int, emit func(line []byte)) *Cleaner {
	return &Cleaner{limit: max(limit, utf8.UTFMax), emit: emit}
}

// Write takes the next bytes of the stream. It never fails.
func (c *Cleaner) Write(p []byte) (int, error) {
	for _, b := range p {
		c.put(b)
	}
	return len(p), nil
}

// Unfinished returns the text of the line that has not ended yet. It is valid
// until the next call.
func (c *Cleaner) Unfinished() []byte { return c.line }

// FlushPartial emits the unfinished line, if there is one, as a line. What
// follows of it in the stream will be a line of its own.
func (c *Cleaner) FlushPartial() {
	if len(c.line) > 0 {
		c.endLine()
		c.taken = true
	}
}

// Close emits what is left when the stream has ended.
func (c *Cleaner) Close() {
	c.replacePartial()
	c.FlushPartial()
}

// Discard forgets the unfinished line and any unfinished sequence.
func (c *Cleaner) Discard() {
	*c = Cleaner{limit: c.limit, emit: c.emit, line: c.line[:0], partial: c.partial[:0]}
}

func (c *Cleaner) put(b byte) {
	if c.state == stText {
		c.putText(b)
		return
	}
	// These end any sequence, wherever they stand.
	switch b {
	case chNewline, chReturn:
		c.state = stText
		c.putText(b)
		return
	case chCancel, chSubstitute:
		c.state = stText
		return
	case chEscape:
		// Either the beginning of ST or of another sequence: ESC \ means
		// nothing of its own, so that both are the same here.
		c.enter(stEscape)
		return
	}
	c.putSequence(b)
	c.prev = b
}

func (c *Cleaner) enter(s cleanerState) {
	c.state, c.count, c.prev = s, 0, 0
}

func (c *Cleaner) putSequence(b byte) {
	c.count++
	switch c.state {
	case stEscape:
		c.putEscape(b)
	case stCharset:
		switch {
		case b >= 0x30 && b < chDelete:
			c.state = stText
		case b >= 0x80:
			c.abort(b)
		}
	case stControl:
		switch {
		case b >= 0x40 && b < chDelete:
			c.state = stText
		case b >= 0x80 || c.count > maxControlSequence:
			c.abort(b)
		}
	case stCommand:
		switch {
		case b == chBell, b == 0x9c && c.prev == 0xc2: // BEL, or ST in UTF-8
			c.state = stText
		case c.count == 1 && b == 'R':
			c.state = stText
		case c.count == 1 && b == 'P':
			c.enter(stPalette)
		}
	case stPalette:
		if !isHex(b) {
			c.abort(b)
		} else if c.count == 7 {
			c.state = stText
		}
	case stString:
		if b == 0x9c && c.prev == 0xc2 {
			c.state = stText
		}
	}
}

// abort: the byte does not belong to the sequence, which is over.
func (c *Cleaner) abort(b byte) {
	c.state = stText
	c.putText(b)
}

func isHex(b byte) bool {
	return b >= '0' && b <= '9' || b >= 'a' && b <= 'f' || b >= 'A' && b <= 'F'
}

// putEscape takes the byte after ESC.
func (c *Cleaner) putEscape(b byte) {
	switch {
	case b == '[':
		c.enter(stControl)
	case b == ']':
		c.enter(stCommand)
	case b == 'P', b == 'X', b == '^', b == '_':
		c.enter(stString)
	case b >= 0x20 && b < 0x30:
		c.enter(stCharset)
	case b >= 0x30 && b < chDelete:
		c.state = stText
	case b >= 0x80:
		c.abort(b)
	}
}

func (c *Cleaner) putText(b byte) {
	if b >= utf8.RuneSelf {
		c.partial = append(c.partial, b)
		c.decode()
		return
	}
	c.replacePartial()
	switch {
	case b == chNewline:
		if len(c.line) > 0 || !c.taken {
			c.endLine()
		}
		c.cr, c.taken = false, false
	case b == chReturn:
		c.cr = true
	case b == chEscape:
		c.enter(stEscape)
	case b == chTab || b >= 0x20 && b < chDelete:
		c.add(rune(b))
	}
}

// decode takes what is complete out of partial. Once a character from the
// upper half has opened a sequence, the rest belongs to that.
func (c *Cleaner) decode() {
	for len(c.partial) > 0 && utf8.FullRune(c.partial) {
		r, size := utf8.DecodeRune(c.partial)
		rest := len(c.partial) - size
		copy(c.partial, c.partial[size:])
		c.partial = c.partial[:rest]
		if r >= 0x80 && r < 0xa0 {
			c.upperControl(r)
		} else {
			c.add(r)
		}
	}
}

// upperControl takes a control character of the upper half, which is short for
// ESC and a letter. A valid one is complete with its last byte, so that no
// other byte can be waiting behind it.
func (c *Cleaner) upperControl(r rune) {
	switch r {
	case 0x9b:
		c.enter(stControl)
	case 0x9d:
		c.enter(stCommand)
	case 0x90, 0x98, 0x9e, 0x9f:
		c.enter(stString)
	}
}

// replacePartial: the character that partial begins will not be completed.
func (c *Cleaner) replacePartial() {
	for range c.partial {
		c.add(utf8.RuneError)
	}
	c.partial = c.partial[:0]
}

func (c *Cleaner) add(r rune) {
	if c.cr {
		c.cr = false
		if len(c.line) > 0 {
			c.endLine()
		}
	}
	if len(c.line)+utf8.RuneLen(r) > c.limit {
		c.endLine()
	}
	c.line = utf8.AppendRune(c.line, r)
}

func (c *Cleaner) endLine() {
	line := c.line
	c.line = c.line[:0]
	c.emit(line)
}
