package fake

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// kind is what a field of a body may hold.
type kind int

const (
	kindString kind = iota
	kindPath
	kindBool
	kindMAC
	kindU8
	kindU16
	kindU32
	kindU64
	kindUsize
	kindEnum
	kindLevel
	kindStruct
)

// field is one of a body, as the real program declares it.
type field struct {
	name     string
	kind     kind
	optional bool // null or absent
	fallback any  // what stands for an absent one that need not be there; nil: none
	variants []string
	of       *schema
}

// schema is the shape of a body. Open ones take fields that nobody knows.
type schema struct {
	name   string
	open   bool
	fields []field
}

// jsonError is what the real program's decoder says. Line 0: not yet placed.
type jsonError struct {
	text         string
	line, column int
}

func (e *jsonError) Error() string {
	return fmt.Sprintf("%s at line %d column %d", e.text, e.line, e.column)
}

// debug is how it stands in the log.
func (e *jsonError) debug() string {
	return fmt.Sprintf("SerdeJson(Error(%s, line: %d, column: %d))", strconv.Quote(e.text), e.line, e.column)
}

// decoder reads a body the way serde_json does: it tells the same mistakes at
// the same places. What quotes a value there quotes it here.
type decoder struct {
	b []byte
	i int
}

// decode returns the fields of a body; absent ones hold nil or the fallback.
func decode(body []byte, s *schema) (map[string]any, *jsonError) {
	d := &decoder{b: body}
	v, err := d.object(s)
	if err != nil {
		return nil, err
	}
	if d.space() {
		return nil, d.ahead("trailing characters")
	}
	return v, nil
}

// at places an error behind the first n bytes.
func (d *decoder) at(text string, n int) *jsonError {
	start := bytes.LastIndexByte(d.b[:n], '\n') + 1
	return &jsonError{text: text, line: 1 + bytes.Count(d.b[:start], []byte("\n")), column: n - start}
}

// here is an error about what was read, ahead one about the next byte.
func (d *decoder) here(text string) *jsonError  { return d.at(text, d.i) }
func (d *decoder) ahead(text string) *jsonError { return d.at(text, min(len(d.b), d.i+1)) }

// place gives an error that has none the current place.
func (d *decoder) place(err *jsonError) *jsonError {
	if err != nil && err.line == 0 {
		return d.here(err.text)
	}
	return err
}

// space skips white space and reports whether something follows.
func (d *decoder) space() bool {
	for d.i < len(d.b) && strings.IndexByte(" \n\t\r", d.b[d.i]) >= 0 {
		d.i++
	}
	return d.i < len(d.b)
}

const endOfValue = "EOF while parsing a value"

// object reads a struct: an object, or a list of its fields in their order,
// which the real decoder takes as well.
func (d *decoder) object(s *schema) (map[string]any, *jsonError) {
	if !d.space() {
		return nil, d.ahead(endOfValue)
	}
	var v map[string]any
	var err *jsonError
	var closing byte
	switch d.b[d.i] {
	case '{':
		d.i++
		closing = '}'
		v, err = d.members(s)
	case '[':
		d.i++
		closing = ']'
		v, err = d.elements(s)
	default:
		return nil, d.place(d.wrongType("struct " + s.name))
	}
	if end := d.closes(closing); err == nil {
		err = end
	}
	return v, d.place(err)
}

// closes takes the end of an object or list.
func (d *decoder) closes(c byte) *jsonError {
	what := map[byte]string{'}': "an object", ']': "a list"}[c]
	switch {
	case !d.space():
		return d.ahead("EOF while parsing " + what)
	case d.b[d.i] == c:
		d.i++
		return nil
	case d.b[d.i] == ',':
		return d.ahead("trailing comma")
	}
	return d.ahead("trailing characters")
}

