package credential

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/ampoule-vm/ampoule/internal/credential/rule"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/secret"
)

// Gather reads every credential that is asked for, sorted by guest name. It
// looks at everything before it returns, so that the list holds all problems
// of all requests. Where one of them is an error, no credential is returned and
// what was read is wiped.
//
// Precedence is systemd's: a Load comes before an Import, that before a Set.
// Unlike systemd, a name found nowhere is an error, and so are two sources for
// one name in the guest.
func Gather(ctx context.Context, reqs []Request, env Env) ([]Credential, diag.List) {
	g := newGatherer(ctx, env)
	w := g.sort(reqs, false)
	// What is wrong with lines of [Service] is reported where those are checked.
	g.service = new(gatherer).sort(env.Service, true)
	if env.Directory != "" {
		g.gatherDirectory(w)
	} else {
		g.gatherByHand(w)
	}
	g.checkTotal()
	g.list.Sort()
	if g.list.HasErrors() {
		Wipe(g.out)
		return nil, g.list
	}
	slices.SortFunc(g.out, func(a, b Credential) int { return cmp.Compare(a.Guest, b.Guest) })
	return g.out, g.list
}

func newGatherer(ctx context.Context, env Env) *gatherer {
	if env.Timeout <= 0 {
		env.Timeout = DefaultTimeout
	}
	if env.Decrypt == nil {
		env.Decrypt = SystemdCreds{}.Decrypt
	}
	return &gatherer{ctx: ctx, env: env, byGuest: map[string]int{}, byHost: map[string]Request{}, imported: map[string]imported{}}
}

// gatherer is the state of one Gather.
type gatherer struct {
	ctx     context.Context
	env     Env
	service wanted
	list    diag.List
	out     []Credential
	// byGuest finds the credential in out that has a guest name, byHost the
	// request that a host ID was read for.
	byGuest map[string]int
	byHost  map[string]Request
	// imported finds the file of a store that gave a host ID.
	imported map[string]imported
	total    int
	// over is the request that made the total too large.
	over *Request
}

// wanted is the valid requests by kind, in their order.
type wanted struct {
	loads, sets, imports, passes []Request
	loadByID, setByID            map[string]Request
	globs                        []rule.Glob // of imports
}

// sort checks the requests by themselves and against each other, and reports
// what is wrong. For those of [Service] names are checked for the host only.
func (g *gatherer) sort(reqs []Request, service bool) wanted {
	w := wanted{loadByID: map[string]Request{}, setByID: map[string]Request{}}
	for _, r := range reqs {
		if !g.valid(r, service) {
			continue
		}
		switch r.Kind {
		case Load, LoadEncrypted:
			w.loads = g.single(w.loads, w.loadByID, r, service)
		case Set, SetEncrypted:
			w.sets = g.single(w.sets, w.setByID, r, service)
		case Import:
			glob, _ := rule.ParseGlob(r.ID) // valid looked at it
			w.imports, w.globs = append(w.imports, r), append(w.globs, glob)
		case Pass:
			w.passes = append(w.passes, r)
		}
	}
	return w
}

// single appends a request whose ID is to be there once. A second one for the
// guest is refused; in [Service] it replaces the first, as in systemd.
func (g *gatherer) single(list []Request, byID map[string]Request, r Request, service bool) []Request {
	old, twice := byID[r.ID]
	switch {
	case twice && !service:
		g.twice(r, r.ID, old.Origin)
		return list
	case twice:
		list = slices.DeleteFunc(list, func(o Request) bool { return o.ID == r.ID })
	}
	byID[r.ID] = r
	return append(list, r)
}

