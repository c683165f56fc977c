package notify

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxStatus bounds the bytes of a status. It stands in one line of systemctl.
const MaxStatus = 256

// ellipsis ends a status that was longer.
const ellipsis = "…"

// printable makes of a guest's text one line that can be shown and handed on: a
// control character would be a second field for the service manager, or move the
// cursor of a terminal, and one without a shape of its own could turn the rest
// of the line around.
func printable(text string) string {
	var b strings.Builder
	space := false
	for _, r := range strings.TrimSpace(text) {
		if unicode.IsSpace(r) {
			space = true
			continue
		}
		if !unicode.IsPrint(r) {
			r = utf8.RuneError
		}
		width := utf8.RuneLen(r)
		if space {
			width++
		}
		if b.Len()+width > MaxStatus {
			return fit(b.String())
		}
		if space {
			b.WriteByte(' ')
			space = false
		}
		b.WriteRune(r)
	}
	return b.String()
}

// fit makes room for the ellipsis.
func fit(text string) string {
	for len(text)+len(ellipsis) > MaxStatus {
		_, size := utf8.DecodeLastRuneInString(text)
		text = text[:len(text)-size]
	}
	return text + ellipsis
}
