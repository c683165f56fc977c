package unitfile

import "github.com/ampoule-vm/ampoule/internal/diag"

// MaxLine bounds a line in bytes: a physical line must be shorter, a line
// joined by continuations may be just as long. systemd gives up a file that
// exceeds it, and so does [Parse].
const MaxLine = 1 << 20

// File is one parsed file.
type File struct {
	// Name and Layer are what [Parse] was given; every Origin repeats them.
	Name, Layer string
	// Sections holds one entry per header, in order, repeated ones included.
	Sections []Section
	// Assignments holds every assignment inside a section, in order.
	Assignments []Assignment
	// Problems holds what systemd would have logged, and misplaced byte order
	// marks, in the order found; a line joined from several is judged when its
	// last has been read. If the last problem is Fatal, nothing behind it was
	// read.
	Problems []Problem
}

// Fatal returns the problem at which parsing stopped, or nil if the file was
// read to its end. systemd refuses to load a unit whose main file has one; of
// a drop-in it keeps what stands above.
func (f *File) Fatal() *Problem {
	if n := len(f.Problems); n > 0 && f.Problems[n-1].Fatal {
		return &f.Problems[n-1]
	}
	return nil
}

// Section is one section header.
type Section struct {
	// Name is what stands between the brackets, blanks included. It can be
	// empty: systemd takes "[]" for an unknown section.
	Name   string
	Origin diag.Origin
}

// Assignment is one KEY=VALUE inside a section.
type Assignment struct {
	// Section is the name in the header above.
	Section string
	// Key is never empty and has no blanks at its ends. Its case is as
	// written: systemd's keys are case-sensitive.
	Key string
	// Value is what systemd hands to the parser of the setting: continuation
	// lines joined, blanks trimmed, quotes and escapes still in place.
	Value string
	// Origin names the line on which the key begins.
	Origin diag.Origin
	// Flaws are in order of lines.
	Flaws []Flaw
}

// FlawKind says what is doubtful about an assignment that systemd accepts.
type FlawKind int

// The flaws.
const (
	// BlankAfterBackslash: the last line of the assignment ends in a backslash
	// and blanks. The backslash belongs to the value and joins nothing; the
	// author almost certainly meant a continuation.
	BlankAfterBackslash FlawKind = iota + 1
	// TrailingComment: an unquoted "#" or ";" follows a blank inside the
	// value. It belongs to the value; there are no trailing comments. Text is
	// the character. Command lines (Exec…=) use " ; " on purpose.
	TrailingComment
	// EmbeddedNUL: a NUL byte stands right before or right after a line of the
	// assignment. It ends a line like a newline, invisibly in most editors.
	EmbeddedNUL
	// JoinedHeader: a continuation swallowed a line that reads as a section
	// header. Text is that header.
	JoinedHeader
	// JoinedAssignment: a continuation swallowed an unindented line that reads
	// as KEY=VALUE. Text is its key; whether it is a key is for a caller with
	// a key table to tell.
	JoinedAssignment
)

// String returns the name of the kind in words.
func (k FlawKind) String() string {
	switch k {
	case BlankAfterBackslash:
		return "blank after backslash"
	case TrailingComment:
		return "trailing comment"
	case EmbeddedNUL:
		return "embedded NUL"
	case JoinedHeader:
		return "joined section header"
	case JoinedAssignment:
		return "joined assignment"
	default:
		return "unknown flaw"
	}
}

// Flaw is something systemd swallows and a stricter reader may refuse.
type Flaw struct {
	Kind FlawKind
	// Origin names the line of the flaw, which for a value over several lines
	// is not the line of the assignment.
	Origin diag.Origin
	// Text is described at the kinds that have one. It is never part of a
	// value.
	Text string
}

// ProblemKind says what is wrong with a line.
type ProblemKind int

// The problems. Those called fatal end the file.
const (
	// MissingEquals: a line in a section is neither header nor assignment.
	// systemd ignores it, and in a section it does not know it does so in
	// silence.
	MissingEquals ProblemKind = iota + 1
	// EmptyKey: nothing stands before "=". systemd ignores the line.
	EmptyKey
	// OutsideSection: a line stands before the first header. systemd ignores
	// it.
	OutsideSection
	// MisplacedBOM: a byte order mark stands before a comment, which then is
	// none and is judged as a line of its own, or it stands further down than
	// the first line. systemd says nothing.
	MisplacedBOM
	// HeaderNotClosed: a line begins with "[" and does not end in "]", for
	// instance because a comment follows. Fatal.
	HeaderNotClosed
	// HeaderBadCharacter: a quote, a backslash or a control character stands
	// in a header. Fatal.
	HeaderBadCharacter
	// BadUTF8: a byte is not part of a character that systemd takes for valid,
	// which excludes Unicode's noncharacters. Comments are exempt. Fatal.
	BadUTF8
	// LineTooLong: a line exceeds [MaxLine]. Comments are not exempt. Fatal.
	LineTooLong
)

// String returns the name of the kind in words.
func (k ProblemKind) String() string {
	switch k {
	case MissingEquals:
		return "missing '='"
	case EmptyKey:
		return "missing key before '='"
	case OutsideSection:
		return "text before the first section"
	case MisplacedBOM:
		return "misplaced byte order mark"
	case HeaderNotClosed:
		return "section header does not end in ']'"
	case HeaderBadCharacter:
		return "quote, backslash or control character in section header"
	case BadUTF8:
		return "invalid UTF-8"
	case LineTooLong:
		return "line too long"
	default:
		return "unknown problem"
	}
}

// Problem is a line that is not what it should be.
type Problem struct {
	Origin diag.Origin
	Kind   ProblemKind
	// Fatal means that nothing from this line on was read.
	Fatal bool
	// Section is the name in the header above, "" before the first.
	Section string
	// Word is the beginning of the line up to the first blank or "=", at most
	// [MaxWord] bytes, for guessing what was meant. Empty for BadUTF8 and
	// LineTooLong. The line may be the torn-off rest of a secret, and then so
	// is Word: show it only where it resembles something known.
	Word string
}

// MaxWord bounds [Problem.Word] in bytes.
const MaxWord = 32
