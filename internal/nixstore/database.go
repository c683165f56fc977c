package nixstore

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/ampoule-vm/ampoule/internal/nixstore/sqlite"
)

// Where the database is, and the number of the schema that is read.
const (
	DatabaseDir = "/nix/var/nix/db"
	schema      = "10"
)

// ErrUnsure is what is wrong with a database that somebody writes at this moment.
var ErrUnsure = errors.New("it is being written")

// Database tells which store paths are valid and which refers to which.
type Database struct {
	file, log *os.File
	db        *sqlite.DB
	paths     uint32 // the table ValidPaths, by id
	refs      uint32 // the table Refs, by row
	byPath    uint32 // index on ValidPaths(path)
	from, to  uint32 // indexes on Refs(referrer, reference) and Refs(reference)
	column    map[string]int
	id        map[string]int64
	path      map[int64]string
}

// OpenDatabase opens the database of a tree. Errors have the path of the file
// that is wrong.
func OpenDatabase(t *Tree) (*Database, error) {
	main := path.Join(DatabaseDir, "db.sqlite")
	number := path.Join(DatabaseDir, "schema")
	if text, err := t.ReadFile(number, 1<<10); err != nil {
		if !Missing(err) {
			return nil, err
		}
	} else if s := strings.TrimSpace(string(text)); s != schema {
		return nil, fmt.Errorf("%s: schema %s, and %s is read", number, printable(s), schema)
	}
	// Between two looks a log may be begun anew; then another try sees it whole.
	var err error
	for range 3 {
		var d *Database
		if d, err = openDatabase(t, main); err == nil {
			return d, nil
		}
		if !errors.Is(err, ErrUnsure) {
			break
		}
	}
	return nil, err
}

func printable(s string) string { return fmt.Sprintf("%.20q", s) }

func openDatabase(t *Tree, main string) (*Database, error) {
	d := &Database{id: map[string]int64{}, path: map[int64]string{}}
	var err error
	if d.file, err = t.Open(main); err != nil {
		return nil, err
	}
	if d.log, err = t.Open(main + "-wal"); err != nil && !Missing(err) {
		d.Close()
		return nil, err
	}
	if err := d.read(t, main); err != nil {
		d.Close()
		return nil, fmt.Errorf("%s: %w", main, err)
	}
	return d, nil
}

func (d *Database) read(t *Tree, main string) error {
	if owner := writer(d.file); owner > 0 {
		return fmt.Errorf("%w: process %d has locked it", ErrUnsure, owner)
	}
	if journal, err := t.Lstat(main + "-journal"); err == nil && journal.Size > 0 && !emptyJournal(t, main+"-journal") {
		return fmt.Errorf("%w, or was when the host stopped: it has a journal", ErrUnsure)
	}
	info, err := d.file.Stat()
	if err != nil {
		return err
	}
	var log io.ReaderAt
	var logSize int64
	if d.log != nil {
		logInfo, err := d.log.Stat()
		if err != nil {
			return err
		}
		log, logSize = d.log, logInfo.Size()
	}
	if d.db, err = sqlite.Open(d.file, info.Size(), log, logSize); err != nil {
		return err
	}
	return d.layout()
}

// writer returns the process that holds a lock which keeps readers out; 0: none
// does.
func writer(f *os.File) int32 {
	// SQLite's bytes for locks begin at 1 GiB: pending, reserved, and then those that
	// readers share.
	lock := syscall.Flock_t{Type: syscall.F_RDLCK, Start: 1<<30 + 2, Len: 510}
	if err := syscall.FcntlFlock(f.Fd(), syscall.F_GETLK, &lock); err != nil || lock.Type == syscall.F_UNLCK {
		return 0
	}
	return lock.Pid
}

// emptyJournal reports whether a journal was invalidated in place: its first bytes
// are zero then.
func emptyJournal(t *Tree, p string) bool {
	f, err := t.Open(p)
	if err != nil {
		return false
	}
	defer f.Close()
	var head [8]byte
	_, err = io.ReadFull(f, head[:])
	return err != nil || head == [8]byte{}
}

