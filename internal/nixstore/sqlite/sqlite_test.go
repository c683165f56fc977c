package sqlite

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"testing"
)

func read(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func open(data, log []byte) (*DB, error) {
	if log == nil {
		return Open(bytes.NewReader(data), int64(len(data)), nil, 0)
	}
	return Open(bytes.NewReader(data), int64(len(data)), bytes.NewReader(log), int64(len(log)))
}

// TestRows: a table's rows and an index's entries, from the file, and from the log as
// far as a commit goes.
func TestRows(t *testing.T) {
	data, log := read(t, "small.sqlite"), read(t, "small.sqlite-wal")
	for _, c := range []struct {
		log  []byte
		rows int
	}{{nil, 3}, {log, 5}, {log[:600], 3}, {[]byte("short"), 3}, {bytes.Repeat([]byte("x"), 4096), 3}} {
		db, err := open(data, c.log)
		if err != nil {
			t.Fatal(err)
		}
		objects, err := db.Schema()
		if err != nil || len(objects) < 6 {
			t.Fatal(objects, err)
		}
		for _, o := range objects {
			if o.Name != "ValidPaths" {
				continue
			}
			var ids []int64
			err := db.Scan(o.Root, func(rowid int64, r Record) (bool, error) {
				ids = append(ids, rowid)
				again, ok, err := db.Row(o.Root, rowid)
				if !ok || err != nil || again[1].Text() != r[1].Text() || !r[0].IsNull() {
					t.Errorf("row %d: %v, %v", rowid, ok, err)
				}
				return true, nil
			})
			if want := []int64{1, 2, 3, 4, 5}[:c.rows]; err != nil || !slices.Equal(ids, want) {
				t.Errorf("%v, %v", ids, err)
			}
			if _, ok, err := db.Row(o.Root, 99); ok || err != nil {
				t.Error(ok, err)
			}
		}
	}
}

func TestRefused(t *testing.T) {
	if _, err := open(nil, nil); !errors.Is(err, ErrNotDatabase) {
		t.Error(err)
	}
	data := bytes.Clone(read(t, "small.sqlite"))
	data[56+3] = 2 // UTF-16
	if _, err := open(data, nil); err == nil {
		t.Error("UTF-16 is read")
	}
}

func TestCompare(t *testing.T) {
	order := []Value{{}, OfInt(-1), {kind: real, real: 0.5}, OfInt(1), Of(""), Of("a"), Of("b"), {kind: blob, data: []byte("a")}}
	for i, a := range order {
		for j, b := range order {
			if got := compare(a, b); (got < 0) != (i < j) || (got > 0) != (i > j) {
				t.Errorf("%d and %d: %d", i, j, got)
			}
		}
	}
}

func TestVarint(t *testing.T) {
	for text, want := range map[string]uint64{"\x00": 0, "\x7f": 127, "\x81\x00": 128, "\xff\xff\xff\xff\xff\xff\xff\xff\xff": 1<<64 - 1} {
		if n, rest, ok := varint([]byte(text)); n != want || len(rest) > 0 || !ok {
			t.Errorf("%q: %d", text, n)
		}
	}
	for _, text := range []string{"", "\x81", "\xff\xff\xff\xff\xff\xff\xff\xff"} {
		if n, _, ok := varint([]byte(text)); ok {
			t.Errorf("%q: %d", text, n)
		}
	}
}

// FuzzOpen: whatever is in the file and in its log, there is an answer or an error.
func FuzzOpen(f *testing.F) {
	f.Add(read(f, "small.sqlite"), read(f, "small.sqlite-wal"))
	f.Add(read(f, "small.sqlite"), []byte{})
	f.Fuzz(func(_ *testing.T, data, log []byte) {
		db, err := open(data, log)
		if err != nil {
			return
		}
		objects, err := db.Schema()
		if err != nil {
			return
		}
		for _, o := range objects {
			_ = db.Scan(o.Root, func(int64, Record) (bool, error) { return true, nil })
			_ = db.Match(o.Root, OfInt(3), func(Record) (bool, error) { return true, nil })
			_ = db.Match(o.Root, Of("/nix/store/x"), func(Record) (bool, error) { return true, nil })
			_, _, _ = db.Row(o.Root, 3)
		}
	})
}
