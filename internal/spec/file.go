package spec

import (
	"fmt"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

// CheckFile reports what the parser swallowed as systemd does, unknown
// sections, and what our own section is stricter about than systemd.
func CheckFile(f *unitfile.File) diag.List {
	var problems diag.List
	for _, p := range f.Problems {
		problems.Add(explainProblem(p))
	}
	sections := append([]string{Section}, passThrough()...)
	for _, s := range f.Sections {
		if !known(sections, s.Name) && !strings.HasPrefix(s.Name, "X-") {
			problems.Add(unknownSection(s, sections))
		}
	}
	if len(f.Sections) == 0 && len(problems) == 0 {
		problems.Add(diag.Problem{
			Origin: diag.Origin{File: f.Name, Line: 1, Layer: f.Layer},
			What:   "the file has no section", Accepted: "accepted: [" + Section + "] and lines KEY=VALUE below it",
		})
	}
	rows := map[string]*Row{}
	table := Table()
	for i := range table {
		rows[table[i].Name] = &table[i]
	}
	for _, a := range f.Assignments {
		if a.Section != Section {
			continue
		}
		shown := showUnknown(a.Key, a.Value)
		if row := rows[a.Key]; row != nil {
			shown = row.show(a.Value)
		}
		for _, flaw := range a.Flaws {
			if what, accepted := explainFlaw(flaw, rows); what != "" {
				problems.Errorf(flaw.Origin, a.Key, shown, accepted, "%s", what)
			}
		}
	}
	return problems
}

func unknownSection(s unitfile.Section, sections []string) diag.Problem {
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
		// The line may be the torn-off rest of a secret: only a word that looks
		// like a key is repeated.
		if near := diag.Nearest(p.Word, Names()); near != "" && len(p.Word) > 2 {
			out.What = fmt.Sprintf(`%s without "="`, clip(p.Word))
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

// explainFlaw words what systemd takes without a word and a reader of
// [MicroVM] would not expect; empty if it is fine there.
func explainFlaw(flaw unitfile.Flaw, rows map[string]*Row) (what, accepted string) {
	switch flaw.Kind {
	case unitfile.BlankAfterBackslash:
		return "blanks after the backslash, which therefore continues nothing", "remove the blanks at the end of the line, or the backslash"
	case unitfile.TrailingComment:
		if flaw.Text == "#" {
			return "a comment behind a value is part of the value", `put the comment on a line of its own; a literal " #" is written \x23 or in quotes where the key takes them`
		}
	case unitfile.EmbeddedNUL:
		return "a NUL byte, which ends the line", "remove it; a value with C escapes writes it as \\x00"
	case unitfile.JoinedHeader:
		return fmt.Sprintf("the backslash at the end of the line above makes %s part of the value", clip(flaw.Text)), "remove the backslash, or put a blank line before the section"
	case unitfile.JoinedAssignment:
		if rows[flaw.Text] != nil {
			return fmt.Sprintf("the backslash at the end of the line above makes %s= part of the value", flaw.Text), "remove the backslash"
		}
	}
	return "", ""
}
