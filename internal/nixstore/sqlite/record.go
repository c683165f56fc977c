package sqlite

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
)

// Record is a row, or an entry of an index.
type Record []Value

// Value is that of a column: nothing, a number, text, or bytes.
type Value struct {
	kind  kind
	whole int64
	real  float64
	data  []byte
}

type kind byte

// The kinds, in the order in which SQLite sorts them. Both numbers are one.
const (
	null kind = iota
	whole
	real
	text
	blob
)

// Of makes the value of a text.
func Of(s string) Value { return Value{kind: text, data: []byte(s)} }

// OfInt makes the value of a number.
func OfInt(n int64) Value { return Value{kind: whole, whole: n} }

// Text returns a text, and "" for all else.
func (v Value) Text() string {
	if v.kind != text {
		return ""
	}
	return string(v.data)
}

// Int returns a whole number, and 0 for all else.
func (v Value) Int() int64 { return v.whole }

// IsNull reports whether there is no value.
func (v Value) IsNull() bool { return v.kind == null }

// compare orders two values as an index without a collation of its own does.
func compare(a, b Value) int {
	class := func(k kind) kind {
		if k == real {
			return whole
		}
		return k
	}
	if c := cmp.Compare(class(a.kind), class(b.kind)); c != 0 {
		return c
	}
	switch {
	case a.kind == null:
		return 0
	case a.kind == whole && b.kind == whole:
		return cmp.Compare(a.whole, b.whole)
	case class(a.kind) == whole:
		return cmp.Compare(a.number(), b.number())
	}
	return bytes.Compare(a.data, b.data)
}

func (v Value) number() float64 {
	if v.kind == whole {
		return float64(v.whole)
	}
	return v.real
}

// varint reads a number of one to nine bytes.
func varint(b []byte) (n uint64, rest []byte, ok bool) {
	for i := range min(len(b), 9) {
		if i == 8 {
			return n<<8 | uint64(b[8]), b[9:], true
		}
		n = n<<7 | uint64(b[i]&0x7f)
		if b[i] < 0x80 {
			return n, b[i+1:], true
		}
	}
	return 0, nil, false
}

// decode takes a record apart. Its values share the bytes.
func decode(payload []byte) (Record, error) {
	bad := fmt.Errorf("%w: a row whose columns do not fit it", ErrDamaged)
	size, types, ok := varint(payload)
	if !ok || size > uint64(len(payload)) || size < uint64(len(payload)-len(types)) {
		return nil, bad
	}
	types, body := payload[len(payload)-len(types):size], payload[size:]
	r := make(Record, 0, 8)
	for len(types) > 0 {
		var serial uint64
		if serial, types, ok = varint(types); !ok {
			return nil, bad
		}
		length := lengthOf(serial)
		if length > uint64(len(body)) {
			return nil, bad
		}
		r = append(r, valueOf(serial, body[:length]))
		body = body[length:]
	}
	return r, nil
}

// lengthOf is the number of bytes that a value of a serial type takes.
func lengthOf(serial uint64) uint64 {
	switch {
	case serial <= 4:
		return serial
	case serial == 5:
		return 6
	case serial <= 7:
		return 8
	case serial < 12:
		return 0
	}
	return (serial - 12) / 2
}

func valueOf(serial uint64, data []byte) Value {
	switch {
	case serial == 0:
		return Value{}
	case serial == 7:
		return Value{kind: real, real: math.Float64frombits(binary.BigEndian.Uint64(data))}
	case serial == 8, serial == 9:
		return OfInt(int64(serial - 8))
	case serial < 7:
		n := int64(int8(data[0]))
		for _, b := range data[1:] {
			n = n<<8 | int64(b)
		}
		return OfInt(n)
	case serial < 12: // not used by SQLite
		return Value{}
	case serial%2 == 0:
		return Value{kind: blob, data: data}
	}
	return Value{kind: text, data: data}
}
