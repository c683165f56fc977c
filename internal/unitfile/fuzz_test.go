package unitfile_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

var fileSeeds = []string{
	"",
	"[Unit]\nDescription=x # y\n\n[Service]\nExecStart=/bin/x \\\n  # c\n  -a ; /bin/y\n",
	"\uFEFF[S]\r\nA = 1\\ \r\n=x\r\nword\r\n[",
	"\uFEFF# c\n[S]\n\uFEFF;A=1\n\uFEFFB=2\\\n[T]\nC=3\\\nD=4",
	"a\x00[S]\x00\nA=\xc3\xb6\n\r\x00B='\\x41 # \" ; \\",
	"[S]\nA=\xff\n",
	"[a'b]\n",
	"# c\n[S\\\n\uFEFF;",
}

// FuzzParse checks what must hold of every parsed file.
func FuzzParse(f *testing.F) {
	for _, s := range fileSeeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file := unitfile.Parse("f", "l", data)
		checkInvariants(t, file, data)
		checkRoundTrip(t, file)
		checkEquivalents(t, file, data)
	})
}

func checkInvariants(t *testing.T, file *unitfile.File, data []byte) {
	// Each byte can end a line at most.
	lines := len(data) + 1
	last := 0
	inOrder := func(what string, line int) {
		if line < max(last, 1) || line > lines {
			t.Errorf("%s at line %d, after line %d, of at most %d", what, line, last, lines)
		}
		last = line
	}
	for _, s := range file.Sections {
		inOrder("section", s.Origin.Line)
		if strings.ContainsAny(s.Name, "\n\r\x00\"'\\") || !utf8.ValidString(s.Name) {
			t.Errorf("section %q", s.Name)
		}
	}
	last = 0
	for i, a := range file.Assignments {
		inOrder("assignment", a.Origin.Line)
		if a.Key == "" || strings.ContainsAny(a.Key, "=\n\r\x00") || strings.Trim(a.Key, " \t") != a.Key || !utf8.ValidString(a.Key) {
			t.Errorf("key %q", a.Key)
		}
		if strings.ContainsAny(a.Value, "\n\r\x00") || strings.Trim(a.Value, " \t") != a.Value || !utf8.ValidString(a.Value) {
			t.Errorf("value %q of %q", a.Value, a.Key)
		}
		if !slices.ContainsFunc(file.Sections, func(s unitfile.Section) bool {
			return s.Name == a.Section && s.Origin.Line < a.Origin.Line
		}) {
			t.Errorf("%q stands in no section", a.Key)
		}
		next := lines + 1
		if i+1 < len(file.Assignments) {
			next = file.Assignments[i+1].Origin.Line
		}
		for _, flaw := range a.Flaws {
			// Lines of nothing but a backslash above the key belong to the
			// assignment, and only a NUL can be found there.
			if flaw.Origin.Line >= next || flaw.Origin.Line < a.Origin.Line && flaw.Kind != unitfile.EmbeddedNUL {
				t.Errorf("%s at line %d of an assignment at %d, the next at %d", flaw.Kind, flaw.Origin.Line, a.Origin.Line, next)
			}
		}
	}
	for i, p := range file.Problems {
		if p.Origin.Line < 1 || p.Origin.Line > lines {
			t.Errorf("problem at line %d of at most %d", p.Origin.Line, lines)
		}
		if len(p.Word) > unitfile.MaxWord || strings.ContainsAny(p.Word, "= \t\n\r\x00") {
			t.Errorf("word %q", p.Word)
		}
		if p.Fatal && i != len(file.Problems)-1 {
			t.Errorf("something was read behind line %d", p.Origin.Line)
		}
	}
}

