package credential

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/credential/rule"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/secret"
)

// lookup finds a credential by name in what the host received and in the
// stores. As with systemd, an encrypted one may lie in either kind of store.
func (g *gatherer) lookup(r Request, hasDefault bool, take taker) {
	name := r.Path
	if name == "" {
		name = r.ID
	}
	dirs := g.plainDirs()
	if r.encrypted() {
		dirs = slices.Concat(g.env.EncryptedStoreDirs, dirs)
	}
	if g.readFirst(r, name, dirs, r.encrypted(), take) || hasDefault {
		return
	}
	g.byHost[r.ID] = r
	g.errorf(r, "give a path ("+r.ID+":PATH), or put a file of that name into one of them",
		"credential %s is in none of %s", name, strings.Join(dirs, ", "))
}

// readFirst reads the first file of a name that one of the directories has. It
// returns false where none has.
func (g *gatherer) readFirst(r Request, name string, dirs []string, encrypted bool, take taker) bool {
	for _, dir := range dirs {
		path := filepath.Join(dir, name)
		s, err := openSource(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		g.byHost[r.ID] = r
		if err != nil {
			what, accepted := describe(err, path)
			g.errorf(r, accepted, "%s", what)
			return true
		}
		defer s.close()
		if v, ok := g.readStored(r, s, r.ID, encrypted); ok {
			take(r, r.ID, r.guest(), v, "credstore "+path)
		}
		return true
	}
	return false
}

// readStored reads a file of a store.
func (g *gatherer) readStored(r Request, s *source, id string, encrypted bool) (*secret.Value, bool) {
	if !s.regular() {
		g.errorf(r, "a credential store holds regular files", "%s is %s", s.path, s.kind())
		return nil, false
	}
	v, ok := g.readSource(r, s, id, encrypted)
	if ok && !encrypted {
		g.warnOpen(r, []*source{s})
	}
	return v, ok
}

// plainDirs lists where credentials lie that are not encrypted.
func (g *gatherer) plainDirs() []string {
	var dirs []string
	if g.env.SystemDirectory != "" {
		dirs = append(dirs, g.env.SystemDirectory)
	}
	return append(dirs, g.env.StoreDirs...)
}

// importFrom takes all credentials that a pattern covers: first those that lie
// open, then the encrypted ones. Of one name the first that is found counts.
func (g *gatherer) importFrom(r Request, glob rule.Glob) {
	stores := []struct {
		dirs      []string
		encrypted bool
	}{{g.plainDirs(), false}, {g.env.EncryptedStoreDirs, true}}
	found := false
	for _, store := range stores {
		for _, dir := range store.dirs {
			names, readable := g.listStore(r, dir, glob)
			found = found || len(names) > 0 || !readable
			for _, name := range names {
				g.importOne(r, filepath.Join(dir, name), glob.Rename(name, r.Guest), store.encrypted)
			}
		}
	}
	if !found {
		dirs := slices.Concat(g.plainDirs(), g.env.EncryptedStoreDirs)
		g.report(diag.Warning, r, "", "%s matches nothing in %s", glob, strings.Join(dirs, ", "))
	}
}

// listStore lists the names of a store that a pattern covers, sorted. A store
// that does not exist is empty; one that cannot be read is reported.
func (g *gatherer) listStore(r Request, dir string, glob rule.Glob) (names []string, readable bool) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) || g.full() {
		return nil, true
	}
	if err != nil {
		what, accepted := describe(err, dir)
		g.errorf(r, accepted, "%s", what)
		return nil, false
	}
	for _, e := range entries {
		if glob.Match(e.Name()) && !rule.Reserved(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, true
}

// importOne takes one file of a store under an ID, unless that ID came from
// somewhere that has precedence.
func (g *gatherer) importOne(r Request, path, id string, encrypted bool) {
	name := filepath.Base(path)
	if first, ok := g.imported[id]; ok {
		if filepath.Base(first.path) != name {
			g.errorf(r, "keep one of the two", "%s would become credential %s, as does %s, from %s", path, id, first.path, first.by.Origin)
		}
		return
	}
	if owner, ok := g.hostOnly(id); ok {
		g.noteHostOnly(r, owner, id)
		return
	}
	if _, done := g.byHost[id]; done {
		return
	}
	if err := rule.Name(id); err != nil || rule.Reserved(id) {
		g.report(diag.Warning, r, rule.NameForm, "%s is skipped: it cannot become credential %q", path, id)
		return
	}
	s, err := openSource(path)
	if err != nil {
		what, accepted := describe(err, path)
		g.errorf(r, accepted, "%s", what)
		return
	}
	defer s.close()
	// What is sealed for another machine or name is an error here, as it is in
	// systemd 257; later versions leave it out.
	g.imported[id] = imported{path, r}
	if v, ok := g.readStored(r, s, id, encrypted); ok {
		g.add(r, id, id, v, "credstore "+path)
	}
}

// imported is where an imported credential came from.
type imported struct {
	path string
	by   Request
}
