package credential

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/credential/rule"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/secret"
)

const directorySource = "$CREDENTIALS_DIRECTORY"

// loaded is what the service manager put into $CREDENTIALS_DIRECTORY.
type loaded struct {
	dir   string
	names []string // sorted, without Ampoule's own
}

// gatherDirectory takes everything from $CREDENTIALS_DIRECTORY.
func (g *gatherer) gatherDirectory(w wanted) {
	d, err := listDirectory(g.env.Directory)
	if err != nil {
		for _, r := range slices.Concat(w.loads, w.imports, w.sets, w.passes) {
			g.errorf(r, "", "%s (%s) cannot be listed: %v", directorySource, g.env.Directory, cause(err))
		}
		return
	}
	for _, r := range w.loads {
		g.loadedLoad(d, w, r)
	}
	for i, r := range w.imports {
		g.loadedImport(d, w, r, w.globs[i])
	}
	for _, r := range w.sets {
		if _, done := g.byHost[r.ID]; done {
			continue
		}
		switch {
		case d.has(r.ID):
			g.takeLoaded(d, r, r.ID, r.guest())
		case r.Kind == Set && len(r.Value) == 0:
			// systemd drops an assignment with an empty value.
			g.takeSet(r)
		default:
			g.notLoaded(r, r.ID)
		}
	}
	for _, r := range w.passes {
		if !d.has(r.ID) {
			g.notLoaded(r, r.ID)
			continue
		}
		g.takeLoaded(d, r, r.ID, r.guest())
	}
}

func listDirectory(dir string) (loaded, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return loaded{}, err
	}
	d := loaded{dir: dir}
	for _, e := range entries { // sorted by name
		if !rule.Reserved(e.Name()) {
			d.names = append(d.names, e.Name())
		}
	}
	return d, nil
}

func (d loaded) has(id string) bool {
	_, ok := slices.BinarySearch(d.names, id)
	return ok
}

// loadedLoad takes the credential ID or, where its source was a directory, all
// ID_FILE.
func (g *gatherer) loadedLoad(d loaded, w wanted, r Request) {
	isPath := strings.HasPrefix(r.Path, "/")
	_, hasDefault := w.setByID[r.ID]
	var parts []string
	if isPath {
		parts = g.partsOf(d, w, r)
	}
	if !d.has(r.ID) {
		if len(parts) == 0 {
			g.notLoaded(r, r.ID)
		}
		g.takeParts(d, r, parts)
		return
	}
	v, ok := g.readLoaded(d, r, r.ID)
	if !ok {
		return
	}
	marked := g.env.Marker != "" && v.EqualBytes([]byte(g.env.Marker))
	switch {
	case marked && len(parts) > 0:
		// The source is a directory, and the marker stands beside its files.
		v.Wipe()
	case marked:
		v.Wipe()
		g.missing(r, r.ID, r.Path)
		return
	default:
		g.add(r, r.ID, r.guest(), v, directorySource)
		if !hasDefault {
			return // a file: what else begins with ID_ is somebody else's
		}
	}
	g.takeParts(d, r, parts)
}

// partsOf returns the names ID_FILE that a directory source can have given. With
// ID and ID_SUB both directories, ID_SUB_FILE is in both lists; the first takes
// it, and its name in the guest is the same.
func (g *gatherer) partsOf(d loaded, w wanted, r Request) []string {
	var parts []string
	for _, name := range d.names {
		if !strings.HasPrefix(name, r.ID+"_") || exact(w, name) {
			continue
		}
		parts = append(parts, name)
	}
	return parts
}

// exact reports whether a request names this ID itself.
func exact(w wanted, id string) bool {
	if _, ok := w.loadByID[id]; ok {
		return true
	}
	if _, ok := w.setByID[id]; ok {
		return true
	}
	return slices.ContainsFunc(w.passes, func(p Request) bool { return p.ID == id })
}

// takeParts adds the files of a directory source. A name that [Service] may
// have loaded as well is refused: it can be either, and one must not go into
// the guest while the other must.
func (g *gatherer) takeParts(d loaded, r Request, parts []string) {
	for _, name := range parts {
		if _, done := g.byHost[name]; done {
			continue
		}
		if owner, clash := g.serviceMayOwn(name); clash {
			g.errorf(r, "choose another name for one of them",
				"credential %s can be a file of this directory or the host's own from %s", name, owner.Origin)
			continue
		}
		g.takeLoaded(d, r, name, r.guest()+strings.TrimPrefix(name, r.ID))
	}
}

// serviceMayOwn returns a request of [Service] that can have given a name.
func (g *gatherer) serviceMayOwn(name string) (Request, bool) {
	if r, ok := g.hostOnly(name); ok {
		return r, true
	}
	for _, r := range g.service.loads {
		if strings.HasPrefix(r.Path, "/") && strings.HasPrefix(name, r.ID+"_") {
			return r, true
		}
	}
	for i, r := range g.service.imports {
		if g.service.globs[i].Renamed(r.Guest).Match(name) {
			return r, true
		}
	}
	return Request{}, false
}

