package unitfile

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// SyntaxKind says what is wrong with quoting or escapes in a value.
type SyntaxKind int

// The kinds of [SyntaxError].
const (
	// UnknownEscape: a backslash begins no escape that systemd knows, or one
	// that it refuses here, such as NUL in a word.
	UnknownEscape SyntaxKind = iota + 1
	// TrailingBackslash: the value ends in a backslash that escapes nothing.
	TrailingBackslash
	// UnbalancedQuote: a quote is never closed.
	UnbalancedQuote
)

// SyntaxError is a mistake in the quoting or the escapes of a value. Its text
// repeats at most the character after a backslash.
type SyntaxError struct {
	Kind SyntaxKind
	// Offset counts bytes from the start of the value to the backslash, or to
	// the quote that is not closed.
	Offset int
	// Escape is the character behind the backslash of an UnknownEscape.
	Escape rune
}

// Error returns the mistake and the column, counting bytes from 1.
func (e *SyntaxError) Error() string {
	column := e.Offset + 1
	switch e.Kind {
	case UnknownEscape:
		// %q makes control characters visible; its own backslash is not doubled.
		escape := strconv.QuoteRune(e.Escape)
		return fmt.Sprintf("unknown escape \\%s at byte %d of the value", escape[1:len(escape)-1], column)
	case TrailingBackslash:
		return fmt.Sprintf("backslash that escapes nothing at byte %d of the value", column)
	default:
		return fmt.Sprintf("quote that is not closed at byte %d of the value", column)
	}
}

// Unescape undoes C escapes in a whole value, as systemd does for
// SetCredential=. Quotes and blanks are ordinary characters. With acceptNUL,
// as there, an escape may stand for a NUL byte. The result is bytes: it need
// not be valid UTF-8. The error is a [*SyntaxError].
func Unescape(value string, acceptNUL bool) (string, error) {
	if strings.IndexByte(value, '\\') < 0 {
		return value, nil
	}
	out := make([]byte, 0, len(value))
	for i := 0; i < len(value); i++ {
		if value[i] != '\\' {
			out = append(out, value[i])
			continue
		}
		var n int
		if out, n = appendEscape(out, value[i+1:], acceptNUL); n == 0 {
			return "", badEscape(value, i)
		}
		i += n
	}
	return string(out), nil
}

// badEscape describes the backslash at an offset.
func badEscape(value string, offset int) *SyntaxError {
	if offset+1 == len(value) {
		return &SyntaxError{Kind: TrailingBackslash, Offset: offset}
	}
	r, _ := utf8.DecodeRuneInString(value[offset+1:])
	return &SyntaxError{Kind: UnknownEscape, Offset: offset, Escape: r}
}

// appendEscape appends what the escape at the start of s, without its
// backslash, stands for. It returns the number of bytes of s used, 0 if there
// is no escape that systemd knows.
func appendEscape(out []byte, s string, acceptNUL bool) ([]byte, int) {
	if s == "" {
		return out, 0
	}
	switch c := s[0]; c {
	case 'a':
		return append(out, '\a'), 1
	case 'b':
		return append(out, '\b'), 1
	case 'f':
		return append(out, '\f'), 1
	case 'n':
		return append(out, '\n'), 1
	case 'r':
		return append(out, '\r'), 1
	case 't':
		return append(out, '\t'), 1
	case 'v':
		return append(out, '\v'), 1
	case 's':
		return append(out, ' '), 1
	case '\\', '"', '\'':
		return append(out, c), 1
	case 'x':
		return appendNumber(out, s, 1, 2, 16, acceptNUL)
	case 'u':
		return appendNumber(out, s, 1, 4, 16, acceptNUL)
	case 'U':
		return appendNumber(out, s, 1, 8, 16, acceptNUL)
	case '0', '1', '2', '3', '4', '5', '6', '7':
		return appendNumber(out, s, 0, 3, 8, acceptNUL)
	}
	return out, 0
}

// appendNumber reads exactly digits digits of s behind skip bytes. Three octal
// or two hexadecimal digits give a byte, longer ones a character.
func appendNumber(out []byte, s string, skip, digits int, base uint64, acceptNUL bool) ([]byte, int) {
	end := skip + digits
	if len(s) < end {
		return out, 0
	}
	var v uint64
	for i := skip; i < end; i++ {
		d := digit(s[i])
		if d >= base {
			return out, 0
		}
		v = v*base + d
	}
	if v == 0 && !acceptNUL {
		return out, 0
	}
	switch digits {
	case 2, 3:
		if v > 0xFF {
			return out, 0
		}
		return append(out, byte(v)), end
	case 4:
		// systemd encodes surrogates written this way, though the result is
		// not UTF-8, while the long form refuses them.
		if v >= 0xD800 && v <= 0xDFFF {
			return append(out, byte(0xE0|v>>12), byte(0x80|v>>6&0x3F), byte(0x80|v&0x3F)), end
		}
	default:
		if v > utf8.MaxRune || !utf8.ValidRune(rune(v)) || !validRune(rune(v)) {
			return out, 0
		}
	}
	return utf8.AppendRune(out, rune(v)), end
}

// digit returns the value of a hexadecimal digit, or a number too large for
// any base.
func digit(c byte) uint64 {
	switch {
	case c >= '0' && c <= '9':
		return uint64(c - '0')
	case c >= 'a' && c <= 'f':
		return uint64(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return uint64(c-'A') + 10
	}
	return 255
}

// EscapeValue writes arbitrary bytes so that they survive [Format], [Parse]
// and then [Unescape] with NUL accepted, as for SetCredential=. Backslashes
// are doubled; control characters, bytes that are not UTF-8, blanks at the
// ends, and a "#" or ";" that would look like a trailing comment become \xNN.
// Everything else stays readable, "%" included: where specifiers are expanded
// the caller doubles it.
func EscapeValue(s string) string {
	return string(appendEscaped(make([]byte, 0, len(s)+len(s)/16), []byte(s)))
}

// asIs are the bytes that EscapeValue leaves alone wherever they stand.
var asIs = func() (t [256]bool) {
	for c := '!'; c <= '~'; c++ {
		t[c] = c != '\\' && c != '#' && c != ';'
	}
	return t
}()

// appendEscaped is EscapeValue for [Entry.Text].
func appendEscaped(out, s []byte) []byte {
	done := 0 // s[:done] is written; most of a long value is copied in runs
	for i := 0; i < len(s); {
		c := s[i]
		if asIs[c] {
			i++
			continue
		}
		r, size := utf8.DecodeRune(s[i:])
		switch {
		case c == '\\':
			out = append(append(out, s[done:i]...), `\\`...)
			done = i + size
		case mustEscape(r, size),
			c == ' ' && (i == 0 || i+1 == len(s)),
			(c == '#' || c == ';') && i > 0 && s[i-1] == ' ':
			out = appendHex(append(out, s[done:i]...), s[i:i+size])
			done = i + size
		}
		i += size
	}
	return append(out, s[done:]...)
}

// mustEscape reports whether a decoded character cannot or should not stand in
// a unit file as it is.
func mustEscape(r rune, size int) bool {
	return r == utf8.RuneError && size == 1 || // not UTF-8
		r < ' ' || r >= 0x7F && r < 0xA0 || // control characters, which terminals obey
		r == '\uFEFF' || !validRune(r)
}

// appendHex writes each byte as \xNN.
func appendHex(out, s []byte) []byte {
	const digits = "0123456789abcdef"
	for _, c := range s {
		out = append(out, '\\', 'x', digits[c>>4], digits[c&0xF])
	}
	return out
}