// checkRoundTrip writes the file and reads it again.
func checkRoundTrip(t *testing.T, file *unitfile.File) {
	blocks := file.Blocks()
	data, err := unitfile.Format(blocks)
	if err != nil {
		// Two things can be read that cannot be written: "[]", and a key whose
		// look of a comment was hidden by a byte order mark.
		for _, b := range blocks {
			if b.Name == "" {
				return
			}
			for _, e := range b.Entries {
				if e.Key[0] == '#' || e.Key[0] == ';' || e.Key[0] == '[' {
					return
				}
			}
		}
		t.Fatalf("cannot be written: %v", err)
	}
	again := unitfile.Parse("f", "l", data)
	if len(again.Problems) > 0 {
		t.Fatalf("written with problems: %v\n%q", again.Problems, data)
	}
	compareContent(t, file, again)
	twice, err := unitfile.Format(again.Blocks())
	if err != nil || !bytes.Equal(twice, data) {
		t.Fatalf("written differently the second time: %v\n%q\n%q", err, data, twice)
	}
}

// checkEquivalents changes the file in ways that must change nothing.
func checkEquivalents(t *testing.T, file *unitfile.File, data []byte) {
	// A comment may stand above any file; only a byte order mark is then found
	// further down.
	compareContent(t, file, unitfile.Parse("f", "l", append([]byte("; c\n"), data...)))
	if bytes.ContainsAny(data, "\r\x00") {
		return
	}
	for _, end := range []string{"\r", "\r\n", "\n\r"} {
		compareContent(t, file, unitfile.Parse("f", "l", bytes.ReplaceAll(data, []byte("\n"), []byte(end))))
	}
	// A comment may stand between any two lines, joined ones included.
	commented := unitfile.Parse("f", "l", bytes.ReplaceAll(data, []byte("\n"), []byte("\n \t# c \\\n")))
	compareContent(t, file, commented)
}

func compareContent(t *testing.T, a, b *unitfile.File) {
	t.Helper()
	if !slices.EqualFunc(a.Sections, b.Sections, func(x, y unitfile.Section) bool { return x.Name == y.Name }) {
		t.Fatalf("sections differ:\n%s\n%s", dump(a), dump(b))
	}
	if !slices.EqualFunc(a.Assignments, b.Assignments, func(x, y unitfile.Assignment) bool {
		return x.Section == y.Section && x.Key == y.Key && x.Value == y.Value
	}) {
		t.Fatalf("assignments differ:\n%s\n%s", dump(a), dump(b))
	}
}

func FuzzSplitWords(f *testing.F) {
	for _, s := range []string{"", `a "b c" 'd\'`, `\x41\u00f6\U0001f600\101\s`, `"a" \q \;`, `a ; \; ";"`, "\xff \\"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		words, err := unitfile.SplitWords(value)
		if err != nil && kindAt(err) == "" {
			t.Fatal("an error without a kind")
		}
		quoted := make([]string, len(words))
		for i, w := range words {
			if strings.IndexByte(w, 0) >= 0 && strings.IndexByte(value, 0) < 0 {
				t.Fatalf("NUL in word %q of %q", w, value)
			}
			quoted[i] = unitfile.QuoteWord(w)
		}
		if strings.IndexByte(value, 0) < 0 {
			again, err2 := unitfile.SplitWords(strings.Join(quoted, " "))
			if err2 != nil || !slices.Equal(again, words) {
				t.Fatalf("%q: %q, quoted and split again %q, %v", value, words, again, err2)
			}
		}
		// Where nothing is doubtful and no semicolon stands for itself, a
		// command line is a list of words.
		commands, doubtful, err2 := unitfile.SplitCommands(value)
		for _, c := range commands {
			if len(c) == 0 {
				t.Fatalf("empty command in %q", value)
			}
		}
		if err != nil || len(doubtful) > 0 {
			if err2 == nil && len(doubtful) == 0 && !strings.Contains(value, `\;`) {
				t.Fatalf("%q: refused as words (%v), taken as commands %q", value, err, commands)
			}
			return
		}
		if !strings.Contains(value, ";") && !strings.Contains(strings.Join(words, ""), ";") &&
			(err2 != nil || !slices.Equal(slices.Concat(commands...), words)) {
			t.Fatalf("%q: words %q, commands %q, %v", value, words, commands, err2)
		}
	})
}