// layout finds the tables and indexes.
func (d *Database) layout() error {
	objects, err := d.db.Schema()
	if err != nil {
		return err
	}
	for _, o := range objects {
		columns := columnsOf(o.SQL)
		switch {
		case o.Type == "table" && o.Name == "ValidPaths":
			d.paths = o.Root
			d.column = map[string]int{}
			for i, c := range columns {
				d.column[c] = i
			}
		case o.Type == "table" && o.Name == "Refs":
			if len(columns) < 2 || columns[0] != "referrer" || columns[1] != "reference" {
				return errors.New("another schema: the table Refs has other columns")
			}
			d.refs = o.Root
		case o.Type == "index" && o.Name == "sqlite_autoindex_ValidPaths_1":
			d.byPath = o.Root
		case o.Type == "index" && o.Name == "sqlite_autoindex_Refs_1":
			d.from = o.Root
		case o.Type == "index" && o.Table == "Refs" && len(columns) == 1 && columns[0] == "reference":
			d.to = o.Root
		}
	}
	for _, need := range []struct {
		what  string
		found bool
	}{
		{"the table ValidPaths", d.paths > 0}, {"the table Refs", d.refs > 0},
		{"an index on ValidPaths(path)", d.byPath > 0}, {"a primary key of Refs", d.from > 0}, {"an index on Refs(reference)", d.to > 0},
	} {
		if !need.found {
			return fmt.Errorf("another schema: it has not %s", need.what)
		}
	}
	for _, name := range []string{"path", "hash", "registrationTime", "deriver"} {
		if _, ok := d.column[name]; !ok {
			return fmt.Errorf("another schema: ValidPaths has no column %s", name)
		}
	}
	return nil
}

// columnsOf returns the names of the columns in the text that made a table or an
// index: the first word of each piece between the outer parentheses.
func columnsOf(sql string) []string {
	open := strings.IndexByte(sql, '(')
	if open < 0 {
		return nil
	}
	var out []string
	depth, begin := 0, open+1
	piece := func(end int) {
		if words := strings.Fields(uncommented(sql[begin:end])); len(words) > 0 {
			switch strings.ToLower(words[0]) {
			case "primary", "foreign", "unique", "check", "constraint":
			default:
				out = append(out, strings.Trim(words[0], "\"`[]"))
			}
		}
		begin = end + 1
	}
	for i := open; i < len(sql); i++ {
		switch sql[i] {
		case '-':
			// A comment may hold commas and parentheses.
			if strings.HasPrefix(sql[i:], "--") {
				if n := strings.IndexByte(sql[i:], '\n'); n > 0 {
					i += n
				} else {
					i = len(sql)
				}
			}
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				piece(i)
				return out
			}
		case ',':
			if depth == 1 {
				piece(i)
			}
		}
	}
	return out
}

// uncommented removes the comments of a piece of SQL.
func uncommented(s string) string {
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		lines[i], _, _ = strings.Cut(line, "--")
	}
	return strings.Join(lines, "\n")
}

// Close closes the files.
func (d *Database) Close() {
	if d == nil {
		return
	}
	d.file.Close()
	if d.log != nil {
		d.log.Close()
	}
}

// Steady returns an error if what was read may be of two moments, since somebody
// wrote meanwhile.
func (d *Database) Steady() error {
	if d.log == nil {
		return nil
	}
	info, err := d.log.Stat()
	if err != nil {
		return err
	}
	if d.db.Changed(info.Size()) {
		return ErrUnsure
	}
	return nil
}

// Valid is what the database says of a store path.
type Valid struct {
	// Hash is that of the path's contents, as "sha256:" and 64 hexadecimal digits.
	Hash string
	// Registered is when it came into the store.
	Registered time.Time
	// Deriver is the derivation that made it, "" where that is not known.
	Deriver string
}

// idOf returns the number of a store path; 0: it is not valid.
func (d *Database) idOf(p string) (int64, error) {
	if id, ok := d.id[p]; ok {
		return id, nil
	}
	var id int64
	err := d.db.Match(d.byPath, sqlite.Of(p), func(r sqlite.Record) (bool, error) {
		id = r[len(r)-1].Int()
		return false, nil
	})
	if err != nil {
		return 0, err
	}
	d.id[p] = id
	if id != 0 {
		d.path[id] = p
	}
	return id, nil
}

