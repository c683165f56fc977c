package leak

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

const (
	// MinSecret is the length below which a secret is found by chance.
	MinSecret = 8
	// minDistinct is the number of different bytes that a piece must have;
	// memory is full of the same byte.
	minDistinct = 5
	// window is the length of the pieces that are looked for of a long secret:
	// short enough to survive the line breaks of Base64 and a cut-off copy.
	window = 24
	// maxWindows is the number of pieces of one secret.
	maxWindows = 8
)

// Random returns printable characters with n random bytes' worth, fit for a
// secret that a test looks for.
func Random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return []byte(base64.RawURLEncoding.EncodeToString(b))
}

// pattern is one sequence of bytes to look for.
type pattern struct {
	bytes  []byte
	secret string
	form   string
}

// patternsOf returns all patterns of a secret.
func patternsOf(name string, secret []byte) ([]pattern, error) {
	// A copy often lacks the newline at the end.
	secret = bytes.TrimRight(secret, "\r\n")
	if len(secret) < MinSecret {
		return nil, fmt.Errorf("secret %s has %d bytes without line ends, at least %d are needed", name, len(secret), MinSecret)
	}
	var all []pattern
	for _, piece := range pieces(secret) {
		for _, f := range formsOf(piece) {
			same := func(p pattern) bool { return bytes.Equal(p.bytes, f.bytes) }
			if !slices.ContainsFunc(all, same) {
				all = append(all, pattern{f.bytes, name, f.form})
			}
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("secret %s has too few different bytes to be told from others", name)
	}
	return all, nil
}

// pieces returns the parts of a secret that are looked for: all of a short
// one, several windows of a long one.
func pieces(secret []byte) [][]byte {
	var out [][]byte
	add := func(p []byte) {
		if distinct(p) >= min(minDistinct, len(p)) {
			out = append(out, p)
		}
	}
	if len(secret) <= window {
		add(secret)
		return out
	}
	n := min(maxWindows, (len(secret)+window-1)/window)
	last := len(secret) - window
	for i := range n {
		at := last * i / (n - 1)
		add(secret[at : at+window])
	}
	return out
}

func distinct(p []byte) int {
	var seen [256]bool
	n := 0
	for _, b := range p {
		if !seen[b] {
			seen[b] = true
			n++
		}
	}
	return n
}

// written is a piece in one form.
type written struct {
	form  string
	bytes []byte
}

// formsOf returns the forms of a piece, the plain one first.
func formsOf(p []byte) []written {
	out := []written{{"plain", p}}
	add := func(form, s string) {
		if s != "" && s != string(p) {
			out = append(out, written{form, []byte(s)})
		}
	}
	for _, enc := range []struct {
		form string
		enc  *base64.Encoding
	}{{"base64", base64.RawStdEncoding}, {"base64url", base64.RawURLEncoding}} {
		for shift := range 3 {
			add(enc.form, aligned(enc.enc, p, shift))
		}
	}
	add("hex", hex.EncodeToString(p))
	add("hex", strings.ToUpper(hex.EncodeToString(p)))
	add("percent", url.QueryEscape(string(p)))
	add("percent", url.PathEscape(string(p)))
	add("percent", eachByte(p, "%%%02X", ""))
	add("percent", eachByte(p, "%%%02x", ""))
	for _, sep := range []string{" ", ",", ", "} {
		add("decimal", eachByte(p, "%d", sep))
	}
	add("hex", eachByte(p, "%02x", " "))
	add("escaped", eachByte(p, `\x%02x`, ""))
	add("escaped", inner(strconv.Quote(string(p))))
	add("escaped", inner(strconv.QuoteToASCII(string(p))))
	add("escaped", octal(p))
	if b, err := json.Marshal(string(p)); err == nil {
		add("json", inner(string(b)))
	}
	var plain bytes.Buffer
	enc := json.NewEncoder(&plain)
	enc.SetEscapeHTML(false)
	if enc.Encode(string(p)) == nil {
		add("json", inner(strings.TrimSpace(plain.String())))
	}
	return out
}

// aligned returns the part of the Base64 form that does not depend on what
// stands around the piece, where shift bytes precede it in its group of three.
func aligned(enc *base64.Encoding, p []byte, shift int) string {
	padded := append(make([]byte, shift), p...)
	s := enc.EncodeToString(padded)
	// Characters that mix in a foreign byte: before, 8*shift bits; behind, an
	// incomplete last character.
	first := (8*shift + 5) / 6
	end := len(padded) * 8 / 6
	if first >= end {
		return ""
	}
	return s[first:end]
}

func eachByte(p []byte, format, sep string) string {
	parts := make([]string, len(p))
	for i, b := range p {
		parts[i] = fmt.Sprintf(format, b)
	}
	return strings.Join(parts, sep)
}

// octal is how systemd and C programs escape what is not printable.
func octal(p []byte) string {
	var b strings.Builder
	for _, c := range p {
		if c < 0x20 || c >= 0x7f || c == '"' || c == '\\' || c == '\'' {
			fmt.Fprintf(&b, `\%03o`, c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// inner cuts the quotes off.
func inner(s string) string {
	if len(s) < 2 {
		return ""
	}
	return s[1 : len(s)-1]
}
