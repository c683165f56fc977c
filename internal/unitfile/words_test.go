package unitfile_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

// kindAt writes a SyntaxError as "kind@offset", no error as "".
func kindAt(err error) string {
	if err == nil {
		return ""
	}
	var bad *unitfile.SyntaxError
	if !errors.As(err, &bad) {
		return "not a SyntaxError: " + err.Error()
	}
	name := map[unitfile.SyntaxKind]string{
		unitfile.UnknownEscape:     "escape",
		unitfile.TrailingBackslash: "backslash",
		unitfile.UnbalancedQuote:   "quote",
	}[bad.Kind]
	return fmt.Sprintf("%s@%d", name, bad.Offset)
}

func TestSplitWords(t *testing.T) {
	for _, c := range []struct {
		in   string
		want []string
		err  string
	}{
		{in: ""},
		{in: " \t\n\r"},
		{in: "a", want: []string{"a"}},
		{in: " a\tb\n c ", want: []string{"a", "b", "c"}},
		{in: `'a b' "c d"`, want: []string{"a b", "c d"}},
		{in: `"" ''`, want: []string{"", ""}},
		{in: `a""`, want: []string{"a"}},
		{in: `a"b c"d'e f'`, want: []string{"ab cde f"}},
		{in: `"it's" 'say "x"'`, want: []string{"it's", `say "x"`}},
		{in: `a\sb a\x20b "\x20"`, want: []string{"a b", "a b", " "}},
		{in: `\a\b\f\n\r\t\v\\\"\'\s`, want: []string{"\a\b\f\n\r\t\v\\\"' "}},
		{in: `'\a\b\f\n\r\t\v\\\"\'\s'`, want: []string{"\a\b\f\n\r\t\v\\\"' "}},
		{in: `\x41\101\u0041\U00000041`, want: []string{"AAAA"}},
		{in: `\xff\377`, want: []string{"\xff\xff"}},
		{in: `\xC3\xb6\u00f6\U000000F6\U0001F600`, want: []string{"ööö😀"}},
		{in: `\ud83d`, want: []string{"\xed\xa0\xbd"}},
		{in: `\uffff`, want: []string{"\uffff"}},
		{in: "a\vb\fc", want: []string{"a\vb\fc"}},
		{in: `# ; x`, want: []string{"#", ";", "x"}},
		{in: "\xff ö", want: []string{"\xff", "ö"}},

		{in: `a \q b`, want: []string{"a"}, err: "escape@2"},
		{in: `a \ b`, want: []string{"a"}, err: "escape@2"},
		{in: `\;`, err: "escape@0"},
		{in: `\x4`, err: "escape@0"},
		{in: `\x4g`, err: "escape@0"},
		{in: `\x00`, err: "escape@0"},
		{in: `\000`, err: "escape@0"},
		{in: `\u0000`, err: "escape@0"},
		{in: `\U00000000`, err: "escape@0"},
		{in: `\400`, err: "escape@0"},
		{in: `\18`, err: "escape@0"},
		{in: `\8`, err: "escape@0"},
		{in: `\u12`, err: "escape@0"},
		{in: `\U0000D800`, err: "escape@0"},
		{in: `\U00110000`, err: "escape@0"},
		{in: `\U0000FFFF`, err: "escape@0"},
		{in: `\UFFFFFFFF`, err: "escape@0"},
		{in: `\é`, err: "escape@0"},
		{in: `a b\`, want: []string{"a"}, err: "backslash@3"},
		{in: `a b "c d`, want: []string{"a", "b"}, err: "quote@4"},
		{in: `a it's`, want: []string{"a"}, err: "quote@4"},
		{in: `"a\"`, err: "quote@0"},
		{in: `'a\`, err: "quote@0"},
	} {
		got, err := unitfile.SplitWords(c.in)
		if !slices.Equal(got, c.want) || kindAt(err) != c.err {
			t.Errorf("%q: got %q, %q; want %q, %q", c.in, got, kindAt(err), c.want, c.err)
		}
	}
}

func TestSplitCommands(t *testing.T) {
	for _, c := range []struct {
		in       string
		want     [][]string
		doubtful string
		err      string
	}{
		{in: ""},
		{in: "/bin/x a b", want: [][]string{{"/bin/x", "a", "b"}}},
		{in: "/bin/x a ; /bin/y b", want: [][]string{{"/bin/x", "a"}, {"/bin/y", "b"}}},
		{in: "/bin/x;y a;", want: [][]string{{"/bin/x;y", "a;"}}},
		{in: `/bin/x \; ";" ';' \x3b`, want: [][]string{{"/bin/x", ";", ";", ";", ";"}}},
		{in: `/bin/x \;y`, want: [][]string{{"/bin/x", `\;y`}}, doubtful: "escape@7"},
		{in: "; ; /bin/x ;", want: [][]string{{"/bin/x"}}},
		{in: "/bin/x ; ; /bin/y", want: [][]string{{"/bin/x"}, {"/bin/y"}}},
		{in: `";" /bin/x`, want: [][]string{{"/bin/x"}}},
		{in: `\; /bin/x`, want: [][]string{{`\;`, "/bin/x"}}, doubtful: "escape@0"},
		{in: `/bin/x a\qb c\ d "\z" e\`, want: [][]string{{"/bin/x", `a\qb`, `c\ d`, `\z`, `e\`}}, doubtful: "escape@8 escape@13 escape@18 backslash@23"},
		{in: `/bin/x \x00 \xzz`, want: [][]string{{"/bin/x", `\x00`, `\xzz`}}, doubtful: "escape@7 escape@12"},
		{in: `/bin/x \é`, want: [][]string{{"/bin/x", `\é`}}, doubtful: "escape@7"},
		{in: `/bin/x ; "/bin/y`, want: [][]string{{"/bin/x"}}, err: "quote@9"},
		{in: `/bin/x ; /bin/y \q "a`, want: [][]string{{"/bin/x"}}, doubtful: "escape@16", err: "quote@19"},
		{in: `/bin/x "a\q`, err: "quote@7"},
		{in: `/bin/x "a\`, err: "quote@7"},
	} {
		got, doubtful, err := unitfile.SplitCommands(c.in)
		var kinds []string
		for _, d := range doubtful {
			kinds = append(kinds, kindAt(d))
		}
		if !slices.EqualFunc(got, c.want, slices.Equal) || strings.Join(kinds, " ") != c.doubtful || kindAt(err) != c.err {
			t.Errorf("%q: got %q, %q, %q; want %q, %q, %q", c.in, got, kinds, kindAt(err), c.want, c.doubtful, c.err)
		}
	}
}

func TestUnescape(t *testing.T) {
	for _, c := range []struct {
		in, want, err string
		noNUL         string // the error without acceptNUL, if another
	}{
		{in: "", want: ""},
		{in: ` "a  b' %n $x # `, want: ` "a  b' %n $x # `},
		{in: `a\\b\n`, want: "a\\b\n"},
		{in: `\x00\000\u0000\U00000000`, want: "\x00\x00\x00\x00", noNUL: "escape@0"},
		{in: `a\xff`, want: "a\xff"},
		{in: `\ud800`, want: "\xed\xa0\x80"},
		{in: `a\qb`, err: "escape@1"},
		{in: `a\`, err: "backslash@1"},
		{in: `\x1`, err: "escape@0"},
		{in: `ab\x4\x41`, err: "escape@2"},
	} {
		got, err := unitfile.Unescape(c.in, true)
		if got != c.want || kindAt(err) != c.err {
			t.Errorf("%q: got %q, %q; want %q, %q", c.in, got, kindAt(err), c.want, c.err)
		}
		if c.noNUL == "" {
			c.noNUL = c.err
		}
		if _, err := unitfile.Unescape(c.in, false); kindAt(err) != c.noNUL {
			t.Errorf("%q without NUL: got %q, want %q", c.in, kindAt(err), c.noNUL)
		}
	}
}

// The error may go to a log, and the value may be a secret.
func TestSyntaxErrorHidesValue(t *testing.T) {
	for in, want := range map[string]string{
		`sesame\q`:  `unknown escape \q at byte 7 of the value`,
		`sesame\`:   "backslash that escapes nothing at byte 7 of the value",
		`x "sesame`: "quote that is not closed at byte 3 of the value",
	} {
		_, err := unitfile.SplitWords(in)
		if err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", in, err, want)
		}
	}
}

func TestQuoteWord(t *testing.T) {
	for in, want := range map[string]string{
		"":               `""`,
		"plain-1_./:=,+": `plain-1_./:=,+`,
		"a b":            `"a b"`,
		";":              `";"`,
		"#x":             `"#x"`,
		`it's "x" \`:     `"it's \"x\" \\"`,
		"a\nb\tc\x7f":    `"a\x0ab\x09c\x7f"`,
		"ö😀":             `"ö😀"`,
		"\xff\u0085":     `"\xff\xc2\x85"`,
		"\uFEFF\uFFFE":   `"\xef\xbb\xbf\xef\xbf\xbe"`,
		"\uFFFD":         "\"\uFFFD\"",
	} {
		if got := unitfile.QuoteWord(in); got != want {
			t.Errorf("%q: got %s, want %s", in, got, want)
		}
	}
	if _, err := unitfile.SplitWords(unitfile.QuoteWord("a\x00b")); kindAt(err) != "escape@2" {
		t.Errorf("a NUL byte got through: %v", err)
	}
}

func TestEscapeValue(t *testing.T) {
	for in, want := range map[string]string{
		"":                   "",
		`{"a":"b\n", "c":1}`: `{"a":"b\\n", "c":1}`,
		" a  b ":             `\x20a  b\x20`,
		" ":                  `\x20`,
		"\ta\n":              `\x09a\x0a`,
		"a\x00b\x1b\x7f":     `a\x00b\x1b\x7f`,
		"a # b ; c#d;e":      `a \x23 b \x3b c#d;e`,
		"#a":                 "#a",
		"%n $HOME \"'":       "%n $HOME \"'",
		"ö😀\xff\xfe":         `ö😀\xff\xfe`,
		"\uFFFF\uFDD0":       `\xef\xbf\xbf\xef\xb7\x90`,
	} {
		if got := unitfile.EscapeValue(in); got != want {
			t.Errorf("%q: got %s, want %s", in, got, want)
		}
	}
}
