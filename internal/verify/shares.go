package verify

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// Unserved is a share that the guest cannot reach: where it is written, and why.
type Unserved struct {
	Tag    string
	Origin diag.Origin
	What   string
}

// unserved are the shares of a plan that runs behind whose socket nobody is, or
// whose socket is not that of the process that runs the guest, whose number is
// pid. The directory of a socket goes with whoever serves it.
func unserved(p *plan.Plan, pid int, socketOf func(vm, tag string) string) []Unserved {
	user, known := ownerOf(proc(pid, ""))
	var out []Unserved
	for _, s := range p.VM.Served() {
		what := ""
		path := socketOf(p.VM.Name, s.Tag)
		switch owner, ok := ownerOf(path); {
		case ok && known && owner != user:
			what = fmt.Sprintf("its socket %s belongs to uid %d, and the hypervisor runs as uid %d", path, owner, user)
		case !ok && isMissing(path):
			what = spec.ShareUnitName(p.VM.Name, s.Tag) + ", which serves it, has ended"
		}
		if what != "" {
			out = append(out, Unserved{s.Tag, p.Origin(s.From), what})
		}
	}
	return out
}

func isMissing(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// ownerOf is the user of a file; false: it cannot be seen.
func ownerOf(path string) (uint32, bool) {
	info, err := os.Lstat(path)
	if err != nil {
		return 0, false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return st.Uid, true
}

// unserved judges the shares.
func (f *Facts) unserved(j judge) {
	for _, u := range f.Unserved {
		j.found(ShareUnserved, Cure{Command: "systemctl restart " + f.unitName()}, fmt.Sprintf("the guest cannot reach its share %s (%s): %s", u.Tag, u.Origin, u.What))
	}
}
