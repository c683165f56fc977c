package privileged

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/driver/all"
	"github.com/ampoule-vm/ampoule/internal/pipeline"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/source"
)

// diary is a step that writes down what it is told.
type diary struct {
	lines    []string
	problems diag.List
	fails    error
}

func (d *diary) step(name string) step {
	return step{
		prepare: func(_ context.Context, vm *VM) diag.List {
			d.lines = append(d.lines, "prepare "+name+" "+vm.Plan.VM.Name)
			if _, err := os.Stat(vm.Dir); err != nil {
				d.lines = append(d.lines, err.Error())
			}
			r, _, err := os.Pipe()
			if err == nil {
				vm.Hand(r)
			}
			return d.problems
		},
		release: func(vm *VM) error {
			d.lines = append(d.lines, "release "+name+" "+vm.Plan.VM.Name+" "+vm.Plan.VM.Kernel)
			return d.fails
		},
	}
}

func (d *diary) took(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(d.lines, want) {
		t.Errorf("the steps were\n%s\nwant\n%s", strings.Join(d.lines, "\n"), strings.Join(want, "\n"))
	}
	d.lines = nil
}

// planOf is the plan of a VM with the name web.
func planOf(t *testing.T, lines ...string) *plan.Plan {
	t.Helper()
	return planNamed(t, "web", lines...)
}

func planNamed(t *testing.T, vm string, lines ...string) *plan.Plan {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, "etc/ampoule")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, vm+".microvm"), []byte("[MicroVM]\n"+strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	res := pipeline.Load(pipeline.Input{Argument: vm, Root: root, Dirs: source.SearchPath(), Drivers: all.Drivers()})
	if res.Plan == nil {
		t.Fatal(res.Problems)
	}
	return res.Plan
}

func request(t *testing.T, d *diary, owner string) Request {
	t.Helper()
	return Request{Plan: planOf(t, "Kernel=/one"), Owner: owner, Dir: filepath.Join(t.TempDir(), "run", "privileged"), steps: []step{d.step("a"), d.step("b")}}
}

