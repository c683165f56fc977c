package unitfile_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

// dump writes everything Parse found, one thing a line, for comparison as a
// whole.
func dump(f *unitfile.File) string {
	var b strings.Builder
	for _, s := range f.Sections {
		fmt.Fprintf(&b, "%d [%s]\n", s.Origin.Line, s.Name)
	}
	for _, a := range f.Assignments {
		fmt.Fprintf(&b, "%d %s.%s=%q", a.Origin.Line, a.Section, a.Key, a.Value)
		for _, flaw := range a.Flaws {
			fmt.Fprintf(&b, " {%d %s", flaw.Origin.Line, flaw.Kind)
			if flaw.Text != "" {
				fmt.Fprintf(&b, " %q", flaw.Text)
			}
			b.WriteString("}")
		}
		b.WriteByte('\n')
	}
	for _, p := range f.Problems {
		fmt.Fprintf(&b, "%d", p.Origin.Line)
		if p.Fatal {
			b.WriteString(" FATAL")
		}
		fmt.Fprintf(&b, " %s", p.Kind)
		if p.Section != "" {
			fmt.Fprintf(&b, " in [%s]", p.Section)
		}
		if p.Word != "" {
			fmt.Fprintf(&b, " at %q", p.Word)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

type parseCase struct{ name, in, want string }

func runParse(t *testing.T, cases []parseCase) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := dump(unitfile.Parse("f", "main", []byte(c.in)))
			if got != c.want {
				t.Errorf("input %q\ngot:\n%swant:\n%s", c.in, got, c.want)
			}
		})
	}
}

func TestParseOrigin(t *testing.T) {
	f := unitfile.Parse("/etc/ampoule/a.microvm", "drop-in", []byte("x\n[S]\nK=v # c\n[T"))
	for _, o := range []string{
		f.Sections[0].Origin.String(), f.Assignments[0].Origin.String(),
		f.Assignments[0].Flaws[0].Origin.String(), f.Problems[0].Origin.String(), f.Fatal().Origin.String(),
	} {
		if !strings.HasPrefix(o, "/etc/ampoule/a.microvm:") {
			t.Errorf("origin %q lacks the file", o)
		}
	}
	if f.Assignments[0].Origin.Layer != "drop-in" || f.Name != "/etc/ampoule/a.microvm" || f.Layer != "drop-in" {
		t.Errorf("the layer is lost: %+v", f)
	}
	if unitfile.Parse("f", "", []byte("x\n")).Fatal() != nil {
		t.Error("a problem that is not fatal was called fatal")
	}
}

