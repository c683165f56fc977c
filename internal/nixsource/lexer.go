package nixsource

import (
	"strings"
)

type kind int

const (
	// name is an identifier or a keyword, text a string or a computed name,
	// relative a path that begins with a dot, other anything that means nothing here.
	name kind = iota
	quoted
	relative
	punctuation
	other
)

type token struct {
	kind kind
	// text is the identifier, what a string holds where it is plain, else "${…}".
	text string
	// line is where it begins; end the offset behind it.
	line, end int
}

// Computed stands for a name that only an evaluation tells.
const Computed = "${…}"

type lexer struct {
	text string
	pos  int
	line int
}

// next returns the next token; false at the end.
func (l *lexer) next() (token, bool) {
	l.skip()
	if l.pos >= len(l.text) {
		return token{}, false
	}
	t := token{line: l.line}
	rest := l.text[l.pos:]
	c := rest[0]
	switch {
	case c == '"':
		t.kind, t.text = quoted, l.plain(l.string())
	case strings.HasPrefix(rest, "''"):
		t.kind, t.text = quoted, l.plain(l.indented())
	case strings.HasPrefix(rest, "${"):
		l.advance(2)
		l.interpolation()
		t.kind, t.text = quoted, Computed
	case strings.HasPrefix(rest, "./"), strings.HasPrefix(rest, "../"):
		n := span(rest, inPath)
		t.kind, t.text = relative, rest[:n]
		l.advance(n)
	case isNameStart(c):
		n := span(rest, inName)
		t.kind, t.text = name, rest[:n]
		l.advance(n)
	case c >= '0' && c <= '9', c == '/' && len(rest) > 1 && inPath(rest[1]), c == '~' && strings.HasPrefix(rest, "~/"), c == '<' && strings.IndexByte(rest, '>') > 1 && span(rest[1:], inPath) == strings.IndexByte(rest, '>')-1:
		n := 1 + span(rest[1:], func(c byte) bool { return inPath(c) || c == '>' })
		t.kind, t.text = other, rest[:n]
		l.advance(n)
	default:
		n := 1
		for _, long := range []string{"...", "==", "!=", "<=", ">=", "&&", "||", "->", "//", "++"} {
			if strings.HasPrefix(rest, long) {
				n = len(long)
				break
			}
		}
		t.kind, t.text = punctuation, rest[:n]
		l.advance(n)
	}
	t.end = l.pos
	return t, true
}

func (l *lexer) advance(n int) {
	n = min(n, len(l.text)-l.pos)
	l.line += strings.Count(l.text[l.pos:l.pos+n], "\n")
	l.pos += n
}

// skip passes over blanks and comments.
func (l *lexer) skip() {
	for l.pos < len(l.text) {
		rest := l.text[l.pos:]
		switch {
		case strings.IndexByte(" \t\r\n", rest[0]) >= 0:
			l.advance(1)
		case rest[0] == '#':
			l.to("\n", 1)
		case strings.HasPrefix(rest, "/*"):
			l.to("*/", 2)
		default:
			return
		}
	}
}

// to passes over everything up to an end, which is looked for behind the first
// bytes.
func (l *lexer) to(end string, behind int) {
	if i := strings.Index(l.text[l.pos+behind:], end); i >= 0 {
		l.advance(behind + i + len(end))
		return
	}
	l.advance(len(l.text))
}

// plain is what a string between two offsets holds, or Computed.
func (l *lexer) plain(from, to int) string {
	s := l.text[from:to]
	if strings.ContainsAny(s, "$\\\n") {
		return Computed
	}
	return s
}

// string passes over a string in double quotes, and returns where what is in it
// begins and ends.
func (l *lexer) string() (from, to int) {
	l.advance(1)
	from = l.pos
	for l.pos < len(l.text) {
		rest := l.text[l.pos:]
		switch {
		case rest[0] == '"':
			to = l.pos
			l.advance(1)
			return from, to
		case rest[0] == '\\':
			l.advance(2)
		default:
			l.content()
		}
	}
	return from, l.pos
}

// indented passes over a string in pairs of single quotes.
func (l *lexer) indented() (from, to int) {
	l.advance(2)
	from = l.pos
	for l.pos < len(l.text) {
		rest := l.text[l.pos:]
		switch {
		case strings.HasPrefix(rest, "'''"), strings.HasPrefix(rest, "''$"):
			l.advance(3)
		case strings.HasPrefix(rest, `''\`):
			l.advance(4)
		case strings.HasPrefix(rest, "''"):
			to = l.pos
			l.advance(2)
			return from, to
		default:
			l.content()
		}
	}
	return from, l.pos
}

// content passes over what means the same in both kinds of strings: an interpolation,
// "$$", which begins none, or a character.
func (l *lexer) content() {
	rest := l.text[l.pos:]
	switch {
	case strings.HasPrefix(rest, "$$"):
		l.advance(2)
	case strings.HasPrefix(rest, "${"):
		l.advance(2)
		l.interpolation()
	default:
		l.advance(1)
	}
}

// interpolation passes over what stands between "${" and its brace, strings with
// interpolations of their own included.
func (l *lexer) interpolation() {
	for depth := 1; depth > 0; {
		l.skip()
		if l.pos >= len(l.text) {
			return
		}
		rest := l.text[l.pos:]
		switch {
		case rest[0] == '"':
			l.string()
		case strings.HasPrefix(rest, "''"):
			l.indented()
		case rest[0] == '{':
			depth++
			l.advance(1)
		case rest[0] == '}':
			depth--
			l.advance(1)
		default:
			l.advance(1)
		}
	}
}

// span is the number of bytes at the start of a text that all are of a kind.
func span(s string, is func(byte) bool) int {
	for i := range len(s) {
		if !is(s[i]) {
			return i
		}
	}
	return len(s)
}

func isNameStart(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_'
}

func inName(c byte) bool {
	return isNameStart(c) || c >= '0' && c <= '9' || c == '-' || c == '\''
}

func inPath(c byte) bool {
	return isNameStart(c) || c >= '0' && c <= '9' || strings.IndexByte(".+-/", c) >= 0
}
