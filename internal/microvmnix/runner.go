package microvmnix

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/diag"
)

// Runner is a runner package: bin/ with its scripts, and share/microvm with notes
// for those who start them. Relative paths in it are relative to the VM's state
// directory.
type Runner struct {
	// Dir is the package's directory, as an absolute path.
	Dir string
	// Bin are the programs in bin/, in the order of their names.
	Bin []Program
	// Hypervisor is microvm.hypervisor; empty where nothing says it.
	Hypervisor string
	// System is the guest's toplevel that share/microvm/system leads to; empty
	// where there is none. Script may name it: see [Runner.Toplevel].
	System string
	// TapFlags are those with which taps are to be made: vnet_hdr, multi_queue.
	TapFlags []string
	// Taps are names of interfaces.
	Taps     []string
	MacVTaps []MacVTap
	// Shares are those by virtiofs, in the order of their tags.
	Shares []Share
	// PCI and USB are devices, as microvm.devices.*.path has them.
	PCI, USB []string
	// VSockCID is 0 where there is no vsock.
	VSockCID int64
	// Script is bin/microvm-run; nil where it could not be read.
	Script *Script
	// Config is the file of --config-file, which Firecracker has its VM in; nil
	// where there is none.
	Config *Config
}

// Program is an entry of bin/.
type Program struct {
	Name string
	// Target is what the link leads to; empty where it is no link.
	Target string
}

// MacVTap is a line of macvtap-interfaces.
type MacVTap struct{ ID, MAC, Link, Mode string }

// Share is a directory of share/microvm/virtiofs.
type Share struct {
	Tag, Socket, Source string
	// Daemon is how bin/virtiofsd-run starts the daemon, nil where that could not be
	// read.
	Daemon *Daemon
}

// Config is a file that a command line names.
type Config struct {
	File string
	Text []byte
}

// maxFile is the longest file that is read, in bytes.
const maxFile = 4 << 20

// ReadRunner reads the runner in a directory of a tree; dir is below the root of
// fsys, without a slash in front, and so are the files that it opens. Problems name
// files by absolute paths. A file that is not there is no problem where a runner
// need not have it. The runner is nil where dir is none at all.
func ReadRunner(fsys fs.FS, dir string) (*Runner, []diag.Problem) {
	t := &tree{fsys: fsys, dir: strings.Trim(path.Clean(dir), "/")}
	r := &Runner{Dir: "/" + t.dir}
	if !t.bin(r) {
		return nil, t.problems
	}
	r.Hypervisor = t.word("hypervisor")
	if target, err := fs.ReadLink(fsys, t.share("system")); err == nil {
		r.System = target
	}
	r.TapFlags, r.Taps = t.lines("tap-flags"), t.lines("tap-interfaces")
	r.PCI, r.USB = t.lines("pci-devices"), t.lines("usb-devices")
	t.macvtaps(r)
	t.cid(r)
	t.shares(r)
	file := path.Join(t.dir, "bin/microvm-run")
	if text := t.read(file); text != nil {
		var problems []diag.Problem
		r.Script, problems = ParseScript("/"+file, text)
		t.problems = append(t.problems, problems...)
		t.config(r)
		t.guess(r)
	}
	return r, t.problems
}

// Toplevel is the guest's toplevel: that of System, or the one that the kernel's
// command line names by init=; empty where neither is there.
func (r *Runner) Toplevel() string {
	if r.System != "" {
		return r.System
	}
	texts := []string{}
	if r.Script != nil && r.Script.Exec != nil {
		for _, w := range r.Script.Exec.Args {
			texts = append(texts, w.Text)
		}
	}
	if r.Config != nil {
		texts = append(texts, string(r.Config.Text))
	}
	for _, text := range texts {
		for word := range strings.FieldsSeq(text) {
			if rest, ok := strings.CutPrefix(word, "init=/nix/store/"); ok {
				if i := strings.IndexByte(rest, '/'); i > 0 {
					return "/nix/store/" + rest[:i]
				}
			}
		}
	}
	return ""
}

// Has reports whether bin/ has a program.
func (r *Runner) Has(name string) bool {
	return slices.ContainsFunc(r.Bin, func(p Program) bool { return p.Name == name })
}

// tree reads below one directory, and collects what goes wrong.
type tree struct {
	fsys     fs.FS
	dir      string
	problems []diag.Problem
}

func (t *tree) share(name string) string { return path.Join(t.dir, "share/microvm", name) }

func (t *tree) problem(file string, line int, what, accepted string) {
	t.problems = append(t.problems, diag.Problem{Origin: diag.Origin{File: "/" + file, Line: line}, What: what, Accepted: accepted})
}

// failed is a problem about a file that could not be read.
func (t *tree) failed(file string, err error) {
	var at *fs.PathError
	if errors.As(err, &at) {
		err = at.Err
	}
	t.problem(file, 0, "reading it: "+err.Error(), "")
}

