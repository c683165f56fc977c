package unitfile

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Block is one section to be written, header first. Several blocks may have
// the same name.
type Block struct {
	// Comment, if not empty, is written above the header, each of its lines
	// behind "# ".
	Comment string
	// Name is the section's name. It is empty for a block that holds nothing
	// but a comment, such as the one at the head of a file.
	Name    string
	Entries []Entry
}

// Entry is one assignment to be written.
type Entry struct {
	// Comment, if not empty, is written above the assignment.
	Comment string
	Key     string
	// Value is written as it is: it must already be quoted or escaped as its
	// setting wants it.
	Value string
	// Text stands behind Value, written as EscapeValue does: something long,
	// such as a plan, is copied once.
	Text []byte
	// Lines, if not nil, stand in the place of the entry: some that Format has
	// written already, and that many files have in common.
	Lines []byte
}

// Lines are the entries as Format writes them, for [Entry.Lines].
func Lines(entries []Entry) ([]byte, error) {
	out, err := appendBlock(nil, &Block{Name: "x", Entries: entries})
	return bytes.TrimPrefix(out, []byte("[x]\n")), err
}

// Blocks returns what was parsed in the form that [Format] writes, without
// comments.
func (f *File) Blocks() []Block {
	blocks := make([]Block, len(f.Sections))
	for i, s := range f.Sections {
		blocks[i].Name = s.Name
	}
	// Every assignment belongs to the last header above it; the names alone do
	// not tell which, since sections repeat.
	b := 0
	for _, a := range f.Assignments {
		for b+1 < len(blocks) && f.Sections[b+1].Origin.Line < a.Origin.Line {
			b++
		}
		blocks[b].Entries = append(blocks[b].Entries, Entry{Key: a.Key, Value: a.Value})
	}
	return blocks
}

// Format writes a unit file from which [Parse] reads exactly these sections
// and assignments, without a problem. One empty line separates blocks, one
// line holds one assignment.
//
// It refuses what the syntax cannot carry: line ends and NUL anywhere, blanks
// at the ends of a key or value, keys that are empty, contain "=" or would
// begin a comment or a header, headers that systemd refuses, text that is not
// UTF-8, lines of [MaxLine] and more. The error names section and key, never
// the value.
func Format(blocks []Block) ([]byte, error) { return Append(nil, blocks) }

