package plan

import (
	"fmt"
	"strconv"
	"strings"
)

// Answer is what stands in the place of a question in a body. The zero value
// leaves the field out.
type Answer struct {
	// JSON is the value.
	JSON []byte
	// Hole: whoever sends the body puts the value there, which must not go
	// through memory that nobody wipes.
	Hole bool
}

// Text answers with a text.
func Text(s string) Answer { return Answer{JSON: quote(s)} }

// True answers with true.
func True() Answer { return Answer{JSON: []byte("true")} }

// Chunk is a piece of a body: JSON, or the place of a question that was answered
// by a hole.
type Chunk struct {
	JSON []byte
	Ask  Question
}

// Render writes the body of a request, a JSON object, in pieces: the fields in
// their order, each where its pointer leads, and the questions answered. Without
// a field there is no body and no piece.
func (r *Request) Render(answer func(Question) (Answer, error)) ([]Chunk, error) {
	if len(r.Body) == 0 {
		return nil, nil
	}
	root := &node{}
	for i := range r.Body {
		f := &r.Body[i]
		if f.At == "" && f.Type == Object && len(r.Body) == 1 {
			break
		}
		leaf := &node{}
		if f.Ask == "" {
			text, err := f.json()
			if err != nil {
				return nil, fmt.Errorf("the field %s: %w", strconv.Quote(f.At), err)
			}
			leaf.json = text
		} else {
			a, err := answer(f.Ask)
			if err != nil {
				return nil, err
			}
			leaf.absent = a.JSON == nil && !a.Hole
			if leaf.json = a.JSON; a.Hole {
				leaf.hole = f.Ask
			}
		}
		if err := root.put(f.At, leaf); err != nil {
			return nil, fmt.Errorf("the field %s: %w", strconv.Quote(f.At), err)
		}
	}
	if _, err := root.prune(); err != nil {
		return nil, err
	}
	w := &chunks{}
	w.node(root)
	return w.end(), nil
}

// node is a value of a body: a leaf, or an object or a list with members.
type node struct {
	json []byte
	hole Question
	// absent keeps the place of what is left out, until all have theirs.
	absent bool
	// list: the members have no names but numbers.
	list    bool
	names   []string
	members []*node
}

func (n *node) leaf() bool { return n.json != nil || n.hole != "" || n.absent }

// prune takes out what is absent, and reports whether anything is left. Of a list
// nothing may be missing: what is behind it would move.
func (n *node) prune() (left bool, err error) {
	if n.leaf() {
		return !n.absent, nil
	}
	var names []string
	var members []*node
	for i, m := range n.members {
		present, err := m.prune()
		switch {
		case err != nil:
			return false, err
		case present:
			names, members = append(names, n.names[i]), append(members, m)
		case n.list && len(n.members) > 1:
			return false, fmt.Errorf("an element of a list in the body of a request is left out")
		}
	}
	n.names, n.members = names, members
	return len(members) > 0, nil
}

// put hangs a leaf where a pointer leads, with what has to be in between.
func (n *node) put(pointer string, leaf *node) error {
	rest, ok := strings.CutPrefix(pointer, "/")
	if !ok {
		return fmt.Errorf("not a JSON pointer to a member")
	}
	names := strings.Split(rest, "/")
	for i, name := range names {
		name = strings.NewReplacer("~1", "/", "~0", "~").Replace(name)
		if n.leaf() {
			return fmt.Errorf("it leads into a value without members")
		}
		next := n.member(name)
		if i == len(names)-1 {
			if next != nil {
				return fmt.Errorf("it has a value already")
			}
			next = leaf
		} else if next != nil {
			n = next
			continue
		} else {
			next = &node{}
		}
		if err := n.add(name, next); err != nil {
			return err
		}
		n = next
	}
	return nil
}

func (n *node) member(name string) *node {
	for i := range n.names {
		if n.names[i] == name {
			return n.members[i]
		}
	}
	return nil
}

// add appends a member. The first decides whether these are those of a list, of
// which none may be left out.
func (n *node) add(name string, member *node) error {
	number := name == strconv.Itoa(len(n.names))
	if len(n.names) == 0 {
		n.list = number
	}
	if n.list != number {
		return fmt.Errorf("the members of its list are not numbered from 0 on")
	}
	n.names, n.members = append(n.names, name), append(n.members, member)
	return nil
}

// chunks collects what is written.
type chunks struct {
	out  []Chunk
	text []byte
}

func (w *chunks) end() []Chunk {
	if len(w.text) > 0 {
		w.out, w.text = append(w.out, Chunk{JSON: w.text}), nil
	}
	return w.out
}

func (w *chunks) node(n *node) {
	switch {
	case n.hole != "":
		w.end()
		w.out = append(w.out, Chunk{Ask: n.hole})
		return
	case n.json != nil:
		w.text = append(w.text, n.json...)
		return
	}
	open, end := byte('{'), byte('}')
	if n.list {
		open, end = '[', ']'
	}
	w.text = append(w.text, open)
	for i, m := range n.members {
		if i > 0 {
			w.text = append(w.text, ',')
		}
		if !n.list {
			w.text = append(append(w.text, quote(n.names[i])...), ':')
		}
		w.node(m)
	}
	w.text = append(w.text, end)
}

// quote writes a text as JSON has it.
func quote(s string) []byte {
	e := encoder{}
	e.string(s)
	return e.out
}