func (d *decoder) members(s *schema) (map[string]any, *jsonError) {
	v := map[string]any{}
	for first := true; ; first = false {
		more, err := d.nextKey(first)
		if err != nil {
			return nil, err
		}
		if !more {
			return v, s.complete(v)
		}
		key, err := d.text()
		if err != nil {
			return nil, err
		}
		f := s.find(key)
		if f == nil && !s.open {
			return nil, &jsonError{text: fmt.Sprintf("unknown field `%s`, expected %s", key, oneOf(s.names()))}
		}
		if _, twice := v[key]; twice && f != nil {
			return nil, &jsonError{text: fmt.Sprintf("duplicate field `%s`", key)}
		}
		if err := d.colon(); err != nil {
			return nil, err
		}
		if f == nil {
			if err := d.skip(); err != nil {
				return nil, err
			}
			continue
		}
		if v[key], err = d.value(f); err != nil {
			return nil, err
		}
	}
}

// nextKey stands before the next key, or before the end.
func (d *decoder) nextKey(first bool) (bool, *jsonError) {
	switch {
	case !d.space():
		return false, d.ahead("EOF while parsing an object")
	case d.b[d.i] == '}':
		return false, nil
	case !first && d.b[d.i] != ',':
		return false, d.ahead("expected `,` or `}`")
	case !first:
		d.i++
		if !d.space() {
			return false, d.ahead(endOfValue)
		}
		if d.b[d.i] == '}' {
			return false, d.ahead("trailing comma")
		}
	}
	if d.b[d.i] != '"' {
		return false, d.ahead("key must be a string")
	}
	return true, nil
}

func (d *decoder) colon() *jsonError {
	if !d.space() {
		return d.ahead("EOF while parsing an object")
	}
	if d.b[d.i] != ':' {
		return d.ahead("expected `:`")
	}
	d.i++
	return nil
}

func (d *decoder) elements(s *schema) (map[string]any, *jsonError) {
	v := map[string]any{}
	for n := range s.fields {
		if !d.space() {
			return nil, d.ahead("EOF while parsing a list")
		}
		if d.b[d.i] == ']' {
			if s.fields[n].fallback == nil {
				count := fmt.Sprintf("%d elements", len(s.fields))
				if len(s.fields) == 1 {
					count = "1 element"
				}
				return nil, &jsonError{text: fmt.Sprintf("invalid length %d, expected struct %s with %s", n, s.name, count)}
			}
			v[s.fields[n].name] = s.fields[n].fallback
			continue
		}
		if n > 0 {
			if d.b[d.i] != ',' {
				return nil, d.ahead("expected `,` or `]`")
			}
			d.i++
		}
		var err *jsonError
		if v[s.fields[n].name], err = d.value(&s.fields[n]); err != nil {
			return nil, err
		}
	}
	return v, nil
}

func (s *schema) find(name string) *field {
	for i := range s.fields {
		if s.fields[i].name == name {
			return &s.fields[i]
		}
	}
	return nil
}

func (s *schema) names() (names []string) {
	for _, f := range s.fields {
		names = append(names, f.name)
	}
	return names
}

// complete fills in what is absent, or tells what is missing.
func (s *schema) complete(v map[string]any) *jsonError {
	for _, f := range s.fields {
		if _, ok := v[f.name]; ok {
			continue
		}
		if f.fallback == nil && !f.optional {
			return &jsonError{text: fmt.Sprintf("missing field `%s`", f.name)}
		}
		v[f.name] = f.fallback
	}
	return nil
}

func oneOf(names []string) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = "`" + n + "`"
	}
	switch len(quoted) {
	case 1:
		return quoted[0]
	case 2:
		return quoted[0] + " or " + quoted[1]
	}
	return "one of " + strings.Join(quoted, ", ")
}

