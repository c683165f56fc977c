package nixstore

import (
	"path"
	"slices"
	"strings"
)

// StoreDir is where the store is.
const StoreDir = "/nix/store"

// hashLength is the number of characters before the dash of a store path's name.
const hashLength = 32

// Of returns the store path that a path lies in, without what is below it; "": it
// lies in none.
func Of(p string) string {
	rest, ok := strings.CutPrefix(path.Clean("/"+p), StoreDir+"/")
	if !ok {
		return ""
	}
	base, _, _ := strings.Cut(rest, "/")
	if NameOf(base) == "" {
		return ""
	}
	return StoreDir + "/" + base
}

// NameOf returns the name behind the hash of a store path or its last element;
// "" where it is none.
func NameOf(p string) string {
	base := path.Base(p)
	if len(base) < hashLength+2 || base[hashLength] != '-' {
		return ""
	}
	for i := range hashLength {
		if !isHash(base[i]) {
			return ""
		}
	}
	return base[hashLength+1:]
}

// isHash reports whether a character may stand in a hash: Nix leaves out e, o, t
// and u. A tree that somebody wrote by hand may have them, and is still read.
func isHash(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' }

// inName reports whether a character may stand in the name of a store path.
func inName(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.IndexByte("+-._?=", c) >= 0
}

// References returns the store paths that a text names, each once, in order: what
// Nix finds when it looks for the references of a build.
func References(text []byte) []string {
	var out []string
	seen := map[string]bool{}
	const mark = StoreDir + "/"
	s := string(text)
	for {
		i := strings.Index(s, mark)
		if i < 0 {
			return out
		}
		s = s[i+len(mark):]
		end := 0
		for end < len(s) && inName(s[end]) {
			end++
		}
		p := mark + strings.TrimRight(s[:end], ".")
		if NameOf(p) != "" && !seen[p] {
			seen[p] = true
			out = append(out, p)
		}
	}
}

// Listing is what of the store's directory is of interest.
type Listing struct {
	// Scripts are built microvm-run scripts, Runners directories of runners,
	// Sources copies of source trees: names without the directory, sorted.
	Scripts, Runners, Sources []string
	// Count is the number of entries.
	Count int
}

// List reads the store's directory once. Of a name, only what it is called tells what
// it may be.
func List(t *Tree) (Listing, error) {
	var l Listing
	err := t.EachName(StoreDir, func(base string) {
		l.Count++
		if len(base) < hashLength+2 || base[hashLength] != '-' {
			return
		}
		switch name := base[hashLength+1:]; {
		case strings.HasSuffix(name, ".drv"), strings.HasSuffix(name, ".lock"):
		case strings.HasPrefix(name, "microvm-") && strings.HasSuffix(name, "-microvm-run"):
			l.Scripts = append(l.Scripts, strings.Clone(base))
		case strings.HasPrefix(name, "microvm-"):
			l.Runners = append(l.Runners, strings.Clone(base))
		case name == "source" || strings.HasSuffix(name, "-source"):
			l.Sources = append(l.Sources, strings.Clone(base))
		}
	})
	slices.Sort(l.Scripts)
	slices.Sort(l.Runners)
	slices.Sort(l.Sources)
	return l, err
}
