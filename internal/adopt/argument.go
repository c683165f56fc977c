package adopt

import (
	"slices"
	"strconv"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/microvmnix"
)

// argument is a word of a command line with its number.
type argument struct {
	text  string
	line  int
	index int
	open  bool
	maybe []string
}

func arguments(words []microvmnix.Word) []argument {
	out := make([]argument, len(words))
	for i, w := range words {
		out[i] = argument{text: w.Text, line: w.Line, index: i, open: w.Open, maybe: w.Maybe}
	}
	return out
}

// option is an option with the words behind it.
type option struct {
	name   argument
	values []argument
}

func (o option) all() []argument { return append([]argument{o.name}, o.values...) }

// byDashes gives an option all words up to the next that begins with a dash.
func byDashes(args []argument) []option {
	var out []option
	for _, a := range args {
		if len(out) > 0 && !strings.HasPrefix(a.text, "-") {
			last := &out[len(out)-1]
			last.values = append(last.values, a)
			continue
		}
		out = append(out, option{name: a})
	}
	return out
}

// parameter is K=V, or a word alone, of a list with commas.
type parameter struct{ key, value string }

// parameters splits at the commas that are not within brackets or double quotes.
func parameters(text string) []parameter {
	var out []parameter
	depth, quoted, from := 0, false, 0
	cut := func(to int) {
		if piece := text[from:to]; piece != "" {
			key, value, _ := strings.Cut(piece, "=")
			out = append(out, parameter{key, value})
		}
		from = to + 1
	}
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '[':
			depth++
		case c == ']':
			depth--
		case c == ',' && depth <= 0:
			cut(i)
		}
	}
	cut(len(text))
	return out
}

// list are the elements of [A,B].
func list(text string) []string {
	text = strings.TrimSuffix(strings.TrimPrefix(text, "["), "]")
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}

// inBytes reads a size with a suffix to the base 1024; without one unit is the
// factor. What is none comes back as it is.
func inBytes(text string, unit int64) string {
	digits := strings.TrimRight(text, "kKmMgGtTiB")
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > 1<<40 {
		return text
	}
	switch strings.ToUpper(strings.TrimSuffix(strings.TrimSuffix(text[len(digits):], "B"), "i")) {
	case "":
		n *= unit
	case "K":
		n <<= 10
	case "M":
		n <<= 20
	case "G":
		n <<= 30
	case "T":
		n <<= 40
	default:
		return text
	}
	return strconv.FormatInt(n, 10)
}

// yes makes one word of on and true.
func yes(text string) string {
	switch {
	case slices.Contains([]string{"on", "true", "yes", ""}, text):
		return "yes"
	case slices.Contains([]string{"off", "false", "no"}, text):
		return "no"
	}
	return text
}

// kernelWords splits a kernel's command line as the kernel does; a quote ends no
// word. ok is false where a quote is not closed.
func kernelWords(text string) (words []string, ok bool) {
	var word strings.Builder
	quoted, some := false, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			quoted, some = !quoted, true
		case !quoted && (c == ' ' || c == '\t' || c == '\n'):
			if some {
				words = append(words, word.String())
			}
			word.Reset()
			some = false
		default:
			word.WriteByte(c)
			some = true
		}
	}
	if some {
		words = append(words, word.String())
	}
	return words, !quoted
}
