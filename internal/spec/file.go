package spec

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/systemdkeys"
	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

// CheckFile reports what the parser swallowed as systemd does, unknown
// sections, and what our own section is stricter about than systemd.
func CheckFile(f *unitfile.File) diag.List {
	var problems diag.List
	for _, p := range f.Problems {
		if !p.Fatal && strings.HasPrefix(p.Section, "X-") {
			continue
		}
		problems.Add(explainProblem(p))
	}
	for _, s := range f.Sections {
		if !slices.Contains(sections, s.Name) && !strings.HasPrefix(s.Name, "X-") {
			problems.Add(unknownSection(s))
		}
	}
	if len(f.Sections) == 0 && len(problems) == 0 {
		problems.Add(diag.Problem{
			Origin: diag.Origin{File: f.Name, Line: 1, Layer: f.Layer},
			What:   "the file has no section", Accepted: "accepted: [" + Section + "] and lines KEY=VALUE below it",
		})
	}
	for i := range f.Assignments {
		a := &f.Assignments[i]
		if len(a.Flaws) == 0 || !slices.Contains(sections, a.Section) {
			continue
		}
		for _, flaw := range a.Flaws {
			if p := explainFlaw(*a, flaw); p.What != "" {
				problems.Add(p)
			}
		}
	}
	return problems
}

// Unread reports whether the parser or CheckFile left out lines of a file: what
// seems to be missing from it may be written there.
func Unread(f *unitfile.File) bool {
	for _, s := range f.Sections {
		if !slices.Contains(sections, s.Name) && diag.Nearest(s.Name, []string{Section}) != "" {
			return true
		}
	}
	return slices.ContainsFunc(f.Problems, func(p unitfile.Problem) bool { return p.Fatal || !strings.HasPrefix(p.Section, "X-") })
}

func unknownSection(s unitfile.Section) diag.Problem {
	p := diag.Problem{
		Origin: s.Origin, What: fmt.Sprintf("unknown section [%s]", clip(s.Name)),
		Accepted: "accepted: [" + strings.Join(sections, "], [") + "], and sections that begin with X-",
	}
	if near := diag.Nearest(s.Name, sections); near != "" {
		p.Accepted = "did you mean [" + near + "]?"
	}
	return p
}

// clip bounds a word that a message repeats.
func clip(s string) string {
	const most = 40
	if len(s) <= most {
		return strings.ToValidUTF8(s, "?")
	}
	return strings.ToValidUTF8(s[:most], "") + diag.Elided
}

// explainProblem words a problem of the parser. systemd would go on; we do
// not, since a line that is ignored is an override that is lost.
func explainProblem(p unitfile.Problem) diag.Problem {
	out := diag.Problem{Origin: p.Origin, What: p.Kind.String()}
	switch p.Kind {
	case unitfile.MissingEquals:
		out.What = `a line without "="`
		out.Accepted = "accepted: KEY=VALUE, [SECTION], or a comment that begins with # or ;"
		// The line may be the torn-off rest of a secret: nothing of it is repeated.
		keys := tableKeys
		if p.Section != Section {
			keys = systemdkeys.Keys(p.Section)
		}
		if near := diag.Nearest(p.Word, keys); near != "" && len(p.Word) > 2 {
			out.Accepted = "did you mean " + near + "=VALUE?"
		}
	case unitfile.EmptyKey:
		out.What = `nothing stands before "="`
		out.Accepted = "accepted: KEY=VALUE"
	case unitfile.OutsideSection:
		out.What = "text before the first section"
		out.Accepted = "accepted: a line [" + Section + "] above it"
	case unitfile.MisplacedBOM:
		out.What = "a byte order mark in a place where systemd does not skip it"
		out.Accepted = "save the file as UTF-8 without a byte order mark"
	case unitfile.HeaderNotClosed:
		out.What = `a section header that does not end in "]"`
		out.Accepted = "accepted: [SECTION] alone on its line, without a comment behind it"
	case unitfile.HeaderBadCharacter:
		out.What = "a quote, backslash or control character in a section header"
		out.Accepted = "accepted: [" + Section + "]"
	case unitfile.BadUTF8:
		out.What = "bytes that are not UTF-8"
		out.Accepted = "save the file as UTF-8; in values with C escapes, write a byte as \\xNN"
	case unitfile.LineTooLong:
		out.What = "a line of more than 1 MiB"
		out.Accepted = "put a long value into a file and load it"
	}
	return out
}

