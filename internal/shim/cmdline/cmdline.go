// Package cmdline reads Linux's command line as the kernel itself reads it, as
// far as it says what the root file system is and what to execute on it.
//
// It looks at text alone. Finding devices and mounting is package shim's. It
// must stay small: it is linked into the first program of a guest.
package cmdline

// Word is one parameter. Value is that behind the first "=", without its
// quotes, and Assigned says that there was one.
type Word struct {
	Name, Value string
	Assigned    bool
}

// Split cuts a command line into words. White space separates; a double quote
// switches its meaning off and on wherever it stands; it is removed where it
// opens the word or the value, and then at their end. What follows the word
// "--" is for init, and is left out with it.
func Split(line string) []Word {
	var out []Word
	for i := 0; i < len(line); {
		if isSpace(line[i]) {
			i++
			continue
		}
		end, quoted := i, false
		for end < len(line) && (quoted || !isSpace(line[end])) {
			if line[end] == '"' {
				quoted = !quoted
			}
			end++
		}
		w := word(line[i:end])
		if w.Name == "--" && !w.Assigned {
			break
		}
		out = append(out, w)
		i = end
	}
	return out
}

// word cuts name and value of one word, which is not empty.
func word(s string) Word {
	opened := s[0] == '"'
	if opened {
		s = s[1:]
	}
	closing := len(s) > 0 && s[len(s)-1] == '"'
	equals := 0 // a "=" at the very beginning belongs to the name
	for i := 1; i < len(s); i++ {
		if s[i] == '=' {
			equals = i
			break
		}
	}
	if equals == 0 {
		if opened && closing {
			s = s[:len(s)-1]
		}
		return Word{Name: s}
	}
	name, value := s[:equals], s[equals+1:]
	if value != "" && value[0] == '"' {
		value, opened = value[1:], true
	}
	if value != "" && opened && closing {
		value = value[:len(value)-1]
	}
	return Word{Name: name, Value: value, Assigned: true}
}

// isSpace is the kernel's: its table of characters is Latin-1's, with the
// no-break space.
func isSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' || c == 0xa0 }

// Wait says for how long the root device may be missing.
type Wait struct {
	// Named says that rootwait stood there.
	Named bool
	// Seconds is the limit; below zero there is none.
	Seconds int
}

// Boot is what a command line says about the root file system and about what
// runs on it. Of a parameter that stands there twice the last counts.
type Boot struct {
	// Root is that of root=, cut as the kernel cuts it.
	Root string
	// Types are those of rootfstype=; none is the kernel's own list.
	Types []string
	// Flags is that of rootflags=.
	Flags string
	// Writable is rw; without it the root is mounted ro.
	Writable bool
	// Delay is that of rootdelay=, in seconds.
	Delay uint32
	Wait  Wait
	// Init is that of init=, if HasInit.
	Init    string
	HasInit bool
}

// maxRoot is the longest root= in bytes; the kernel drops what is behind.
const maxRoot = 63

// Parse reads a command line.
func Parse(line string) Boot {
	var b Boot
	for _, w := range Split(line) {
		if !w.Assigned {
			switch w.Name {
			case "ro":
				b.Writable = false
			case "rw":
				b.Writable = true
			case "rootwait":
				b.Wait = Wait{Named: true, Seconds: -1}
			}
			continue
		}
		switch w.Name {
		case "root":
			b.Root = w.Value
			if len(b.Root) > maxRoot {
				b.Root = b.Root[:maxRoot]
			}
		case "rootfstype":
			b.Types = list(w.Value)
		case "rootflags":
			b.Flags = w.Value
		case "rootdelay":
			n, _ := number(w.Value)
			b.Delay = uint32(n)
		case "rootwait":
			b.Wait = Wait{Named: true, Seconds: -1}
			if n, rest := number(w.Value); rest == "" && w.Value != "" && n <= 1<<31/1000 {
				b.Wait.Seconds = int(n)
			}
		case "init":
			b.Init, b.HasInit = w.Value, true
		}
	}
	return b
}

// list cuts at commas and leaves out what is empty.
func list(s string) []string {
	var out []string
	for s != "" {
		i := 0
		for i < len(s) && s[i] != ',' {
			i++
		}
		if i > 0 {
			out = append(out, s[:i])
		}
		s = s[min(i+1, len(s)):]
	}
	return out
}

// number reads an unsigned number in the notation of C and returns what stands
// behind it. One that does not fit becomes the largest.
func number(s string) (n uint64, rest string) {
	base := uint64(10)
	switch {
	case len(s) > 2 && s[0] == '0' && s[1]|0x20 == 'x' && digit(s[2]) < 16:
		base, s = 16, s[2:]
	case len(s) > 0 && s[0] == '0':
		base = 8
	}
	return digits(s, base)
}

// digits reads the digits of a base at the beginning of s.
func digits(s string, base uint64) (n uint64, rest string) {
	const most = ^uint64(0)
	full := false
	for s != "" && digit(s[0]) < base {
		d := digit(s[0])
		full = full || n > (most-d)/base
		n = n*base + d
		s = s[1:]
	}
	if full {
		n = most
	}
	return n, s
}

// digit is the value of a hexadecimal digit, or more than any base for every
// other character.
func digit(c byte) uint64 {
	switch {
	case c >= '0' && c <= '9':
		return uint64(c - '0')
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return uint64(c|0x20-'a') + 10
	}
	return 255
}
