package unitfile

import (
	"cmp"
	"slices"
	"strings"
)

// flaws inspects the assignment whose value begins at an offset in the text of
// the logical line, not yet trimmed.
func (p *parser) flaws(text string, value int) []Flaw {
	l := &p.logical
	if len(l.pieces) == 1 && !l.pieces[0].nul && !l.open && strings.IndexByte(text, '#') < 0 &&
		strings.IndexByte(text, ';') < 0 && strings.IndexByte(text, '\\') < 0 {
		return nil // as of most lines: nothing below could find one
	}
	var flaws []Flaw
	add := func(kind FlawKind, number int, what string) {
		flaws = append(flaws, Flaw{Kind: kind, Origin: p.origin(number), Text: what})
	}
	for i, piece := range l.pieces {
		if piece.nul {
			add(EmbeddedNUL, piece.number, "")
		}
		if i == 0 {
			continue
		}
		end := len(text)
		if i+1 < len(l.pieces) {
			end = l.pieces[i+1].offset
		}
		if kind, what := swallowed(text[piece.offset:end]); kind != 0 {
			add(kind, piece.number, what)
		}
	}
	for i := range trailingComments(text[value:]) {
		add(TrailingComment, l.lineAt(value+i), text[value+i:value+i+1])
	}
	last := l.pieces[len(l.pieces)-1]
	if end := strings.TrimRight(text[last.offset:], blanks); !l.open && len(end) < len(text)-last.offset && oddBackslashes(end) {
		add(BlankAfterBackslash, last.number, "")
	}
	slices.SortStableFunc(flaws, func(a, b Flaw) int { return cmp.Compare(a.Origin.Line, b.Origin.Line) })
	return flaws
}

// swallowed tells whether a physical line that a continuation joined to the
// one above reads as a header or an assignment of its own. Indented lines are
// taken for what they are meant to be: more of the value.
func swallowed(line string) (FlawKind, string) {
	line = strings.TrimRight(line, blanks)
	if name, ok := strings.CutPrefix(line, "["); ok {
		if name, ok = strings.CutSuffix(name, "]"); ok && isWord(name) {
			return JoinedHeader, line
		}
		return 0, ""
	}
	key, _, ok := strings.Cut(line, "=")
	if key = strings.TrimRight(key, blanks); ok && isWord(key) {
		return JoinedAssignment, key
	}
	return 0, ""
}

// isWord reports whether s has the shape of systemd's keys and sections:
// letters, digits and dashes with a capital first.
func isWord(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		upper := c >= 'A' && c <= 'Z'
		if !upper && (i == 0 || (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-') {
			return false
		}
	}
	return s != ""
}

// trailingComments yields the offset of every "#" or ";" that follows a blank
// and stands outside quotes. Quotes and escapes are those of word lists; a
// quote that is never closed is an ordinary character.
func trailingComments(value string) func(yield func(int) bool) {
	return func(yield func(int) bool) {
		for i := 0; i < len(value); i++ {
			switch c := value[i]; c {
			case '\\':
				i++
			case '"', '\'':
				if n := closingQuote(value[i+1:], c); n >= 0 {
					i += n + 1
				}
			case '#', ';':
				if i > 0 && strings.IndexByte(blanks, value[i-1]) >= 0 && !yield(i) {
					return
				}
			}
		}
	}
}

// closingQuote returns the offset of the first unescaped quote, or -1.
func closingQuote(s string, quote byte) int {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case quote:
			return i
		}
	}
	return -1
}
