package scan

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"math/bits"
	"slices"
	"strings"
)

const (
	// MinValue is the length in bytes, without line ends, below which a value is
	// not looked for: a short one stands in files by chance.
	MinValue = 12
	// minDistinct is the number of different bytes without which a piece of a
	// value is not looked for, since memory is full of the same byte.
	minDistinct = 5
	// window is the length of the pieces of a longer value that are looked for.
	window = 32
)

// needle is one sequence of bytes to look for.
type needle struct {
	bytes []byte
	name  string
}

// matcher finds many needles in one pass. It looks at the four bytes at every
// stride-th place: a needle that is three bytes longer than the stride, or more,
// covers one such place whole wherever it lies, and so each needle is known by
// the words that begin in its first stride bytes. A bitmap answers for nearly
// all places, at a cost that a processor which is emulated can bear.
type matcher struct {
	needles []needle
	// longest is the length of the longest needle, stride at least 9.
	longest, stride int
	// bitmap has 1<<(32-shift) bits.
	bitmap []uint64
	shift  uint
	// words are sorted by word.
	words []position
}

// position says that a word stands at an offset of a needle.
type position struct {
	word           uint32
	needle, offset int
}

const (
	wordBytes = 4
	// sparse is how many bits of the bitmap there are for one word, or more.
	sparse = 128
)

// newMatcher returns a matcher for values by name, and the names of those that
// it does not look for, sorted.
func newMatcher(values map[string][]byte) (m *matcher, unsearched []string) {
	m = &matcher{}
	for name, value := range values {
		before := len(m.needles)
		// A copy often lacks the newline at the end.
		m.add(name, bytes.TrimRight(value, "\r\n"))
		if len(m.needles) == before {
			unsearched = append(unsearched, name)
		}
	}
	slices.Sort(unsearched)
	m.index()
	return m, unsearched
}

// index makes the tables for the needles.
func (m *matcher) index() {
	m.stride = window
	for _, n := range m.needles {
		m.longest = max(m.longest, len(n.bytes))
		m.stride = min(m.stride, len(n.bytes)-wordBytes+1)
	}
	for i, n := range m.needles {
		for offset := range m.stride {
			m.words = append(m.words, position{binary.LittleEndian.Uint32(n.bytes[offset:]), i, offset})
		}
	}
	slices.SortFunc(m.words, position.compare)
	size := max(6, bits.Len(uint(len(m.words)*sparse)))
	m.shift = 32 - uint(size)
	m.bitmap = make([]uint64, 1<<(size-6))
	for _, p := range m.words {
		bit := hash(p.word, m.shift)
		m.bitmap[bit/64] |= 1 << (bit % 64)
	}
}

func (p position) compare(o position) int {
	return cmp.Or(cmp.Compare(p.word, o.word), cmp.Compare(p.needle, o.needle), cmp.Compare(p.offset, o.offset))
}

func hash(word uint32, shift uint) uint32 { return word * 0x9E3779B1 >> shift }

// add takes in the pieces of a value in all forms.
func (m *matcher) add(name string, value []byte) {
	if len(value) < MinValue {
		return
	}
	pieces := [][]byte{value}
	if len(value) > window {
		last := len(value) - window
		pieces = [][]byte{value[:window], value[last/2 : last/2+window], value[last:]}
	}
	for _, piece := range pieces {
		if distinct(piece) < minDistinct {
			continue
		}
		for _, form := range formsOf(piece) {
			same := func(n needle) bool { return n.name == name && bytes.Equal(n.bytes, form) }
			if !slices.ContainsFunc(m.needles[max(0, len(m.needles)-24):], same) {
				m.needles = append(m.needles, needle{form, name})
			}
		}
	}
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

// formsOf returns a piece as it is, in hexadecimal of both cases, and in Base64
// of both alphabets: what of it does not depend on the bytes around, for each
// of the three places in a group at which it may begin.
func formsOf(piece []byte) [][]byte {
	digits := hex.EncodeToString(piece)
	forms := [][]byte{piece, []byte(digits), []byte(strings.ToUpper(digits))}
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for before := range 3 {
			padded := append(make([]byte, before), piece...)
			// The characters that hold bits of the bytes before, or of those behind,
			// are left out.
			first, end := (8*before+5)/6, len(padded)*8/6
			forms = append(forms, []byte(encoding.EncodeToString(padded)[first:end]))
		}
	}
	return forms
}

// scan calls found with the name of each value of which a needle lies whole in
// b. The same name may come several times.
func (m *matcher) scan(b []byte, found func(name string)) {
	if len(m.needles) == 0 {
		return
	}
	bitmap, shift, stride := m.bitmap, m.shift&31, m.stride
	for at := 0; at+wordBytes <= len(b); at += stride {
		word := binary.LittleEndian.Uint32(b[at:])
		bit := hash(word, shift)
		if bitmap[bit/64]&(1<<(bit%64)) == 0 {
			continue
		}
		i, _ := slices.BinarySearchFunc(m.words, word, func(p position, word uint32) int { return cmp.Compare(p.word, word) })
		for ; i < len(m.words) && m.words[i].word == word; i++ {
			start := at - m.words[i].offset
			n := &m.needles[m.words[i].needle]
			if start >= 0 && bytes.HasPrefix(b[start:], n.bytes) {
				found(n.name)
			}
		}
	}
}
