// Package sqlite reads SQLite databases: tables by row, and indexes by their first
// columns, from the file and the log in front of it.
//
// It exists because a database is looked at here as it lies on a disk: often of a tree
// that is mounted read-only, often by a user who may not write it, and always without
// changing it. SQLite itself wants shared memory beside a database in WAL mode, and
// without it either fails or does not see what is in the log alone. This reader takes
// committed frames from the log, as SQLite's own recovery would, and writes nothing.
//
// The format: https://sqlite.org/fileformat2.html. Nothing here evaluates SQL.
package sqlite

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The errors of a file.
var (
	// ErrNotDatabase: it is something else, or empty.
	ErrNotDatabase = errors.New("not a SQLite database")
	// ErrDamaged: what is read contradicts itself.
	ErrDamaged = errors.New("the database is damaged")
)

// DB is an open database. It is for one goroutine.
type DB struct {
	main     io.ReaderAt
	pageSize int
	usable   int // bytes of a page that are not reserved
	pages    uint32
	log      *wal
	cache    map[uint32][]byte
	order    []uint32
}

// cachedPages bounds memory: 16 MiB of pages of 4 KiB.
const cachedPages = 4096

const headerSize = 100

// Open reads the headers of a database and of its log, which is nil where there is
// none.
func Open(main io.ReaderAt, size int64, log io.ReaderAt, logSize int64) (*DB, error) {
	db := &DB{main: main, cache: map[uint32][]byte{}}
	if log != nil {
		var err error
		if db.log, err = readWAL(log, logSize); err != nil {
			return nil, err
		}
	}
	var header [headerSize]byte
	if err := db.readHeader(header[:]); err != nil {
		return nil, err
	}
	if string(header[:16]) != "SQLite format 3\x00" {
		return nil, ErrNotDatabase
	}
	db.pageSize = int(binary.BigEndian.Uint16(header[16:]))
	if db.pageSize == 1 {
		db.pageSize = 65536
	}
	if db.pageSize < 512 || db.pageSize&(db.pageSize-1) != 0 {
		return nil, fmt.Errorf("%w: pages of %d bytes", ErrDamaged, db.pageSize)
	}
	if db.log != nil && db.log.pageSize != db.pageSize {
		return nil, fmt.Errorf("%w: its log is of another database", ErrDamaged)
	}
	db.usable = db.pageSize - int(header[20])
	if db.usable < 480 {
		return nil, fmt.Errorf("%w: %d usable bytes in a page", ErrDamaged, db.usable)
	}
	if encoding := binary.BigEndian.Uint32(header[56:]); encoding > 1 {
		return nil, fmt.Errorf("text encoding %d, and UTF-8 alone is read", encoding)
	}
	db.pages = uint32(min(size/int64(db.pageSize), 1<<32-2))
	if db.log != nil && db.log.committed > 0 {
		db.pages = db.log.committed
	}
	return db, nil
}

// readHeader reads the start of the first page, wherever its newest form is.
func (db *DB) readHeader(header []byte) error {
	if db.log != nil {
		if at, ok := db.log.frames[1]; ok {
			_, err := db.log.file.ReadAt(header, at)
			return err
		}
	}
	if _, err := db.main.ReadAt(header, 0); err != nil {
		if errors.Is(err, io.EOF) {
			return ErrNotDatabase
		}
		return err
	}
	return nil
}

// page returns the newest committed form of a page. It is not the caller's to change.
func (db *DB) page(n uint32) ([]byte, error) {
	if n == 0 || n > db.pages {
		return nil, fmt.Errorf("%w: page %d of %d", ErrDamaged, n, db.pages)
	}
	if p, ok := db.cache[n]; ok {
		return p, nil
	}
	p := make([]byte, db.pageSize)
	from, at := db.main, int64(n-1)*int64(db.pageSize)
	if db.log != nil {
		if offset, ok := db.log.frames[n]; ok {
			from, at = db.log.file, offset
		}
	}
	if _, err := from.ReadAt(p, at); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%w: it ends before page %d", ErrDamaged, n)
		}
		return nil, err
	}
	if len(db.order) >= cachedPages {
		delete(db.cache, db.order[0])
		db.order = db.order[1:]
	}
	db.cache[n] = p
	db.order = append(db.order, n)
	return p, nil
}

// Object is a row of the schema.
type Object struct {
	// Type is "table", "index", "trigger" or "view".
	Type, Name, Table string
	// Root is the first page of a table or index.
	Root uint32
	// SQL made it; empty for an index that a constraint made.
	SQL string
}

// Schema returns what the database holds.
func (db *DB) Schema() ([]Object, error) {
	var out []Object
	err := db.Scan(1, func(_ int64, r Record) (bool, error) {
		if len(r) < 5 {
			return false, fmt.Errorf("%w: a row of the schema with %d columns", ErrDamaged, len(r))
		}
		root := r[3].Int()
		if root < 0 || root > int64(db.pages) {
			return false, fmt.Errorf("%w: a table at page %d", ErrDamaged, root)
		}
		out = append(out, Object{Type: r[0].Text(), Name: r[1].Text(), Table: r[2].Text(), Root: uint32(root), SQL: r[4].Text()})
		return true, nil
	})
	return out, err
}
