package credential

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/credential/rule"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/secret"
)

// Outcome is what a comparison came to.
type Outcome string

// The outcomes.
const (
	// Same: the unit holds what its source has now.
	Same Outcome = "same"
	// Changed: the source has something else, or the unit has not got it.
	Changed Outcome = "changed"
	// NotAsked: the source is a socket or a FIFO, which may give a credential
	// once, or may act when it is asked.
	NotAsked Outcome = "not asked"
)

// Comparison is a credential at its source, beside what a running unit holds
// under its name. Neither value is kept, nor anything made from it.
type Comparison struct {
	// Host is the name in the unit; that of the request where the source was
	// not asked.
	Host    string
	Outcome Outcome
	// Source is as in Credential; Origin, Key and Shown are the assignment's.
	Source     string
	Origin     diag.Origin
	Key, Shown string
}

// Compare reads the sources of all requests again, but for sockets and FIFOs,
// and compares them with the files in a directory that the service manager made
// for a unit. The list says which source could not be read now (an error), and
// which more than its owner may read (a warning). Names are those of the host:
// the requests may be a VM's and its [Service]'s together. Where the directory
// is "", the unit holds nothing, and sources are looked at without being read.
func Compare(ctx context.Context, reqs []Request, env Env, held string) ([]Comparison, diag.List) {
	env.Directory = ""
	g := newGatherer(ctx, env)
	w := g.sort(reqs, true)
	var out []Comparison
	if held == "" {
		for _, r := range w.loads {
			_, hasDefault := w.setByID[r.ID]
			g.look(r, hasDefault)
		}
		g.list.Sort()
		return nil, g.list
	}
	w.passes = nil // of each the request is there that loads it
	w.loads = slices.DeleteFunc(w.loads, func(r Request) bool {
		kind, ok := onceOnly(r.Path)
		if ok {
			out = append(out, Comparison{r.ID, NotAsked, strings.TrimPrefix(kind, "a ") + " " + r.Path, r.Origin, r.Key, r.Shown})
		}
		return ok
	})
	for i := range w.loads {
		w.loads[i].Guest = ""
	}
	g.gatherByHand(w)
	defer Wipe(g.out)
	for _, c := range g.out {
		outcome := Changed
		if g.holds(held, c) {
			outcome = Same
		}
		out = append(out, Comparison{c.Host, outcome, c.Source, c.Origin, c.Key, c.Shown})
	}
	slices.SortFunc(out, func(a, b Comparison) int { return strings.Compare(a.Host, b.Host) })
	g.list.Sort()
	return out, g.list
}

// onceOnly reports whether a source may not be asked a second time.
func onceOnly(path string) (kind string, ok bool) {
	if !strings.HasPrefix(path, "/") {
		return "", false
	}
	s, err := openSource(path)
	if err != nil {
		return "", false
	}
	defer s.close()
	return s.kind(), s.format() == unix.S_IFSOCK || s.format() == unix.S_IFIFO
}

// holds reports whether a unit has this value. What it holds is a file of the
// service manager's, and only such a one is read.
func (g *gatherer) holds(dir string, c Credential) bool {
	f, err := os.OpenFile(filepath.Join(dir, c.Host), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return false
	}
	v, err := secret.ReadFrom(f, rule.MaxSize)
	if err != nil {
		return false
	}
	defer v.Wipe()
	return v.Equal(c.Value)
}

// look says what is wrong with a source, without reading it.
func (g *gatherer) look(r Request, hasDefault bool) {
	if !strings.HasPrefix(r.Path, "/") {
		return
	}
	s, err := openSource(r.Path)
	if err != nil {
		if !hasDefault || !errors.Is(err, fs.ErrNotExist) {
			what, accepted := describe(err, r.Path)
			g.errorf(r, accepted, "%s", what)
		}
		return
	}
	defer s.close()
	if s.regular() && !r.encrypted() {
		g.warnOpen(r, []*source{s})
	}
}
