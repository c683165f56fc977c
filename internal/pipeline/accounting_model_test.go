package pipeline

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/credential/rule"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/driver/all"
	"github.com/ampoule-vm/ampoule/internal/emit"
	"github.com/ampoule-vm/ampoule/internal/source"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// accountedVM has two dashes, so that there are two prefixes with drop-ins.
const accountedVM = "app-web-01"

// commandLine is the file name of assignments by --set.
const commandLine = "--set"

// written is one assignment. It is known by its address: two lines with the same
// text are two assignments.
type written struct{ section, key, value string }

// layerFile is one file of a VM, or its command line.
type layerFile struct {
	path   string
	masked bool // a link to /dev/null
	lines  []*written
}

// text returns the file and the number of the line of each assignment. Whether
// blanks and comments stand between them follows from their number alone, so
// that both texts of a trial differ in the one assignment.
func (f *layerFile) text() (text string, at map[*written]int) {
	at = make(map[*written]int, len(f.lines))
	var b strings.Builder
	section, line := "", 0
	for i, w := range f.lines {
		if f.path == commandLine {
			at[w] = i + 1
			continue
		}
		if w.section != section {
			section, line = w.section, line+1
			fmt.Fprintf(&b, "[%s]\n", section)
		}
		if len(w.value)%5 == 4 {
			line++
			b.WriteString("# a comment\n")
		}
		line++
		at[w] = line
		fmt.Fprintf(&b, "%s=%s\n", w.key, w.value)
	}
	return b.String(), at
}

// place is where an assignment can stand: a file of one layer.
type place struct{ dir, file string }

func (p place) path() string { return path.Join(p.dir, p.file) }

// ownImage is the file of an image whose lines are on trial too.
const ownImage = "/images/own/microvm.conf"

// withImage returns the files with that image, and a line in it.
func withImage(files []*layerFile, lines ...*written) []*layerFile {
	return append(with(files, files[0].path, &written{spec.Section, "Image", path.Dir(ownImage)}, false), &layerFile{path: ownImage, lines: lines})
}

// mains are the places of the VM's own file, the strongest first.
func mains() []place {
	var out []place
	for _, dir := range source.SearchPath() {
		out = append(out, place{dir, accountedVM + source.Suffix})
	}
	return out
}

// dropIns are the places of a drop-in of that name: the VM's own, those of its
// prefixes and the type-wide ones, in every directory of the search path.
func dropIns(name string) []place {
	var out []place
	for _, dir := range source.SearchPath() {
		for _, d := range []string{accountedVM + ".microvm.d", "app-web-.microvm.d", "app-.microvm.d", "microvm.d"} {
			out = append(out, place{dir, d + "/" + name})
		}
	}
	return out
}

// with returns the files with one more assignment at the end of one of them,
// which is made if need be, or at its beginning.
func with(files []*layerFile, p string, w *written, first bool) []*layerFile {
	out := slices.Clone(files)
	i := slices.IndexFunc(out, func(f *layerFile) bool { return f.path == p })
	if i < 0 {
		return append(out, &layerFile{path: p, lines: []*written{w}})
	}
	lines := append(slices.Clone(out[i].lines), w)
	if first {
		lines = append([]*written{w}, out[i].lines...)
	}
	out[i] = &layerFile{path: p, lines: lines}
	return out
}

// replaced returns the files with another assignment in the place of one, or
// without it where there is none. A file without assignments is none.
func replaced(files []*layerFile, old, by *written) []*layerFile {
	var out []*layerFile
	for _, f := range files {
		if i := slices.Index(f.lines, old); i >= 0 {
			lines := slices.Clone(f.lines)
			if by != nil {
				lines[i] = by
			} else {
				lines = slices.Delete(lines, i, i+1)
			}
			f = &layerFile{path: f.path, lines: lines}
		}
		if f.masked || len(f.lines) > 0 {
			out = append(out, f)
		}
	}
	return out
}

func assignments(files []*layerFile) []*written {
	var out []*written
	for _, f := range files {
		out = append(out, f.lines...)
	}
	return out
}

// describeFiles prints files for whoever wants to see a failure again.
func describeFiles(files []*layerFile) string {
	var b strings.Builder
	for _, f := range files {
		text, _ := f.text()
		switch {
		case f.masked:
			text = "-> /dev/null\n"
		case f.path == commandLine:
			for _, w := range f.lines {
				text += w.key + "=" + w.value + "\n"
			}
		}
		fmt.Fprintf(&b, "--- %s\n%s", f.path, text)
	}
	return b.String()
}

// world is a search path on disk. It holds what it was last asked to show, so
// that a trial writes the one file in which it differs from the trial before.
type world struct {
	t    testing.TB
	root string
	have map[string]string
	// tree is the listing of the search path while no file comes or goes.
	tree *source.Tree
	room emit.Room
	// lose, if not nil, is an assignment that does not reach the disk though the
	// files have it: a layer that loses a line.
	lose *written
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, root: t.TempDir(), have: map[string]string{}}
	for _, dir := range source.SearchPath() {
		w.check(os.MkdirAll(w.host(dir), 0o755))
	}
	// Two images that say nothing, beside ownImage and one that is not there.
	for _, image := range []string{"/images/one", "/images/two"} {
		w.check(os.MkdirAll(w.host(image), 0o755))
		w.check(os.WriteFile(w.host(image+"/microvm.conf"), []byte("[MicroVM]\n"), 0o644))
	}
	return w
}

func (w *world) host(p string) string { return filepath.Join(w.root, p) }

