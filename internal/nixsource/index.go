package nixsource

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// Index is what git tracks in a work tree: the paths in its index, sorted, with
// slashes.
type Index struct{ paths []string }

// ParseIndex reads a git index of version 2, 3 or 4
// (https://git-scm.com/docs/index-format). One that refers to a shared index, or that
// holds directories in place of their files, does not say what is tracked, and is an
// error.
func ParseIndex(data []byte) (*Index, error) {
	const header, fixed, sumSize = 12, 62, 20
	if len(data) < header+sumSize || string(data[:4]) != "DIRC" {
		return nil, errors.New("not a git index")
	}
	version := binary.BigEndian.Uint32(data[4:])
	if version < 2 || version > 4 {
		return nil, fmt.Errorf("a git index of version %d, and 2 to 4 are read", version)
	}
	damaged := errors.New("a git index that is cut off")
	count := int(binary.BigEndian.Uint32(data[8:]))
	body := data[:len(data)-sumSize]
	at, previous := header, ""
	idx := &Index{}
	for range count {
		if at+fixed > len(body) {
			return nil, damaged
		}
		begin := at
		mode := binary.BigEndian.Uint32(body[at+24:])
		flags := binary.BigEndian.Uint16(body[at+60:])
		at += fixed
		if flags&0x4000 != 0 && version >= 3 {
			at += 2
		}
		keep := ""
		if version == 4 {
			strip, n := offset(body[min(at, len(body)):])
			if n == 0 || strip > len(previous) {
				return nil, damaged
			}
			at += n
			keep = previous[:len(previous)-strip]
		}
		end := bytes.IndexByte(body[min(at, len(body)):], 0)
		if end < 0 {
			return nil, damaged
		}
		p := keep + string(body[at:at+end])
		at += end + 1
		if version < 4 {
			at = begin + (at-1-begin+8)/8*8
		}
		if mode == 0o040000 {
			return nil, errors.New("a sparse git index, which holds directories")
		}
		previous = p
		idx.paths = append(idx.paths, p)
	}
	for at+8 <= len(body) {
		if string(body[at:at+4]) == "link" {
			return nil, errors.New("a split git index, whose rest is elsewhere")
		}
		size := int(binary.BigEndian.Uint32(body[at+4:]))
		if size > len(body)-at-8 {
			return nil, damaged
		}
		at += 8 + size
	}
	slices.Sort(idx.paths)
	return idx, nil
}

// offset reads a number of git's: each further byte counts one more than its bits.
func offset(b []byte) (value, n int) {
	for n < len(b) && n < 5 {
		c := b[n]
		n++
		value |= int(c & 0x7f)
		if c < 0x80 {
			return value, n
		}
		value = (value + 1) << 7
	}
	return 0, 0
}

// Files returns the tracked paths that end in a suffix.
func (x *Index) Files(suffix string) []string {
	var out []string
	for _, p := range x.paths {
		if strings.HasSuffix(p, suffix) {
			out = append(out, p)
		}
	}
	return out
}

// Tracks reports whether a file is tracked, or anything in a directory.
func (x *Index) Tracks(p string) bool {
	p = path.Clean(p)
	if p == "." {
		return len(x.paths) > 0
	}
	if _, found := slices.BinarySearch(x.paths, p); found {
		return true
	}
	i, _ := slices.BinarySearch(x.paths, p+"/")
	return i < len(x.paths) && strings.HasPrefix(x.paths[i], p+"/")
}