func TestParseLineEnds(t *testing.T) {
	const two = "1 [S]\n2 S.A=\"1\"\n3 S.B=\"2\"\n"
	cases := []parseCase{
		{"empty file", "", ""},
		{"only line ends", "\n\r\x00\n\n", ""},
		{"no final line end", "[S]\nA=1", "1 [S]\n2 S.A=\"1\"\n"},
		// A line end repeats as soon as one of its bytes does.
		{"LF LF is two", "[S]\n\nA=1", "1 [S]\n3 S.A=\"1\"\n"},
		{"CR CR is two", "[S]\r\rA=1", "1 [S]\n3 S.A=\"1\"\n"},
		{"CR LF CR is two", "[S]\r\n\rA=1", "1 [S]\n3 S.A=\"1\"\n"},
		{"CR CR LF is two", "[S]\r\r\nA=1", "1 [S]\n3 S.A=\"1\"\n"},
		{"LF CR LF CR is two", "[S]\n\r\n\rA=1", "1 [S]\n3 S.A=\"1\"\n"},
		{"CR LF LF CR is two", "[S]\r\n\n\rA=1", "1 [S]\n3 S.A=\"1\"\n"},
		{"NUL LF is two", "[S]\x00\nA=1", "1 [S]\n3 S.A=\"1\"\n"},
		{"NUL NUL is two", "[S]\x00\x00A=1", "1 [S]\n3 S.A=\"1\" {3 embedded NUL}\n"},
		{"NUL CR LF is two", "[S]\x00\r\nA=1", "1 [S]\n3 S.A=\"1\"\n"},
		{"LF NUL LF is two", "[S]\n\x00\nA=1", "1 [S]\n3 S.A=\"1\"\n"},
		{"NUL hides an assignment behind a comment", "[S]\n# c\x00A=1\n", "1 [S]\n3 S.A=\"1\" {3 embedded NUL}\n"},
		{"NUL cuts a value", "[S]\nA=1\x00rest\n", "1 [S]\n2 S.A=\"1\" {2 embedded NUL}\n3 missing '=' in [S] at \"rest\"\n"},
		{"CR cuts a value", "[S]\nA=1\rrest\n", "1 [S]\n2 S.A=\"1\"\n3 missing '=' in [S] at \"rest\"\n"},
	}
	for name, end := range map[string]string{"LF": "\n", "CR": "\r", "CR LF": "\r\n", "LF CR": "\n\r"} {
		cases = append(cases, parseCase{name, strings.Join([]string{"[S]", "A=1", "B=2", ""}, end), two})
	}
	for name, end := range map[string]string{"NUL": "\x00", "LF NUL": "\n\x00", "CR NUL": "\r\x00", "CR LF NUL": "\r\n\x00", "LF CR NUL": "\n\r\x00"} {
		cases = append(cases, parseCase{name, strings.Join([]string{"[S]", "A=1", "B=2", ""}, end),
			"1 [S]\n2 S.A=\"1\" {2 embedded NUL}\n3 S.B=\"2\" {3 embedded NUL}\n"})
	}
	runParse(t, cases)
}

func TestParseSections(t *testing.T) {
	runParse(t, []parseCase{
		{"repeated", "[A]\nk=1\n[B]\nk=2\n[A]\nk=3\n", "1 [A]\n3 [B]\n5 [A]\n2 A.k=\"1\"\n4 B.k=\"2\"\n6 A.k=\"3\"\n"},
		{"case is kept", "[unit]\nDESCRIPTION=x\n", "1 [unit]\n2 unit.DESCRIPTION=\"x\"\n"},
		{"blanks around", " \t[S]\t \nA=1", "1 [S]\n2 S.A=\"1\"\n"},
		{"blanks inside", "[ S ]\nA=1", "1 [ S ]\n2  S .A=\"1\"\n"},
		{"brackets inside", "[[S]]\n[a]=[b]\n", "1 [[S]]\n2 [a]=[b]\n"},
		{"empty name", "[]\nA=1", "1 []\n2 .A=\"1\"\n"},
		{"not ASCII", "[Größe]\nA=1", "1 [Größe]\n2 Größe.A=\"1\"\n"},
		{"joined", "[S\\\nT]\nA=1", "1 [S T]\n3 S T.A=\"1\"\n"},
		{"not closed", "[S]\nA=1\n[T\nB=2\n", "1 [S]\n2 S.A=\"1\"\n3 FATAL section header does not end in ']' in [S] at \"[T\"\n"},
		{"lone bracket", "[\n", "1 FATAL section header does not end in ']' at \"[\"\n"},
		{"comment behind", "[S] # c\nA=1", "1 FATAL section header does not end in ']' at \"[S]\"\n"},
		{"assignment in brackets", "[S]=secret\nA=1", "1 FATAL section header does not end in ']' at \"[S]\"\n"},
		{"double quote", "[a\"b]", "1 FATAL quote, backslash or control character in section header at \"[a\\\"b]\"\n"},
		{"single quote", "[a'b]", "1 FATAL quote, backslash or control character in section header at \"[a'b]\"\n"},
		{"backslash", "[a\\b]", "1 FATAL quote, backslash or control character in section header at \"[a\\\\b]\"\n"},
		{"tab", "[a\tb]", "1 FATAL quote, backslash or control character in section header at \"[a\"\n"},
		{"escape", "[a\x1bb]", "1 FATAL quote, backslash or control character in section header at \"[a\\x1bb]\"\n"},
		{"delete", "[a\x7fb]", "1 FATAL quote, backslash or control character in section header at \"[a\\x7fb]\"\n"},
		{"outside", "A=secret\nword\n; c\n[S]\n", "4 [S]\n1 text before the first section at \"A\"\n2 text before the first section at \"word\"\n"},
	})
}