// show makes the disk hold these files and no other.
func (w *world) show(files []*layerFile) (set []string) {
	wanted := make(map[string]string, len(files))
	for _, f := range files {
		switch text, _ := f.text(); {
		case f.path == commandLine:
			for _, a := range f.lines {
				set = append(set, a.key+"="+a.value)
			}
		case f.masked:
			wanted[f.path] = "-> /dev/null"
		default:
			wanted[f.path] = text
		}
	}
	for p := range w.have {
		if _, ok := wanted[p]; !ok || strings.HasPrefix(w.have[p], "->") != strings.HasPrefix(wanted[p], "->") {
			w.check(os.Remove(w.host(p)))
			_ = os.Remove(filepath.Dir(w.host(p))) // where it was the last
			delete(w.have, p)
			w.tree = nil
		}
	}
	for p, text := range wanted {
		old, ok := w.have[p]
		if ok && old == text {
			continue
		}
		if !ok {
			w.check(os.MkdirAll(filepath.Dir(w.host(p)), 0o755))
			w.tree = nil
		}
		if target, ok := strings.CutPrefix(text, "-> "); ok {
			w.check(os.Symlink(target, w.host(p)))
		} else {
			w.check(os.WriteFile(w.host(p), []byte(text), 0o644))
		}
		w.have[p] = text
	}
	return set
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.t.Fatal(err)
	}
}

// loaded is a VM with the files that it was made of.
type loaded struct {
	files []*layerFile
	res   Result
	// runs is all that changes what runs: both digests, and the unit without
	// its comments and without the plan in it, which tells where lines stand.
	runs string
	// unit are the lines of the unit.
	unit []string
}

func (w *world) load(files []*layerFile) *loaded {
	shown := files
	if w.lose != nil {
		shown = replaced(files, w.lose, nil)
	}
	set := w.show(shown)
	if w.tree == nil {
		w.tree = source.Scan(w.root, source.SearchPath())
	}
	l := &loaded{files: files, res: Load(Input{Argument: accountedVM, Tree: w.tree, Set: set, Drivers: all.Drivers(), Architecture: "x86-64"})}
	if l.res.Plan == nil {
		return l
	}
	text, err := emit.Unit(emit.UnitSource{
		Plan: l.res.Plan, JSON: l.res.JSON, Resolved: l.res.Resolved, Main: "/etc/ampoule/x.microvm",
		Program: "/usr/bin/ampoule", KVMGroup: "kvm", Room: &w.room,
	})
	if err != nil {
		w.t.Fatalf("a plan and no unit: %v\n%s", err, describeFiles(files))
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "SetCredential="+rule.PlanName+":") {
			l.unit = append(l.unit, line)
		}
	}
	l.runs = l.res.Plan.Digest.VM + "\n" + l.res.Plan.Digest.Unit + "\n" + strconv.FormatBool(l.res.Plan.Unit.KeepRunning) + "\n" + strings.Join(l.unit, "\n")
	return l
}

// valid loads files and takes out the assignments that are refused, until a plan
// comes of them: what is tried is tried with a VM that is in order.
func (w *world) valid(files []*layerFile) *loaded {
	for range 200 {
		l := w.load(files)
		if l.res.Plan != nil {
			return l
		}
		if bad := l.firstRefused(); bad != nil {
			files = replaced(files, bad, nil)
			continue
		}
		// All that names no assignment is a kernel that is missing by now.
		main := slices.IndexFunc(files, func(f *layerFile) bool { return strings.HasSuffix(f.path, source.Suffix) && len(f.lines) > 0 })
		files = with(files, files[main].path, &written{spec.Section, "Kernel", "/boot/vmlinuz"}, true)
	}
	w.t.Fatalf("no valid VM in\n%s", describeFiles(files))
	return nil
}

// firstRefused returns the assignment at which an error stands, or else one that
// an error names.
func (l *loaded) firstRefused() *written {
	var named *written
	for _, f := range l.files {
		_, at := f.text()
		for _, a := range f.lines {
			if slices.ContainsFunc(l.res.Problems, func(p diag.Problem) bool {
				return p.Severity == diag.Error && p.Origin.File == f.path && p.Origin.Line == at[a]
			}) {
				return a
			}
			if named == nil && l.refuses(f.path, at[a], a) {
				named = a
			}
		}
	}
	return named
}

// where returns the file and the line of an assignment.
func (l *loaded) where(w *written) (file string, line int) {
	for _, f := range l.files {
		if slices.Contains(f.lines, w) {
			_, at := f.text()
			return f.path, at[w]
		}
	}
	return "", 0
}

// standing returns the assignment that stands in a line, or nil.
func (l *loaded) standing(file string, line int) *written {
	for _, f := range l.files {
		if f.path != file {
			continue
		}
		_, at := f.text()
		for _, a := range f.lines {
			if at[a] == line {
				return a
			}
		}
	}
	return nil
}

// plainVM is a VM that sets what it must, in the strongest main file but rank.
func plainVM(rank int, hypervisor string) []*layerFile {
	return []*layerFile{{path: mains()[rank].path(), lines: []*written{
		{"Unit", "Description", "a VM"},
		{spec.Section, "Hypervisor", hypervisor}, {spec.Section, "Kernel", "/boot/vmlinuz"}, {spec.Section, "Initrd", "/boot/initrd"},
		{"Service", "LoadCredential", "outer:/run/secrets/outer"},
		{"Install", "WantedBy", "multi-user.target"},
	}}}
}
