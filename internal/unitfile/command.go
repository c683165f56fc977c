package unitfile

import "strings"

// SplitCommands cuts a command line, such as the value of ExecStart=, into
// its commands and these into words. It is [SplitWords] with two differences:
// an unknown escape stays as it is written, and is returned in doubtful, since
// systemd logs it; and a bare ";" begins a new command, while "\;" is the word
// ";". Prefixes of the first word ("-", "@" and so on), specifiers and
// variables are left alone. A command has at least one word.
//
// The error is a [*SyntaxError] about a quote. The commands before the faulty
// one are returned with it.
func SplitCommands(value string) (commands [][]string, doubtful []*SyntaxError, err error) {
	s := wordScanner{value: value, relaxed: true}
	for s.skipBlanks() {
		command, bad := s.command()
		if bad != nil {
			return commands, s.doubtful, bad
		}
		if command != nil {
			commands = append(commands, command)
		}
	}
	return commands, s.doubtful, nil
}

// command reads one command up to its separator or the end. It is empty if a
// separator stands in place of the first word.
func (s *wordScanner) command() ([]string, *SyntaxError) {
	first, bad := s.next()
	// Here systemd looks only at what is left of the word, so that a quoted
	// semicolon in the place of a program separates too.
	if bad != nil || first == ";" {
		return nil, bad
	}
	words := []string{first}
	for s.skipBlanks() {
		switch {
		case s.bare(";"):
			return words, nil
		case s.bare(`\;`):
			words = append(words, ";")
		default:
			word, bad := s.next()
			if bad != nil {
				return nil, bad
			}
			words = append(words, word)
		}
	}
	return words, nil
}

// bare moves behind text and returns true if it stands at pos as a word of its
// own.
func (s *wordScanner) bare(text string) bool {
	rest, ok := strings.CutPrefix(s.value[s.pos:], text)
	if !ok || rest != "" && strings.IndexByte(blanks, rest[0]) < 0 {
		return false
	}
	s.pos += len(text)
	return true
}
