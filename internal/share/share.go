// Package share gives a directory of the host to a guest: it looks at the
// directory once more when it is time, now with every link resolved, makes the
// socket on which the hypervisor finds whoever serves it, and knows how virtiofsd
// is started.
//
// What lives here: the effects that several edges share, the unit of a share, a
// run by hand, and what root does for a VM. What must not: what a line means, and
// who may use the socket.
package share

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// Line is how messages show a share: what the line must have, without options.
func Line(s plan.Share) string { return s.Source + ":" + s.Tag }

// maxWords is as much as is said of a share, in bytes.
const maxWords = 2 << 10

// problem is an error at the line of a share. Where a link leads, another user than
// the reader may have named.
func problem(p *plan.Plan, s plan.Share, accepted, format string, args ...any) diag.Problem {
	return diag.Problem{
		Origin: p.Origin(s.From), Key: plan.KeyOf(s.From), Value: Line(s),
		What: diag.Printable(fmt.Sprintf(format, args...), maxWords), Accepted: diag.Printable(accepted, maxWords),
	}
}

// Judge looks at the directories of shares as they are now, and says which of them
// a guest must not get. A directory that the caller may not even look up is left
// to whoever serves it.
func Judge(p *plan.Plan, shares []plan.Share) diag.List {
	var problems diag.List
	for _, s := range shares {
		dir, wrong := Open(p, s)
		if dir != nil {
			dir.Close()
		}
		problems = append(problems, wrong...)
	}
	return problems
}

// Open opens the directory of a share, by which it can only be found again, and
// judges it as it is now. Nil without a problem: the caller may not look it up, or
// the path alone tells that it is not shared, which is said where the line is read.
func Open(p *plan.Plan, s plan.Share) (*os.File, diag.List) {
	fail := func(accepted, format string, args ...any) (*os.File, diag.List) {
		return nil, diag.List{problem(p, s, accepted, format, args...)}
	}
	if what, _ := spec.Exposes(s.Source, secrets(p, false)); what != "" {
		return nil, nil // its line has been refused
	}
	dir, real, err := follow(s.Source)
	var stranger *strangersLink
	switch {
	case errors.As(err, &stranger):
		return fail("name the directory itself, "+stranger.to, "%v", err)
	case errors.Is(err, fs.ErrPermission):
		return nil, nil
	case errors.Is(err, fs.ErrNotExist):
		return fail("create it, or name another", "there is no directory %s", s.Source)
	case errors.Is(err, unix.ENOTDIR):
		return fail("accepted: a directory", "%s is not a directory", s.Source)
	case err != nil:
		return fail("accepted: a directory", "%v", &os.PathError{Op: "open", Path: s.Source, Err: err})
	}
	if what, accepted := spec.Exposes(real, secrets(p, true)); what != "" {
		dir.Close()
		if real != s.Source {
			what = "it leads to " + real + ": " + what
		}
		return fail(accepted, "%s", what)
	}
	if what, accepted, err := exposes(dir, real, secrets(p, true)); what != "" || err != nil {
		dir.Close()
		if err != nil {
			return fail("", "%v", err)
		}
		return fail(accepted, "%s", what)
	}
	if other, ok := overlapping(p, s, real); ok {
		dir.Close()
		return fail("accepted: directories that do not lie in each other, unless both shares are read-only",
			"it leads to %s, and %s at %s to the same or one in the other", real, Line(other), p.Origin(other.From))
	}
	return dir, nil
}

// secrets are the sources of the credentials of a VM, and, followed, where they
// lead too.
func secrets(p *plan.Plan, followed bool) []spec.SharedSecret {
	var out []spec.SharedSecret
	for _, c := range slices.Concat(p.VM.Credentials, p.Unit.Credentials) {
		if !filepath.IsAbs(c.Path) {
			continue
		}
		line := p.Origin(c.From).String() + ", " + plan.KeyOf(c.From) + "="
		out = append(out, spec.SharedSecret{Path: c.Path, Line: line})
		if real, err := filepath.EvalSymlinks(c.Path); followed && err == nil && real != c.Path {
			out = append(out, spec.SharedSecret{Path: real, Line: line})
		}
	}
	return out
}

// overlapping finds another share in whose way one would be, by where both lead.
func overlapping(p *plan.Plan, s plan.Share, real string) (plan.Share, bool) {
	for _, other := range p.VM.Shares {
		if other.Tag == s.Tag || s.ReadOnly && other.ReadOnly {
			continue
		}
		there, err := filepath.EvalSymlinks(other.Source)
		if err == nil && (there == real || spec.Within(there, real) || spec.Within(real, there)) {
			return other, true
		}
	}
	return plan.Share{}, false
}

// Same reports whether two descriptors are of one directory.
func Same(a, b *os.File) bool {
	one, err := a.Stat()
	if err != nil {
		return false
	}
	other, err := b.Stat()
	return err == nil && os.SameFile(one, other)
}

// Listen makes the socket of a share, in the place of one that was left. Nobody but
// its owner can connect, from the first moment on. The descriptor is inherited.
func Listen(path string) (*os.File, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), path)
	// Linux gives the name the mode that the socket has when it is bound.
	if err = unix.Fchmod(fd, 0o600); err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	}
	if err == nil {
		err = unix.Listen(fd, 1)
	}
	if err != nil {
		f.Close()
		return nil, &os.PathError{Op: "listen", Path: path, Err: err}
	}
	return f, nil
}
