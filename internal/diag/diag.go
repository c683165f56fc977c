// Package diag holds the one shape in which Ampoule talks about a user's
// files: where (Origin) and what (Problem), sorted, all at once.
//
// The text of a Problem is
//
//	FILE:LINE: KEY=VALUE: what is wrong; what would be accepted
//
// Nothing here reads files or prints. A value that may be secret must have
// been shortened by the caller, see [Elide].
package diag

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Origin is the place an assignment came from.
type Origin struct {
	// File is the path as the user would open it; "--set" for the command line.
	File string `json:"file"`
	// Line counts from 1. 0 means the file as a whole.
	Line int `json:"line,omitempty"`
	// Layer names the kind of source: "default", "image", "main", "drop-in", "set".
	Layer string `json:"layer,omitempty"`
}

// String returns FILE:LINE. A problem of the file as a whole is reported at
// line 1, so that editors and terminals can jump to every message.
func (o Origin) String() string {
	if o.File == "" {
		return "built-in"
	}
	return o.File + ":" + strconv.Itoa(max(o.Line, 1))
}

// Severity orders problems. Only an Error stops anything.
type Severity int

// The severities, worst first.
const (
	Error Severity = iota
	Warning
	Note
)

// String returns the word that stands before a message that is not an error.
func (s Severity) String() string {
	switch s {
	case Error:
		return "error"
	case Warning:
		return "warning"
	default:
		return "note"
	}
}

// MarshalText makes the severity a word in JSON.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads that word.
func (s *Severity) UnmarshalText(text []byte) error {
	for _, known := range []Severity{Error, Warning, Note} {
		if string(text) == known.String() {
			*s = known
			return nil
		}
	}
	return fmt.Errorf("%q is no severity", text)
}

// Problem is one finding about one place.
type Problem struct {
	Origin   Origin   `json:"origin"`
	Severity Severity `json:"severity"`
	// Key and Value are the assignment as written, the value shortened where
	// it may be secret; both empty where the problem is not about one.
	Key      string `json:"key,omitempty"`
	Value    string `json:"value,omitempty"`
	What     string `json:"what"`
	Accepted string `json:"accepted,omitempty"`
}

// Error returns the one-line text of the problem.
func (p Problem) Error() string {
	var b strings.Builder
	b.WriteString(printable(p.Origin.String()))
	b.WriteString(": ")
	if p.Severity != Error {
		b.WriteString(p.Severity.String())
		b.WriteString(": ")
	}
	if p.Key != "" {
		b.WriteString(printable(p.Key))
		b.WriteByte('=')
		b.WriteString(printable(p.Value))
		b.WriteString(": ")
	}
	b.WriteString(p.What)
	if p.Accepted != "" {
		b.WriteString("; ")
		b.WriteString(p.Accepted)
	}
	return b.String()
}

// MaxShown is the number of bytes of a value that a message repeats.
const MaxShown = 120

// printable makes a value fit for a message.
func printable(v string) string { return Printable(v, MaxShown) }

// Printable makes a text fit for a terminal and a log: no control bytes, and not
// longer than so many bytes.
func Printable(text string, most int) string {
	clean := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == '�' {
			return '?'
		}
		return r
	}, text)
	if len(clean) <= most {
		return clean
	}
	cut := most
	for cut > 0 && clean[cut]&0xC0 == 0x80 {
		cut--
	}
	return clean[:cut] + Elided
}

// Elided stands for the part of a value that must not be repeated.
const Elided = "…"

// Elide keeps what stands before the first sep and replaces the rest, for
// values such as NAME:SECRET. A value without sep is replaced whole.
func Elide(value, sep string) string {
	if i := strings.Index(value, sep); i >= 0 {
		return value[:i+len(sep)] + Elided
	}
	return Elided
}

// List is a set of problems. The zero value is ready to use.
type List []Problem

// Add appends a problem.
func (l *List) Add(p Problem) { *l = append(*l, p) }

// Errorf appends an error about an assignment.
func (l *List) Errorf(o Origin, key, value, accepted, format string, args ...any) {
	l.Add(Problem{Origin: o, Key: key, Value: value, Accepted: accepted, What: fmt.Sprintf(format, args...)})
}

// Sort orders by file, line, severity and text, and drops exact repetitions.
func (l *List) Sort() {
	slices.SortStableFunc(*l, func(a, b Problem) int {
		return cmp.Or(
			cmp.Compare(a.Origin.File, b.Origin.File),
			cmp.Compare(a.Origin.Line, b.Origin.Line),
			cmp.Compare(a.Severity, b.Severity),
			cmp.Compare(a.Error(), b.Error()))
	})
	*l = slices.Compact(*l)
}

// HasErrors reports whether anything in the list stops a start.
func (l List) HasErrors() bool {
	return slices.ContainsFunc(l, func(p Problem) bool { return p.Severity == Error })
}

// Err returns the sorted list as an error, or nil where it holds no Error.
func (l List) Err() error {
	if !l.HasErrors() {
		return nil
	}
	sorted := slices.Clone(l)
	sorted.Sort()
	return sorted
}

// Error returns one line per problem.
func (l List) Error() string {
	lines := make([]string, len(l))
	for i, p := range l {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// Nearest returns the candidate that a mistyped word most likely meant, or "".
// Letter case is free; more than a third of the word wrong is no guess, but two
// letters always may be, as long as most of the word is right.
func Nearest(word string, candidates []string) string {
	most := max(2, len(word)/3)
	if 2*most >= len(word) {
		most = (len(word) - 1) / 2
	}
	best, bestDist := "", 1+most
	for _, c := range candidates {
		if d := distance(strings.ToLower(word), strings.ToLower(c)); d < bestDist {
			best, bestDist = c, d
		}
	}
	return best
}

// distance is the number of single-letter edits and swaps of neighbours
// (optimal string alignment).
func distance(a, b string) int {
	prev2, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return prev[len(b)]
}
