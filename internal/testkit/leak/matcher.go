package leak

import (
	"bytes"
	"io"
)

// matcher finds many patterns in one pass. It looks at three bytes at a time
// and skips ahead by as much as no pattern can begin there (the method of Wu
// and Manber), which makes it faster than memory is filled from a disk.
type matcher struct {
	patterns []pattern
	// short is the length of the shortest pattern; the first short bytes of
	// each are in the tables.
	short int
	long  int
	// shift tells by the hash of three bytes how far the window may move on;
	// 0 means that candidates must be looked at.
	shift []uint8
	// candidates holds, by the same hash, the patterns whose first short bytes
	// end so.
	candidates map[uint32][]int
}

const hashBits = 17

func hash(a, b, c byte) uint32 {
	return (uint32(a)<<16 | uint32(b)<<8 | uint32(c)) * 0x9E3779B1 >> (32 - hashBits)
}

func newMatcher(patterns []pattern) *matcher {
	m := &matcher{patterns: patterns, short: 255, candidates: map[uint32][]int{}}
	for _, p := range patterns {
		m.short = min(m.short, len(p.bytes))
		m.long = max(m.long, len(p.bytes))
	}
	m.shift = make([]uint8, 1<<hashBits)
	for i := range m.shift {
		m.shift[i] = uint8(m.short - 2)
	}
	for i, p := range patterns {
		for end := 3; end <= m.short; end++ {
			h := hash(p.bytes[end-3], p.bytes[end-2], p.bytes[end-1])
			m.shift[h] = min(m.shift[h], uint8(m.short-end))
		}
		h := hash(p.bytes[m.short-3], p.bytes[m.short-2], p.bytes[m.short-1])
		m.candidates[h] = append(m.candidates[h], i)
	}
	return m
}

// scan calls found with the index of each pattern in b; one that overlaps the
// end of b is not found.
func (m *matcher) scan(b []byte, found func(int)) {
	shift, last := m.shift, m.short-1
	for at := last; at < len(b); {
		skip := shift[hash(b[at-2], b[at-1], b[at])]
		if skip > 0 {
			at += int(skip)
			continue
		}
		start := at - last
		for _, i := range m.candidates[hash(b[at-2], b[at-1], b[at])] {
			if bytes.HasPrefix(b[start:], m.patterns[i].bytes) {
				found(i)
			}
		}
		at++
	}
}

// chunk is what is read at a time.
const chunk = 1 << 18

// stream scans a reader to its end. buf must have room for a chunk and the
// longest pattern, see newBuffer. It returns the number of bytes read.
func (m *matcher) stream(r io.Reader, buf []byte, found func(int)) (int64, error) {
	var total int64
	kept := 0
	for {
		n, err := io.ReadFull(r, buf[kept:kept+chunk])
		total += int64(n)
		m.scan(buf[:kept+n], found)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		// What a pattern may have begun in is looked at again.
		tail := min(m.long-1, kept+n)
		copy(buf, buf[kept+n-tail:kept+n])
		kept = tail
	}
}

func (m *matcher) newBuffer() []byte { return make([]byte, chunk+m.long) }