func (d *decoder) value(f *field) (any, *jsonError) {
	if !d.space() {
		return nil, d.ahead(endOfValue)
	}
	c := d.b[d.i]
	if f.optional && c == 'n' {
		return nil, d.word("null")
	}
	switch f.kind {
	case kindStruct:
		return d.object(f.of)
	case kindEnum:
		return d.variant(f.variants)
	case kindString, kindPath, kindLevel, kindMAC:
		if c == '"' {
			s, err := d.text()
			if err == nil && f.kind == kindLevel {
				return levelFilter(s)
			}
			if err == nil && f.kind == kindMAC {
				return macAddress(s)
			}
			return s, err
		}
		expected := "a string"
		if f.kind == kindPath {
			expected = "path string"
		}
		return nil, d.place(d.wrongType(expected))
	case kindBool:
		if c == 't' {
			return true, d.word("true")
		}
		if c == 'f' {
			return false, d.word("false")
		}
		return nil, d.place(d.wrongType("a boolean"))
	}
	return d.integer(f.kind)
}

// levelFilter takes the names of levels in any case.
func levelFilter(s string) (any, *jsonError) {
	if l, ok := parseLevel(s); ok {
		return l, nil
	}
	return nil, &jsonError{text: "Invalid LevelFilter"}
}

func (d *decoder) variant(variants []string) (any, *jsonError) {
	if d.b[d.i] != '"' {
		return nil, d.ahead("expected value")
	}
	s, err := d.text()
	if err != nil {
		return nil, err
	}
	for _, v := range variants {
		if s == v {
			return s, nil
		}
	}
	return nil, d.here(fmt.Sprintf("unknown variant `%s`, expected %s", s, oneOf(variants)))
}

func (d *decoder) integer(k kind) (any, *jsonError) {
	limit, name := uint64(math.MaxUint64), "u64"
	switch k {
	case kindU8:
		limit, name = math.MaxUint8, "u8"
	case kindU16:
		limit, name = math.MaxUint16, "u16"
	case kindU32:
		limit, name = math.MaxUint32, "u32"
	case kindUsize:
		name = "usize"
	}
	if c := d.b[d.i]; c != '-' && (c < '0' || c > '9') {
		return nil, d.place(d.wrongType(name))
	}
	literal, err := d.number()
	if err != nil {
		return nil, err
	}
	if n, bad := strconv.ParseUint(literal, 10, 64); bad == nil && n <= limit {
		return n, nil
	}
	if isInteger(literal) {
		return nil, d.here(fmt.Sprintf("invalid value: integer `%s`, expected %s", literal, name))
	}
	return nil, d.here(fmt.Sprintf("invalid type: floating point `%s`, expected %s", literal, name))
}

// isInteger: it fits 64 bits; all else is a floating point number there.
func isInteger(literal string) bool {
	_, unsigned := strconv.ParseUint(literal, 10, 64)
	_, signed := strconv.ParseInt(literal, 10, 64)
	return unsigned == nil || signed == nil
}

// wrongType takes the value that is there, and tells that it is not expected.
func (d *decoder) wrongType(expected string) *jsonError {
	var found string
	switch c := d.b[d.i]; {
	case c == 'n':
		if err := d.word("null"); err != nil {
			return err
		}
		found = "null"
	case c == 't' || c == 'f':
		word := map[byte]string{'t': "true", 'f': "false"}[c]
		if err := d.word(word); err != nil {
			return err
		}
		found = "boolean `" + word + "`"
	case c == '"':
		s, err := d.text()
		if err != nil {
			return err
		}
		found = "string " + strconv.Quote(s)
	case c == '[':
		found = "sequence"
	case c == '{':
		found = "map"
	case c == '-' || c >= '0' && c <= '9':
		literal, err := d.number()
		if err != nil {
			return err
		}
		found = "floating point `" + literal + "`"
		if isInteger(literal) {
			found = "integer `" + literal + "`"
		}
	default:
		return d.ahead("expected value")
	}
	return &jsonError{text: fmt.Sprintf("invalid type: %s, expected %s", found, expected)}
}

// word takes null, true or false.
func (d *decoder) word(w string) *jsonError {
	for j := range len(w) {
		if d.i == len(d.b) {
			return d.here(endOfValue)
		}
		d.i++
		if d.b[d.i-1] != w[j] {
			return d.here("expected ident")
		}
	}
	return nil
}

