package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/process"
	"github.com/ampoule-vm/ampoule/internal/share"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// judgeShares looks at the directories that the guest is to get. Those that a unit
// of its own serves are not for the VM's user to see: the unit looks at them, and
// root before the VM starts.
func (r *runner) judgeShares(ctx context.Context, problems *diag.List) {
	if r.Control != "" {
		return // the run above has done it
	}
	for _, s := range r.Plan.VM.Shares {
		if s.Socket != "" {
			// What is served there is up to whoever serves it.
		} else if s.Protocol == spec.NineP {
			*problems = append(*problems, r.judgeOwnShare(s)...)
		} else if r.checking || r.byHand() {
			*problems = append(*problems, share.Judge(r.Plan, []plan.Share{s})...)
		}
		if r.checking && s.MountPoint != "" {
			r.noteMount(s, problems)
		}
	}
	if r.checking || r.byHand() {
		_, wrong := share.Find(ctx, r.Plan, r.Host)
		*problems = append(*problems, wrong...)
	}
}

// judgeOwnShare is for a directory that the hypervisor itself serves, with the
// rights of the VM's user.
func (r *runner) judgeOwnShare(s plan.Share) diag.List {
	problems := share.Judge(r.Plan, []plan.Share{s})
	if problems.HasErrors() || r.checking && !r.byHand() {
		return problems
	}
	at := diag.Problem{Origin: r.Plan.Origin(s.From), Key: plan.KeyOf(s.From), Value: share.Line(s)}
	if err := unix.Access(s.Source, unix.R_OK|unix.X_OK); err != nil {
		at.What = fmt.Sprintf("uid %d may not read %s (%v)", os.Geteuid(), s.Source, err)
		at.Accepted = "let it, or use virtiofs, which serves files of all owners"
		return append(problems, at)
	}
	if err := unix.Access(s.Source, unix.W_OK); err != nil && !s.ReadOnly {
		at.Severity, at.What = diag.Warning, fmt.Sprintf("uid %d may not write to %s (%v), and so the guest cannot", os.Geteuid(), s.Source, err)
		at.Accepted = "let it, add ro, or use virtiofs, which serves files of all owners"
		return append(problems, at)
	}
	return problems
}

// noteMount warns of a mount point in a guest of which nobody knows whether it
// mounts by itself.
func (r *runner) noteMount(s plan.Share, problems *diag.List) {
	if _, said := r.Plan.Origins["GuestSystemd"]; said {
		return
	}
	problems.Add(diag.Problem{
		Origin: r.Plan.Origin(s.From), Severity: diag.Warning, Key: plan.KeyOf(s.From), Value: share.Line(s),
		What:     fmt.Sprintf("only a guest with systemd %d or newer mounts it by itself, and nothing says which it has", spec.MountsByCredential),
		Accepted: "set GuestSystemd=",
	})
}

// serveShares starts what serves the shares of a VM that is run by hand, as units
// of their own do under systemd. End ends it and removes what it made; it is there
// with problems too.
func (r *runner) serveShares(ctx context.Context) (end func(), problems diag.List) {
	var ends []func()
	end = func() {
		for _, f := range ends {
			f()
		}
	}
	shares := r.Plan.VM.Served()
	if len(shares) == 0 {
		return end, nil
	}
	program, problems := share.Find(ctx, r.Plan, r.Host)
	if problems.HasErrors() {
		return end, problems
	}
	for _, s := range shares {
		stop, wrong := r.serve(program, s)
		ends = append(ends, stop)
		problems = append(problems, wrong...)
	}
	return end, problems
}

// serve starts virtiofsd for one share.
func (r *runner) serve(program string, s plan.Share) (stop func(), problems diag.List) {
	dir := plan.ShareDirectory(r.Plan.VM.Name, s.Tag)
	stop = func() { _ = os.RemoveAll(dir) }
	fail := func(err error) (func(), diag.List) {
		return stop, diag.List{r.about(s.From, "it cannot be served: "+err.Error(), "")}
	}
	source, problems := share.Open(r.Plan, s)
	if problems.HasErrors() {
		return stop, problems
	}
	if source == nil {
		return fail(&os.PathError{Op: "open", Path: s.Source, Err: os.ErrPermission})
	}
	defer source.Close()
	at := filepath.Join(dir, "d")
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.MkdirAll(at, 0o700)); err != nil {
		return fail(err)
	}
	// Of a directory that was opened in another mount namespace no bind mount is made:
	// it is cloned here, and attached there.
	tree, err := unix.OpenTree(int(source.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
	if err != nil {
		return fail(os.NewSyscallError("open_tree", err))
	}
	defer unix.Close(tree)
	socket, err := share.Listen(plan.ShareSocket(r.Plan.VM.Name, s.Tag))
	if err != nil {
		return fail(err)
	}
	defer socket.Close()
	proc, err := process.Start(process.Spec{
		Path: program, Args: share.Arguments(s, firstExtra, at, false), Extra: []*os.File{socket},
		// The names of files in it are the guest's to choose.
		StderrLine: func(line string) { r.warn("%s: share %s: %s", r.Plan.VM.Name, s.Tag, diag.Printable(line, maxWords)) },
		MountNamespace: func() error {
			if err := unix.MoveMount(tree, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
				return os.NewSyscallError("move_mount", err)
			}
			// As all mounts of that namespace are.
			return os.NewSyscallError("mount", unix.Mount("", at, "", unix.MS_REC|unix.MS_SLAVE, ""))
		},
	})
	if err != nil {
		return fail(err)
	}
	return func() {
		_ = proc.Kill()
		<-proc.Done()
		_ = os.RemoveAll(dir)
	}, problems
}

// firstExtra is the descriptor that a program has the first of its Extra as.
const firstExtra = 3
