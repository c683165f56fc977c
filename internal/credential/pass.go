package credential

import (
	"strings"

	"github.com/ampoule-vm/ampoule/internal/secret"
)

// pass reads by hand a credential that [Service] loads: from the assignment
// that would give it to the unit, by the same precedence.
func (g *gatherer) pass(r Request) {
	taken := false
	problems := len(g.list)
	take := func(_ Request, host, _ string, v *secret.Value, source string) {
		if host != r.ID || taken {
			v.Wipe()
			return
		}
		taken = true
		g.add(r, host, r.guest(), v, source)
	}
	settled := func() bool { return taken || len(g.list) > problems }

	def, hasDefault := g.service.setByID[r.ID]
	if load, ok := g.service.loadByID[r.ID]; ok {
		if g.isDirectory(load) {
			g.errorf(r, "pass its files one by one, as "+r.ID+"_FILE",
				"%s is a directory of credentials, loaded at %s", r.ID, load.Origin)
			return
		}
		g.load(load, hasDefault, take)
	}
	for _, load := range g.service.loads {
		if !settled() && strings.HasPrefix(r.ID, load.ID+"_") {
			g.passFile(load, r.ID, take)
		}
	}
	for i, imp := range g.service.imports {
		if settled() || !g.service.globs[i].Renamed(imp.Guest).Match(r.ID) {
			continue
		}
		stored := imp
		stored.ID, stored.Guest = r.ID, ""
		name := g.service.globs[i].Original(r.ID, imp.Guest)
		_ = g.readFirst(stored, name, g.plainDirs(), false, take) ||
			g.readFirst(stored, name, g.env.EncryptedStoreDirs, true, take)
	}
	if !settled() && hasDefault {
		g.set(def, def.ID, def.ID, take)
	}
	if !settled() {
		g.errorf(r, "add LoadCredential="+r.ID+":PATH to [Service]", "[Service] loads no credential %s", r.ID)
	}
}

// isDirectory reports whether the source of a request is a directory.
func (g *gatherer) isDirectory(r Request) bool {
	if !strings.HasPrefix(r.Path, "/") {
		return false
	}
	s, err := openSource(r.Path)
	if err != nil {
		return false // reading it says why
	}
	defer s.close()
	return s.directory()
}

// passFile reads the one file of a directory source that has this ID.
func (g *gatherer) passFile(r Request, id string, take taker) {
	if !strings.HasPrefix(r.Path, "/") {
		return
	}
	dir, err := openSource(r.Path)
	if err != nil {
		return // no directory that could have the file
	}
	defer dir.close()
	if !dir.directory() {
		return
	}
	err = dir.walk(r.ID, func(got string, s *source) bool {
		if got != id || !s.regular() {
			return true
		}
		if v, ok := g.readSource(r, s, id, r.encrypted()); ok {
			take(r, id, id, v, s.String())
		}
		return false
	})
	if err != nil {
		what, accepted := describe(err, dir.path)
		g.errorf(r, accepted, "%s", what)
	}
}