// number takes a number as it stands.
func (d *decoder) number() (string, *jsonError) {
	start := d.i
	digits := func() bool {
		from := d.i
		for d.i < len(d.b) && d.b[d.i] >= '0' && d.b[d.i] <= '9' {
			d.i++
		}
		return d.i > from
	}
	next := func(set string) bool { return d.i < len(d.b) && strings.IndexByte(set, d.b[d.i]) >= 0 }
	if next("-") {
		d.i++
	}
	if next("0") {
		if d.i++; next("0123456789") {
			return "", d.ahead("invalid number")
		}
	} else if !digits() {
		return "", d.ahead("invalid number")
	}
	if next(".") {
		d.i++
		if !digits() {
			return "", d.ahead("invalid number")
		}
	}
	if next("eE") {
		d.i++
		if next("+-") {
			d.i++
		}
		if !digits() {
			return "", d.ahead("invalid number")
		}
	}
	return string(d.b[start:d.i]), nil
}

// text takes a string.
func (d *decoder) text() (string, *jsonError) {
	d.i++
	var s []byte
	for {
		if d.i == len(d.b) {
			return "", d.here("EOF while parsing a string")
		}
		c := d.b[d.i]
		d.i++
		switch {
		case c == '"':
			if !utf8.Valid(s) {
				return "", d.here("invalid unicode code point")
			}
			return string(s), nil
		case c == '\\':
			r, err := d.escape()
			if err != nil {
				return "", err
			}
			s = utf8.AppendRune(s, r)
		case c < 0x20:
			return "", d.here("control character (\\u0000-\\u001F) found while parsing a string")
		default:
			s = append(s, c)
		}
	}
}

func (d *decoder) escape() (rune, *jsonError) {
	if d.i == len(d.b) {
		return 0, d.here("EOF while parsing a string")
	}
	c := d.b[d.i]
	d.i++
	if at := strings.IndexByte(`"\/bfnrt`, c); at >= 0 {
		return rune("\"\\/\b\f\n\r\t"[at]), nil
	}
	if c != 'u' {
		return 0, d.here("invalid escape")
	}
	high, err := d.hex()
	if err != nil || high < 0xd800 || high > 0xdfff {
		return high, err
	}
	if high >= 0xdc00 || !bytes.HasPrefix(d.b[d.i:], []byte(`\u`)) {
		return 0, d.here("lone leading surrogate in hex escape")
	}
	d.i += 2
	low, err := d.hex()
	if err != nil {
		return 0, err
	}
	if low < 0xdc00 || low > 0xdfff {
		return 0, d.here("lone leading surrogate in hex escape")
	}
	return (high-0xd800)<<10 + (low - 0xdc00) + 0x10000, nil
}

func (d *decoder) hex() (rune, *jsonError) {
	if d.i+4 > len(d.b) {
		d.i = len(d.b)
		return 0, d.here("EOF while parsing a string")
	}
	n, err := strconv.ParseUint(string(d.b[d.i:d.i+4]), 16, 32)
	d.i += 4
	if err != nil {
		return 0, d.here("invalid escape")
	}
	return rune(n), nil
}

// skip passes over the value of a field that nobody knows.
func (d *decoder) skip() *jsonError {
	if !d.space() {
		return d.ahead(endOfValue)
	}
	switch d.b[d.i] {
	case '[':
		d.i++
		for n := 0; ; n++ {
			if d.space() && d.b[d.i] == ']' {
				return d.closes(']')
			}
			if n > 0 {
				if d.i == len(d.b) || d.b[d.i] != ',' {
					return d.ahead("expected `,` or `]`")
				}
				d.i++
			}
			if err := d.skip(); err != nil {
				return err
			}
		}
	case '{':
		_, err := d.object(&schema{open: true})
		return err
	}
	if err := d.wrongType(""); !strings.HasPrefix(err.text, "invalid type") {
		return err
	}
	return nil
}