func TestPrepareAndRelease(t *testing.T) {
	d := &diary{}
	r := request(t, d, "first")
	files, problems := Prepare(t.Context(), r)
	if len(files) != 2 || len(problems) > 0 {
		t.Fatalf("%v %v", files, problems)
	}
	d.took(t, "prepare a web", "prepare b web")
	if info, err := os.Stat(r.Dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v %v", info, err)
	}

	// Another start's end is not this one's; the plan may be another by now.
	other := r
	other.Owner, other.Plan = "second", planOf(t, "Kernel=/two")
	if _, err := Release(other); err != nil {
		t.Fatal(err)
	}
	d.took(t)
	other.Owner = "first"
	done, err := Release(other)
	if err != nil || !slices.Contains(done.Names, ProblemsName) {
		t.Fatalf("%v %v", done, err)
	}
	d.took(t, "release b web /one", "release a web /one")
	if _, err := Release(other); err != nil {
		t.Fatal(err)
	}
	d.took(t)
	if left, err := os.ReadDir(r.Dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
}

func TestPrepareAfterKill(t *testing.T) {
	d := &diary{}
	r := request(t, d, "first")
	if _, problems := Prepare(t.Context(), r); len(problems) > 0 {
		t.Fatal(problems)
	}
	r.Owner, r.Plan = "second", planOf(t, "Kernel=/two")
	if _, problems := Prepare(t.Context(), r); len(problems) > 0 {
		t.Fatal(problems)
	}
	d.took(t, "prepare a web", "prepare b web", "release b web /one", "release a web /one", "prepare a web", "prepare b web")

	// A power cut leaves a directory in which nothing is written yet.
	if err := os.Remove(filepath.Join(r.memory(), memoryFile)); err != nil {
		t.Fatal(err)
	}
	if _, problems := Prepare(t.Context(), r); len(problems) > 0 {
		t.Fatal(problems)
	}
	d.took(t, "prepare a web", "prepare b web")
}

func TestPrepareFindsAll(t *testing.T) {
	d := &diary{}
	d.problems.Errorf(diag.Origin{File: "f", Line: 3}, "Network", "tap", "", "no")
	r := request(t, d, "first")
	files, problems := Prepare(t.Context(), r)
	if files != nil || len(problems) != 1 {
		t.Fatalf("%v %v", files, problems)
	}
	d.took(t, "prepare a web", "prepare b web", "release b web /one", "release a web /one")
	if left, err := os.ReadDir(r.Dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
}

func TestReleaseFails(t *testing.T) {
	d := &diary{fails: errors.New("busy")}
	r := request(t, d, "first")
	if _, problems := Prepare(t.Context(), r); len(problems) > 0 {
		t.Fatal(problems)
	}
	if _, err := Release(r); err == nil || !strings.Contains(err.Error(), "busy") {
		t.Fatal(err)
	}
	// It is not forgotten, and the next start does not go on over it.
	_, problems := Prepare(t.Context(), r)
	if !problems.HasErrors() || !strings.Contains(problems.Error(), "/web.microvm:1: removing what an earlier start has left: busy") {
		t.Fatal(problems)
	}
	d.fails = nil
	if _, problems := Prepare(t.Context(), r); len(problems) > 0 {
		t.Fatal(problems)
	}
}

// TestStore: what a service manager is sent, message by message.
func TestStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	heard := make(chan []string)
	go func() {
		var all []string
		for {
			buf, oob := make([]byte, 4096), make([]byte, 4096)
			n, got, _, _, err := conn.ReadMsgUnix(buf, oob)
			if err != nil {
				break
			}
			fds := rightsOf(oob[:got])
			all = append(all, strings.ReplaceAll(string(buf[:n]), "\n", " ")+strings.Repeat(" +fd", len(fds)))
			for _, fd := range fds {
				unix.Close(fd)
			}
			if strings.HasPrefix(string(buf[:n]), "BARRIER") {
				break
			}
		}
		heard <- all
	}()
	var files []*os.File
	for _, name := range []string{"x", "x", "y"} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		defer r.Close()
		files = append(files, os.NewFile(uintptr(dup(t, r)), name))
	}
	if err := Store(path, files); err != nil {
		t.Fatal(err)
	}
	want := []string{"FDSTOREREMOVE=1 FDNAME=ampoule.problems", "FDSTOREREMOVE=1 FDNAME=x", "FDSTOREREMOVE=1 FDNAME=y", "FDSTORE=1 FDPOLL=0 FDNAME=x +fd", "FDSTORE=1 FDPOLL=0 FDNAME=x +fd", "FDSTORE=1 FDPOLL=0 FDNAME=y +fd", "BARRIER=1 +fd"}
	if got := <-heard; !slices.Equal(got, want) {
		t.Errorf("it was sent\n%q\nwant\n%q", got, want)
	}
	if err := Store("", files); err == nil {
		t.Error("nobody hears it, and it does not say so")
	}
}

func rightsOf(oob []byte) []int {
	var out []int
	messages, _ := unix.ParseSocketControlMessage(oob)
	for i := range messages {
		fds, _ := unix.ParseUnixRights(&messages[i])
		out = append(out, fds...)
	}
	return out
}

func dup(t *testing.T, f *os.File) int {
	t.Helper()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func TestProblemsFile(t *testing.T) {
	var want diag.List
	want.Errorf(diag.Origin{File: "f", Line: 3, Layer: "main"}, "Network", "tap", "another", "no")
	want.Add(diag.Problem{Severity: diag.Warning, What: "hm"})
	f, err := ProblemsFile(want)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	var got diag.List
	if err := json.Unmarshal(text, &got); err != nil || got.Error() != want.Error() {
		t.Errorf("%v: %s", err, got)
	}
}
