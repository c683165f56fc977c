package run

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/privileged"
)

// someFiles are open files with these names.
func someFiles(t testing.TB, names ...string) []*os.File {
	t.Helper()
	var out []*os.File
	for _, name := range names {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { w.Close() })
		fd, err := unix.FcntlInt(r.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		r.Close()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, os.NewFile(uintptr(fd), name))
	}
	return out
}

// tapProgram is a hypervisor that says its words, and does not start.
func tapProgram(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qemu")
	if err := os.WriteFile(path, []byte("#!/bin/sh\nfor fd in /proc/self/fd/*; do echo \"fd ${fd##*/}\"; done >&2\necho \"words $* LISTEN $LISTEN_FDS\" >&2\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestHanded: what a service manager hands over reaches the hypervisor, and nothing
// that the plan does not ask for.
func TestHanded(t *testing.T) {
	tr := newTrial(t, makePlan(t, "VCPU=2", "HypervisorPath="+tapProgram(t), "Network=tap:queues=2", "Network=bridge:br0,vhost=no"))
	tr.options.Handed = someFiles(t, "ampoule.net0", "stored", "ampoule.net1", "ampoule.net0", "ampoule.vhost0", "ampoule.vhost0")
	given := slices.Clone(tr.options.Handed)
	out := tr.start().want(ExitHypervisor, "did not start")
	all := out.Text + tr.stderr.String()
	for _, words := range []string{"tap,id=net0,fds=", ",vhost=on,vhostfds=", "tap,id=net1,fds="} {
		if !strings.Contains(all, words) {
			t.Errorf("it was not told %q:\n%s", words, all)
		}
	}
	for _, f := range given {
		if err := f.Close(); err == nil {
			t.Errorf("%s is open", f.Name())
		}
	}
	tr.wantNothingLeft()
}

// TestNotHanded: what is missing is named at its line, before anything is started.
func TestNotHanded(t *testing.T) {
	plan := makePlan(t, "VCPU=2", "Network=tap:queues=2", "Network=bridge:br0,vhost=yes")
	tr := newTrial(t, plan)
	tr.env["INVOCATION_ID"] = "0123456789abcdef0123456789abcdef"
	tr.options.Handed = someFiles(t, "ampoule.net0", "ampoule.net1")
	out := tr.start().want(ExitBadInput, "test.microvm:4: Network=…: nobody has opened ampoule.net0 for the VM; the unit needs its ExecStartPre=+… unit prepare")
	if text := out.Problems.Error(); !strings.Contains(text, "test.microvm:5: Network=…: nobody has opened ampoule.vhost1") || len(out.Problems) != 2 {
		t.Error(text)
	}
	tr.wantNothingLeft()
}

// TestProblemsHanded: why root could not prepare the host is said by the main
// process, which ends as with any other mistake.
func TestProblemsHanded(t *testing.T) {
	var problems diag.List
	problems.Errorf(diag.Origin{File: "/etc/ampoule/web.microvm", Line: 4}, "Network", "bridge:br0", "make it", "there is no interface br0")
	f, err := privileged.ProblemsFile(problems)
	if err != nil {
		t.Fatal(err)
	}
	tr := newTrial(t, makePlan(t, "Network=bridge:br0"))
	tr.options.Handed = []*os.File{f}
	tr.start().want(ExitBadInput, "/etc/ampoule/web.microvm:4: Network=bridge:br0: there is no interface br0; make it")

	tr = newTrial(t, makePlan(t, "Network=bridge:br0"))
	tr.options.Handed = someFiles(t, privileged.ProblemsName)
	tr.start().want(ExitBadInput, "the host was not prepared for the VM, and why cannot be read")
}

// TestFilesToBoot: an ampoule boot gets them from the run above it, with their
// names, and at each of its starts.
func TestFilesToBoot(t *testing.T) {
	above, boot := pair(t)
	defer boot.close()
	files := someFiles(t, "ampoule.net0", "ampoule.net0", "ampoule.vhost0")
	if err := sendFiles(above, files); err != nil {
		t.Fatal(err)
	}
	got, err := boot.files()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for i, f := range got {
		names = append(names, f.Name())
		one, err1 := f.Stat()
		other, err2 := files[i].Stat()
		if err1 != nil || err2 != nil || !os.SameFile(one, other) {
			t.Errorf("%s is another file (%v %v)", f.Name(), err1, err2)
		}
		f.Close()
	}
	if want := []string{"ampoule.net0", "ampoule.net0", "ampoule.vhost0"}; !slices.Equal(names, want) {
		t.Errorf("%q, want %q", names, want)
	}
	if err := sendFiles(above, nil); err != nil {
		t.Fatal(err)
	}
	if got, err := boot.files(); err != nil || len(got) > 0 {
		t.Errorf("%v %v", got, err)
	}
}
