package fake

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// shape is a type of the configuration: it takes a value or refuses it in the
// words of serde.
type shape interface {
	decode(n node) (any, *jsonError)
}

// scalar is a type without parts.
type scalar struct {
	expected string
	bits     int // of an unsigned integer
	signed   bool
	variants []string // of an enumeration
	check    func(string) string
	late     bool // what check says is found at the end of the map
}

func unsigned(bits int, name string) scalar { return scalar{expected: name, bits: bits} }

func enum(variants ...string) scalar { return scalar{variants: variants} }

func text() scalar { return scalar{expected: "a string"} }

func path() scalar { return scalar{expected: "path string"} }

func boolean() scalar { return scalar{expected: "a boolean"} }

func u8() scalar  { return unsigned(8, "u8") }
func u16() scalar { return unsigned(16, "u16") }
func u32() scalar { return unsigned(32, "u32") }
func u64() scalar { return unsigned(64, "u64") }

func usize() scalar { return unsigned(64, "usize") }

func i32() scalar { return scalar{expected: "i32", bits: 32, signed: true} }

func (s scalar) decode(n node) (any, *jsonError) {
	if len(s.variants) > 0 {
		return s.decodeVariant(n)
	}
	switch v := n.value.(type) {
	case bool:
		if s.expected == "a boolean" {
			return v, nil
		}
	case string:
		if s.check != nil {
			if words := s.check(v); words != "" {
				return nil, &jsonError{text: words, offset: n.end, late: s.late}
			}
			return v, nil
		}
		if s.expected == "a string" || s.expected == "path string" {
			return v, nil
		}
	case json.Number:
		if s.bits > 0 {
			return s.decodeNumber(n, v)
		}
	}
	return nil, n.refused(s.expected)
}

func (s scalar) decodeNumber(n node, v json.Number) (any, *jsonError) {
	if strings.ContainsAny(v.String(), ".eE") {
		return nil, n.refused(s.expected)
	}
	var err error
	if s.signed {
		_, err = strconv.ParseInt(v.String(), 10, s.bits)
	} else {
		_, err = strconv.ParseUint(v.String(), 10, s.bits)
	}
	if err != nil {
		return nil, &jsonError{text: "invalid value: " + n.found() + ", expected " + s.expected, offset: n.end}
	}
	return v, nil
}

func (s scalar) decodeVariant(n node) (any, *jsonError) {
	v, ok := n.value.(string)
	if !ok {
		return nil, n.refused("string or map")
	}
	if slices.Contains(s.variants, v) {
		return v, nil
	}
	quoted := make([]string, len(s.variants))
	for i, name := range s.variants {
		quoted[i] = "`" + name + "`"
	}
	choice := "one of " + strings.Join(quoted, ", ")
	switch len(quoted) {
	case 1:
		choice = quoted[0]
	case 2:
		choice = quoted[0] + " or " + quoted[1]
	}
	return nil, &jsonError{text: "unknown variant `" + v + "`, expected " + choice, offset: n.end}
}

// list is a sequence of values of one type.
type list struct{ of shape }

