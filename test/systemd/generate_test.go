package systemd

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"unicode/utf8"
)

// generate writes a unit file that exercises every rule of the syntax. The
// same seed gives the same file. Its keys are either among those that model
// knows or certainly unknown to every systemd.
func generate(seed uint64) string {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 0))}
	return g.file()
}

type generator struct {
	*rand.Rand
	end     string // the usual line end of the file
	section string // the last header's
	dirty   bool   // the value being written may be one that systemd refuses
}

func (g *generator) oneIn(n int) bool { return g.IntN(n) == 0 }

func (g *generator) pick(from ...string) string { return from[g.IntN(len(from))] }

func (g *generator) file() string {
	g.end = g.pick("\n", "\n", "\n", "\n", "\r\n", "\r\n", "\r", "\n\r", "\x00")
	var b strings.Builder
	if g.oneIn(10) {
		b.WriteString("\uFEFF")
	}
	if g.oneIn(8) {
		b.WriteString(g.noise())
	}
	for range 1 + g.IntN(5) {
		b.WriteString(g.header())
		for range g.IntN(7) {
			if g.oneIn(4) {
				b.WriteString(g.noise())
			} else {
				b.WriteString(g.assignment())
			}
		}
	}
	out := b.String()
	if g.oneIn(4) { // end anywhere, for instance in a continuation
		out = out[:g.IntN(len(out)+1)]
	}
	return out
}

// lineEnd is mostly the usual one.
func (g *generator) lineEnd() string {
	if g.oneIn(25) {
		return g.pick("\n", "\r", "\r\n", "\n\r", "\n\n", "\r\r", "\n\x00", "\r\n\x00", "\n\r\x00", "\x00", "\x00\n", "\x00\x00", "\r\n\r")
	}
	return g.end
}

func (g *generator) blanks() string { return strings.Repeat(g.pick(" ", " ", "\t"), g.IntN(3)) }

func (g *generator) header() string {
	name := g.pick("Unit", "Unit", "Unit", "Service", "Service", "Service", "Service", "Install",
		"X-Ours", "Foo", "unit", " Unit", "Unit ", "", "[Unit]", "Größe", "a=b", "X", "x-ours", "Unit;", "Soc ket")
	g.section = name
	if g.oneIn(60) { // fatal
		return g.pick("[Unit", "[Unit] # c", "["+name+"\"]", "[a'b]", "[a\\b]", "[a\tb]", "[\x01]", "[\x7f]", "[", "[Unit]=x") + g.lineEnd()
	}
	if g.oneIn(40) {
		return "[Un\\" + g.lineEnd() + "it]" + g.lineEnd()
	}
	return g.blanks() + "[" + name + "]" + g.blanks() + g.lineEnd()
}

// noise is a line that is neither header nor assignment.
func (g *generator) noise() string {
	switch g.IntN(12) {
	case 0, 1:
		return g.lineEnd()
	case 2:
		return g.blanks() + " " + g.lineEnd()
	case 3, 4, 5:
		return g.blanks() + g.pick("#", ";") + g.text() + g.pick("", "", "\\", "\xff", "\\ ") + g.lineEnd()
	case 6:
		return "\uFEFF" + g.pick("# c", "; c", "[Unit]", "Description=bom", "", "word") + g.lineEnd()
	case 7:
		return g.blanks() + "=" + g.text() + g.lineEnd()
	case 8:
		return "\\" + g.lineEnd()
	case 9:
		return "\v" + g.lineEnd()
	default:
		return g.blanks() + strings.ReplaceAll(g.word(), "=", "-") + g.blanks() + g.lineEnd()
	}
}

