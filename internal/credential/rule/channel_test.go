package rule

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestSMBIOSSize(t *testing.T) {
	for _, c := range []struct{ name, value, want int }{
		{1, 0, 29 + 1 + 1 + 0 + 1}, {7, 1, 29 + 7 + 1 + 4 + 1}, {7, 3, 29 + 7 + 1 + 4 + 1}, {7, 4, 29 + 7 + 1 + 8 + 1},
		{255, 1 << 20, 29 + 255 + 1 + 1398104 + 1},
	} {
		if got := SMBIOSSize(c.name, c.value); got != c.want {
			t.Errorf("name of %d, value of %d: %d, want %d", c.name, c.value, got, c.want)
		}
	}
}

func TestLayoutSMBIOS(t *testing.T) {
	// A page holds one of 1536 bytes and a small one, not two.
	items := []Item{{"small", 10}, {"c1", 1536}, {"c2", 1536}, {"other", 10}}
	layout, err := LayoutSMBIOS(items, SMBIOSPage)
	if err != nil {
		t.Fatal(err)
	}
	if want := [][]int{{1, 3, 0}, {2}}; !reflect.DeepEqual(layout.Structures, want) {
		t.Errorf("structures %v, want %v", layout.Structures, want)
	}
	// The largest value that fits a page, and the smallest that does not.
	name := "x"
	largest := (SMBIOSPage - 6 - 29 - 1 - 1 - 1) / 4 * 3
	if l, err := LayoutSMBIOS([]Item{{name, largest}}, SMBIOSPage); err != nil || l.Bytes > SMBIOSPage || l.Bytes < SMBIOSPage-4 {
		t.Errorf("%d bytes: %+v, %v", largest, l, err)
	}
	_, err = LayoutSMBIOS([]Item{{"fits", 3}, {name, largest + 1}, {"a=b", 1}, {"a/b", 1}, {"big", 1 << 21}}, SMBIOSPage)
	var refusal *Refusal
	if !errors.As(err, &refusal) || refusal.Name != name {
		t.Fatalf("%v", err)
	}
	want := strings.Join([]string{
		"credential x: its 3043 bytes need an SMBIOS structure of 4098 bytes, at most 4096 are possible",
		`credential a=b: a name with "=" cannot go over SMBIOS, where "=" ends the name`,
		"credential a/b: the name contains '/'",
		"credential big: it has 2097152 bytes, at most 1048576 are possible",
	}, "\n")
	if err.Error() != want {
		t.Errorf("errors\n%s\nwant\n%s", err, want)
	}
	for _, limit := range []int{-1, 0, 5, 38} {
		if _, err := LayoutSMBIOS([]Item{{"a", 1}}, limit); err == nil {
			t.Errorf("structures of %d bytes are possible", limit)
		}
	}
	if _, err := LayoutSMBIOS(nil, 70000); err == nil {
		t.Error("structures of 70000 bytes are possible")
	}
	if l, err := LayoutSMBIOS(nil, SMBIOSPage); err != nil || len(l.Structures) != 0 || l.Bytes != 0 {
		t.Errorf("nothing: %+v, %v", l, err)
	}
}

// Strings are counted in one byte, and there are only so many handles.
func TestLayoutSMBIOSCounts(t *testing.T) {
	items := make([]Item, 600)
	for i := range items {
		items[i] = Item{fmt.Sprintf("c%d", i), 0}
	}
	layout, err := LayoutSMBIOS(items, SMBIOSMaxStructure)
	if err != nil {
		t.Fatal(err)
	}
	if len(layout.Structures) != 3 || len(layout.Structures[0]) != SMBIOSMaxStrings {
		t.Errorf("%d structures, the first with %d strings", len(layout.Structures), len(layout.Structures[0]))
	}
	many := make([]Item, SMBIOSMaxHandle-SMBIOSFirstHandle+2)
	for i := range many {
		many[i] = Item{fmt.Sprintf("c%06d", i), 0}
	}
	one := 6 + SMBIOSSize(7, 0)
	if _, err := LayoutSMBIOS(many, one); err == nil || !strings.Contains(err.Error(), "handles") {
		t.Errorf("%d structures: %v", len(many), err)
	}
	if _, err := LayoutSMBIOS(many[1:], one); err != nil {
		t.Errorf("%d structures: %v", len(many)-1, err)
	}
}

// Every item is in exactly one structure, none is too large, and the order of
// the input does not matter for which go together.
func TestLayoutSMBIOSProperties(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		items := make([]Item, rnd.IntN(80))
		for i := range items {
			items[i] = Item{fmt.Sprintf("%d%s", i, strings.Repeat("n", rnd.IntN(40))), rnd.IntN(3000)}
		}
		layout, err := LayoutSMBIOS(items, SMBIOSPage)
		if err != nil {
			t.Fatal(err)
		}
		seen, total := map[int]bool{}, 0
		for _, members := range layout.Structures {
			size := 6
			for _, i := range members {
				if seen[i] {
					t.Fatalf("item %d is there twice", i)
				}
				seen[i] = true
				size += SMBIOSSize(len(items[i].Name), items[i].Size)
			}
			if size > SMBIOSPage || len(members) == 0 {
				t.Fatalf("a structure of %d bytes with %d strings", size, len(members))
			}
			total += size
		}
		if len(seen) != len(items) || total != layout.Bytes {
			t.Fatalf("%d of %d items, %d of %d bytes", len(seen), len(items), total, layout.Bytes)
		}
		shuffled := slices.Clone(items)
		rnd.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		again, err := LayoutSMBIOS(shuffled, SMBIOSPage)
		if err != nil || !reflect.DeepEqual(namesOf(layout, items), namesOf(again, shuffled)) {
			t.Fatalf("another order gives another layout: %v", err)
		}
	}
}

func namesOf(l SMBIOSLayout, items []Item) [][]string {
	var all [][]string
	for _, members := range l.Structures {
		var names []string
		for _, i := range members {
			names = append(names, items[i].Name)
		}
		all = append(all, names)
	}
	return all
}

func TestFwCfgKey(t *testing.T) {
	if key, err := FwCfgKey("API_KEY"); err != nil || key != "opt/io.systemd.credentials/API_KEY" {
		t.Errorf("%q, %v", key, err)
	}
	if FwCfgMaxName != 28 {
		t.Errorf("names may have %d bytes", FwCfgMaxName)
	}
	if key, err := FwCfgKey(strings.Repeat("x", 28)); err != nil || len(key) != FwCfgMaxKey {
		t.Errorf("%q, %v", key, err)
	}
	_, err := FwCfgKey("ssh.ephemeral-authorized_keys-all")
	if want := "credential ssh.ephemeral-authorized_keys-all: its name has 33 bytes, at most 28 are possible over fw_cfg"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}
