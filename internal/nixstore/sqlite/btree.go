package sqlite

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// The kinds of pages.
const (
	indexInterior = 2
	tableInterior = 5
	indexLeaf     = 10
	tableLeaf     = 13
)

// maxDepth bounds the descent into a tree: one of 32 levels holds more than any
// disk, and a damaged one may lead in a circle.
const maxDepth = 32

// node is a page of a tree.
type node struct {
	page  []byte
	kind  byte
	cells int
	// pointers is where the offsets of the cells begin.
	pointers int
	right    uint32
}

func (db *DB) node(n uint32) (node, error) {
	page, err := db.page(n)
	if err != nil {
		return node{}, err
	}
	at := 0
	if n == 1 {
		at = headerSize
	}
	out := node{page: page, kind: page[at], cells: int(binary.BigEndian.Uint16(page[at+3:])), pointers: at + 8}
	switch out.kind {
	case indexInterior, tableInterior:
		out.right = binary.BigEndian.Uint32(page[at+8:])
		out.pointers = at + 12
	case indexLeaf, tableLeaf:
	default:
		return node{}, fmt.Errorf("%w: page %d is none of a tree", ErrDamaged, n)
	}
	if out.pointers+2*out.cells > db.usable {
		return node{}, fmt.Errorf("%w: page %d has too many cells", ErrDamaged, n)
	}
	return out, nil
}

// cell returns what begins at a cell.
func (db *DB) cell(n *node, i int) ([]byte, error) {
	at := int(binary.BigEndian.Uint16(n.page[n.pointers+2*i:]))
	if at < n.pointers+2*n.cells || at+4 > db.usable {
		return nil, fmt.Errorf("%w: a cell outside its page", ErrDamaged)
	}
	return n.page[at:db.usable], nil
}

// left returns the child left of a cell, and the cell without it.
func (db *DB) left(n *node, i int) (uint32, []byte, error) {
	c, err := db.cell(n, i)
	if err != nil {
		return 0, nil, err
	}
	return binary.BigEndian.Uint32(c), c[4:], nil
}

// budget bounds what one question may read: in a tree that is whole, no page is
// seen twice.
type budget int

func (b *budget) take() error {
	if *b--; *b < 0 {
		return fmt.Errorf("%w: a tree that leads in a circle", ErrDamaged)
	}
	return nil
}

func (db *DB) budget() *budget {
	b := budget(db.pages) + maxDepth
	return &b
}

// Scan goes through the rows of a table in the order of their numbers, until more
// says no.
func (db *DB) Scan(root uint32, more func(rowid int64, r Record) (bool, error)) error {
	_, err := db.scan(root, 0, db.budget(), more)
	return err
}

func (db *DB) scan(page uint32, depth int, left *budget, more func(int64, Record) (bool, error)) (bool, error) {
	n, err := db.enter(page, depth, left)
	if err != nil {
		return false, err
	}
	for i := range n.cells {
		if n.kind == tableInterior {
			child, _, err := db.left(&n, i)
			if err != nil {
				return false, err
			}
			if on, err := db.scan(child, depth+1, left, more); err != nil || !on {
				return false, err
			}
			continue
		}
		rowid, r, err := db.row(&n, i)
		if err != nil {
			return false, err
		}
		if on, err := more(rowid, r); err != nil || !on {
			return false, err
		}
	}
	switch n.kind {
	case tableInterior:
		return db.scan(n.right, depth+1, left, more)
	case tableLeaf:
		return true, nil
	}
	return false, fmt.Errorf("%w: an index in place of a table", ErrDamaged)
}

func (db *DB) enter(page uint32, depth int, left *budget) (node, error) {
	if depth > maxDepth {
		return node{}, fmt.Errorf("%w: a tree of more than %d levels", ErrDamaged, maxDepth)
	}
	if err := left.take(); err != nil {
		return node{}, err
	}
	return db.node(page)
}

// row reads a cell of a table's leaf.
func (db *DB) row(n *node, i int) (int64, Record, error) {
	if n.kind != tableLeaf {
		return 0, nil, fmt.Errorf("%w: an index in place of a table", ErrDamaged)
	}
	c, err := db.cell(n, i)
	if err != nil {
		return 0, nil, err
	}
	size, c, ok := varint(c)
	rowid, c, ok2 := varint(c)
	if !ok || !ok2 {
		return 0, nil, fmt.Errorf("%w: a cell that is cut off", ErrDamaged)
	}
	payload, err := db.payload(c, size, db.usable-35)
	if err != nil {
		return 0, nil, err
	}
	r, err := decode(payload)
	return int64(rowid), r, err
}

