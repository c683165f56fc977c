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
	for i := asciiPrefix(s); i < len(s); {
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

// asciiPrefix returns the length, in steps of eight bytes, of what at the start
// of s is ASCII: of a long value most often all. The compiler makes one load of
// each four.
func asciiPrefix(s string) int {
	i := 0
	for ; len(s)-i >= 8; i += 8 {
		b := s[i : i+8]
		low := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
		high := uint32(b[4]) | uint32(b[5])<<8 | uint32(b[6])<<16 | uint32(b[7])<<24
		if (low|high)&0x80808080 != 0 {
			break
		}
	}
	return i
}