// pathOf returns the store path of a number; "": there is none.
func (d *Database) pathOf(id int64) (string, error) {
	if p, ok := d.path[id]; ok {
		return p, nil
	}
	r, ok, err := d.db.Row(d.paths, id)
	if err != nil || !ok {
		return "", err
	}
	p := d.text(r, "path")
	d.path[id] = p
	return p, nil
}

// text returns a column of a row of ValidPaths. Rows from before a column was
// added are shorter.
func (d *Database) text(r sqlite.Record, column string) string {
	if i := d.column[column]; i < len(r) {
		return r[i].Text()
	}
	return ""
}

// Look returns what is known of a store path; false: it is not valid.
func (d *Database) Look(p string) (Valid, bool, error) {
	id, err := d.idOf(p)
	if err != nil || id == 0 {
		return Valid{}, false, err
	}
	r, ok, err := d.db.Row(d.paths, id)
	if err != nil || !ok {
		return Valid{}, false, err
	}
	v := Valid{Hash: d.text(r, "hash"), Deriver: d.text(r, "deriver")}
	if i := d.column["registrationTime"]; i < len(r) {
		v.Registered = time.Unix(r[i].Int(), 0)
	}
	return v, true, nil
}

// Referrers returns the valid paths that refer to one, itself left out.
func (d *Database) Referrers(p string) ([]string, error) {
	id, err := d.idOf(p)
	if err != nil || id == 0 {
		return nil, err
	}
	ids, err := d.referrers(id)
	if err != nil {
		return nil, err
	}
	return d.named(ids)
}

func (d *Database) named(ids []int64) ([]string, error) {
	out := make([]string, 0, len(ids))
	for _, id := range ids {
		p, err := d.pathOf(id)
		if err != nil {
			return nil, err
		}
		if p != "" {
			out = append(out, p)
		}
	}
	return out, nil
}

func (d *Database) referrers(id int64) ([]int64, error) {
	var rows []int64
	err := d.db.Match(d.to, sqlite.OfInt(id), func(r sqlite.Record) (bool, error) {
		rows = append(rows, r[len(r)-1].Int())
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	var out []int64
	for _, row := range rows {
		r, ok, err := d.db.Row(d.refs, row)
		if err != nil {
			return nil, err
		}
		if ok && len(r) >= 2 && r[0].Int() != id {
			out = append(out, r[0].Int())
		}
	}
	return out, nil
}

func (d *Database) references(id int64) ([]int64, error) {
	var out []int64
	err := d.db.Match(d.from, sqlite.OfInt(id), func(r sqlite.Record) (bool, error) {
		if len(r) >= 2 && r[1].Int() != id {
			out = append(out, r[1].Int())
		}
		return true, nil
	})
	return out, err
}

// References returns the valid paths that one refers to, itself left out.
func (d *Database) References(p string) ([]string, error) {
	id, err := d.idOf(p)
	if err != nil || id == 0 {
		return nil, err
	}
	ids, err := d.references(id)
	if err != nil {
		return nil, err
	}
	return d.named(ids)
}

// Users returns all valid paths from which references lead to one, itself
// included: what keeps it alive where one of them is a root. It goes up, which for
// what stands near the end of a system is a few steps, where a system's closure is
// thousands.
func (d *Database) Users(p string) (map[string]bool, error) {
	return d.walk(p, d.referrers)
}

// Closure returns all valid paths to which references lead from one, itself
// included.
func (d *Database) Closure(p string) (map[string]bool, error) {
	return d.walk(p, d.references)
}

func (d *Database) walk(p string, step func(int64) ([]int64, error)) (map[string]bool, error) {
	first, err := d.idOf(p)
	if err != nil || first == 0 {
		return nil, err
	}
	seen := map[int64]bool{first: true}
	for next := []int64{first}; len(next) > 0; {
		id := next[len(next)-1]
		next = next[:len(next)-1]
		ids, err := step(id)
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			if !seen[id] {
				seen[id] = true
				next = append(next, id)
			}
		}
	}
	out := make(map[string]bool, len(seen))
	for id := range seen {
		p, err := d.pathOf(id)
		if err != nil {
			return nil, err
		}
		out[p] = true
	}
	return out, nil
}