// Row returns the row of a number.
func (db *DB) Row(root uint32, rowid int64) (Record, bool, error) {
	left := db.budget()
	page := root
	for depth := 0; ; depth++ {
		n, err := db.enter(page, depth, left)
		if err != nil {
			return nil, false, err
		}
		if n.kind == tableLeaf {
			return db.find(&n, rowid)
		}
		if n.kind != tableInterior {
			return nil, false, fmt.Errorf("%w: an index in place of a table", ErrDamaged)
		}
		low, high := 0, n.cells // the first cell whose key is not below rowid
		for low < high {
			middle := (low + high) / 2
			_, c, err := db.left(&n, middle)
			if err != nil {
				return nil, false, err
			}
			key, _, ok := varint(c)
			if !ok {
				return nil, false, fmt.Errorf("%w: a cell that is cut off", ErrDamaged)
			}
			if int64(key) < rowid {
				low = middle + 1
			} else {
				high = middle
			}
		}
		if page = n.right; low < n.cells {
			if page, _, err = db.left(&n, low); err != nil {
				return nil, false, err
			}
		}
	}
}

// find looks for a row in a leaf.
func (db *DB) find(n *node, rowid int64) (Record, bool, error) {
	low, high := 0, n.cells
	for low < high {
		middle := (low + high) / 2
		c, err := db.cell(n, middle)
		if err != nil {
			return nil, false, err
		}
		_, c, ok := varint(c)
		key, _, ok2 := varint(c)
		if !ok || !ok2 {
			return nil, false, fmt.Errorf("%w: a cell that is cut off", ErrDamaged)
		}
		switch {
		case int64(key) == rowid:
			_, r, err := db.row(n, middle)
			return r, err == nil, err
		case int64(key) < rowid:
			low = middle + 1
		default:
			high = middle
		}
	}
	return nil, false, nil
}

// Match goes through the entries of an index whose first column has a value, until
// more says no. The last column of an entry is the number of its row.
func (db *DB) Match(root uint32, key Value, more func(Record) (bool, error)) error {
	_, err := db.match(root, 0, db.budget(), key, more)
	return err
}

func (db *DB) match(page uint32, depth int, left *budget, key Value, more func(Record) (bool, error)) (bool, error) {
	n, err := db.enter(page, depth, left)
	if err != nil {
		return false, err
	}
	interior := n.kind == indexInterior
	if !interior && n.kind != indexLeaf {
		return false, fmt.Errorf("%w: a table in place of an index", ErrDamaged)
	}
	low, high := 0, n.cells // the first entry that is not below the key
	for low < high {
		middle := (low + high) / 2
		r, err := db.entry(&n, middle, interior)
		if err != nil {
			return false, err
		}
		if compare(r[0], key) < 0 {
			low = middle + 1
		} else {
			high = middle
		}
	}
	for i := low; i <= n.cells; i++ {
		if interior {
			child := n.right
			if i < n.cells {
				if child, _, err = db.left(&n, i); err != nil {
					return false, err
				}
			}
			if on, err := db.match(child, depth+1, left, key, more); err != nil || !on {
				return false, err
			}
		}
		if i == n.cells {
			return true, nil
		}
		r, err := db.entry(&n, i, interior)
		if err != nil {
			return false, err
		}
		if compare(r[0], key) != 0 {
			return false, nil
		}
		if on, err := more(r); err != nil || !on {
			return false, err
		}
	}
	return true, nil
}

// entry reads a cell of an index.
func (db *DB) entry(n *node, i int, interior bool) (Record, error) {
	c, err := db.cell(n, i)
	if err != nil {
		return nil, err
	}
	if interior {
		c = c[4:]
	}
	size, c, ok := varint(c)
	if !ok {
		return nil, fmt.Errorf("%w: a cell that is cut off", ErrDamaged)
	}
	payload, err := db.payload(c, size, (db.usable-12)*64/255-23)
	if err != nil {
		return nil, err
	}
	r, err := decode(payload)
	if err == nil && len(r) == 0 {
		err = fmt.Errorf("%w: an empty entry of an index", ErrDamaged)
	}
	return r, err
}

// maxPayload bounds a row; the largest of Nix's have some kilobytes.
const maxPayload = 1 << 20

// payload returns a row's bytes: those in the cell, at most local, and those in the
// pages that they flow over to.
func (db *DB) payload(c []byte, size uint64, local int) ([]byte, error) {
	// No row is larger than the database, whose pages it takes once each.
	if size > maxPayload || size > uint64(db.pages)*uint64(db.pageSize) {
		return nil, fmt.Errorf("%w: a row of %d bytes", ErrDamaged, size)
	}
	here := int(size)
	if here > local {
		least := (db.usable-12)*32/255 - 23
		if here = least + (int(size)-least)%(db.usable-4); here > local {
			here = least
		}
	}
	if here > len(c) || here < int(size) && here+4 > len(c) {
		return nil, fmt.Errorf("%w: a cell that is cut off", ErrDamaged)
	}
	if here == int(size) {
		return c[:here], nil
	}
	out := bytes.Clone(c[:here])
	next := binary.BigEndian.Uint32(c[here:])
	for len(out) < int(size) {
		page, err := db.page(next)
		if err != nil {
			return nil, err
		}
		next = binary.BigEndian.Uint32(page)
		out = append(out, page[4:4+min(db.usable-4, int(size)-len(out))]...)
	}
	return out, nil
}
