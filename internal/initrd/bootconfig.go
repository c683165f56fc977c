package initrd

import (
	"encoding/binary"
	"slices"
	"strings"
)

// The footer behind a bootconfig: the size of the text with its padding, the sum
// of its bytes, and the magic, behind which a boot loader may have put up to three
// bytes.
const (
	bootconfigMagic  = "#BOOTCONFIG\n"
	bootconfigFooter = 8 + len(bootconfigMagic)
	bootconfigBehind = 3
	// maxBootconfig is as much of a text as is looked at; Linux takes less than
	// 32 KiB, and cuts off more, but does not use it.
	maxBootconfig = 1 << 20
)

// passBootconfig takes a bootconfig off the end, as Linux does before anything
// else, also where it does not use it. What is not in order stays: for Linux it is
// a part of the archives.
func (in *inspector) passBootconfig() error {
	tail := make([]byte, min(int64(bootconfigFooter+bootconfigBehind), in.size))
	if err := in.read(tail, in.size-int64(len(tail))); err != nil {
		return err
	}
	// The last one counts, and it is only looked for in four places.
	i := strings.LastIndex(string(tail), bootconfigMagic)
	if i < 8 {
		return nil
	}
	magic := in.size - int64(len(tail)-i)
	size, sum := int64(binary.LittleEndian.Uint32(tail[i-8:])), binary.LittleEndian.Uint32(tail[i-4:])
	begin := magic - 8 - size
	if begin < 0 {
		in.flaw(magic, "there is the end of a bootconfig at byte %d that says it has %d bytes, which are not there; Linux does not take it for one", magic, size)
		return nil
	}
	var text []byte
	buf := make([]byte, min(size, pieceSize))
	got := uint32(0)
	for off := begin; off < begin+size; {
		p := buf[:min(int64(len(buf)), begin+size-off)]
		if err := in.read(p, off); err != nil {
			return err
		}
		for _, c := range p {
			got += uint32(c)
		}
		text = append(text, p[:min(len(p), maxBootconfig-len(text))]...)
		off += int64(len(p))
	}
	if got != sum {
		in.flaw(begin, "the bootconfig that begins at byte %d does not have its checksum; Linux does not take it for one", begin)
		return nil
	}
	in.size, in.report.Bootconfig = begin, true
	whole, _, _ := strings.Cut(string(text), "\x00")
	in.report.BootconfigParameters = initrdParameters(whole)
	return nil
}

// initrdParameters returns which parameters of the kernel that have to do with
// initial RAM disks a bootconfig sets. Of the language it knows keys, blocks,
// values and comments; where Linux would refuse the whole, it may return too
// many, never too few.
func initrdParameters(text string) []string {
	var found, outer []string
	s := &configText{text}
	key := ""
	for {
		word, delimiter := s.word()
		if word != "" {
			key = strings.Join(append(slices.Clone(outer), word), ".")
			// Linux takes either character in the names of parameters.
			name := strings.ReplaceAll(key, "-", "_")
			switch name {
			case "kernel.rdinit", "kernel.retain_initrd", "kernel.keepinitrd":
				if delimiter != '{' && !slices.Contains(found, name) {
					found = append(found, name)
				}
			}
		}
		switch delimiter {
		case '=':
			s.values()
		case '{':
			outer = append(outer, word)
		case '}':
			outer = outer[:max(len(outer)-1, 0)]
		case 0:
			slices.Sort(found)
			return found
		}
	}
}

// configText is what is left of a bootconfig.
type configText struct{ rest string }

// word takes a key, which may be empty, and the character that ends it, 0 at the
// end of the text.
func (s *configText) word() (string, byte) {
	i := strings.IndexAny(s.rest, "={};\n#")
	if i < 0 {
		word := s.rest
		s.rest = ""
		return strings.TrimSpace(word), 0
	}
	word, delimiter := s.rest[:i], s.rest[i]
	s.rest = s.rest[i+1:]
	switch delimiter {
	case '#':
		s.comment()
	case '=':
		// Also += and :=.
		word = strings.TrimRight(word, "+:")
	}
	return strings.TrimSpace(word), delimiter
}

// comment passes to the end of a line.
func (s *configText) comment() {
	_, s.rest, _ = strings.Cut(s.rest, "\n")
}

// values passes one value, or several with commas between them, and what ends
// them unless that ends a block.
func (s *configText) values() {
	// In some kernels a value may also begin on a line behind its key. That is
	// followed where a quotation mark says that it is one.
	if next := passComments(s.rest); strings.HasPrefix(next, `"`) || strings.HasPrefix(next, "'") {
		s.rest = next
	}
	for {
		s.rest = strings.TrimLeft(s.rest, " \t\r\v\f")
		if s.rest == "" {
			return
		}
		if q := s.rest[0]; q == '"' || q == '\'' {
			end := strings.IndexByte(s.rest[1:], q)
			if end < 0 {
				return // Linux refuses it: the words in it count as keys
			}
			s.rest = s.rest[end+2:]
		}
		i := strings.IndexAny(s.rest, ",;\n#}")
		if i < 0 {
			s.rest = ""
			return
		}
		delimiter := s.rest[i]
		if delimiter == '}' {
			s.rest = s.rest[i:]
			return
		}
		s.rest = s.rest[i+1:]
		if delimiter == '#' {
			s.comment()
		}
		if delimiter != ',' {
			return
		}
		s.rest = passComments(s.rest)
	}
}

// passComments returns what comes after white space and comments: behind a comma
// they may stand before the next value.
func passComments(rest string) string {
	for {
		rest = strings.TrimLeft(rest, " \t\r\v\f\n")
		if !strings.HasPrefix(rest, "#") {
			return rest
		}
		_, rest, _ = strings.Cut(rest, "\n")
	}
}
