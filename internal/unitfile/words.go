package unitfile

import (
	"strings"
	"unicode/utf8"
)

// SplitWords cuts a value into words at blanks, takes off quotes and undoes C
// escapes, as systemd does for Environment= and its other lists of words.
// Quotes of either kind may begin and end inside a word; escapes work inside
// both. A word may be empty if it is quoted, and holds bytes, not necessarily
// UTF-8; it never holds a NUL byte.
//
// The error is a [*SyntaxError]; the words before the faulty one, which
// systemd keeps, are returned with it.
func SplitWords(value string) ([]string, error) {
	s := wordScanner{value: value}
	var words []string
	for s.skipBlanks() {
		word, bad := s.next()
		if bad != nil {
			return words, bad
		}
		words = append(words, word)
	}
	return words, nil
}

// skipBlanks moves to the next word and reports whether there is one.
func (s *wordScanner) skipBlanks() bool {
	s.pos = len(s.value) - len(strings.TrimLeft(s.value[s.pos:], blanks))
	return s.pos < len(s.value)
}

// wordScanner reads words one by one. pos is the offset of the next byte.
type wordScanner struct {
	value    string
	pos      int
	relaxed  bool
	doubtful []*SyntaxError
}

// next reads the word that begins at pos.
func (s *wordScanner) next() (string, *SyntaxError) {
	var word []byte
	var quote byte
	var opened int
	// A word that turns out to be unbalanced is lost as a whole, and with it
	// what was doubtful about it.
	known := len(s.doubtful)
	for ; s.pos < len(s.value); s.pos++ {
		c := s.value[s.pos]
		switch {
		case c == '\\':
			var bad *SyntaxError
			if word, bad = s.escape(word, quote != 0); bad != nil {
				s.doubtful = s.doubtful[:known]
				if quote != 0 && bad.Kind == TrailingBackslash {
					bad = &SyntaxError{Kind: UnbalancedQuote, Offset: opened}
				}
				return "", bad
			}
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word = append(word, c)
		case c == '"' || c == '\'':
			quote, opened = c, s.pos
		case strings.IndexByte(blanks, c) >= 0:
			return string(word), nil
		default:
			word = append(word, c)
		}
	}
	if quote != 0 {
		s.doubtful = s.doubtful[:known]
		return "", &SyntaxError{Kind: UnbalancedQuote, Offset: opened}
	}
	return string(word), nil
}

// escape appends what the backslash at pos and its successors stand for and
// moves pos to the last of them.
func (s *wordScanner) escape(word []byte, quoted bool) ([]byte, *SyntaxError) {
	word, n := appendEscape(word, s.value[s.pos+1:], false)
	if n > 0 {
		s.pos += n
		return word, nil
	}
	bad := badEscape(s.value, s.pos)
	if !s.relaxed || quoted && bad.Kind == TrailingBackslash {
		return word, bad
	}
	s.doubtful = append(s.doubtful, bad)
	word = append(word, '\\')
	if bad.Kind == UnknownEscape {
		s.pos++
		word = append(word, s.value[s.pos])
	}
	return word, nil
}

// QuoteWord writes any string without NUL as one word for [SplitWords],
// without quotes where it needs none. The result contains no line end and no
// control character, is valid UTF-8, and can stand anywhere in a value. It
// does not double "%" or "$", which some settings expand. A NUL byte, which no
// word can hold, becomes an escape that SplitWords refuses.
func QuoteWord(s string) string {
	plain := s != ""
	for i := 0; i < len(s) && plain; i++ {
		plain = plainByte(s[i])
	}
	if plain {
		return s
	}
	var b strings.Builder
	b.Grow(len(s) + 2)
	b.WriteByte('"')
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		char := s[i : i+size]
		switch {
		case r == '\\' || r == '"':
			b.WriteByte('\\')
			b.WriteString(char)
		case mustEscape(r, size):
			b.Write(appendHex(nil, []byte(char)))
		default:
			b.WriteString(char)
		}
		i += size
	}
	b.WriteByte('"')
	return b.String()
}

// plainByte reports whether a byte needs no quotes in any setting, first byte
// of a command line and everything expansions look for aside.
func plainByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		strings.IndexByte("-_./:=,+@%^~$", c) >= 0
}
