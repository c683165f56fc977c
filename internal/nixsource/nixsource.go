// Package nixsource finds where a Nix source sets an attribute: its path, and the
// lines from its name to its semicolon.
//
// It evaluates nothing and knows no grammar beyond brackets, let, with and
// bindings. What it finds is what is written, which is what a reader wants to be
// shown; what it comes to only Nix can tell. It never fails: of a text that is no Nix
// it finds little or nothing.
package nixsource

import (
	"slices"
	"strings"
)

// Attribute is one binding.
type Attribute struct {
	// Path is where it stands, with the names of the bindings around it: functions,
	// lists and calls in between leave no trace. A name that is computed is "${…}".
	Path []string
	// From and To are the lines of its name and its semicolon, from 1.
	From, To int
	// Value is the text behind "=", without blanks at its ends and cut at MaxValue bytes.
	// It may hold anything that somebody wrote, secrets included.
	Value string
}

// MaxValue bounds Attribute.Value.
const MaxValue = 64 << 10

// Reference is a relative path in a source.
type Reference struct {
	// Text is as written: "./vm.nix", "../common".
	Text string
	Line int
}

// File is what was found in one.
type File struct {
	Attributes []Attribute
	References []Reference
}

// Ends reports whether the path ends in these names.
func (a *Attribute) Ends(names ...string) bool {
	return len(a.Path) >= len(names) && slices.Equal(a.Path[len(a.Path)-len(names):], names)
}

// Below reports whether these names stand in the path, one behind the other.
func (a *Attribute) Below(names ...string) bool {
	for i := 0; i+len(names) <= len(a.Path); i++ {
		if slices.Equal(a.Path[i:i+len(names)], names) {
			return true
		}
	}
	return false
}

// Literal returns what a simple value says: a word, a number, or a plain string,
// behind any of lib's mkForce, mkDefault and the like. false: it is more than that.
func (a *Attribute) Literal() (string, bool) {
	v := a.Value
	for {
		word, rest, ok := strings.Cut(v, " ")
		name := word[strings.LastIndexByte(word, '.')+1:]
		if !ok || !slices.Contains([]string{"mkForce", "mkDefault", "mkVMOverride"}, name) {
			break
		}
		v = strings.TrimSpace(rest)
	}
	v = strings.TrimSpace(strings.TrimSuffix(strings.TrimPrefix(v, "("), ")"))
	if s, ok := strings.CutPrefix(v, `"`); ok {
		s, ok = strings.CutSuffix(s, `"`)
		return s, ok && !strings.ContainsAny(s, `"\$`)
	}
	return v, v != "" && !strings.ContainsAny(v, " \t\n(){}[];\"'")
}

// maxDepth bounds the brackets within each other; deeper ones are passed over.
const maxDepth = 200

// frame is a bracket, or a let, that is open.
type frame struct {
	kind byte // '{', '(', '[', 'l' for let, 0 for the file
	// prefix is the path of the binding around it.
	prefix []string
	// name are the elements of the binding that is being read, nil between two.
	name []string
	from int // the line where the name begins
	// inValue: "=" has been seen. begin is where the value does.
	inValue bool
	begin   int
	// dotted: the last token of the name was a dot.
	dotted bool
	// skip are semicolons that end a with or an assert, and no binding.
	skip int
	// ignore: up to the next semicolon nothing is a binding (inherit).
	ignore bool
}

// path is that of the binding which is open in the frame.
func (f *frame) path() []string {
	if !f.inValue {
		return f.prefix
	}
	return append(slices.Clip(slices.Clone(f.prefix)), f.name...)
}

func (f *frame) reset() { f.name, f.inValue, f.dotted, f.skip = nil, false, false, 0 }

type parser struct {
	lexer
	stack []frame
	out   File
}

// Parse reads a source.
func Parse(text []byte) File {
	p := &parser{lexer: lexer{text: string(text), line: 1}, stack: []frame{{}}}
	for {
		t, ok := p.next()
		if !ok {
			return p.out
		}
		p.take(t)
	}
}

func (p *parser) top() *frame { return &p.stack[len(p.stack)-1] }

func (p *parser) push(kind byte) {
	if len(p.stack) > maxDepth {
		return
	}
	p.stack = append(p.stack, frame{kind: kind, prefix: p.top().path()})
}

// pop closes the innermost bracket of a kind, and every let within it that its
// author did not close.
func (p *parser) pop(kind byte) {
	for i := len(p.stack) - 1; i > 0; i-- {
		if p.stack[i].kind == kind {
			p.stack = p.stack[:i]
			return
		}
		if p.stack[i].kind != 'l' {
			return
		}
	}
}

func (p *parser) take(t token) {
	switch t.kind {
	case relative:
		p.out.References = append(p.out.References, Reference{t.text, t.line})
		p.spoil()
	case punctuation:
		p.punctuation(t)
	default:
		p.word(t)
	}
}

// spoil ends a name that turned out to be none.
func (p *parser) spoil() {
	if f := p.top(); !f.inValue {
		f.reset()
	}
}

func (p *parser) punctuation(t token) {
	f := p.top()
	switch t.text {
	case "{", "(", "[":
		if !f.inValue {
			f.reset()
		}
		p.push(t.text[0])
	case "}", ")", "]":
		p.pop(map[string]byte{"}": '{', ")": '(', "]": '['}[t.text])
	case ".":
		f.dotted = !f.inValue && len(f.name) > 0
	case "=":
		if f.binds() && !f.inValue && !f.ignore && len(f.name) > 0 {
			f.inValue, f.begin = true, t.end
		}
	case ";":
		p.semicolon(t)
	default:
		p.spoil()
	}
}

// binds reports whether there are bindings in the frame.
func (f *frame) binds() bool { return f.kind == '{' || f.kind == 'l' }

func (p *parser) semicolon(t token) {
	f := p.top()
	if f.skip > 0 {
		f.skip--
		return
	}
	if f.inValue {
		value := strings.TrimSpace(p.text[f.begin : t.end-1])
		p.out.Attributes = append(p.out.Attributes, Attribute{Path: f.path(), From: f.from, To: t.line, Value: value[:min(len(value), MaxValue)]})
	}
	f.reset()
	f.ignore = false
}

// word takes a name, a string, or a keyword.
func (p *parser) word(t token) {
	f := p.top()
	if t.kind == name {
		switch t.text {
		case "let":
			p.spoil()
			p.push('l')
			return
		case "in":
			p.pop('l')
			return
		case "with", "assert":
			if f.inValue || !f.binds() {
				f.skip++
			}
			return
		case "inherit":
			if !f.inValue {
				f.ignore = true
				return
			}
		}
	}
	if f.inValue || !f.binds() || f.ignore {
		return
	}
	if len(f.name) > 0 && !f.dotted {
		f.reset() // two words side by side are no name
	}
	if len(f.name) == 0 {
		f.from = t.line
	}
	f.name = append(f.name, t.text)
	f.dotted = false
}