// bin lists the programs; false where the directory is no runner.
func (t *tree) bin(r *Runner) bool {
	dir := path.Join(t.dir, "bin")
	entries, err := fs.ReadDir(t.fsys, dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			t.problem(t.dir, 0, "no runner: it has no directory bin", "the directory of a runner, such as /var/lib/microvms/NAME/current or a result of nix build")
		} else {
			t.failed(dir, err)
		}
		return false
	}
	for _, e := range entries {
		p := Program{Name: e.Name()}
		if target, err := fs.ReadLink(t.fsys, path.Join(dir, e.Name())); err == nil {
			p.Target = target
		}
		r.Bin = append(r.Bin, p)
	}
	slices.SortFunc(r.Bin, func(a, b Program) int { return cmp.Compare(a.Name, b.Name) })
	if !r.Has("microvm-run") {
		t.problem(dir, 0, "no runner: it has no microvm-run", "the directory of a runner, such as /var/lib/microvms/NAME/current or a result of nix build")
		return false
	}
	return true
}

// read returns a file's text; nil, and a problem, where that cannot be.
func (t *tree) read(file string) []byte {
	text, err := t.text(file)
	if err != nil {
		t.failed(file, err)
		return nil
	}
	return text
}

// text reads a file of a bounded size.
func (t *tree) text(file string) ([]byte, error) {
	f, err := t.fsys.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, errors.New("not a regular file")
	case info.Size() > maxFile:
		return nil, fmt.Errorf("longer than %d bytes", maxFile)
	}
	var b bytes.Buffer
	if _, err := b.ReadFrom(f); err != nil {
		return nil, err
	}
	return append([]byte{}, b.Bytes()...), nil
}

// lines reads a note with an item on each line; one that is not there has none.
func (t *tree) lines(name string) []string {
	file := t.share(name)
	text, err := t.text(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.failed(file, err)
		return nil
	}
	if what := unreadable(text); what != "" && what != "empty" {
		t.problem(file, 0, what, "lines of text")
		return nil
	}
	var out []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, line)
		}
	}
	return out
}

func (t *tree) word(name string) string {
	if lines := t.lines(name); len(lines) > 0 {
		return lines[0]
	}
	return ""
}

func (t *tree) macvtaps(r *Runner) {
	for i, line := range t.lines("macvtap-interfaces") {
		f := strings.Fields(line)
		if len(f) != 4 {
			t.problem(t.share("macvtap-interfaces"), i+1, "not an interface: "+diag.Printable(line, diag.MaxShown), "ID MAC LINK MODE")
			continue
		}
		r.MacVTaps = append(r.MacVTaps, MacVTap{ID: f[0], MAC: f[1], Link: f[2], Mode: f[3]})
	}
}

func (t *tree) cid(r *Runner) {
	word := t.word("vsock-cid")
	if word == "" {
		return
	}
	n, err := strconv.ParseInt(word, 10, 64)
	if err != nil || n <= 0 || n > 1<<32-1 {
		t.problem(t.share("vsock-cid"), 1, "not a number of a vsock: "+diag.Printable(word, diag.MaxShown), "3 to 4294967295")
		return
	}
	r.VSockCID = n
}

func (t *tree) shares(r *Runner) {
	dir := t.share("virtiofs")
	entries, err := fs.ReadDir(t.fsys, dir)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			t.failed(dir, err)
		}
		return
	}
	for _, e := range entries {
		s := Share{Tag: e.Name(), Socket: t.word("virtiofs/" + e.Name() + "/socket"), Source: t.word("virtiofs/" + e.Name() + "/source")}
		if s.Socket == "" || s.Source == "" {
			t.problem(path.Join(dir, e.Name()), 0, "a share without its socket and its source", "the files socket and source")
			continue
		}
		r.Shares = append(r.Shares, s)
	}
	slices.SortFunc(r.Shares, func(a, b Share) int { return cmp.Compare(a.Tag, b.Tag) })
	if len(r.Shares) > 0 && r.Has("virtiofsd-run") {
		t.daemons(r)
	}
}

// config reads what --config-file names.
func (t *tree) config(r *Runner) {
	if r.Script.Exec == nil {
		return
	}
	args := r.Script.Exec.Args
	for i, w := range args {
		if w.Text != "--config-file" || i+1 == len(args) {
			continue
		}
		file := strings.TrimPrefix(args[i+1].Text, "/")
		if text := t.read(file); text != nil {
			r.Config = &Config{File: "/" + file, Text: text}
		}
	}
}

// guess takes the hypervisor from the program where no note says it, as before
// July 2025.
func (t *tree) guess(r *Runner) {
	if r.Hypervisor == "" {
		r.Hypervisor = r.Script.Hypervisor()
	}
}
