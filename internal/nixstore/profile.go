package nixstore

import (
	"errors"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Where profiles and roots are.
const (
	ProfilesDir = "/nix/var/nix/profiles"
	RootsDir    = "/nix/var/nix/gcroots"
)

// Generation is a link PROFILE-N-link.
type Generation struct {
	Number int
	// Link is the link, Target the store path that it leads to, which need not exist.
	Link, Target string
	// Made is when the link was.
	Made time.Time
}

// Profile is a profile with its generations.
type Profile struct {
	// Link is the profile itself; Number the generation that it names, 0 where it
	// names none; Target the store path.
	Link   string
	Number int
	Target string
	// Generations are sorted by number.
	Generations []Generation
}

// Highest is the number of the newest generation.
func (p *Profile) Highest() int {
	if len(p.Generations) == 0 {
		return 0
	}
	return p.Generations[len(p.Generations)-1].Number
}

// Of returns the generations whose target is a store path.
func (p *Profile) Of(target string) []Generation {
	var out []Generation
	for _, g := range p.Generations {
		if g.Target == target {
			out = append(out, g)
		}
	}
	return out
}

// ReadProfile reads the profile of that name, "system" for NixOS.
func ReadProfile(t *Tree, name string) (Profile, error) {
	p := Profile{Link: path.Join(ProfilesDir, name)}
	names, err := t.Names(ProfilesDir)
	if err != nil {
		return p, err
	}
	for _, entry := range names {
		number, ok := generationOf(entry, name)
		if !ok {
			continue
		}
		g := Generation{Number: number, Link: path.Join(ProfilesDir, entry)}
		if info, err := t.Lstat(g.Link); err == nil {
			g.Made = info.Modified
		}
		if target, err := t.Readlink(g.Link); err == nil {
			g.Target = Of(path.Join(ProfilesDir, target))
			if path.IsAbs(target) {
				g.Target = Of(target)
			}
		}
		p.Generations = append(p.Generations, g)
	}
	slices.SortFunc(p.Generations, func(a, b Generation) int { return a.Number - b.Number })
	target, err := t.Readlink(p.Link)
	if err != nil {
		return p, err
	}
	if number, ok := generationOf(path.Base(target), name); ok {
		p.Number = number
		for _, g := range p.Generations {
			if g.Number == number {
				p.Target = g.Target
			}
		}
	} else if resolved, err := t.Resolve(p.Link); err == nil {
		p.Target = Of(resolved)
	}
	return p, nil
}

// generationOf reads the number in PROFILE-N-link.
func generationOf(entry, profile string) (int, bool) {
	rest, ok := strings.CutPrefix(entry, profile+"-")
	if !ok {
		return 0, false
	}
	digits, ok := strings.CutSuffix(rest, "-link")
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(digits)
	return n, err == nil && n >= 0
}

// Root is a link that keeps a store path from being collected.
type Root struct {
	// Link is where the link lies, Path the store path that it keeps.
	Link, Path string
}

// Roots returns what keeps store paths: the links below the directory of roots and
// the profiles' directory, followed as the collector follows them, one step through
// a link outside the store. Processes keep paths too, which are not looked at here.
// The problems name directories that could not be read.
func Roots(t *Tree) (roots []Root, problems []error) {
	seen := map[string]bool{}
	r := rootWalk{tree: t, seen: seen}
	r.dir(RootsDir, 0)
	r.dir(ProfilesDir, 0)
	for _, link := range []string{"/run/current-system", "/run/booted-system"} {
		r.link(link)
	}
	return r.roots, r.problems
}

type rootWalk struct {
	tree     *Tree
	seen     map[string]bool
	roots    []Root
	problems []error
}

// maxRootDepth bounds the descent; Nix makes three levels at most.
const maxRootDepth = 8

func (r *rootWalk) dir(dir string, depth int) {
	if r.seen[dir] || depth > maxRootDepth {
		return
	}
	r.seen[dir] = true
	names, err := r.tree.Names(dir)
	if err != nil {
		if !Missing(err) {
			r.problems = append(r.problems, err)
		}
		return
	}
	for _, name := range names {
		p := path.Join(dir, name)
		info, err := r.tree.Lstat(p)
		switch {
		case err != nil:
			r.problems = append(r.problems, err)
		case info.Mode.IsDir():
			r.dir(p, depth+1)
		case info.Mode&fs.ModeSymlink != 0:
			r.link(p)
		case NameOf(name) != "":
			// A file with the name of a store path keeps that path.
			r.roots = append(r.roots, Root{p, StoreDir + "/" + name})
		}
	}
}

// link follows one link, and one more outside the store.
func (r *rootWalk) link(p string) {
	at := p
	for range 2 {
		target, err := r.tree.Readlink(at)
		if err != nil {
			// A root that leads to nothing keeps nothing. One that may not be read may
			// keep anything.
			if !Missing(err) && !errors.Is(err, syscall.EINVAL) {
				r.problems = append(r.problems, err)
			}
			return
		}
		if !path.IsAbs(target) {
			target = path.Join(path.Dir(at), target)
		}
		if kept := Of(target); kept != "" {
			r.roots = append(r.roots, Root{p, kept})
			return
		}
		if strings.HasPrefix(target, "/nix/var/nix/") {
			if info, err := r.tree.Lstat(target); err == nil && info.Mode.IsDir() {
				r.dir(target, 1)
				return
			}
		}
		at = target
	}
}

// Missing reports whether an error says that something is not there, which is
// knowledge, where all other errors are the lack of it.
func Missing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}
