package nixhost

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// Database is a state of /nix/var/nix/db.
type Database int

// The states of a database.
const (
	// Clean has everything in the database file.
	Clean Database = iota
	// WAL has part of it in the write-ahead log, with its index, as while Nix works.
	WAL
	// LogOnly has part of it in the write-ahead log, and no index: a copied tree.
	LogOnly
	// NoDatabase has no database.
	NoDatabase
	// OtherSchema has a schema of a number that is not known.
	OtherSchema
	// OtherTables has tables of other names.
	OtherTables
	// Truncated has the first half of the file.
	Truncated
	// Garbage has bytes that are no database.
	Garbage
	// Empty has a file without a byte.
	Empty
)

const databaseFile = "/nix/var/nix/db/db.sqlite"

// schema is that of Nix (libstore/schema.sql and ca-specific-schema.sql), number 10.
const schema = `
create table ValidPaths (
  id integer primary key autoincrement not null, path text unique not null, hash text not null,
  registrationTime integer not null, deriver text, narSize integer, ultimate integer, sigs text, ca text);
create table Refs (
  referrer integer not null, reference integer not null, primary key (referrer, reference),
  foreign key (referrer) references ValidPaths(id) on delete cascade,
  foreign key (reference) references ValidPaths(id) on delete restrict);
create index IndexReferrer on Refs(referrer);
create index IndexReference on Refs(reference);
create trigger DeleteSelfRefs before delete on ValidPaths
  begin delete from Refs where referrer = old.id and reference = old.id; end;
create table DerivationOutputs (
  drv integer not null, id text not null, path text not null, primary key (drv, id),
  foreign key (drv) references ValidPaths(id) on delete cascade);
create index IndexDerivationOutputs on DerivationOutputs(path);
`

// writeDatabase writes what Nix knows of the store, by the sqlite3 program.
func (h *Host) writeDatabase() {
	h.t.Helper()
	if h.Database == NoDatabase {
		h.Remove("/nix/var/nix/db")
		return
	}
	var rows []string
	ids := map[string]int{}
	for i, path := range h.store.order {
		p := h.store.paths[path]
		if p.absent {
			continue
		}
		ids[path] = i + 1
		rows = append(rows, fmt.Sprintf("insert into ValidPaths values (%d,%s,'sha256:%s',%d,%s,%d,1,null,null);\n",
			i+1, quote(path), hex.EncodeToString(p.hash[:]), p.registered.Unix(), quote(path+".drv"), p.size))
		for _, r := range p.references {
			if ids[r] != 0 {
				rows = append(rows, fmt.Sprintf("insert into Refs values (%d,%d);\n", i+1, ids[r]))
			}
		}
	}
	half := len(rows)
	if h.Database == WAL || h.Database == LogOnly {
		half = len(rows) / 2
	}
	h.SQL("pragma journal_mode=wal;" + schema + "begin;\n" + strings.Join(rows[:half], "") + "commit;\n")
	if half < len(rows) {
		h.SQL(".dbconfig no_ckpt_on_close on\npragma journal_mode=wal;pragma wal_autocheckpoint=0;begin;\n" + strings.Join(rows[half:], "") + "commit;\n")
		if _, err := os.Stat(h.At(databaseFile + "-wal")); err != nil {
			h.t.Fatalf("no write-ahead log was left: %v", err)
		}
	}
	number := "10"
	switch h.Database {
	case LogOnly:
		h.Remove(databaseFile + "-shm")
	case OtherSchema:
		number = "11"
		h.SQL("alter table ValidPaths rename column path to storePath;")
	case OtherTables:
		h.SQL("alter table Refs rename to Edges; alter table ValidPaths rename to Nodes;")
	case Truncated:
		data, err := os.ReadFile(h.At(databaseFile))
		h.ok(err)
		h.ok(os.WriteFile(h.At(databaseFile), data[:len(data)/2], 0o644))
	case Garbage:
		h.File(databaseFile, strings.Repeat("\x00\xff\x13\x37 SQLite format 3\x00", 700), 0o644)
	case Empty:
		h.File(databaseFile, "", 0o644)
	}
	h.File("/nix/var/nix/db/schema", number, 0o644)
	h.File("/nix/var/nix/db/big-lock", "", 0o600)
}

// SQL has the sqlite3 program do something with the database.
func (h *Host) SQL(script string) {
	h.t.Helper()
	cmd := exec.Command("sqlite3", "-batch", "-bail", h.At(databaseFile))
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		h.t.Fatalf("sqlite3: %v\n%.2000s", err, out)
	}
}

// Lock holds the database as one does who writes, alone, until the test is over.
func (h *Host) Lock() {
	h.t.Helper()
	cmd := exec.Command("sqlite3", "-batch", "-bail", h.At(databaseFile))
	in, err := cmd.StdinPipe()
	h.ok(err)
	out, err := cmd.StdoutPipe()
	h.ok(err)
	h.ok(cmd.Start())
	h.t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait() // it ends with its input
	})
	_, err = in.Write([]byte("pragma locking_mode=exclusive;begin exclusive;select 'held';\n"))
	h.ok(err)
	var said []byte
	for !bytes.Contains(said, []byte("held")) {
		part := make([]byte, 64)
		n, err := out.Read(part)
		h.ok(err)
		said = append(said, part[:n]...)
	}
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
