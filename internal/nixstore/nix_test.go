package nixstore_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ampoule-vm/ampoule/internal/nixstore"
	"github.com/ampoule-vm/ampoule/internal/testkit/need"
	"github.com/ampoule-vm/ampoule/internal/testkit/nixeval"
)

// closure is a path that refers to count others, each of which refers to one that refers
// to itself. What comes before count is of another name for another count.
const closure = `
let
  build = name: text: derivation { inherit name; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-euc" text ]; PATH = "/usr/bin:/bin"; };
  leaf = build "leaf" ''echo leaf > "$out"'';
  itself = build "itself" ''mkdir "$out"; echo ${leaf} > "$out/a"; ln -s "$out" "$out/self"'';
  paths = builtins.genList (n: build "path-%[1]d-${toString n}" ''mkdir "$out"; echo ${itself} ${toString n} > "$out/x"'') %[1]d;
in build "all" ''mkdir "$out"; echo ${toString paths} > "$out/all"''`

// valid is what Nix says of a path. That it refers to itself is left out, as it is there.
type valid struct {
	Hash, Deriver string
	References    []string
}

// TestRealStore: everything in the database that a real Nix writes is read as Nix itself
// reads it.
func TestRealStore(t *testing.T) {
	store := nixeval.NewStore(t)
	all := build(t, store, 70)
	tree, err := nixstore.NewTree(string(store))
	if err != nil {
		t.Fatal(err)
	}
	d, err := nixstore.OpenDatabase(tree)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	want := dumped(t, store)
	if len(want) < 140 { // with the derivations
		t.Fatalf("Nix knows %d paths", len(want))
	}
	users := map[string][]string{}
	got := map[string]valid{}
	for path, v := range want {
		for _, to := range v.References {
			users[to] = append(users[to], path)
		}
		have, ok, err := d.Look(path)
		if err != nil || !ok {
			t.Fatalf("%s: %v, %v", path, ok, err)
		}
		to, err := d.References(path)
		if err != nil {
			t.Fatal(err)
		}
		got[path] = valid{strings.TrimPrefix(have.Hash, "sha256:"), have.Deriver, sorted(to)}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(- Nix, + here):\n%s", diff)
	}
	for path := range want {
		from, err := d.Referrers(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(sorted(users[path]), sorted(from)); diff != "" {
			t.Errorf("referrers of %s (- Nix, + here):\n%s", path, diff)
		}
	}
	reached, err := d.Closure(all)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sorted(strings.Fields(nix(t, store, "nix-store", "--query", "--requisites", all))), slices.Sorted(maps.Keys(reached))); diff != "" {
		t.Errorf("closure (- Nix, + here):\n%s", diff)
	}
}

// TestRealProfile: generations, and the roots that they are.
func TestRealProfile(t *testing.T) {
	store := nixeval.NewStore(t)
	first, second := build(t, store, 1), build(t, store, 2)
	profile := store.Path("nix/var/nix/profiles/system")
	for _, path := range []string{first, second} {
		nix(t, store, "nix-env", "--profile", profile, "--set", path)
	}
	nix(t, store, "nix-env", "--profile", profile, "--rollback")
	tree, err := nixstore.NewTree(string(store))
	if err != nil {
		t.Fatal(err)
	}
	p, err := nixstore.ReadProfile(tree, "system")
	if err != nil || p.Number != 1 || p.Target != first || p.Highest() != 2 || len(p.Of(second)) != 1 {
		t.Errorf("%+v, %v", p, err)
	}
	roots, problems := nixstore.Roots(tree)
	for _, path := range []string{first, second} {
		if !slices.ContainsFunc(roots, func(r nixstore.Root) bool { return r.Path == path }) {
			t.Errorf("%s is no root: %v, %v", path, roots, problems)
		}
	}
}

// TestWhileNixWrites: a database that Nix writes at the moment is read as it was after
// some commit, or is said to be one that nobody can be sure of.
func TestWhileNixWrites(t *testing.T) {
	store := nixeval.NewStore(t)
	all := build(t, store, 30)
	tree, err := nixstore.NewTree(string(store))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan string, 1)
	go func() { done <- build(t, store, 60) }()
	reads := 0
	for built := ""; built == ""; {
		select {
		case built = <-done:
		default:
		}
		d, err := nixstore.OpenDatabase(tree)
		if errors.Is(err, nixstore.ErrUnsure) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		reached, err := d.Closure(all)
		steady := d.Steady()
		d.Close()
		if steady != nil {
			continue // it says so itself
		}
		if err != nil || len(reached) != 33 {
			t.Fatalf("a closure of %d paths, %v", len(reached), err)
		}
		reads++
	}
	if reads == 0 {
		t.Error("it was never read")
	}
	d, err := nixstore.OpenDatabase(tree)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for path := range dumped(t, store) {
		if _, ok, err := d.Look(path); err != nil || !ok {
			t.Errorf("%s: %v, %v", path, ok, err)
		}
	}
}

func build(t *testing.T, store nixeval.Store, count int) string {
	t.Helper()
	return nix(t, store, "nix-build", "--no-out-link", "--option", "sandbox", "true", "--option", "substitute", "false",
		"--option", "sandbox-paths", "/bin /usr /lib /lib64", "--expr", fmt.Sprintf(closure, count))
}

// dumped is the database as Nix prints it: for each path a line, its hash, its size, its
// deriver, the number of references, and these.
func dumped(t *testing.T, store nixeval.Store) map[string]valid {
	t.Helper()
	lines := strings.Split(nix(t, store, "nix-store", "--dump-db"), "\n")
	out := map[string]valid{}
	for len(lines) >= 5 {
		n, err := strconv.Atoi(lines[4])
		if err != nil || len(lines) < 5+n {
			t.Fatalf("not what nix-store --dump-db prints: %q", lines)
		}
		out[lines[0]] = valid{Hash: lines[1], Deriver: lines[3], References: slices.DeleteFunc(sorted(lines[5:5+n]), func(p string) bool { return p == lines[0] })}
		lines = lines[5+n:]
	}
	return out
}

func nix(t *testing.T, store nixeval.Store, program string, args ...string) string {
	t.Helper()
	need.All(t, need.Nix)
	home := filepath.Join(string(store), "home")
	cmd := exec.Command(program, append([]string{"--store", string(store), "--option", "build-users-group", ""}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+home, "NIX_CONF_DIR="+home)
	var problems strings.Builder
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("%v: %v\n%s", cmd.Args, err, problems.String())
	}
	return strings.TrimSpace(string(out))
}

func sorted(list []string) []string {
	list = append([]string{}, list...)
	slices.Sort(list)
	return list
}