// Append is Format behind what is in out.
func Append(out []byte, blocks []Block) ([]byte, error) {
	out = slices.Grow(out, sizeOf(blocks))
	var err error
	for i := range blocks {
		if i > 0 {
			out = append(out, '\n')
		}
		if out, err = appendBlock(out, &blocks[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// sizeOf is the size of the file in bytes, or a little more.
func sizeOf(blocks []Block) int {
	n := 0
	for i := range blocks {
		b := &blocks[i]
		n += len(b.Comment) + len(b.Name) + len("\n# \n[]\n")
		for j := range b.Entries {
			e := &b.Entries[j]
			n += len(e.Comment) + len("# \n") + len(e.Key) + len(e.Value) + len(e.Text) + len(e.Text)/16 + len(e.Lines) + len(" = \n")
		}
	}
	return n
}

func appendBlock(out []byte, b *Block) ([]byte, error) {
	out, err := appendComment(out, b.Comment)
	if err != nil {
		return nil, fmt.Errorf("writing the comment above [%s]: %w", b.Name, err)
	}
	if b.Name == "" && len(b.Entries) == 0 && b.Comment != "" {
		return out, nil
	}
	if err := checkName(b.Name); err != nil {
		return nil, fmt.Errorf("writing section %q: %w", b.Name, err)
	}
	out = append(append(append(out, '['), b.Name...), "]\n"...)
	for i := range b.Entries {
		e := &b.Entries[i]
		if e.Lines != nil {
			out = append(out, e.Lines...)
			continue
		}
		if out, err = appendComment(out, e.Comment); err != nil {
			return nil, fmt.Errorf("writing the comment above %s.%s: %w", b.Name, e.Key, err)
		}
		if err := checkEntry(e); err != nil {
			return nil, fmt.Errorf("writing %q in section %q: %w", e.Key, b.Name, err)
		}
		start := len(out)
		// A byte order mark at the start of a line would be lost; behind a
		// blank, which is trimmed, it is not.
		if strings.HasPrefix(e.Key, byteOrderMark) {
			out = append(out, ' ')
		}
		out = append(append(append(out, e.Key...), '='), e.Value...)
		if len(e.Text) > 0 {
			if out = appendEscaped(out, e.Text); len(out)-start+1 >= MaxLine {
				return nil, fmt.Errorf("writing %q in section %q: %w", e.Key, b.Name, errTooLong)
			}
		}
		// The backslash that ends a value would join the next line; with a
		// blank behind it, which is trimmed, it does not.
		if len(e.Text) == 0 && oddBackslashes(e.Value) {
			out = append(out, ' ')
		}
		out = append(out, '\n')
	}
	return out, nil
}

// What Format refuses.
var (
	errLineEnd    = errors.New("line ends and NUL cannot be written")
	errUTF8       = errors.New("only valid UTF-8 can be written")
	errBlankEnds  = errors.New("blanks at the start or the end would be lost")
	errTooLong    = errors.New("the line would reach 1 MiB")
	errEmptyKey   = errors.New("the key is empty")
	errEqualsKey  = errors.New("the key contains \"=\"")
	errKeyStart   = errors.New("the line would read as a comment or as a section header")
	errHeaderName = errors.New("quotes, backslashes and control characters are refused in a section header")
	errEmptyName  = errors.New("assignments need a section")
)

func appendComment(out []byte, comment string) ([]byte, error) {
	if comment == "" {
		return out, nil
	}
	if strings.IndexByte(comment, '\r') >= 0 || strings.IndexByte(comment, 0) >= 0 {
		return nil, errLineEnd
	}
	for text := range strings.SplitSeq(strings.TrimSuffix(comment, "\n"), "\n") {
		if len(text)+2 >= MaxLine {
			return nil, errTooLong
		}
		out = append(out, '#')
		if text = strings.TrimRight(text, blanks); text != "" {
			out = append(append(out, ' '), text...)
		}
		out = append(out, '\n')
	}
	return out, nil
}

// holdsLineEnd reports whether a byte of s ends a line. Each search for a single
// byte looks at many at once.
func holdsLineEnd(s string) bool {
	return strings.IndexByte(s, '\n') >= 0 || strings.IndexByte(s, '\r') >= 0 || strings.IndexByte(s, 0) >= 0
}

func blankEnds(s string) bool {
	return s != "" && (strings.IndexByte(blanks, s[0]) >= 0 || strings.IndexByte(blanks, s[len(s)-1]) >= 0)
}

func checkName(name string) error {
	switch {
	case name == "":
		return errEmptyName
	case !safeName(name):
		return errHeaderName
	case invalidUTF8(name) >= 0:
		return errUTF8
	case len(name)+2 >= MaxLine:
		return errTooLong
	}
	return nil
}

func checkEntry(e *Entry) error {
	switch {
	case e.Key == "":
		return errEmptyKey
	case holdsLineEnd(e.Key) || holdsLineEnd(e.Value):
		return errLineEnd
	case strings.Contains(e.Key, "="):
		return errEqualsKey
	case strings.IndexByte("#;[", e.Key[0]) >= 0:
		return errKeyStart
	case blankEnds(e.Key) || blankEnds(e.Value):
		return errBlankEnds
	case invalidUTF8(e.Key) >= 0 || invalidUTF8(e.Value) >= 0:
		return errUTF8
	// One byte for "=", one for the blank in front of a byte order mark, one
	// for the blank behind a backslash.
	case len(e.Key)+len(e.Value)+3 >= MaxLine:
		return errTooLong
	}
	return nil
}