func TestParseAssignments(t *testing.T) {
	runParse(t, []parseCase{
		{"blanks", "[S]\n \tA \t= \t1 2\t \n", "1 [S]\n2 S.A=\"1 2\"\n"},
		{"vertical tab and form feed are not blanks", "[S]\n\vA\f=\f1\v\n", "1 [S]\n2 S.\vA\f=\"\\f1\\v\"\n"},
		{"first equals sign counts", "[S]\nA=b=c\n", "1 [S]\n2 S.A=\"b=c\"\n"},
		{"empty value", "[S]\nA=\nB= \t\n", "1 [S]\n2 S.A=\"\"\n3 S.B=\"\"\n"},
		{"quotes and escapes stay", "[S]\nA=\"a b\" 'c' \\x41 %n\n", "1 [S]\n2 S.A=\"\\\"a b\\\" 'c' \\\\x41 %n\"\n"},
		{"blanks in the key", "[S]\nA B=1\n", "1 [S]\n2 S.A B=\"1\"\n"},
		{"empty key", "[S]\n=secret\n \t =x\n", "1 [S]\n2 missing key before '=' in [S]\n3 missing key before '=' in [S]\n"},
		{"missing equals", "[S]\nA\nword and more\n", "1 [S]\n2 missing '=' in [S] at \"A\"\n3 missing '=' in [S] at \"word\"\n"},
		{"long word is cut", "[S]\n" + strings.Repeat("x", 31) + "ö\n", "1 [S]\n2 missing '=' in [S] at \"" + strings.Repeat("x", 31) + "\"\n"},
		{"X- is not special", "[X-S]\nX-A=1\n", "1 [X-S]\n2 X-S.X-A=\"1\"\n"},
	})
}

func TestParseComments(t *testing.T) {
	runParse(t, []parseCase{
		{"both kinds", "# a\n; b\n \t# c\n\t;d\n[S]\n#A=1\n;B=2\nC=3\n", "5 [S]\n8 S.C=\"3\"\n"},
		{"no continuation", "[S]\n# a \\\nA=1\n", "1 [S]\n3 S.A=\"1\"\n"},
		{"any bytes", "# \xff\xfe \xed\xa0\x80\n[S]\nA=1\n", "2 [S]\n3 S.A=\"1\"\n"},
		{"trailing hash", "[S]\nA=1 # c\n", "1 [S]\n2 S.A=\"1 # c\" {2 trailing comment \"#\"}\n"},
		{"trailing semicolon", "[S]\nA=1\t;c\n", "1 [S]\n2 S.A=\"1\\t;c\" {2 trailing comment \";\"}\n"},
		{"instead of a value", "[S]\nA= # c\nB=\t#c\n", "1 [S]\n2 S.A=\"# c\" {2 trailing comment \"#\"}\n3 S.B=\"#c\" {3 trailing comment \"#\"}\n"},
		{"no blank before", "[S]\nA=#fff\nB=x#y;z\n", "1 [S]\n2 S.A=\"#fff\"\n3 S.B=\"x#y;z\"\n"},
		{"quoted", "[S]\nA=\"a # b\" 'c ; d' x\n", "1 [S]\n2 S.A=\"\\\"a # b\\\" 'c ; d' x\"\n"},
		{"quote escaped", "[S]\nA=\\\"a # b\\\"\n", "1 [S]\n2 S.A=\"\\\\\\\"a # b\\\\\\\"\" {2 trailing comment \"#\"}\n"},
		{"escaped quote inside quotes", "[S]\nA=\"a\\\" # b\" # c\n", "1 [S]\n2 S.A=\"\\\"a\\\\\\\" # b\\\" # c\" {2 trailing comment \"#\"}\n"},
		{"apostrophe", "[S]\nA=it's # c\n", "1 [S]\n2 S.A=\"it's # c\" {2 trailing comment \"#\"}\n"},
		{"escaped", "[S]\nA=a \\# b\\x20\\x23\n", "1 [S]\n2 S.A=\"a \\\\# b\\\\x20\\\\x23\"\n"},
		{"each is reported", "[S]\nA=a ; b \\\n c # d\n", "1 [S]\n2 S.A=\"a ; b   c # d\" {2 trailing comment \";\"} {3 trailing comment \"#\"}\n"},
	})
}

