package leak

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/sys/unix"
)

func mustPatterns(t testing.TB, secrets map[string][]byte) []pattern {
	t.Helper()
	var all []pattern
	for name, s := range secrets {
		p, err := patternsOf(name, s)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p...)
	}
	return all
}

// A secret is found in every form, whatever stands before and behind it.
func TestFormsAreFound(t *testing.T) {
	binary := []byte("\x00\x01\xfe\xff\"\\\n%=,'<é\xc3\x28 end")
	secrets := map[string][]byte{
		"short":  Random(6), // 8 characters
		"text":   []byte(`p@ss "word"=<50%> & more`),
		"binary": binary,
		"long":   Random(3000),
	}
	write := map[string]func([]byte) string{
		"plain":          func(b []byte) string { return string(b) },
		"hex":            hex.EncodeToString,
		"HEX":            func(b []byte) string { return strings.ToUpper(hex.EncodeToString(b)) },
		"hex with space": func(b []byte) string { return fmt.Sprintf("% x", b) },
		"go bytes":       func(b []byte) string { return fmt.Sprint(b) },
		"json bytes":     func(b []byte) string { return strings.Join(strings.Fields(strings.Trim(fmt.Sprint(b), "[]")), ",") },
		"quoted":         func(b []byte) string { return strconv.Quote(string(b)) },
		"ascii":          func(b []byte) string { return strconv.QuoteToASCII(string(b)) },
		"query":          func(b []byte) string { return url.QueryEscape(string(b)) },
		"path":           func(b []byte) string { return url.PathEscape(string(b)) },
		"json": func(b []byte) string {
			out, _ := json.Marshal(string(b))
			return string(out)
		},
		"wrapped base64": func(b []byte) string { return wrap(base64.StdEncoding.EncodeToString(b), 76) },
	}
	for shift := range 5 {
		for _, enc := range []*base64.Encoding{base64.StdEncoding, base64.RawURLEncoding} {
			write[fmt.Sprintf("base64 %d %p", shift, enc)] = func(b []byte) string {
				around := append(bytes.Repeat([]byte{0xA7}, shift), b...)
				return enc.EncodeToString(append(around, 0x5C, 0x33))
			}
		}
	}
	for name, s := range secrets {
		m := newMatcher(mustPatterns(t, map[string][]byte{name: s}))
		for form, f := range write {
			for _, around := range []string{"", "x", strings.Repeat("=\x00 ", 100)} {
				text := around + f(s) + around
				found := false
				m.scan([]byte(text), func(int) { found = true })
				if !found {
					t.Errorf("%s is not found as %s", name, form)
				}
			}
		}
		clean := bytes.Repeat([]byte("a line of a log, key=value, QUJDREVGR0g= 0123456789abcdef\n"), 2000)
		m.scan(clean, func(i int) {
			t.Errorf("%s: %s %q found where it is not", name, m.patterns[i].form, m.patterns[i].bytes)
		})
	}
}

func wrap(s string, at int) string {
	var b strings.Builder
	for len(s) > at {
		b.WriteString(s[:at] + "\n")
		s = s[at:]
	}
	return b.String() + s
}

// The matcher agrees with a plain search on random texts over few letters,
// where almost-matches are frequent.
func TestMatcherAgreesWithPlainSearch(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	word := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = "ab\x00"[rnd.IntN(3)]
		}
		return b
	}
	for range 400 {
		var patterns []pattern
		for range 1 + rnd.IntN(20) {
			patterns = append(patterns, pattern{bytes: word(3 + rnd.IntN(12))})
		}
		m := newMatcher(patterns)
		text := word(rnd.IntN(400))
		got := map[int]bool{}
		m.scan(text, func(i int) { got[i] = true })
		for i, p := range patterns {
			if want := bytes.Contains(text, p.bytes); want != got[i] {
				t.Fatalf("pattern %q in %q: found %v, want %v", p.bytes, text, got[i], want)
			}
		}
	}
}

