package console

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// cleanLines returns the lines of a stream that arrives in the given pieces.
func cleanLines(limit int, pieces ...[]byte) []string {
	var lines []string
	c := NewCleaner(limit, func(line []byte) { lines = append(lines, string(line)) })
	for _, p := range pieces {
		_, _ = c.Write(p)
	}
	c.Close()
	return lines
}

var cleanerTests = []struct {
	name, in string
	want     []string
}{
	{"nothing", "", nil},
	{"lines", "one\ntwo\r\n\nfour", []string{"one", "two", "", "four"}},
	{"firmware's line ends", "a\n\rb\n\r", []string{"a", "b"}},
	{"doubled carriage return", "a\r\r\nb\r\r\n", []string{"a", "b"}},
	{"progress starts its line over", "10%\r20%\r100%\r\ndone\n", []string{"10%", "20%", "100%", "done"}},
	{"carriage return at the end", "a\r", []string{"a"}},
	{"tab stays", "a\tb\n", []string{"a\tb"}},
	{"control bytes go", "a\x00b\x07c\x08d\x0be\x0cf\x0eg\x0fh\x7fi\n", []string{"abcdefghi"}},
	{"colour", "[\x1b[0;32m  OK  \x1b[0m] Started \x1b[0;1;39mfoo\x1b[0m.\n", []string{"[  OK  ] Started foo."}},
	{"systemd's busy display", "\r\x1b[K[ \x1b[0;31m*\x1b[0m ] job a\r\x1b[K[\x1b[0;31m* \x1b[0m ] job b\r\n", []string{"[ * ] job a", "[*  ] job b"}},
	{"private and intermediate CSI", "\x1b[?7l\x1b[2J\x1b[!p\x1b[>0;1c\x1b[4 qx\n", []string{"x"}},
	{"charsets and single letters", "\x1b(B\x1b)0\x1b#8\x1b%G\x1b7\x1b8\x1bc\x1b=\x1b>\x1bMx\n", []string{"x"}},
	{"OSC with BEL", "\x1b]0;title\x07x\n", []string{"x"}},
	{"OSC with ST", "\x1b]3008;start=1;type=boot\x1b\\x\n", []string{"x"}},
	{"OSC with ST in UTF-8", "\x1b]0;title\u009cx\n", []string{"x"}},
	{"OSC with text", "\x1b]0;tïtle €\x07x\n", []string{"x"}},
	{"Linux console palette", "\x1b]Pe12ab34x\x1b]Ry\n", []string{"xy"}},
	{"Linux console palette cut", "\x1b]Pe12xyz\n", []string{"xyz"}},
	{"DCS", "\x1bP+q544e\x1b\\x\n", []string{"x"}},
	{"DCS is not ended by BEL", "\x1bPa\x07b\x1b\\x\n", []string{"x"}},
	{"SOS, PM, APC", "\x1bXa\x1b\\\x1b^b\x1b\\\x1b_c\x1b\\x\n", []string{"x"}},
	{"upper-half controls", "\u009b31mred\u009d0;t\x07\u0090q\u009cx\u0085y\n", []string{"redxy"}},
	{"newline ends a sequence", "a\x1b[31\nb\x1b]0;title\nc\x1bPdata\r\nd\x1b(\ne\x1b\nf\n", []string{"a", "b", "c", "d", "e", "f"}},
	{"cancelled sequence", "a\x1b[31\x18b\x1b]0;t\x1ac\n", []string{"abc"}},
	{"sequence in a sequence", "a\x1b[3\x1b[31mb\x1b]0;t\x1b[1mc\n", []string{"abc"}},
	{"control byte in a sequence", "a\x1b[3\x071mb\n", []string{"ab"}},
	{"text in a sequence", "a\x1b[3éb\x1béc\x1b(éd\n", []string{"aéb" + "éc" + "éd"}},
	{"endless CSI", "a\x1b[" + strings.Repeat("1", maxControlSequence) + "234m\n", []string{"a234m"}},
	{"UTF-8", "grüße €𝄞\n", []string{"grüße €𝄞"}},
	{"invalid UTF-8", "a\xffb\xc3(c\xe2\x82\nd\xed\xa0\x80e\xf0\x9f", []string{"a\uFFFDb\uFFFD(c\uFFFD\uFFFD", "d\uFFFD\uFFFD\uFFFDe\uFFFD\uFFFD"}},
	{"Latin-1 control bytes", "a\x9b31mb\n", []string{"a\uFFFD31mb"}},
	{"two broken characters", "\xe2\xc2\x9b1mx\n", []string{"\uFFFDx"}},
}