// explainFlaw words what systemd takes without a word and the author cannot
// have meant. Of it, only a comment behind a value can be meant outside our own
// section, where such a line gets a warning. What is empty if all is fine.
func explainFlaw(a unitfile.Assignment, flaw unitfile.Flaw) diag.Problem {
	p := diag.Problem{Origin: flaw.Origin}
	if isKey(a.Section, a.Key) { // else it is another problem
		p.Key, p.Value = a.Key, showFlawed(a)
	}
	switch flaw.Kind {
	case unitfile.BlankAfterBackslash:
		p.What = "blanks after the backslash, which therefore continues nothing"
		p.Accepted = "remove the blanks at the end of the line, or the backslash"
	case unitfile.TrailingComment:
		if flaw.Text != "#" || a.Section != Section && (a.Key == "Description" || strings.HasPrefix(a.Key, "Exec")) {
			break
		}
		p.What = "a comment behind a value is part of the value"
		p.Accepted = `put the comment on a line of its own; a literal " #" is written \x23 or in quotes where the key takes them`
		if a.Section != Section {
			p.Severity = diag.Warning
		}
	case unitfile.EmbeddedNUL:
		p.What = "a NUL byte, which ends the line"
		p.Accepted = "remove it; a value with C escapes writes it as \\x00"
	case unitfile.JoinedHeader:
		p.What = fmt.Sprintf("the backslash at the end of the line above makes %s part of the value", clip(flaw.Text))
		p.Accepted = "remove the backslash, or put a blank line before the section"
	case unitfile.JoinedAssignment:
		if rowOf(flaw.Text) != nil || sectionOf(flaw.Text) != "" {
			p.What = fmt.Sprintf("the backslash at the end of the line above makes %s= part of the value", flaw.Text)
			p.Accepted = "remove the backslash"
		}
	}
	return p
}

// Show is the value of an assignment as messages have it: shortened where it may
// be secret, or is of a key that nobody knows.
func Show(a unitfile.Assignment) string {
	if a.Section == Section {
		return showFlawed(a)
	}
	if !isKey(a.Section, a.Key) {
		return showUnknown("", a.Value)
	}
	shown := a.Value
	switch {
	case strings.HasPrefix(a.Key, "Exec"):
		shown = showCommand(a.Value)
	case strings.HasPrefix(a.Key, "LoadCredential"):
		shown = showLoad(a.Value)
	case strings.HasPrefix(a.Key, "SetCredential"):
		shown = elideID(a.Value)
	case a.Key == "ImportCredential":
		shown = showImport(a.Value)
	case a.Key == "Environment" && a.Value != "":
		shown = diag.Elide(a.Value, "=")
	case strings.HasPrefix(a.Key, "StandardInput") && a.Value != "":
		shown = diag.Elided
	}
	return showJoined(a, shown)
}

// showFlawed shortens the value of an assignment that is not what it seems.
func showFlawed(a unitfile.Assignment) string {
	if a.Section == Section {
		if row := rowOf(a.Key); row != nil {
			return showJoined(a, row.show(a.Value))
		}
	}
	return showUnknown("", a.Value)
}

// showJoined cuts what is shown of a value where a continuation swallowed a
// line that was to stand for itself and may hold a secret.
func showJoined(a unitfile.Assignment, shown string) string {
	for _, flaw := range a.Flaws {
		if flaw.Kind != unitfile.JoinedHeader && flaw.Kind != unitfile.JoinedAssignment {
			continue
		}
		if i := strings.Index(shown, flaw.Text); i >= 0 {
			return shown[:i] + diag.Elided
		}
	}
	return shown
}