// A pattern across the border of two reads is found, at every place.
func TestStreamFindsAcrossReads(t *testing.T) {
	secret := Random(12)
	m := newMatcher(mustPatterns(t, map[string][]byte{"s": secret}))
	for _, at := range []int{0, 1, chunk - len(secret) - 1, chunk - len(secret), chunk - 5, chunk - 1, chunk, chunk + 1, 2*chunk - 3, 3*chunk - len(secret)} {
		text := make([]byte, 3*chunk)
		copy(text[at:], secret)
		for kind, r := range map[string]io.Reader{"whole": bytes.NewReader(text), "half": iotest.HalfReader(bytes.NewReader(text))} {
			found := false
			n, err := m.stream(r, m.newBuffer(), func(int) { found = true })
			if err != nil || n != int64(len(text)) || !found {
				t.Errorf("at %d, %s reads: found %v, %d bytes, %v", at, kind, found, n, err)
			}
		}
	}
	boom := fmt.Errorf("boom")
	if _, err := m.stream(iotest.ErrReader(boom), m.newBuffer(), func(int) {}); err != boom {
		t.Errorf("error %v, want %v", err, boom)
	}
}

func TestUnfitSecretsAreRefused(t *testing.T) {
	for name, s := range map[string]string{
		"empty": "", "seven": "1234567", "seven and newline": "1234567\n", "the same byte": strings.Repeat("a", 100), "zeros": strings.Repeat("\x00", 5000),
	} {
		if _, err := New(t, map[string][]byte{name: []byte(s)}); err == nil {
			t.Errorf("%s: taken", name)
		} else if s != "" && strings.Contains(err.Error(), s) {
			t.Errorf("%s: the error repeats the secret", name)
		}
	}
	if _, err := New(t, nil); err == nil {
		t.Error("no secret at all: taken")
	}
	// One piece that tells nothing does not spoil the others.
	mixed := append(bytes.Repeat([]byte{0}, 1000), Random(30)...)
	if _, err := New(t, map[string][]byte{"mixed": mixed}); err != nil {
		t.Error(err)
	}
}

// fifty is a set of secrets as a test with many credentials has it.
func fifty(t testing.TB) *matcher {
	secrets := map[string][]byte{}
	for i := range 50 {
		secrets[strconv.Itoa(i)] = Random(12 + 40*i)
	}
	return newMatcher(mustPatterns(t, secrets))
}

// A gigabyte must not take ten seconds. Measured on a tenth, in the three kinds
// of data that machines are full of, by processor time, so that a busy machine
// does not matter.
func TestSpeed(t *testing.T) {
	m := fifty(t)
	size := 100 << 20
	texts := map[string][]byte{"zeros": make([]byte, 1<<20)}
	random := make([]byte, 1<<20)
	fill := rand.NewChaCha8([32]byte{1})
	_, _ = fill.Read(random)
	texts["random"] = random
	texts["base64"] = []byte(base64.StdEncoding.EncodeToString(random))
	for kind, text := range texts {
		began := cpu(t)
		r := &repeat{text: text, left: size}
		n, err := m.stream(r, m.newBuffer(), func(int) {})
		took := cpu(t) - began
		t.Logf("%s: %d patterns, %d MB in %s: %.0f MB/s", kind, len(m.patterns), n>>20, took, float64(n)/1e6/took.Seconds())
		if err != nil || n != int64(size) {
			t.Fatalf("%d bytes, %v", n, err)
		}
		if took > time.Second && !testing.Short() && !raceEnabled {
			t.Errorf("%s: %s for %d MB", kind, took, size>>20)
		}
	}
}

// cpu returns the processor time that this process has used.
func cpu(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

type repeat struct {
	text []byte
	at   int
	left int
}

func (r *repeat) Read(b []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), r.left)], r.text[r.at:])
	r.at, r.left = (r.at+n)%len(r.text), r.left-n
	return n, nil
}

func FuzzMatcher(f *testing.F) {
	f.Add([]byte("needle-in-hay"), []byte("a needle-in-hay-stack"))
	f.Fuzz(func(t *testing.T, needle, hay []byte) {
		patterns, err := patternsOf("s", needle)
		if err != nil {
			return
		}
		m := newMatcher(patterns)
		var got, want []int
		m.scan(hay, func(i int) { got = append(got, i) })
		slices.Sort(got)
		got = slices.Compact(got)
		for i, p := range patterns {
			if bytes.Contains(hay, p.bytes) {
				want = append(want, i)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("found %v, want %v", got, want)
		}
	})
}