func TestParseContinuation(t *testing.T) {
	runParse(t, []parseCase{
		{"joined by a blank", "[S]\nA=1\\\n2\nB=3\n", "1 [S]\n2 S.A=\"1 2\"\n4 S.B=\"3\"\n"},
		{"indentation stays", "[S]\nA=1 \\\n  2\n", "1 [S]\n2 S.A=\"1    2\"\n"},
		{"pairs do not join", "[S]\nA=1\\\\\nB=2\n", "1 [S]\n2 S.A=\"1\\\\\\\\\"\n3 S.B=\"2\"\n"},
		{"three join", "[S]\nA=1\\\\\\\nB=2\n", "1 [S]\n2 S.A=\"1\\\\\\\\ B=2\" {3 joined assignment \"B\"}\n"},
		{"blank behind", "[S]\nA=1\\ \nB=2\n", "1 [S]\n2 S.A=\"1\\\\\" {2 blank after backslash}\n3 S.B=\"2\"\n"},
		{"blank behind on a later line", "[S]\nA=1\\\n2\\\t\nx\n", "1 [S]\n2 S.A=\"1 2\\\\\" {3 blank after backslash}\n4 missing '=' in [S] at \"x\"\n"},
		{"blank behind a pair is none", "[S]\nA=1\\\\ \n", "1 [S]\n2 S.A=\"1\\\\\\\\\"\n"},
		{"blank behind three", "[S]\nA=1\\\\\\ \n", "1 [S]\n2 S.A=\"1\\\\\\\\\\\\\" {2 blank after backslash}\n"},
		{"only backslash and blank", "[S]\nA=1\\\n\\ \n", "1 [S]\n2 S.A=\"1 \\\\\" {3 blank after backslash}\n"},
		{"comment inside", "[S]\nA=1\\\n# c \\\n  ;d\n2\n", "1 [S]\n2 S.A=\"1 2\"\n"},
		{"blank line ends", "[S]\nA=1\\\n\n2\n", "1 [S]\n2 S.A=\"1\"\n4 missing '=' in [S] at \"2\"\n"},
		{"line of blanks ends", "[S]\nA=1\\\n \t \nB=2\n", "1 [S]\n2 S.A=\"1\"\n4 S.B=\"2\"\n"},
		{"end of file", "[S]\nA=1\\", "1 [S]\n2 S.A=\"1\"\n"},
		{"end of file after the line end", "[S]\nA=1\\\n", "1 [S]\n2 S.A=\"1\"\n"},
		{"end of file after a comment", "[S]\nA=1\\\n# c", "1 [S]\n2 S.A=\"1\"\n"},
		{"nothing but a backslash", "[S]\n\\\n", "1 [S]\n"},
		{"key on the second line", "[S]\n\\\n \\\n A=1\nB\\\n=2\n", "1 [S]\n4 S.A=\"1\"\n5 S.B=\"2\"\n"},
		{"key over two lines", "[S]\nA\\\nB=1\n", "1 [S]\n2 S.A B=\"1\" {3 joined assignment \"B\"}\n"},
		{"outside", "A=1\\\n[S]\nB=2\n", "1 text before the first section at \"A\"\n3 text before the first section at \"B\"\n"},
		{"swallowed header", "[S]\nA=1 \\\n[T]\nB=2\n", "1 [S]\n2 S.A=\"1  [T]\" {3 joined section header \"[T]\"}\n4 S.B=\"2\"\n"},
		{"swallowed assignment", "[S]\nA=1 \\\n  C=x \\\nLoadCredential = secret\n", "1 [S]\n2 S.A=\"1    C=x  LoadCredential = secret\" {4 joined assignment \"LoadCredential\"}\n"},
		{"what is indented is meant", "[S]\nA=1 \\\n [T]\nB=1 \\\n C=2\n", "1 [S]\n2 S.A=\"1   [T]\"\n4 S.B=\"1   C=2\"\n"},
		{"what has no shape of a header or a key", "[S]\nA=1 \\\n[a b] \\\na=b \\\n-x=y \\\n=z\n", "1 [S]\n2 S.A=\"1  [a b]  a=b  -x=y  =z\"\n"},
		{"CR LF", "[S]\r\nA=1\\\r\n2\r\n", "1 [S]\n2 S.A=\"1 2\"\n"},
		{"NUL", "[S]\nA=1\\\x002\n", "1 [S]\n2 S.A=\"1 2\" {2 embedded NUL} {3 embedded NUL}\n"},
		{"first word of a joined line", "[S]\nab\\\ncd\n", "1 [S]\n2 missing '=' in [S] at \"ab\"\n"},
	})
}

