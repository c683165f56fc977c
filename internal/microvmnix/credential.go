package microvmnix

import (
	"slices"
	"strconv"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// Credential is one that a script reads.
type Credential struct {
	// Name is that below the credentials directory; "*" for all that are there, and
	// empty where the script makes the name up when it runs.
	Name string
	Line int
}

// The marks in a flattened word: the credentials directory, and something that is
// known only when the script runs.
const (
	directory = '\x01'
	unknown   = '\x00'
)

// under finds what is named below the credentials directory in a flattened word. An
// absolute path below /run/credentials has the unit's name in between.
var under = pattern("(?:\x01|/run/credentials/(?:[^/\x01 ]+))/+([^/ '\"\x01,;:)}\\]]*)")

// newCredentials notes what the statements set their variables to.
func newCredentials(stmts []*syntax.Stmt) *credentials {
	c := &credentials{values: map[string][]string{}, functions: map[string][]pending{}}
	for _, stmt := range stmts {
		c.collect(stmt)
	}
	return c
}

// read lists the credentials that statements read: names behind
// $CREDENTIALS_DIRECTORY, a variable that holds it, or /run/credentials/UNIT; from
// the variable of a loop over words, and from the first arguments of functions.
// Where the shell stopped parsing, the text itself is searched.
func (c *credentials) read(stmts []*syntax.Stmt, text []byte) []Credential {
	for _, stmt := range stmts {
		c.visit(stmt, "")
	}
	for _, stmt := range stmts {
		c.calls(stmt)
	}
	end := 0
	if len(stmts) > 0 {
		end = int(stmts[len(stmts)-1].End().Offset())
	}
	c.text(text, min(end, len(text)))
	return c.found
}

// texts are those that a word may come to, for others to read.
func (c *credentials) texts(w *syntax.Word) []string {
	out := c.flatten(w)
	for i := range out {
		out[i] = argument().ReplaceAllString(strings.ReplaceAll(out[i], string(directory), string(unknown)), string(unknown))
	}
	return out
}

type credentials struct {
	// values are those that a variable may have, flattened.
	values    map[string][]string
	functions map[string][]pending
	found     []Credential
}

// pending is a name that a function gets as an argument, with what surrounds it.
type pending struct {
	argument int
	before   string
	after    string
}

func (c *credentials) add(name string, line int) {
	if strings.ContainsRune(name, unknown) {
		name = ""
	}
	if !slices.ContainsFunc(c.found, func(have Credential) bool { return have.Name == name }) {
		c.found = append(c.found, Credential{Name: name, Line: line})
	}
}

// collect notes variables that are set to words, and those of loops over words.
func (c *credentials) collect(root syntax.Node) {
	syntax.Walk(root, func(n syntax.Node) bool {
		switch n := n.(type) {
		case *syntax.Assign:
			if n.Name != nil && n.Value != nil && !n.Append && n.Name.Value != "CREDENTIALS_DIRECTORY" {
				c.note(n.Name.Value, n.Value)
			}
		case *syntax.ForClause:
			if loop, ok := n.Loop.(*syntax.WordIter); ok && loop.Name != nil {
				for _, w := range loop.Items {
					c.note(loop.Name.Value, w)
				}
			}
		}
		return true
	})
}

// note adds what a variable may be.
func (c *credentials) note(name string, w *syntax.Word) {
	for _, text := range c.flatten(w) {
		if have := c.values[name]; len(have) < maxValues && !slices.Contains(have, text) {
			c.values[name] = append(have, text)
		}
	}
}

// maxValues bounds how many texts a word may come to, and maxValue how long one may
// be: a script can double a variable again and again.
const (
	maxValues = 64
	maxValue  = 4096
)

// flatten gives the texts that a word may come to.
func (c *credentials) flatten(w *syntax.Word) []string {
	out := []string{""}
	c.parts(w.Parts, func(alternatives []string) {
		var next []string
		for _, a := range out {
			for _, b := range alternatives {
				if len(next) == maxValues {
					break
				}
				text := a + b
				if len(text) > maxValue {
					text = string(unknown)
				}
				next = append(next, text)
			}
		}
		out = next
	})
	return out
}

func (c *credentials) parts(parts []syntax.WordPart, add func([]string)) {
	for _, part := range parts {
		switch p := part.(type) {
		case *syntax.Lit:
			add([]string{p.Value})
		case *syntax.SglQuoted:
			add([]string{p.Value})
		case *syntax.DblQuoted:
			c.parts(p.Parts, add)
		case *syntax.ParamExp:
			add(c.parameter(p))
		default:
			add([]string{string(unknown)})
		}
	}
}

func (c *credentials) parameter(p *syntax.ParamExp) []string {
	switch {
	case p.Param == nil:
	case p.Param.Value == "CREDENTIALS_DIRECTORY":
		return []string{string(directory)}
	case len(p.Param.Value) == 1 && p.Param.Value >= "1" && p.Param.Value <= "9":
		// A function's argument: \x02 and its number, until its calls are known.
		return []string{"\x02" + p.Param.Value}
	case len(c.values[p.Param.Value]) > 0:
		return c.values[p.Param.Value]
	}
	return []string{string(unknown)}
}

var argument = pattern("\x02([1-9])")

// visit finds the reads; within is the function around them.
func (c *credentials) visit(root syntax.Node, within string) {
	syntax.Walk(root, func(n syntax.Node) bool {
		switch n := n.(type) {
		case *syntax.FuncDecl:
			if n.Name != nil && n.Body != nil && n.Name.Value != within {
				c.visit(n.Body, n.Name.Value)
				return false
			}
		case *syntax.Word:
			for _, text := range c.flatten(n) {
				c.word(text, int(n.Pos().Line()), within)
			}
		}
		return true
	})
}

func (c *credentials) word(text string, line int, within string) {
	for _, m := range under().FindAllStringSubmatch(text, -1) {
		name := m[1]
		if name == "" {
			continue
		}
		at := argument().FindStringSubmatchIndex(name)
		if at == nil || within == "" {
			if at != nil {
				name = string(unknown)
			}
			c.add(name, line)
			continue
		}
		number, _ := strconv.Atoi(name[at[2]:at[3]])
		c.functions[within] = append(c.functions[within], pending{argument: number, before: name[:at[0]], after: name[at[1]:]})
	}
}

// calls gives functions their arguments.
func (c *credentials) calls(root syntax.Node) {
	syntax.Walk(root, func(n syntax.Node) bool {
		call, ok := n.(*syntax.CallExpr)
		if !ok || len(call.Args) == 0 {
			return true
		}
		for _, p := range c.functions[call.Args[0].Lit()] {
			if p.argument >= len(call.Args) {
				continue
			}
			for _, value := range c.flatten(call.Args[p.argument]) {
				if strings.Contains(value, "\x02") {
					value = string(unknown)
				}
				c.add(p.before+value+p.after, int(call.Pos().Line()))
			}
		}
		return true
	})
}

// inText finds reads in what is no shell, or none that parses.
var inText = pattern(`(?:\$\{?CREDENTIALS_DIRECTORY(?::-[^}]*)?\}?["']?|environ\[["']CREDENTIALS_DIRECTORY["']\]\s*\+?\s*["']?|/run/credentials/[^/\s"']+)/+([A-Za-z0-9_.@*-]+)`)

// text searches from an offset on.
func (c *credentials) text(text []byte, from int) {
	for _, m := range inText().FindAllSubmatchIndex(text[from:], -1) {
		c.add(string(text[from+m[2]:from+m[3]]), 1+strings.Count(string(text[:from+m[0]]), "\n"))
	}
}

// Credentials lists those that any text reads, a program's that is no shell script
// included.
func Credentials(text []byte) []Credential {
	if unreadable(text) != "" {
		return nil
	}
	r := &reader{script: &Script{}, text: text}
	var stmts []*syntax.Stmt
	if first, _, _ := strings.Cut(string(text), "\n"); !strings.HasPrefix(first, "#!") || strings.Contains(first, "sh") {
		stmts = r.parse()
	}
	return newCredentials(stmts).read(stmts, text)
}