// valid checks names and paths. The layers above have done so for what came
// from files; here it keeps a foreign plan from reaching beyond a directory.
func (g *gatherer) valid(r Request, service bool) bool {
	n := len(g.list)
	reserved := func(name string) {
		if !service && rule.Reserved(name) {
			g.errorf(r, "choose another name", "names that begin with %q are reserved", rule.ReservedPrefix)
		}
	}
	switch r.Kind {
	case Import:
		if _, err := rule.ParseGlob(r.ID); err != nil {
			g.errorf(r, rule.GlobForm, "%v", err)
		}
		reserved(r.ID)
		reserved(r.Guest)
		return len(g.list) == n
	case Load, LoadEncrypted, Set, SetEncrypted, Pass:
	default:
		g.errorf(r, "", "unknown kind of credential %q", string(r.Kind))
		return false
	}
	names := []string{r.ID}
	if guest := r.guest(); guest != r.ID {
		names = append(names, guest)
	}
	for _, name := range names {
		if err := rule.Name(name); err != nil {
			g.errorf(r, rule.NameForm, "%v", err)
		}
		reserved(name)
	}
	if len(r.Path) > 0 && r.Path[0] == '/' {
		if err := rule.Path(r.Path); err != nil {
			g.errorf(r, rule.PathForm, "%v", err)
		}
	} else if r.Path != "" {
		if err := rule.Name(r.Path); err != nil {
			g.errorf(r, "give an absolute path, or the name of a credential in a store", "the source is neither a path nor a name: %v", err)
		}
	}
	return len(g.list) == n
}

// add takes over a value. host is its ID on the host.
func (g *gatherer) add(r Request, host, guest string, v *secret.Value, source string) {
	g.byHost[host] = r
	if err := rule.Name(guest); err != nil {
		v.Wipe()
		g.errorf(r, rule.NameForm, "%s would become %q in the guest: %v", source, guest, err)
		return
	}
	if n := v.Len(); n > rule.MaxSize {
		v.Wipe()
		g.tooLarge(r, source)
		return
	}
	if i, ok := g.byGuest[guest]; ok {
		v.Wipe()
		g.twice(r, guest, g.out[i].Origin)
		return
	}
	g.byGuest[guest] = len(g.out)
	g.out = append(g.out, Credential{
		Guest: guest, Host: host, Value: v, Origin: r.Origin, Key: r.Key, Shown: r.Shown, Source: source,
	})
	if g.total += len(guest) + v.Len(); g.total > rule.MaxTotal && g.over == nil {
		g.over = &r
	}
}

// full reports whether reading on makes no sense: the limit is far behind.
func (g *gatherer) full() bool { return g.total > 4*rule.MaxTotal }

func (g *gatherer) checkTotal() {
	if g.over == nil {
		return
	}
	more := ""
	if g.full() {
		more = "more than "
	}
	g.errorf(*g.over, fmt.Sprintf("at most %d bytes are possible, names included", rule.MaxTotal),
		"with this one all credentials together take %s%d bytes", more, g.total)
}

func (g *gatherer) errorf(r Request, accepted, format string, args ...any) {
	g.list.Errorf(r.Origin, r.Key, r.Shown, accepted, format, args...)
}

func (g *gatherer) report(sev diag.Severity, r Request, accepted, format string, args ...any) {
	g.list.Add(diag.Problem{
		Origin: r.Origin, Severity: sev, Key: r.Key, Value: r.Shown,
		What: fmt.Sprintf(format, args...), Accepted: accepted,
	})
}

func (g *gatherer) twice(r Request, name string, other diag.Origin) {
	g.errorf(r, "keep one of the two", "credential %s is there already, from %s", name, other)
}

func (g *gatherer) tooLarge(r Request, source string) {
	g.errorf(r, fmt.Sprintf("at most %d bytes are possible", rule.MaxSize), "%s is too large", source)
}

// hostOnly returns the request of [Service] that names an ID, if there is one.
// Such a credential stays on the host, whatever pattern covers it.
func (g *gatherer) hostOnly(id string) (Request, bool) {
	if r, ok := g.service.loadByID[id]; ok {
		return r, true
	}
	r, ok := g.service.setByID[id]
	return r, ok
}

// noteHostOnly says that a pattern covers a credential that it does not take.
func (g *gatherer) noteHostOnly(r, owner Request, id string) {
	g.report(diag.Note, r, fmt.Sprintf("Credential=%s would pass it on", id),
		"credential %s stays on the host, because [Service] loads it at %s", id, owner.Origin)
}