func TestCleaner(t *testing.T) {
	for _, tt := range cleanerTests {
		if got := cleanLines(LineLimit, []byte(tt.in)); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
		var bytewise [][]byte
		for _, b := range []byte(tt.in) {
			bytewise = append(bytewise, []byte{b})
		}
		if got := cleanLines(LineLimit, bytewise...); !slices.Equal(got, tt.want) {
			t.Errorf("%s, byte by byte: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestCleanerCutsLongLines(t *testing.T) {
	tests := []struct {
		in   string
		want []string
	}{
		{"12345678\n9\n", []string{"12345678", "9"}}, // exactly full: no empty piece
		{"123456789\n", []string{"12345678", "9"}},
		{"1234567€8\n", []string{"1234567", "€8"}}, // never inside a character
		{"123456\xff\n", []string{"123456", "\uFFFD"}},
		{strings.Repeat("x", 20), []string{"xxxxxxxx", "xxxxxxxx", "xxxx"}},
	}
	for _, tt := range tests {
		if got := cleanLines(8, []byte(tt.in)); !slices.Equal(got, tt.want) {
			t.Errorf("%q: %q, want %q", tt.in, got, tt.want)
		}
	}
	if got := cleanLines(0, []byte("𝄞𝄞")); !slices.Equal(got, []string{"𝄞", "𝄞"}) {
		t.Errorf("a limit that takes no character: %q", got)
	}
}

func TestCleanerFlushPartial(t *testing.T) {
	var lines []string
	c := NewCleaner(LineLimit, func(line []byte) { lines = append(lines, string(line)) })
	step := func(in string, unfinished string, want ...string) {
		t.Helper()
		lines = nil
		c.Write([]byte(in))
		if got := string(c.Unfinished()); got != unfinished {
			t.Errorf("%q: unfinished %q, want %q", in, got, unfinished)
		}
		c.FlushPartial()
		if !slices.Equal(lines, want) {
			t.Errorf("%q: %q, want %q", in, lines, want)
		}
	}
	step("login: ", "login: ", "login: ")
	step("", "")                               // nothing new
	step("\r\n", "")                           // the end of what was handed out
	step("\n", "", "")                         // a line of its own
	step("Pass", "Pass", "Pass")               //
	step("word\nnext", "next", "word", "next") //
	step("\r\n\xe2\x82", "")                   // half a character waits
	step("\xac", "€", "€")                     //
	step("\x1b[3", "")                         // half a sequence too
	step("1mred", "red", "red")
	step("\rgreen", "green", "green") // no line between
	c.Write([]byte("\nlost\x1b]0;lost"))
	c.Discard()
	step("\x07kept", "kept", "kept")
}

// FuzzCleaner: however the stream is split, the lines are the same, and they
// are what the package promises.
func FuzzCleaner(f *testing.F) {
	for _, tt := range cleanerTests {
		f.Add([]byte(tt.in), uint64(1), uint8(10))
	}
	f.Fuzz(func(t *testing.T, in []byte, seed uint64, limit uint8) {
		whole := cleanLines(int(limit), in)
		random := rand.New(rand.NewPCG(seed, 0))
		var pieces [][]byte
		for rest := in; len(rest) > 0; {
			n := 1 + random.IntN(min(len(rest), 7))
			pieces = append(pieces, bytes.Clone(rest[:n]))
			rest = rest[n:]
		}
		if split := cleanLines(int(limit), pieces...); !slices.Equal(split, whole) {
			t.Errorf("whole %q\nsplit %q", whole, split)
		}
		for _, line := range whole {
			if len(line) > max(int(limit), utf8.UTFMax) {
				t.Errorf("line of %d bytes with limit %d", len(line), limit)
			}
			if !utf8.ValidString(line) {
				t.Errorf("not UTF-8: %q", line)
			}
			if i := strings.IndexFunc(line, func(r rune) bool { return r != '\t' && unicode.IsControl(r) }); i >= 0 {
				t.Errorf("control character at %d of %q", i, line)
			}
		}
		// A newline is never swallowed: each ends a line or follows nothing.
		if newlines := bytes.Count(in, []byte("\n")); len(whole) < newlines {
			t.Errorf("%d newlines, %d lines", newlines, len(whole))
		}
	})
}

func BenchmarkCleaner(b *testing.B) {
	in := []byte(strings.Repeat("[\x1b[0;32m  OK  \x1b[0m] Started foo.service - a service with a längere Beschreibung.\r\n", 100))
	c := NewCleaner(LineLimit, func([]byte) {})
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		c.Write(in)
	}
}