func TestParseEncoding(t *testing.T) {
	const bom = "\uFEFF"
	runParse(t, []parseCase{
		{"valid", "[S]\nA=ö€😀\u0085\u200b\uFFFC\U0010FFFD\n", "1 [S]\n2 S.A=\"ö€😀\\u0085\\u200b\uFFFC\\U0010fffd\"\n"},
		{"replacement character", "[S]\nA=\uFFFD\n", "1 [S]\n2 S.A=\"\uFFFD\"\n"},
		{"stray byte", "[S]\nA=1\nB=\xff\nC=3\n", "1 [S]\n2 S.A=\"1\"\n3 FATAL invalid UTF-8 in [S]\n"},
		{"line of the byte", "[S]\nA=1\\\n2\\\n\xff\n", "1 [S]\n4 FATAL invalid UTF-8 in [S]\n"},
		{"character cut by a continuation", "[S]\nA=\xc3\\\n\xb6\n", "1 [S]\n2 FATAL invalid UTF-8 in [S]\n"},
		{"before the first section", "\xff\n[S]\n", "1 FATAL invalid UTF-8\n"},
		{"header", "[\xff]\n", "1 FATAL invalid UTF-8\n"},
		{"overlong", "[S]\nA=\xc0\xaf\n", "1 [S]\n2 FATAL invalid UTF-8 in [S]\n"},
		{"surrogate", "[S]\nA=\xed\xa0\x80\n", "1 [S]\n2 FATAL invalid UTF-8 in [S]\n"},
		{"beyond Unicode", "[S]\nA=\xf4\x90\x80\x80\n", "1 [S]\n2 FATAL invalid UTF-8 in [S]\n"},
		{"cut at the end", "[S]\nA=\xe2\x82", "1 [S]\n2 FATAL invalid UTF-8 in [S]\n"},
		{"noncharacter U+FDD0", "[S]\nA=\uFDD0\n", "1 [S]\n2 FATAL invalid UTF-8 in [S]\n"},
		{"noncharacter U+FDEF", "[S]\nA=\uFDEF\n", "1 [S]\n2 FATAL invalid UTF-8 in [S]\n"},
		{"noncharacter U+FFFE", "[S]\nA=\uFFFE\n", "1 [S]\n2 FATAL invalid UTF-8 in [S]\n"},
		{"noncharacter U+1FFFF", "[S]\nA=\U0001FFFF\n", "1 [S]\n2 FATAL invalid UTF-8 in [S]\n"},
		{"byte order mark", bom + "[S]\nA=1\n", "1 [S]\n2 S.A=\"1\"\n"},
		{"byte order mark before a comment", bom + "# c\n[S]\n", "2 [S]\n1 misplaced byte order mark at \"#\"\n1 text before the first section at \"#\"\n"},
		{"and before a comment that continues", bom + "; c\\\n[S]\nA=1\n", "1 misplaced byte order mark at \";\"\n1 text before the first section at \";\"\n3 text before the first section at \"A\"\n"},
		{"byte order mark further down", "# c\n" + bom + "[S]\nA=1\n", "2 [S]\n3 S.A=\"1\"\n2 misplaced byte order mark at \"[S]\"\n"},
		{"comment that is an assignment", "[S]\n" + bom + "#A=1\n", "1 [S]\n2 S.#A=\"1\"\n2 misplaced byte order mark in [S] at \"#A\"\n"},
		{"second byte order mark", bom + "[S]\n" + bom + "A=1\n", "1 [S]\n2 S." + bom + "A=\"1\"\n"},
		{"byte order mark behind a blank", " " + bom + "[S]\n", "1 text before the first section at \"\\ufeff[S]\"\n"},
		{"byte order mark in a continuation", "[S]\nA=1\\\n" + bom + "2\n", "1 [S]\n2 S.A=\"1 2\"\n3 misplaced byte order mark in [S] at \"2\"\n"},
	})
}

