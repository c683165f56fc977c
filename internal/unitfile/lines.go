package unitfile

import "strings"

// line is a physical line without its end.
type line struct {
	text string
	// number counts from 1, as systemd counts in its log: every line end of
	// whatever kind adds one.
	number int
	// endNUL is set if a NUL byte is part of the line's end, startNUL if one
	// is part of the end of the line before.
	startNUL, endNUL bool
	tooLong          bool
}

// lineReader cuts a file into physical lines. A line ends at LF, CR or NUL,
// and these belong to one line end as long as none is repeated and none
// follows a NUL: LF, CR, NUL, CR LF, LF CR, LF NUL, CR LF NUL and so on.
type lineReader struct {
	rest   string
	number int
	nul    bool
}

// next returns false at the end of the file. A last line without an end
// counts, an empty rest does not.
func (r *lineReader) next() (line, bool) {
	if r.rest == "" {
		return line{}, false
	}
	r.number++
	ln := line{number: r.number, startNUL: r.nul}

	n := strings.IndexAny(r.rest, "\n\r\x00")
	if n < 0 {
		n = len(r.rest)
	}
	// systemd compares before it looks at the next byte, so that a line of
	// exactly MaxLine bytes is already too long, line end or not.
	if n >= MaxLine {
		ln.tooLong = true
		r.rest = ""
		return ln, true
	}
	ln.text, r.rest = r.rest[:n], r.rest[n:]

	var lf, cr, nul bool
	for r.rest != "" && !nul {
		var seen *bool
		switch r.rest[0] {
		case '\n':
			seen = &lf
		case '\r':
			seen = &cr
		case 0:
			seen = &nul
		}
		if seen == nil || *seen {
			break
		}
		*seen = true
		r.rest = r.rest[1:]
	}
	ln.endNUL, r.nul = nul, nul
	return ln, true
}
