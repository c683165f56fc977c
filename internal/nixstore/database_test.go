package nixstore

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// place writes a tree with a database, its log and what else is given.
func place(t *testing.T, files map[string][]byte) *Tree {
	t.Helper()
	root := t.TempDir()
	for name, data := range files {
		p := filepath.Join(root, DatabaseDir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := NewTree(root)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func testdata(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// named is the path of a number in the databases of testdata.
func named(i int) string {
	const digits = "0123456789abcdfghijklmnpqrsvwxyz"
	var b strings.Builder
	for k := range 32 {
		b.WriteByte(digits[(i*7+k*k*i+k*3)%32])
	}
	return fmt.Sprintf("%s/%s-path-%d", StoreDir, b.String(), i)
}

// TestDatabase: every path, and the references in both directions, of a database
// whose pages are small enough for trees of several levels and for rows that flow
// over; what a commit put into the log is there, and what no commit ended is not.
func TestDatabase(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string][]byte
		count int
	}{
		{"plain", map[string][]byte{"db.sqlite": testdata(t, "plain.sqlite"), "schema": []byte("10\n")}, 120},
		{"log", map[string][]byte{"db.sqlite": testdata(t, "wal.sqlite"), "db.sqlite-wal": testdata(t, "wal.sqlite-wal"), "schema": []byte("10")}, 160},
		{"log that was lost", map[string][]byte{"db.sqlite": testdata(t, "wal.sqlite")}, 120},
		{"log that is cut off", map[string][]byte{"db.sqlite": testdata(t, "wal.sqlite"), "db.sqlite-wal": testdata(t, "wal.sqlite-wal")[:4000]}, 120},
		{"empty log", map[string][]byte{"db.sqlite": testdata(t, "wal.sqlite"), "db.sqlite-wal": {}}, 120},
		{"invalid journal", map[string][]byte{"db.sqlite": testdata(t, "plain.sqlite"), "db.sqlite-journal": make([]byte, 512)}, 120},
	} {
		t.Run(c.name, func(t *testing.T) {
			tree := place(t, c.files)
			d, err := OpenDatabase(tree)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			for i := 1; i <= c.count; i++ {
				v, ok, err := d.Look(named(i))
				if err != nil || !ok || v.Registered.Unix() != int64(1700000000+i) || v.Hash != fmt.Sprintf("sha256:%064x", i) || (v.Deriver != "") != (i%3 == 0) {
					t.Fatalf("path %d: %+v, %v, %v", i, v, ok, err)
				}
				refs, err := d.References(named(i))
				if want := expected(c.count, i); err != nil || !same(refs, want) {
					t.Fatalf("path %d refers to %q, not %q (%v)", i, refs, want, err)
				}
				var want []string
				for j := 1; j <= c.count; j++ {
					if j != i && slices.Contains(expected(c.count, j), named(i)) {
						want = append(want, named(j))
					}
				}
				users, err := d.Referrers(named(i))
				if err != nil || !same(users, want) {
					t.Fatalf("%q refer to path %d, not %q (%v)", users, i, want, err)
				}
			}
			if _, ok, err := d.Look(named(c.count + 1)); ok || err != nil {
				t.Errorf("a path that nobody committed: %v, %v", ok, err)
			}
			all, err := d.Closure(named(c.count))
			if err != nil || len(all) != c.count {
				t.Errorf("a closure of %d paths, not %d (%v)", len(all), c.count, err)
			}
			if all, err = d.Users(named(1)); err != nil || len(all) != c.count {
				t.Errorf("%d users, not %d (%v)", len(all), c.count, err)
			}
			if err := d.Steady(); err != nil {
				t.Error(err)
			}
		})
	}
}

func expected(count, i int) []string {
	var out []string
	for _, r := range []int{i / 2, i / 3, i - 1} {
		if r > 0 && r != i && r <= count && !slices.Contains(out, named(r)) {
			out = append(out, named(r))
		}
	}
	return out
}

func same(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

// TestDatabaseRefused: what is no database, or not one that can be relied on, is
// said.
func TestDatabaseRefused(t *testing.T) {
	plain := testdata(t, "plain.sqlite")
	other := bytes.ReplaceAll(plain, []byte("registrationTime"), []byte("registrationMome"))
	for _, c := range []struct {
		name  string
		files map[string][]byte
		want  string
	}{
		{"absent", nil, "no such file"},
		{"schema", map[string][]byte{"db.sqlite": plain, "schema": []byte("11\n")}, `schema "11", and 10 is read`},
		{"garbage", map[string][]byte{"db.sqlite": bytes.Repeat([]byte("x"), 4096)}, "not a SQLite database"},
		{"empty", map[string][]byte{"db.sqlite": {}}, "not a SQLite database"},
		{"columns", map[string][]byte{"db.sqlite": other}, "another schema"},
		{"journal", map[string][]byte{"db.sqlite": plain, "db.sqlite-journal": []byte("\xd9\xd5\x05\xf9\x20\xa1\x63\xd7")}, "it is being written"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := OpenDatabase(place(t, c.files))
			if err == nil {
				d.Close()
				t.Fatal("it was opened")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, not %q", err, c.want)
			}
		})
	}
}

// TestDatabaseDamaged: whichever byte is another one, there is an answer or an error,
// and an end.
func TestDatabaseDamaged(t *testing.T) {
	plain, log := testdata(t, "wal.sqlite"), testdata(t, "wal.sqlite-wal")
	for i := 0; i < len(plain); i += 1499 {
		damaged := bytes.Clone(plain)
		damaged[i] ^= 0xff
		touch(t, damaged, log[:min(len(log), i)])
	}
	for i := 0; i < len(plain); i += 16384 {
		touch(t, plain[:i], nil)
	}
}

// touch asks all that can be asked.
func touch(t *testing.T, data, log []byte) {
	t.Helper()
	files := map[string][]byte{"db.sqlite": data}
	if log != nil {
		files["db.sqlite-wal"] = log
	}
	d, err := OpenDatabase(place(t, files))
	if err != nil {
		return
	}
	defer d.Close()
	for _, i := range []int{1, 60, 120} {
		_, _, err1 := d.Look(named(i))
		_, err2 := d.Closure(named(i))
		_, err3 := d.Users(named(i))
		if errors.Join(err1, err2, err3) != nil && len(errors.Join(err1, err2, err3).Error()) == 0 {
			t.Error("an error without words")
		}
	}
}
