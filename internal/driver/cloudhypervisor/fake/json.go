package fake

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// node is a JSON value together with the place where it ends, since serde says
// where it stumbles.
type node struct {
	value   any // nil, bool, json.Number or string
	start   int // offset of its first byte, if it has parts
	end     int // and of the first byte behind it
	members []member
	items   []node
}

type member struct {
	key    string
	keyEnd int
	node   node
}

// jsonError is what serde_json says, without the place.
type jsonError struct {
	text   string
	offset int
	late   bool
}

func (e *jsonError) Error() string { return e.text }

// complete adds the place: columns count bytes, from one.
func (e *jsonError) complete(body []byte) string {
	before := body[:min(e.offset, len(body))]
	line := 1 + bytes.Count(before, []byte("\n"))
	column := len(before) - (bytes.LastIndexByte(before, '\n') + 1)
	return fmt.Sprintf("%s at line %d column %d", e.text, line, column)
}

// parseJSON reads one value and nothing behind it.
func parseJSON(body []byte) (node, *jsonError) {
	if !utf8.Valid(body) {
		return node{}, &jsonError{text: "invalid unicode code point", offset: len(body)}
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	n, err := parseValue(d)
	if err != nil {
		return n, syntaxError(err, d, body)
	}
	if rest := bytes.TrimLeft(body[n.end:], " \t\r\n"); len(rest) > 0 {
		return n, &jsonError{text: "trailing characters", offset: len(body) - len(rest) + 1}
	}
	return n, nil
}

func parseValue(d *json.Decoder) (node, error) {
	token, err := d.Token()
	if err != nil {
		return node{}, err
	}
	n := node{value: token, start: int(d.InputOffset()) - 1}
	switch token {
	case json.Delim('['):
		n.value, n.items = nil, []node{}
		for d.More() {
			item, err := parseValue(d)
			if err != nil {
				return node{}, err
			}
			n.items = append(n.items, item)
		}
		_, err = d.Token()
	case json.Delim('{'):
		n.value, n.members = nil, []member{}
		for d.More() {
			key, err := d.Token()
			if err != nil {
				return node{}, err
			}
			name, _ := key.(string)
			m := member{key: name, keyEnd: int(d.InputOffset())}
			if m.node, err = parseValue(d); err != nil {
				return node{}, err
			}
			n.members = append(n.members, m)
		}
		_, err = d.Token()
	}
	n.end = int(d.InputOffset())
	return n, err
}

// syntaxError finds serde's words for what Go's decoder objects to.
func syntaxError(err error, d *json.Decoder, body []byte) *jsonError {
	at := int(d.InputOffset())
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &jsonError{text: "EOF while parsing " + unfinished(body), offset: len(body)}
	}
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		at = int(syntax.Offset)
		if strings.Contains(syntax.Error(), "in string literal") {
			return &jsonError{text: "control character (\\u0000-\\u001F) found while parsing a string", offset: at}
		}
		if strings.Contains(syntax.Error(), "looking for beginning of object key") {
			return &jsonError{text: "key must be a string", offset: at}
		}
		if start := bytes.TrimLeft(body[min(at, len(body)):], "ntf"); at > 0 && bytes.ContainsAny(body[at-1:at], "ntf") || len(start) < len(body)-at {
			return &jsonError{text: "expected ident", offset: at}
		}
	}
	return &jsonError{text: "expected value", offset: at}
}

// unfinished names the innermost thing that the text leaves open.
func unfinished(body []byte) string {
	open, inString := []string{}, false
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{':
			open = append(open, "an object")
		case c == '[':
			open = append(open, "a list")
		case (c == '}' || c == ']') && len(open) > 0:
			open = open[:len(open)-1]
		}
	}
	if inString {
		return "a string"
	}
	if rest := bytes.TrimRight(body, " \t\r\n"); len(open) == 0 || bytes.HasSuffix(rest, []byte(":")) || bytes.HasSuffix(rest, []byte(",")) {
		return "a value"
	}
	return open[len(open)-1]
}

// found describes a value as serde does where it expected another.
func (n node) found() string {
	switch v := n.value.(type) {
	case bool:
		return fmt.Sprintf("boolean `%t`", v)
	case string:
		return "string " + quote(v)
	case json.Number:
		if strings.ContainsAny(v.String(), ".eE") {
			return "floating point `" + v.String() + "`"
		}
		return "integer `" + v.String() + "`"
	}
	switch {
	case n.items != nil:
		return "sequence"
	case n.members != nil:
		return "map"
	}
	return "null"
}

// refused is the error about a value of a wrong type. Where the value has parts,
// it is found at its beginning.
func (n node) refused(expected string) *jsonError {
	at := n.end
	if n.items != nil || n.members != nil {
		at = n.start
	}
	return &jsonError{text: "invalid type: " + n.found() + ", expected " + expected, offset: at}
}

// isNull tells a null, which also stands for what is not there.
func (n node) isNull() bool { return n.value == nil && n.items == nil && n.members == nil }

// quote writes a string as Rust does for debugging.
func quote(s string) string {
	b := strings.Builder{}
	b.WriteByte('"')
	for _, r := range s {
		switch r {
		case '"', '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case '\n':
			b.WriteString(`\n`)
		case '\r':
			b.WriteString(`\r`)
		case '\t':
			b.WriteString(`\t`)
		case 0:
			b.WriteString(`\0`)
		default:
			if r < ' ' || r == 0x7f {
				fmt.Fprintf(&b, `\u{%x}`, r)
				continue
			}
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
