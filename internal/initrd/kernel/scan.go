package kernel

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/initrd/decompress"
)

// errFound ends the unpacking of a kernel: all is known.
var errFound = errors.New("found")

const (
	// A row of the table on a machine of 64 bits: two bytes, padding, two
	// pointers.
	rowSize = 24
	rows    = 9 // with the last one, which is zero
	// The configuration stands between two marks.
	configStart = "IKCFG_ST"
	configEnd   = "IKCFG_ED"
	maxConfig   = 1 << 20
)

// tableBegin is what the table begins with: gzip's magic and padding.
const tableBegin = "\x1f\x8b\x00\x00\x00\x00\x00\x00"

// scanner looks for the table and for the configuration in what comes by. It
// keeps what may be the beginning of something.
type scanner struct {
	window []byte
	// config is what follows configStart, nil outside.
	config []byte
	out    Support
}

func newScanner() *scanner { return &scanner{} }

// keep is how much of a window has to be seen together with what follows.
const keep = rows*rowSize - 1

// piece takes the next bytes. It returns errFound as soon as it has an answer.
func (s *scanner) piece(p []byte) error {
	for len(p) > 0 {
		n := min(len(p), 256<<10)
		found := false
		if s.config != nil {
			found = s.collect(p[:n])
		} else {
			s.window = append(s.window, p[:n]...)
			found = s.look()
		}
		if found {
			return errFound
		}
		p = p[n:]
		s.window = append(s.window[:0], s.window[max(0, len(s.window)-keep):]...)
	}
	return nil
}

// look searches the window. What lies in the part that is kept is found the next
// time, since nothing of interest fits into it.
func (s *scanner) look() bool {
	if i := bytes.Index(s.window, []byte(configStart)); i >= 0 {
		// The configuration may turn out to say nothing.
		if s.table(s.window[:i]) {
			return true
		}
		s.config = []byte{}
		rest := s.window[i+len(configStart):]
		s.window = s.window[:0]
		return s.collect(rest)
	}
	return s.table(s.window)
}

// collect gathers the configuration.
func (s *scanner) collect(p []byte) bool {
	s.config = append(s.config, p...)
	packed, _, ended := bytes.Cut(s.config, []byte(configEnd))
	if !ended && len(s.config) < maxConfig {
		return false
	}
	s.window, s.config = s.config, nil
	// Where it was no mark after all, the bytes are looked at like others.
	return ended && s.parse(packed) || s.table(s.window)
}

// parse reads a configuration that was packed by gzip. It says nothing where no
// line is about a compression at all: another tree of sources may call them
// otherwise.
func (s *scanner) parse(packed []byte) bool {
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return false
	}
	text, err := io.ReadAll(io.LimitReader(z, 4*maxConfig))
	if err != nil {
		return false
	}
	set := options(string(text))
	initrd, mentioned := set["CONFIG_BLK_DEV_INITRD"]
	if !mentioned {
		return false
	}
	out := Support{Source: "config", NoInitrd: !initrd}
	about := false
	for _, c := range known() {
		// The one is what is asked for; it selects the other, which is what the
		// table is made from, and may be all that is left.
		asked, isAsked := set["CONFIG_RD_"+strings.ToUpper(c)]
		built, isBuilt := set["CONFIG_DECOMPRESS_"+strings.ToUpper(c)]
		about = about || isAsked || isBuilt
		if initrd && (asked || built) {
			out.Compressions = append(out.Compressions, c)
		}
	}
	if initrd && !about {
		return false
	}
	s.out = out
	return true
}

// options returns what a configuration has a line about, and whether it is built
// in.
func options(text string) map[string]bool {
	set := map[string]bool{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if name, value, ok := strings.Cut(line, "="); ok {
			set[name] = value == "y"
		} else if rest, ok := strings.CutPrefix(line, "# "); ok {
			if name, ok := strings.CutSuffix(rest, " is not set"); ok {
				set[name] = false
			}
		}
	}
	return set
}

// table looks for the table in p.
func (s *scanner) table(p []byte) bool {
	for {
		i := bytes.Index(p, []byte(tableBegin))
		if i < 0 || len(p)-i < rows*rowSize {
			return false
		}
		if out, ok := readTable(p[i : i+rows*rowSize]); ok {
			s.out = out
			return true
		}
		p = p[i+1:]
	}
}

// readTable reads the table, if it is one: every magic in its place, names where
// names must be, every decoder an address of the kernel or null.
func readTable(p []byte) (Support, bool) {
	// Kernels before 5.9 have no zstd: their table ends a row earlier.
	order := [rows - 1]string{"\x1f\x8b", "\x1f\x9e", "BZ", "\x5d\x00", "\xfd7", "\x89L", "\x02!", "\x28\xb5"}
	out := Support{Source: "table"}
	names := map[uint64]string{}
	var first uint64 // gzip's decoder
	for i, magic := range order {
		row := p[i*rowSize : (i+1)*rowSize]
		if i == rows-2 && isZero(row) {
			break
		}
		name, decoder := binary.LittleEndian.Uint64(row[8:]), binary.LittleEndian.Uint64(row[16:])
		if string(row[:2]) != magic || !isZero(row[2:8]) || !inKernel(name) || decoder != 0 && !inKernel(decoder) {
			return Support{}, false
		}
		compression := decompress.Detect(row[:2])
		if other, seen := names[name]; seen != (i == 1) || seen && other != compression {
			return Support{}, false
		}
		names[name] = compression
		switch {
		case i == 0:
			first = decoder
		case i == 1 && decoder != first:
			return Support{}, false
		}
		if decoder != 0 && i != 1 {
			out.Compressions = append(out.Compressions, compression)
		}
		if i == rows-2 && !isZero(p[(rows-1)*rowSize:]) {
			return Support{}, false
		}
	}
	slices.Sort(out.Compressions)
	return out, true
}

func isZero(p []byte) bool { return len(bytes.TrimLeft(p, "\x00")) == 0 }

// inKernel reports whether an address is in the upper half of 48 bits, where
// kernels of 64 bits live. An address that is filled in only at start is zero.
func inKernel(address uint64) bool { return address>>48 == 0xffff }

// support is the answer at the end.
func (s *scanner) support() Support {
	if s.config != nil && s.out.Source == "" {
		s.table(s.config)
	}
	if s.out.Source == "" {
		s.out.Why = "neither its configuration nor its table of decoders is in the image"
	}
	return s.out
}