func FuzzUnescape(f *testing.F) {
	for _, s := range []string{"", `\x00\000`, `\u0000\U00000041`, `a\`, `\q`, `\ud800`, "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		got, err := unitfile.Unescape(value, true)
		if err != nil && got != "" {
			t.Fatalf("%q with error %v", got, err)
		}
		if len(got) > len(value) {
			t.Fatalf("%q grew to %q", value, got)
		}
		strict, err2 := unitfile.Unescape(value, false)
		if err2 == nil && (err != nil || strict != got) {
			t.Fatalf("%q: %q, %v with NUL, %q without", value, got, err, strict)
		}
		if err2 != nil && err == nil && strings.IndexByte(got, 0) < 0 {
			t.Fatalf("%q: refused without NUL, though %q has none", value, got)
		}
		// One word in double quotes is unescaped by the same rules.
		if err2 == nil && !strings.ContainsAny(value, "\"\x00") {
			words, err := unitfile.SplitWords(`"` + value + `"`)
			if err != nil || len(words) != 1 || words[0] != strict {
				t.Fatalf("%q: %q as a value, %q, %v as a word", value, strict, words, err)
			}
		}
	})
}

// throughFile writes a value into a file, reads it back, and reports whether a
// stricter reader would find fault with it.
func throughFile(t *testing.T, value string) string {
	t.Helper()
	data, err := unitfile.Format([]unitfile.Block{{Name: "S", Entries: []unitfile.Entry{{Key: "K", Value: value}, {Key: "L", Value: "end"}}}})
	if err != nil {
		t.Fatalf("%q cannot be written: %v", value, err)
	}
	file := unitfile.Parse("f", "l", data)
	if len(file.Problems) > 0 || len(file.Assignments) != 2 || file.Assignments[1].Value != "end" {
		t.Fatalf("%q was written as %q, read as\n%s", value, data, dump(file))
	}
	if flaws := file.Assignments[0].Flaws; len(flaws) > 0 {
		t.Fatalf("%q is doubtful: %v", value, flaws)
	}
	return file.Assignments[0].Value
}

var textSeeds = []string{"", " ", "a b", "\\", "it's \"x\" # ; \\", "\n\r\t\x00\x7f", "\xff\xc3", "\uFEFF\uFFFE\uFDD0", "%n $x ö😀", "# a", "a # b ; c", "[S]", "\\\n"}

func FuzzQuoteWord(f *testing.F) {
	for _, s := range textSeeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, word string) {
		quoted := unitfile.QuoteWord(word)
		if strings.IndexByte(word, 0) >= 0 {
			if _, err := unitfile.SplitWords(quoted); err == nil {
				t.Fatalf("NUL in %q was quoted as %s", word, quoted)
			}
			return
		}
		line := quoted + " x " + quoted
		if len(line) < unitfile.MaxLine-4 {
			line = throughFile(t, line)
		}
		if words, err := unitfile.SplitWords(line); err != nil || !slices.Equal(words, []string{word, "x", word}) {
			t.Fatalf("%q was quoted as %s, split into %q, %v", word, quoted, words, err)
		}
		commands, doubtful, err := unitfile.SplitCommands("/x " + line)
		if err != nil || len(doubtful) > 0 || len(commands) != 1 || !slices.Equal(commands[0], []string{"/x", word, "x", word}) {
			t.Fatalf("%q was quoted as %s, split into %q, %v, %v", word, quoted, commands, doubtful, err)
		}
	})
}

func FuzzEscapeValue(f *testing.F) {
	for _, s := range textSeeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		escaped := unitfile.EscapeValue(value)
		if len(escaped) < unitfile.MaxLine-4 {
			escaped = throughFile(t, escaped)
		}
		if got, err := unitfile.Unescape(escaped, true); err != nil || got != value {
			t.Fatalf("%q was escaped as %q, unescaped as %q, %v", value, escaped, got, err)
		}
	})
}