func (l list) decode(n node) (any, *jsonError) {
	if n.items == nil {
		return nil, n.refused("a sequence")
	}
	out := make([]any, 0, len(n.items))
	for _, item := range n.items {
		v, err := l.of.decode(item)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// presence says what becomes of a field that is not there.
type presence int

const (
	required  presence = iota // it is an error
	defaulted                 // it has a value of its own
	optional                  // it stays away, and null says the same
)

type field struct {
	name     string
	alias    string
	shape    shape
	presence presence
	value    any // of a field that is defaulted
	hidden   any // a value with which it is not shown

	flattened bool // stands in a part of a flat type
}

// structure is a type with named fields. Names that it does not know are passed
// over, except where the type is strict.
type structure struct {
	name   string
	fields []field
	flat   bool // is made of several types, which is why it has to be a map
	strict bool
	bare   bool // what is optional has no default, which tells where a sequence is given
}

// entry and object are a value of a structure, in the order of its fields.
type entry struct {
	name  string
	value any
}

type object struct {
	name    string
	entries []entry
}

func (o *object) get(name string) any {
	for _, e := range o.entries {
		if e.name == name {
			return e.value
		}
	}
	return nil
}

// set replaces a value, or puts a new one where the structure has it: first.
func (o *object) set(name string, value any) {
	for i, e := range o.entries {
		if e.name == name {
			o.entries[i].value = value
			return
		}
	}
	o.entries = append([]entry{{name, value}}, o.entries...)
}

// insert replaces a value, or puts a new one where the structure has it.
func (o *object) insert(name string, value any, s structure) {
	if o.get(name) != nil {
		o.set(name, value)
		return
	}
	place := map[string]int{}
	for i, f := range s.fields {
		place[f.name] = i
	}
	at := len(o.entries)
	for at > 0 && place[o.entries[at-1].name] > place[name] {
		at--
	}
	o.entries = slices.Insert(o.entries, at, entry{name, value})
}

func (o *object) remove(name string) {
	o.entries = slices.DeleteFunc(o.entries, func(e entry) bool { return e.name == name })
}

// MarshalJSON keeps the order.
func (o *object) MarshalJSON() ([]byte, error) {
	out := []byte{'{'}
	for i, e := range o.entries {
		if i > 0 {
			out = append(out, ',')
		}
		out = strconv.AppendQuote(out, e.name)
		out = append(out, ':')
		v, err := json.Marshal(e.value)
		if err != nil {
			return nil, err
		}
		out = append(out, v...)
	}
	return append(out, '}'), nil
}

func (s structure) decode(n node) (any, *jsonError) {
	members := n.members
	if members == nil {
		var err *jsonError
		if members, err = s.notAMap(n); err != nil {
			return nil, err
		}
	}
	given := map[string]any{}
	for i, m := range members {
		if err := s.take(given, m, n.end, i == len(members)-1); err != nil {
			return nil, err
		}
	}
	out := &object{name: s.name}
	for _, f := range s.fields {
		v, ok := given[f.name]
		if !ok && f.presence == required {
			return nil, &jsonError{text: "missing field `" + f.name + "`", offset: n.end}
		}
		if !ok && f.presence == defaulted {
			v = f.fallback()
		}
		if v != nil && (f.hidden == nil || v != f.hidden) {
			out.entries = append(out.entries, entry{f.name, v})
		}
	}
	return out, nil
}

// take decodes a field; a null that says that it is not there is taken as nil.
// The parts of a flat type are looked at when the map has ended, and so is what
// they refuse.
func (s structure) take(given map[string]any, m member, end int, last bool) *jsonError {
	f := s.find(m.key)
	if f == nil && s.strict {
		return &jsonError{text: "unknown field `" + m.key + "`, expected " + s.names(), offset: m.keyEnd}
	}
	if f == nil {
		return nil
	}
	if _, twice := given[f.name]; twice {
		return &jsonError{text: "duplicate field `" + f.name + "`", offset: m.keyEnd}
	}
	if f.presence == optional && m.node.isNull() {
		given[f.name] = nil
		return nil
	}
	v, err := f.shape.decode(m.node)
	if err != nil && (f.flattened || err.late && last) {
		err.offset = end
	}
	if err != nil {
		err.late = false
	}
	given[f.name] = v
	return err
}

// fallback is the value of a field that is not there. The default of a structure
// is what becomes of the map given as such.
func (f field) fallback() any {
	members, ok := f.value.([]member)
	if !ok {
		return f.value
	}
	v, err := f.shape.decode(node{members: members})
	if err != nil {
		panic("the default of " + f.name + " is wrong: " + err.text)
	}
	return v
}

func (s structure) find(key string) *field {
	for i := range s.fields {
		if f := &s.fields[i]; f.name == key || f.alias == key && key != "" {
			return f
		}
	}
	return nil
}

func (s structure) names() string {
	names := make([]string, len(s.fields))
	for i, f := range s.fields {
		names[i] = "`" + f.name + "`"
	}
	return strings.Join(names, " or ")
}

// notAMap takes a sequence for the values of the fields in order, unless the type
// is flat, and refuses everything else. Where the sequence ends early, the rest has
// to have defaults.
func (s structure) notAMap(n node) ([]member, *jsonError) {
	if n.items == nil || s.flat {
		return nil, n.refused("struct " + s.name)
	}
	var members []member
	for i, f := range s.fields {
		if i < len(n.items) {
			members = append(members, member{f.name, n.items[i].end, n.items[i]})
		} else if f.presence == required || f.presence == optional && s.bare {
			return nil, &jsonError{text: fmt.Sprintf("invalid length %d, expected struct %s with %d elements", i, s.name, len(s.fields)), offset: n.end}
		}
	}
	if len(n.items) > len(s.fields) {
		return nil, &jsonError{text: "trailing characters", offset: n.items[len(s.fields)].end}
	}
	return members, nil
}
