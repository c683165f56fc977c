package credential

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/credential/rule"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/secret"
)

// gatherByHand reads the sources themselves.
func (g *gatherer) gatherByHand(w wanted) {
	for _, r := range w.loads {
		_, hasDefault := w.setByID[r.ID]
		g.load(r, hasDefault, g.add)
	}
	for i, r := range w.imports {
		g.importFrom(r, w.globs[i])
	}
	for _, r := range w.sets {
		if _, done := g.byHost[r.ID]; !done {
			g.set(r, r.ID, r.guest(), g.add)
		}
	}
	for _, r := range w.passes {
		g.pass(r)
	}
}

// taker receives what a source gave.
type taker func(r Request, host, guest string, v *secret.Value, source string)

// load reads the source of a Load. Where it is not there and a Set has the
// value instead, nothing is reported.
func (g *gatherer) load(r Request, hasDefault bool, take taker) {
	if g.full() {
		return
	}
	if !strings.HasPrefix(r.Path, "/") {
		g.lookup(r, hasDefault, take)
		return
	}
	s, err := openSource(r.Path)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) && hasDefault {
			return
		}
		g.byHost[r.ID] = r
		what, accepted := describe(err, r.Path)
		g.errorf(r, accepted, "%s", what)
		return
	}
	defer s.close()
	if s.directory() {
		g.loadDirectory(r, s, hasDefault, take)
		return
	}
	g.byHost[r.ID] = r
	v, ok := g.readSource(r, s, r.ID, r.encrypted())
	if !ok {
		return
	}
	if s.regular() && !r.encrypted() {
		g.warnOpen(r, []*source{s})
	}
	take(r, r.ID, r.guest(), v, s.String())
}

// readSource reads one opened source, decrypts it where asked to, and reports
// what goes wrong. id is the credential's name on the host.
func (g *gatherer) readSource(r Request, s *source, id string, encrypted bool) (*secret.Value, bool) {
	limit := rule.MaxSize
	if encrypted {
		limit = rule.MaxEncrypted
	}
	v, err := s.read(g.ctx, g.env.Timeout, limit, g.env.Unit, id)
	if errors.Is(err, secret.ErrTooLarge) {
		g.tooLarge(r, s.String())
		return nil, false
	}
	if err != nil {
		what, accepted := describe(err, s.path)
		g.errorf(r, accepted, "%s", what)
		return nil, false
	}
	if !encrypted {
		return v, true
	}
	plain, err := g.decrypt(id, v)
	if err != nil {
		g.errorf(r, decryptCure(err), "%s: %v", s, err)
		return nil, false
	}
	return plain, true
}

// decrypt replaces an encrypted credential, which it wipes, by its value.
func (g *gatherer) decrypt(name string, blob *secret.Value) (*secret.Value, error) {
	defer blob.Wipe()
	ctx, cancel := context.WithTimeout(g.ctx, g.env.Timeout)
	defer cancel()
	return g.env.Decrypt(ctx, name, blob)
}

// set takes the value of the assignment itself.
func (g *gatherer) set(r Request, host, guest string, take taker) {
	g.byHost[host] = r
	v, err := secret.FromBytes(r.Value)
	if err != nil {
		g.errorf(r, "", "%v", err)
		return
	}
	if r.Kind == SetEncrypted {
		if v, err = g.decrypt(r.ID, v); err != nil {
			g.errorf(r, decryptCure(err), "%v", err)
			return
		}
	}
	take(r, host, guest, v, "plan")
}

// loadDirectory reads all files below a directory.
func (g *gatherer) loadDirectory(r Request, dir *source, hasDefault bool, take taker) {
	paths := map[string]string{} // by ID
	var open []*source
	err := dir.walk(r.ID, func(id string, s *source) bool {
		if g.full() {
			return false
		}
		if other, ok := paths[id]; ok {
			g.errorf(r, "rename one of the files", "%s and %s would both become credential %s", other, s.path, id)
			return true
		}
		paths[id] = s.path
		g.byHost[id] = r
		if err := rule.Name(id); err != nil {
			g.errorf(r, rule.NameForm, "%s cannot become credential %q: %v", s.path, id, err)
			return true
		}
		if owner, ok := g.hostOnly(id); ok {
			g.errorf(r, "choose another name for one of them",
				"%s would become credential %s, which [Service] loads for the host at %s", s.path, id, owner.Origin)
			return true
		}
		if !s.regular() {
			g.errorf(r, "name the socket in an assignment of its own", "%s is %s, which systemd does not read inside a directory", s.path, s.kind())
			return true
		}
		v, ok := g.readSource(r, s, id, r.encrypted())
		if !ok {
			return true
		}
		if !r.encrypted() && s.othersRead() {
			open = append(open, s)
		}
		take(r, id, r.guest()+strings.TrimPrefix(id, r.ID), v, s.String())
		return true
	})
	if err != nil {
		what, accepted := describe(err, dir.path)
		g.errorf(r, accepted, "%s", what)
		return
	}
	if len(paths) == 0 {
		// With a default it is as good as absent.
		if !hasDefault {
			g.errorf(r, "put files into it, or give a default with SetCredential="+r.ID+":VALUE",
				"directory %s holds no file that would become a credential", dir.path)
		}
		return
	}
	g.warnOpen(r, open)
}

// warnOpen warns about files that more people than their owner may read.
func (g *gatherer) warnOpen(r Request, files []*source) {
	n := 0
	var first *source
	for _, s := range files {
		if s.othersRead() {
			if n++; first == nil {
				first = s
			}
		}
	}
	if n == 0 {
		return
	}
	more := ""
	if n > 1 {
		more = fmt.Sprintf(", and %d more files of the directory", n-1)
	}
	g.report(diag.Warning, r, "chmod 0600 "+first.path,
		"not only its owner may read %s (mode %#o)%s", first.path, first.stat.Mode&0o7777, more)
}
