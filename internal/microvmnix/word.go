package microvmnix

import (
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// evaluate undoes the quotes of a word. ok is false where the shell would put
// something in the word's place: a variable, a command's output, file names.
func evaluate(w *syntax.Word) (text string, ok bool) {
	if w == nil {
		return "", true
	}
	var b strings.Builder
	for i, part := range w.Parts {
		switch p := part.(type) {
		case *syntax.Lit:
			if !bare(&b, p.Value, i == 0) {
				return "", false
			}
		case *syntax.SglQuoted:
			if p.Dollar {
				return "", false
			}
			b.WriteString(p.Value)
		case *syntax.DblQuoted:
			if p.Dollar || !quoted(&b, p.Parts) {
				return "", false
			}
		default:
			return "", false
		}
	}
	return b.String(), true
}

// bare takes text without quotes. A backslash takes the meaning from what follows;
// what the shell would replace by names of files, users or alternatives is open.
func bare(b *strings.Builder, text string, first bool) bool {
	if first && strings.HasPrefix(text, "~") {
		return false
	}
	for i := 0; i < len(text); i++ {
		switch c := text[i]; c {
		case '\\':
			i++
			if i < len(text) && text[i] != '\n' {
				b.WriteByte(text[i])
			}
		case '*', '?', '[', '{':
			return false
		default:
			b.WriteByte(c)
		}
	}
	return true
}

// quoted takes text within double quotes, where a backslash is one unless it stands
// before $, `, ", \ or the end of a line.
func quoted(b *strings.Builder, parts []syntax.WordPart) bool {
	for _, part := range parts {
		lit, ok := part.(*syntax.Lit)
		if !ok {
			return false
		}
		for i := 0; i < len(lit.Value); i++ {
			c := lit.Value[i]
			if c == '\\' && i+1 < len(lit.Value) && strings.IndexByte("$`\"\\\n", lit.Value[i+1]) >= 0 {
				if i++; lit.Value[i] == '\n' {
					continue
				}
				c = lit.Value[i]
			}
			b.WriteByte(c)
		}
	}
	return true
}

// words evaluates several; ok is false where one of them is open.
func words(list []*syntax.Word) (out []string, ok bool) {
	for _, w := range list {
		text, closed := evaluate(w)
		if !closed {
			return out, false
		}
		out = append(out, text)
	}
	return out, true
}

// variable returns the name of the variable that a word is the value of, and
// nothing else: $x, ${x} or ${x:-}, in quotes or not.
func variable(w *syntax.Word) string {
	if len(w.Parts) != 1 {
		return ""
	}
	part := w.Parts[0]
	if q, ok := part.(*syntax.DblQuoted); ok && len(q.Parts) == 1 {
		part = q.Parts[0]
	}
	p, ok := part.(*syntax.ParamExp)
	if !ok || p.Param == nil || p.Excl || p.Length || p.Index != nil || p.Slice != nil || p.Repl != nil || p.Names != 0 {
		return ""
	}
	if p.Exp != nil && (p.Exp.Op != syntax.DefaultUnsetOrNull || p.Exp.Word != nil) {
		return ""
	}
	return p.Param.Value
}
