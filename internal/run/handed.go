package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/privileged"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// judgePrivileged refuses to an unprivileged user what only root can do.
func (r *runner) judgePrivileged(problems *diag.List) {
	if r.checking || r.Control != "" || !r.byHand() || os.Geteuid() == 0 || len(r.Handed) > 0 {
		return
	}
	for _, id := range r.Plan.VM.Privileged() {
		*problems = append(*problems, r.about(id, "run by hand, only root can do what this takes",
			"run it as root, or systemctl start "+spec.UnitName(r.Plan.VM.Name)))
	}
}

// about is a problem of a line of the plan, whose value it does not know.
func (r *runner) about(id, what, accepted string) diag.Problem {
	return diag.Problem{Origin: r.Plan.Origin(id), Key: plan.KeyOf(id), Value: diag.Elided, What: what, Accepted: accepted}
}

// takePrivileged brings together what root does for the VM: a service manager has
// had it done, and hands over what was opened; by hand we do it, and undo is to be
// called at the end.
func (r *runner) takePrivileged(ctx context.Context) (undo func(), problems diag.List) {
	undo = func() {}
	if r.Control != "" {
		return undo, nil // the run above has done it
	}
	if len(r.Plan.VM.Privileged()) > 0 && len(r.Handed) == 0 && r.byHand() {
		request := privileged.Request{Plan: r.Plan, User: os.Geteuid(), Group: os.Getegid(), Owner: fmt.Sprintf("pid %d", os.Getpid())}
		end, wrong := r.serveShares(ctx)
		if undo = end; wrong.HasErrors() {
			return undo, wrong
		}
		r.Handed, problems = privileged.Prepare(ctx, request)
		problems = append(wrong, problems...)
		undo = func() {
			defer end()
			if _, err := privileged.Release(request); err != nil {
				r.warn("%s: removing what was made for the VM: %v", r.Plan.VM.Name, err)
			}
		}
	}
	r.keepHanded()
	if problems = append(problems, r.missing()...); !problems.HasErrors() && !r.byHand() {
		problems = append(problems, r.unprepared()...)
	}
	if !problems.HasErrors() {
		problems = append(problems, r.openExternal()...)
	}
	return undo, problems
}

// refused is why root could not prepare the host, if it could not.
func (r *runner) refused() diag.List {
	wrong := r.named(privileged.ProblemsName)
	if r.Control != "" || len(wrong) == 0 {
		return nil
	}
	return refusedBy(r.Plan, wrong[len(wrong)-1])
}

// refusedBy reads why root could not prepare the host.
func refusedBy(p *plan.Plan, f *os.File) diag.List {
	var problems diag.List
	text, err := io.ReadAll(io.NewSectionReader(f, 0, plan.MaxBytes))
	if err == nil {
		err = json.Unmarshal(text, &problems)
	}
	if err == nil && !problems.HasErrors() {
		err = errors.New("it names no problem")
	}
	if err != nil {
		problems.Add(diag.Problem{Origin: p.Origin(plan.Whole), What: fmt.Sprintf("the host was not prepared for the VM, and why cannot be read: %v", err)})
	}
	return problems
}

// keepHanded closes what the plan does not ask to be handed over.
func (r *runner) keepHanded() {
	needs := r.Plan.VM.Needs()
	r.Handed = slices.DeleteFunc(r.Handed, func(f *os.File) bool {
		if slices.ContainsFunc(needs, func(h plan.Handed) bool { return h.Name == f.Name() && !h.Own }) {
			return false
		}
		f.Close()
		return true
	})
}

// missing names the lines of the plan for which something should have been opened
// that is not there.
func (r *runner) missing() diag.List {
	var problems diag.List
	for _, h := range r.Plan.VM.Needs() {
		if h.Own || len(r.named(h.Name)) >= h.Least {
			continue
		}
		problems.Add(r.about(h.From, fmt.Sprintf("nobody has opened %s for the VM", h.Name),
			"the unit needs its ExecStartPre=+… unit prepare, NotifyAccess=exec or all, and FileDescriptorStoreMax= (systemctl cat "+
				spec.UnitName(r.Plan.VM.Name)+" shows what a drop-in has changed)"+orExternal))
	}
	return problems
}

const orExternal = "; or external, for what somebody else makes"

// named are the files that were handed over under a name.
func (r *runner) named(name string) []*os.File {
	var out []*os.File
	for _, f := range r.Handed {
		if f.Name() == name {
			out = append(out, f)
		}
	}
	return out
}

// closeHanded gives our copies up.
func (r *runner) closeHanded() {
	closeAll(r.Handed)
	r.Handed = nil
}

// sendFiles hands the files over to an ampoule boot within a Runner=. It is sent
// whether there are any or not.
func sendFiles(conn *net.UnixConn, files []*os.File) error {
	m := message{Files: []string{}}
	var fds []int
	for _, f := range files {
		m.Files, fds = append(m.Files, f.Name()), append(fds, int(f.Fd()))
	}
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
	_, _, err = conn.WriteMsgUnix(data, unix.UnixRights(fds...), nil)
	return err
}

// receiveFiles reads one packet, and the files that came with it.
func receiveFiles(conn *net.UnixConn, buf []byte) (int, []int, error) {
	oob := make([]byte, unix.CmsgSpace(4*mostFiles))
	n, got, _, _, err := conn.ReadMsgUnix(buf, oob)
	if errors.Is(err, syscall.ECONNRESET) {
		n, got, _, _, err = conn.ReadMsgUnix(buf, oob)
	}
	if err != nil || got == 0 {
		return n, nil, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:got])
	if err != nil {
		return n, nil, err
	}
	var files []int
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue // it carries something else
		}
		files = append(files, fds...)
	}
	return n, files, nil
}

// mostFiles is how many the kernel lets a packet carry (SCM_MAX_FD).
const mostFiles = 253

// filesTime is how long an ampoule boot waits for them: the run above answers at
// once.
const filesTime = 10 * time.Second

// files waits for what the run above has for us.
func (r *remote) files() ([]*os.File, error) {
	select {
	case files := <-r.filesc:
		return files, nil
	case <-time.After(filesTime):
		return nil, fmt.Errorf("the ampoule run above has not handed over in %s what was opened for the VM", filesTime)
	}
}
