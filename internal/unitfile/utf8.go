package unitfile

import "unicode/utf8"

// validRune is systemd's idea of a character, which is stricter than
// Unicode's definition of well-formed text: noncharacters are refused. Go's
// decoder has already refused surrogates and what lies beyond U+10FFFF.
func validRune(r rune) bool {
	return (r < 0xFDD0 || r > 0xFDEF) && r&0xFFFE != 0xFFFE
}

// invalidUTF8 returns the offset of the first byte that systemd does not take
// for part of a valid character, or -1.
func invalidUTF8(s string) int {
	for i := 0; i < len(s); {
		if s[i] < utf8.RuneSelf {
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size == 1 || !validRune(r) {
			return i
		}
		i += size
	}
	return -1
}