// assignment carries its value in a setting that can be read back, or has a
// key that systemd will name in its log.
func (g *generator) assignment() string {
	// Most settings stand where they belong, or there would be little to read
	// back.
	section := g.section
	if section != "Unit" && section != "Service" || g.oneIn(8) {
		section = g.pick("Unit", "Service", "Service")
	}
	g.dirty = g.oneIn(3)
	var key, value string
	switch n := g.IntN(12); {
	case n < 2:
		key = g.pick("Kq", "X-Kq", "kq-1", "K q", "Kq.", "ö", "x", "Kq#", "Kq;", "description", "environment", "Kq[", "Kq]", "Kq\\", "\"Kq\"", "Kq\v", "K\tq") +
			g.pick("", fmt.Sprint(g.IntN(100)))
		value = g.text()
	case n == 2:
		key = g.pick("Description", "SyslogIdentifier", "ConditionHost", "Environment", "SetCredential", "ExecStart") // emptied
	case section == "Unit" && n < 7:
		key, value = "Description", g.text()
	case section == "Unit":
		key, value = "ConditionHost", g.pick("", "|", "!", "|!", "| !  ")+g.text()
	case n < 6:
		key, value = "Environment", g.environment()
	case n < 8:
		key, value = "SetCredential", fmt.Sprintf("c%d:%s", g.IntN(3), g.credential())
	case n < 11:
		key, value = g.pick("ExecStart", "ExecStartPre", "ExecStop"), g.command()
	default:
		key, value = "SyslogIdentifier", g.text()
	}
	// One bad byte ends the file, and a continuation changes what is seen of
	// the rest.
	if g.oneIn(150) {
		value += g.pick("\xff", "\xc3", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xc0\xaf", "\uFDD0", "\uFFFE", "\U0001FFFF")
	}
	value = g.breakUp(value)
	if g.dirty {
		value += g.pick("", "\\ ", " # c", "\\\\", "\\", "\\\\\\")
	}
	return g.blanks() + key + g.blanks() + "=" + g.blanks() + value + g.pick("", "", "", " ", "\t") + g.lineEnd()
}

// breakUp puts continuations into a value.
func (g *generator) breakUp(value string) string {
	if !g.oneIn(4) {
		return value
	}
	var b strings.Builder
	for i := range len(value) {
		c := value[i]
		// Torn characters and specifiers have tests of their own.
		if utf8.RuneStart(c) && i > 0 && value[i-1] != '%' && (c == ' ' && g.oneIn(3) || g.oneIn(12)) {
			b.WriteString(g.pick("\\", "\\", "\\", "\\\\\\", "\\ ", "\\\\"))
			b.WriteString(g.lineEnd())
			switch g.IntN(8) {
			case 0:
				b.WriteString(g.blanks() + g.pick("#", ";") + " in between\\" + g.lineEnd())
			case 1:
				b.WriteString(g.blanks() + g.lineEnd())
			case 2:
				b.WriteString("\\" + g.lineEnd())
			}
		}
		b.WriteByte(c)
	}
	return b.String()
}

// word is one word of ordinary and less ordinary characters, with no specifier
// in it.
func (g *generator) word() string {
	return g.pick("a", "b", "foo", "x=y", "=", "#", ";", "# c", "; c", "it's", "\"q q\"", "'p p'", "%%", "[Unit]", "\\", "\\\\",
		"\\x41", "\\n", "\\q", "\\s", "ö", "😀", "\uFEFF", "\uFFFD", "\u0085", "\v", "\f", "\x01", "\x7f", "$X", "${X}", "~", "a\\\"b", "a\"b", "'", "\"\"")
}

// text is free text: several words with blanks between.
func (g *generator) text() string {
	var words []string
	for range g.IntN(6) {
		words = append(words, g.word())
	}
	return strings.Join(words, g.pick(" ", " ", "  ", "\t", ""))
}

// escape is a C escape, valid or not. Where bytes is set it may stand for NUL
// and for what systemd does not take for UTF-8, which D-Bus would not carry as
// a string.
func (g *generator) escape(bytes bool) string {
	if bytes && g.oneIn(2) {
		return g.pick(`\xff`, `\x00`, `\000`, `\377`, `\u0000`, `\U00000000`, `\ud800`, `\uFFFF`, `\xC3\xb6`)
	}
	if g.dirty && g.oneIn(4) {
		return g.pick(`\q`, `\x4`, `\xg0`, `\400`, `\18`, `\8`, `\u123`, `\U0000d800`, `\U00110000`, `\U0000ffff`, `\ `, `\é`, `\$`, `\;`)
	}
	return g.pick(`\a`, `\b`, `\f`, `\n`, `\r`, `\t`, `\v`, `\\`, `\"`, `\'`, `\s`, `\x41`, `\x7E`, `\101`, `\u00f6`, `\U0001f600`, `\x20`, `\x3b`, `\x23`)
}

// quoted is a piece of a word list with quotes and escapes, balanced or not.
func (g *generator) quoted(bytes bool) string {
	var b strings.Builder
	for range 1 + g.IntN(4) {
		switch g.IntN(9) {
		case 0:
			b.WriteString(g.escape(bytes))
		case 1:
			b.WriteString(`"` + g.pick("a b", "", "it's", " # c", g.escape(bytes), `\"`, " ; ") + `"`)
		case 2:
			b.WriteString(`'` + g.pick("a b", "", `say "x"`, " ; c", g.escape(bytes), `\'`) + `'`)
		case 3:
			if g.dirty && g.oneIn(6) {
				b.WriteString(g.pick("'", `"`, `"x`, `'y z`))
			}
		default:
			b.WriteString(g.pick("a", "foo", "-x", "ö", "%%", "#", ";", "=", ",", "\v"))
		}
	}
	return b.String()
}

func (g *generator) environment() string {
	var words []string
	for range 1 + g.IntN(4) {
		name := g.pick("A", "B", "C_1", "D") + "="
		word := g.pick(name+g.quoted(false), name+g.quoted(false), `"`+name+"it's "+g.escape(false)+`"`, "'"+name+` "x" `+g.escape(false)+"'")
		if g.dirty {
			word = g.pick(word, g.quoted(false), `"`+word+`"`, "=x", "1A=x", "E")
		}
		words = append(words, word)
	}
	return strings.Join(words, g.pick(" ", "  ", "\t"))
}

func (g *generator) credential() string {
	var b strings.Builder
	for range g.IntN(6) {
		b.WriteString(g.pick(g.escape(true), g.escape(true), g.escape(true), " ", "x", ":", `"`, "it's", " # c", "; ", "ö", "%%n", "$X"))
		if g.dirty {
			b.WriteString(g.word())
		}
	}
	return b.String()
}

func (g *generator) command() string {
	words := []string{g.pick("/x", "/x", "/x/y", "-/x", "@/x argv0", "+/x", "!/x", "!!/x", ":/x", "-@:/x zero", `"/x y"`, `/x\x20y`, "x", `/\x41`)}
	for range g.IntN(6) {
		words = append(words, g.pick(g.quoted(false), g.quoted(false), ";", `\;`, `";"`, `;x`, "$A", "${A}", "$$"))
		if words[len(words)-1] == ";" && !(g.dirty && g.oneIn(2)) {
			words = append(words, g.pick("/z", "-/z", `"/z"`, `/z\x3b`, "; /z"))
		}
	}
	return strings.Join(words, g.pick(" ", " ", "  ", "\t"))
}
