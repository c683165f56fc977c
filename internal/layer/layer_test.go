package layer

import (
	"fmt"
	"math/rand"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

// rules has a key of every kind of merging.
func rules(_, key string) Rule {
	id := func(v string) string { name, _, _ := strings.Cut(v, ":"); return name }
	switch key {
	case "Scalar":
		return Rule{Merge: Scalar, Once: true}
	case "List":
		return Rule{Merge: List}
	case "Load", "LoadEncrypted":
		return Rule{Merge: ByID, Group: "Load", ID: id, Once: true}
	case "After":
		return Rule{Merge: Additive}
	}
	return Rule{Merge: List}
}

func parse(t testing.TB, name, layer, text string) *unitfile.File {
	t.Helper()
	return unitfile.Parse(name, layer, []byte(text))
}

// trace writes every entry of a group with its fate.
func trace(g *Group) string {
	var b strings.Builder
	for _, e := range g.Entries {
		fmt.Fprintf(&b, "%s:%d %s=%s %s", e.Origin.File, e.Origin.Line, e.Key, e.Value, e.Fate)
		if e.By != (diag.Origin{}) {
			fmt.Fprintf(&b, " by %s", e.By)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func TestFates(t *testing.T) {
	files := []*unitfile.File{
		parse(t, "main", "main", "[S]\nScalar=1\nList=a\nList=b\nLoad=x:1\nLoadEncrypted=y:1\nAfter=p\n"),
		parse(t, "drop", "drop-in", "[S]\nScalar=2\nList=\nList=c\nLoadEncrypted=x:2\nAfter=\nAfter=q\n"),
		parse(t, "last", "drop-in", "[S]\nScalar=\nLoad=\nLoad=z:3\n"),
	}
	r, problems := Resolve(files, rules)
	if len(problems) != 0 {
		t.Fatalf("problems: %v", problems)
	}
	for name, want := range map[string]string{
		"Scalar": "main:2 Scalar=1 shadowed by drop:2\ndrop:2 Scalar=2 reset by last:2\nlast:2 Scalar= clears\n",
		"List":   "main:3 List=a reset by drop:3\nmain:4 List=b reset by drop:3\ndrop:3 List= clears\ndrop:4 List=c effective\n",
		"Load": "main:5 Load=x:1 shadowed by drop:5\nmain:6 LoadEncrypted=y:1 reset by last:3\n" +
			"drop:5 LoadEncrypted=x:2 reset by last:3\nlast:3 Load= clears\nlast:4 Load=z:3 effective\n",
		"After": "main:7 After=p effective\ndrop:6 After= effective\ndrop:7 After=q effective\n",
	} {
		if got := trace(r.Group("S", name)); got != want {
			t.Errorf("%s:\n%swant\n%s", name, got, want)
		}
	}
	if r.Group("S", "Absent").Effective() != nil {
		t.Error("a group that does not exist has entries")
	}
}

func TestTwiceInOneFile(t *testing.T) {
	_, problems := Resolve([]*unitfile.File{parse(t, "f", "main", "[S]\nScalar=1\nScalar=2\nLoad=x:1\nLoadEncrypted=x:2\nList=a\nList=a\nScalar=\nScalar=3\n")}, rules)
	var got []string
	for _, p := range problems {
		got = append(got, p.Error())
	}
	want := "f:3: Scalar=2: set twice in one file, first at f:2; keep one of the two lines, or put the override into a drop-in\n" +
		"f:5: LoadEncrypted=x:2: set twice in one file, first at f:4; keep one of the two lines, or put the override into a drop-in"
	if strings.Join(got, "\n") != want {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), want)
	}
}

// TestNothingIsLost: assignments in = entries out, in order, each with a fate,
// and each loser names an assignment that exists and comes later.
func TestNothingIsLost(t *testing.T) {
	for seed := range int64(500) {
		checkNothingIsLost(t, randomFiles(rand.New(rand.NewSource(seed))))
	}
}

func randomFiles(rng *rand.Rand) []*unitfile.File {
	keys := []string{"Scalar", "List", "Load", "LoadEncrypted", "After", "Other"}
	values := []string{"", "a", "b", "x:1", "x:2", "y:", "%i:z"}
	var files []*unitfile.File
	for f := range rng.Intn(5) {
		var b strings.Builder
		for range rng.Intn(12) {
			if rng.Intn(4) == 0 {
				fmt.Fprintf(&b, "[%s]\n", []string{"S", "T"}[rng.Intn(2)])
			}
			fmt.Fprintf(&b, "%s=%s\n", keys[rng.Intn(len(keys))], values[rng.Intn(len(values))])
		}
		files = append(files, unitfile.Parse(fmt.Sprintf("f%d", f), "main", []byte(b.String())))
	}
	return files
}

func checkNothingIsLost(t testing.TB, files []*unitfile.File) {
	t.Helper()
	r, _ := Resolve(files, rules)
	rank := map[diag.Origin]int{}
	in := map[string]int{}
	for _, f := range files {
		for _, a := range f.Assignments {
			rank[a.Origin] = len(rank) + 1
			in[a.Section+"/"+a.Key+"="+a.Value]++
		}
	}
	for _, g := range r.Groups {
		live := map[string]int{}
		last := 0
		for _, e := range g.Entries {
			in[e.Section+"/"+e.Key+"="+e.Value]--
			if rank[e.Origin] <= last {
				t.Fatalf("%s: out of order\n%s", g.Name, trace(g))
			}
			last = rank[e.Origin]
			switch e.Fate {
			case Shadowed, Reset:
				if rank[e.By] <= rank[e.Origin] {
					t.Fatalf("%s lost to %s, which does not come later\n%s", e.Origin, e.By, trace(g))
				}
			case Effective:
				switch g.Rule.Merge {
				case Scalar:
					live["the scalar"]++
				case ByID:
					live[g.Rule.ID(e.Value)]++
				}
			case Clears:
				if e.Value != "" {
					t.Fatalf("%s clears and is not empty", e.Origin)
				}
			default:
				t.Fatalf("%s has no fate", e.Origin)
			}
		}
		for id, n := range live {
			if n > 1 {
				t.Fatalf("%s: %d effective entries for %s\n%s", g.Name, n, id, trace(g))
			}
		}
	}
	for a, n := range in {
		if n != 0 {
			t.Fatalf("%d entries missing for %s", n, a)
		}
	}
}

func FuzzResolve(f *testing.F) {
	f.Add("[S]\nScalar=1\nScalar=2\n", "[S]\nScalar=\nList=\n", "[T]\nLoad=a:b\n")
	f.Add("[S]\nLoad=x\nLoadEncrypted=x\n", "[S]\nLoad=\n", "")
	f.Add("[S]\nLoad=x\n", "[]\nLoad==\n", "") // a section without a name
	f.Fuzz(func(t *testing.T, a, b, c string) {
		checkNothingIsLost(t, []*unitfile.File{
			unitfile.Parse("a", "main", []byte(a)), unitfile.Parse("b", "drop-in", []byte(b)), unitfile.Parse("c", "set", []byte(c)),
		})
	})
}