func TestParseLimits(t *testing.T) {
	const max = unitfile.MaxLine
	fill := func(n int) string { return strings.Repeat("x", n) }
	for _, c := range []struct {
		name, in string
		fatal    int // line, 0 for none
		length   int // of the only value
	}{
		{"longest line", "[S]\nA=" + fill(max-3) + "\n", 0, max - 3},
		{"one more", "[S]\nA=" + fill(max-2) + "\n", 2, 0},
		{"longest line at the end", "[S]\nA=" + fill(max-3), 0, max - 3},
		{"one more at the end", "[S]\nA=" + fill(max-2), 2, 0},
		{"trimmed blanks count", "[S]\nA=1" + strings.Repeat(" ", max-3) + "\n", 2, 0},
		{"comments count", "[S]\nA=1\n#" + fill(max-1) + "\nB=2\n", 3, 1},
		{"longest comment", "[S]\nA=1\n#" + fill(max-2) + "\n", 0, 1},
		{"longest joined line", "[S]\nA=1\\\n" + fill(max-4) + "\n", 0, max - 2},
		{"one more joined", "[S]\nA=1\\\n" + fill(max-3) + "\n", 3, 0},
		{"comments between do not count", "[S]\nA=1\\\n#" + fill(max/2) + "\n" + fill(max-4) + "\n", 0, max - 2},
		{"the continuing line counts whole", "[S]\nA=1\\\n" + fill(max-5) + "\\\n\n", 0, max - 3},
		{"many short ones", "[S]\nA=\\\n" + strings.Repeat("xxxxxxx\\\n", max/8) + "\n", 2 + max/8, 0},
		{"a BOM does not count", "[S]\nA=1\\\n\uFEFF" + fill(max-4) + "\n", 0, max - 2},
	} {
		f := unitfile.Parse("f", "", []byte(c.in))
		fatal := 0
		if p := f.Fatal(); p != nil {
			if p.Kind != unitfile.LineTooLong || p.Word != "" {
				t.Errorf("%s: got %+v", c.name, *p)
			}
			fatal = p.Origin.Line
		}
		length := 0
		for _, a := range f.Assignments {
			length += len(a.Value)
		}
		if fatal != c.fatal || length != c.length {
			t.Errorf("%s: fatal at line %d, value of %d bytes; want %d, %d", c.name, fatal, length, c.fatal, c.length)
		}
	}
}