// loadedImport takes what a pattern covers. systemd has renamed already, where
// it knows how to (257).
func (g *gatherer) loadedImport(d loaded, w wanted, r Request, glob rule.Glob) {
	renamed := glob.Renamed(r.Guest)
	names := g.covered(d, w, r, renamed)
	guest := func(name string) string { return name }
	if len(names) == 0 && r.Guest != "" {
		names = g.covered(d, w, r, glob)
		guest = func(name string) string { return glob.Rename(name, r.Guest) }
	}
	if len(names) == 0 {
		g.report(diag.Warning, r, "", "%s matches nothing in %s (%s)", renamed, directorySource, d.dir)
	}
	for _, name := range names {
		if _, done := g.byHost[name]; !done {
			g.takeLoaded(d, r, name, guest(name))
		}
	}
}

// covered lists the names that a pattern takes from the directory.
func (g *gatherer) covered(d loaded, w wanted, r Request, glob rule.Glob) []string {
	var names []string
	for _, name := range d.names {
		if !glob.Match(name) {
			continue
		}
		_, isLoad := w.loadByID[name]
		isPass := slices.ContainsFunc(w.passes, func(p Request) bool { return p.ID == name })
		if isLoad || isPass {
			continue
		}
		if owner, ok := g.hostOnly(name); ok {
			g.noteHostOnly(r, owner, name)
			continue
		}
		names = append(names, name)
	}
	return names
}

// takeLoaded adds one file of the directory.
func (g *gatherer) takeLoaded(d loaded, r Request, id, guest string) {
	v, ok := g.readLoaded(d, r, id)
	if !ok {
		return
	}
	if g.env.Marker != "" && v.EqualBytes([]byte(g.env.Marker)) {
		v.Wipe()
		path := r.Path
		if owner, ok := g.hostOnly(id); ok {
			path = owner.Path
		}
		g.missing(r, id, path)
		return
	}
	g.add(r, id, guest, v, directorySource)
}

// readLoaded reads one file of the directory and reports what is wrong with it.
func (g *gatherer) readLoaded(d loaded, r Request, id string) (*secret.Value, bool) {
	g.byHost[id] = r
	if g.full() {
		return nil, false
	}
	path := filepath.Join(d.dir, id)
	v, err := readRegular(path, rule.MaxSize)
	switch {
	case err == nil:
		return v, true
	case errors.Is(err, secret.ErrTooLarge):
		g.tooLarge(r, path)
	default:
		what, accepted := describe(err, path)
		g.errorf(r, accepted, "%s", what)
	}
	return nil, false
}

// readRegular reads a file that must be a regular one.
func readRegular(path string, limit int) (*secret.Value, error) {
	s, err := openSource(path)
	if err != nil {
		return nil, err
	}
	defer s.close()
	if !s.regular() {
		return nil, &fs.PathError{Op: "read", Path: path, Err: s.wrongKind("a credential is a regular file there")}
	}
	return s.readFile(limit)
}

// takeSet adds a plain value of the plan.
func (g *gatherer) takeSet(r Request) {
	v, err := secret.FromBytes(r.Value)
	if err != nil {
		g.errorf(r, "", "%v", err)
		return
	}
	g.add(r, r.ID, r.guest(), v, "plan")
}

func (g *gatherer) notLoaded(r Request, id string) {
	g.byHost[id] = r
	line := map[Kind]string{
		Load: "LoadCredential=" + id + ":PATH", LoadEncrypted: "LoadCredentialEncrypted=" + id + ":PATH",
		Set: "SetCredential=" + id + ":VALUE", SetEncrypted: "SetCredentialEncrypted=" + id + ":BLOB",
		Pass: "LoadCredential=" + id + ":PATH",
	}[r.Kind]
	g.errorf(r, fmt.Sprintf("add %s to [Service] of the unit, or unset CREDENTIALS_DIRECTORY to read the sources by hand", line),
		"credential %s is not in %s (%s)", id, directorySource, g.env.Directory)
}

// missing reports a source that systemd did not find when it started the unit.
func (g *gatherer) missing(r Request, id, path string) {
	switch {
	case path == "":
		g.errorf(r, "put it into a credential store, such as /etc/credstore/"+id,
			"credential %s was found nowhere when the unit was started", id)
	case strings.HasPrefix(path, "/"):
		g.errorf(r, "create it before the start, or give a default with SetCredential="+id+":VALUE",
			"the source %s of credential %s was not there when the unit was started, or is an empty directory", path, id)
	default:
		g.errorf(r, "put it into a credential store, such as /etc/credstore/"+path,
			"credential %s, the source of %s, was found nowhere when the unit was started", path, id)
	}
}
