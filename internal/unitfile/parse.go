package unitfile

import (
	"sort"
	"strings"
	"unicode/utf8"

	"github.com/ampoule-vm/ampoule/internal/diag"
)

const (
	blanks        = " \t\n\r" // what systemd trims and splits at
	byteOrderMark = "\uFEFF"
)

// Parse reads a file as systemd would. name and layer go into every Origin.
// There is no input it fails on: what is wrong with the file is in
// [File.Problems].
func Parse(name, layer string, data []byte) *File {
	p := &parser{file: &File{Name: name, Layer: layer}}
	p.run(string(data))
	return p.file
}

// parser is the state between two physical lines.
type parser struct {
	file      *File
	section   string
	inSection bool
	bomSeen   bool
	logical   logicalLine
}

// logicalLine is a line under construction: one physical line, or several
// joined by backslashes.
type logicalLine struct {
	text   []byte
	pieces []piece
	open   bool // the last piece ended in a backslash
}

// piece is the part of a logical line that came from one physical line.
type piece struct {
	offset int // in the text of the logical line
	number int
	nul    bool
}

// lineAt returns the number of the physical line that the byte at an offset
// came from.
func (l *logicalLine) lineAt(offset int) int {
	next := sort.Search(len(l.pieces), func(i int) bool { return l.pieces[i].offset > offset })
	return l.pieces[max(next-1, 0)].number
}

func (l *logicalLine) reset() {
	*l = logicalLine{text: l.text[:0], pieces: l.pieces[:0]}
}

func (p *parser) run(data string) {
	lines := lineReader{rest: data}
	for {
		ln, ok := lines.next()
		if !ok {
			break
		}
		if ln.tooLong {
			p.problem(LineTooLong, ln.number, "")
			return
		}
		// A comment is passed over even inside a continuation, which then goes
		// on behind it.
		if isComment(ln.text) {
			continue
		}
		if !p.add(ln) {
			return
		}
		if p.logical.open {
			continue
		}
		if !p.finish() {
			return
		}
	}
	// A backslash at the end of the file joins nothing, but what stands before
	// it counts.
	if p.logical.open {
		p.finish()
	}
}

// add appends a physical line to the logical one. It returns false if the
// file ends there.
func (p *parser) add(ln line) bool {
	l := &p.logical
	text := ln.text
	// systemd strips one byte order mark, at the start of whichever line has
	// it first, and after it has looked for a comment.
	if !p.bomSeen && strings.HasPrefix(text, byteOrderMark) {
		p.bomSeen = true
		text = text[len(byteOrderMark):]
		if ln.number > 1 || isComment(text) {
			p.problem(MisplacedBOM, ln.number, text)
		}
	}
	if len(l.text)+len(text) > MaxLine {
		p.problem(LineTooLong, ln.number, "")
		return false
	}
	l.pieces = append(l.pieces, piece{offset: len(l.text), number: ln.number, nul: ln.startNUL || ln.endNUL})
	l.text = append(l.text, text...)
	// The backslash that continues a line is the last byte and not itself
	// escaped; it turns into one blank. The blank of the line before cannot
	// escape anything, so counting in this line alone is enough.
	l.open = oddBackslashes(text)
	if l.open {
		l.text[len(l.text)-1] = ' '
	}
	return true
}

// finish interprets the logical line and clears it. It returns false if the
// file ends there.
func (p *parser) finish() bool {
	defer p.logical.reset()
	l := &p.logical
	text := string(l.text)
	line := strings.Trim(text, blanks)
	if line == "" {
		return true
	}
	start := len(text) - len(strings.TrimLeft(text, blanks))
	if bad := invalidUTF8(line); bad >= 0 {
		p.problem(BadUTF8, l.lineAt(start+bad), "")
		return false
	}
	number := l.lineAt(start)
	if line[0] == '[' {
		return p.header(line, number)
	}
	if !p.inSection {
		p.problem(OutsideSection, number, line)
		return true
	}
	equals := strings.IndexByte(line, '=')
	switch equals {
	case -1:
		p.problem(MissingEquals, number, line)
		return true
	case 0:
		p.problem(EmptyKey, number, "")
		return true
	}
	p.file.Assignments = append(p.file.Assignments, Assignment{
		Section: p.section,
		Key:     strings.Trim(line[:equals], blanks),
		Value:   strings.Trim(line[equals+1:], blanks),
		Origin:  p.origin(number),
		Flaws:   p.flaws(text, start+equals+1),
	})
	return true
}

// header interprets a line that begins with a bracket.
func (p *parser) header(line string, number int) bool {
	if line[len(line)-1] != ']' {
		p.problem(HeaderNotClosed, number, line)
		return false
	}
	name := line[1 : len(line)-1]
	if !safeName(name) {
		p.problem(HeaderBadCharacter, number, line)
		return false
	}
	p.section, p.inSection = name, true
	p.file.Sections = append(p.file.Sections, Section{Name: name, Origin: p.origin(number)})
	return true
}

func (p *parser) origin(number int) diag.Origin {
	return diag.Origin{File: p.file.Name, Line: number, Layer: p.file.Layer}
}

func (p *parser) problem(kind ProblemKind, number int, line string) {
	p.file.Problems = append(p.file.Problems, Problem{
		Origin:  p.origin(number),
		Kind:    kind,
		Fatal:   kind >= HeaderNotClosed,
		Section: p.section,
		Word:    firstWord(line),
	})
}

// firstWord returns the start of a line up to the first blank or "=", at most
// MaxWord bytes and whole characters.
func firstWord(line string) string {
	line = strings.TrimLeft(line, blanks)
	if i := strings.IndexAny(line, blanks+"="); i >= 0 {
		line = line[:i]
	}
	if len(line) <= MaxWord {
		return line
	}
	cut := MaxWord
	for cut > 0 && !utf8.RuneStart(line[cut]) {
		cut--
	}
	return line[:cut]
}

// safeName reports whether systemd takes a name for a section header.
func safeName(name string) bool {
	for i := 0; i < len(name); i++ {
		if c := name[i]; c < ' ' || c == 0x7f || c == '"' || c == '\'' || c == '\\' {
			return false
		}
	}
	return true
}

func isComment(line string) bool {
	line = strings.TrimLeft(line, blanks)
	return line != "" && (line[0] == '#' || line[0] == ';')
}

// oddBackslashes reports whether the run of backslashes that ends s is of odd
// length, that is, whether its last one is not escaped.
func oddBackslashes(s string) bool {
	return (len(s)-len(strings.TrimRight(s, `\`)))%2 == 1
}
