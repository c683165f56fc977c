// Package source finds the files of a virtual machine and reads them: search
// path, drop-ins, masks, order. It knows no key and no syntax.
package source

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/ampoule-vm/ampoule/internal/diag"
)

// Orphaned is what is wrong with drop-ins without a VM.
const Orphaned = "drop-ins for a VM that does not exist"

// Suffix is that of a VM's file.
const Suffix = ".microvm"

// MaxFile is the largest file that is read, in bytes.
const MaxFile = 4 << 20

// SearchPath lists the directories of NAME.microvm, the strongest first.
func SearchPath() []string {
	return []string{"/etc/ampoule", "/run/ampoule", "/usr/local/lib/ampoule", "/usr/lib/ampoule"}
}

// File is a file that was read.
type File struct {
	Path  string
	Layer string // "main" or "drop-in"
	Data  []byte
}

// Hidden is a file that does not count because another has its name in a
// directory that ranks higher.
type Hidden struct {
	Path string `json:"path"`
	By   string `json:"by"`
}

// Set is all that makes up one VM, the weakest file first.
type Set struct {
	// Name is the VM's, Main the path of its file as messages show it, Fragment
	// its absolute path as the VM's world has it.
	Name, Main, Fragment string
	Files                []File
	Hidden               []Hidden
}

// IsFile reports whether a command's argument is a FILE rather than a NAME.
func IsFile(argument string) bool {
	return strings.ContainsRune(argument, '/') || strings.HasSuffix(argument, Suffix)
}

// finder reads under a root and collects what is wrong.
type finder struct {
	argument string
	root     string
	// tree, where there is one, knows already what is there.
	tree     *Tree
	problems diag.List
}

// Find reads the VM that an argument of a command stands for: a FILE with the
// drop-ins beside it, or a NAME in the search path below root.
func Find(argument, root string, dirs []string) (Set, diag.List) {
	f := &finder{argument: argument, root: root}
	var set Set
	if IsFile(argument) {
		set = f.file(argument)
	} else {
		set = f.name(argument, dirs)
	}
	return set, f.problems
}

func (f *finder) fail(file, accepted, format string, args ...any) {
	f.problems.Add(diag.Problem{Origin: diag.Origin{File: file, Line: 1}, What: fmt.Sprintf(format, args...), Accepted: accepted})
}

// file reads FILE and FILE.d/*.conf. The paths in messages are as given.
func (f *finder) file(argument string) Set {
	f.root = ""
	set := Set{Main: argument}
	name, ok := strings.CutSuffix(path.Base(argument), Suffix)
	if !ok {
		f.fail(argument, "accepted: a file NAME.microvm, or a name without a slash", "the name of the file does not end in %s", Suffix)
		return set
	}
	set.Name = name
	// Abs fails only where the working directory is gone; then a relative path
	// leads nowhere anyway.
	set.Fragment, _ = filepath.Abs(argument)
	if data, ok := f.read(argument); ok {
		set.Files = append(set.Files, File{Path: argument, Layer: "main", Data: data})
	}
	f.dropIns(&set, []string{argument + ".d"})
	return set
}

// name searches the directories, the strongest first.
func (f *finder) name(name string, dirs []string) Set {
	set := Set{Name: name}
	unknown := false // whether a directory has the VM
	for _, dir := range dirs {
		candidate := dir + "/" + name + Suffix
		if err := f.lookUp(dir, name+Suffix); err != nil {
			if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
				f.fail(candidate, "accepted: a readable directory", "%s", reason(err))
				unknown = true
			}
			continue
		}
		if set.Main != "" {
			set.Hidden = append(set.Hidden, Hidden{Path: candidate, By: set.Main})
			continue
		}
		set.Main, set.Fragment = candidate, candidate
		if data, ok := f.read(candidate); ok {
			set.Files = append(set.Files, File{Path: candidate, Layer: "main", Data: data})
		}
	}
	if set.Main == "" {
		set.Main = path.Join(dirs[0], name+Suffix)
		if !unknown {
			f.notFound(name, dirs)
		}
		return set
	}
	specific := []string{name + Suffix + ".d"}
	for i := len(name) - 1; i > 0; i-- {
		if name[i] == '-' && i < len(name)-1 {
			specific = append(specific, name[:i+1]+Suffix+".d")
		}
	}
	// The rank of the directory beats how specific the name is, and the
	// type-wide directory is weakest everywhere, as in systemd.
	var ranks []string
	for _, dir := range dirs {
		for _, s := range specific {
			ranks = f.existing(ranks, dir, s)
		}
	}
	for _, dir := range dirs {
		ranks = f.existing(ranks, dir, typeWide)
	}
	f.dropIns(&set, ranks)
	return set
}

// typeWide is the name of the directory of drop-ins for every VM.
const typeWide = "microvm.d"

// lookUp reports why there is no entry of that name in a directory of the
// search path, or nil.
func (f *finder) lookUp(dir, name string) error {
	if f.tree != nil {
		return f.tree.lookUp(dir, name)
	}
	_, err := os.Lstat(f.host(dir + "/" + name))
	return err
}

// existing appends a directory of drop-ins, unless it is known that there is
// none.
func (f *finder) existing(ranks []string, dir, name string) []string {
	if f.tree != nil && errors.Is(f.tree.lookUp(dir, name), fs.ErrNotExist) {
		return ranks
	}
	if info, err := os.Stat(f.host(dir)); f.tree == nil && err == nil && !info.IsDir() {
		return ranks // as good as no directory
	}
	return append(ranks, dir+"/"+name)
}

func (f *finder) notFound(name string, dirs []string) {
	accepted := "accepted: the name of a file NAME.microvm there, or the path of one"
	if near := diag.Nearest(name, f.names(dirs)); near != "" {
		accepted = "did you mean " + near + "?"
	}
	f.fail(path.Join(dirs[0], name+Suffix), accepted, "no VM has the name %s; searched %s", name, strings.Join(dirs, ", "))
	for _, dir := range dirs {
		orphans := path.Join(dir, name+Suffix+".d")
		if f.lookUp(dir, name+Suffix+".d") == nil {
			f.fail(orphans, "rename or remove the directory, or add "+name+Suffix, Orphaned)
		}
	}
}

func (f *finder) names(dirs []string) []string {
	if f.tree != nil {
		return f.tree.Names()
	}
	return Names(f.root, dirs)
}

// Names lists the VMs of the search path, sorted.
func Names(root string, dirs []string) []string { return Scan(root, dirs).Names() }

// host is where a path of the VM's world lies on this machine.
func (f *finder) host(p string) string {
	if f.root == "" {
		return p
	}
	return filepath.Join(f.root, p)
}

// dropIns reads *.conf of the directories, the strongest rank first, and
// appends them to the set sorted by file name.
func (f *finder) dropIns(set *Set, ranks []string) {
	if len(ranks) == 0 {
		return
	}
	winners := map[string]string{}
	for _, dir := range ranks {
		for _, name := range f.confs(dir, path.Base(dir) == set.Name+Suffix+".d") {
			p := path.Join(dir, name)
			if winner, ok := winners[name]; ok {
				set.Hidden = append(set.Hidden, Hidden{Path: p, By: winner})
				continue
			}
			winners[name] = p
		}
	}
	names := make([]string, 0, len(winners))
	for name := range winners {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		p := winners[name]
		if f.masked(p) {
			continue
		}
		if data, ok := f.read(p); ok {
			set.Files = append(set.Files, File{Path: p, Layer: "drop-in", Data: data})
		}
	}
}

// confs lists the drop-ins of a directory. A file with another name, which systemd
// would pass over in silence, is an error where it can only be meant for this VM:
// somebody forgot the end of the name. It is a warning where all others would fail
// with it, or where the name says that it was set aside. Editors' hidden and
// backup files mean nothing.
func (f *finder) confs(dir string, own bool) []string {
	entries, err := os.ReadDir(f.host(dir))
	if err != nil {
		if _, dangling := f.dangling(dir, err); dangling || !errors.Is(err, fs.ErrNotExist) {
			f.fail(dir, "accepted: a directory of *.conf files", "%s", f.explain(dir, err))
		}
		return nil
	}
	var names []string
	for _, e := range entries {
		name := e.Name()
		switch {
		case strings.HasPrefix(name, "."), strings.HasSuffix(name, "~"):
		case strings.HasSuffix(name, ".conf"):
			names = append(names, name)
		default:
			p := diag.Problem{
				Origin: diag.Origin{File: path.Join(dir, name), Line: 1}, Severity: diag.Warning,
				What: "not read, since the name of a drop-in ends in .conf",
			}
			if own && !setAside(name) {
				p.Severity, p.Accepted = diag.Error, "rename it to "+name+".conf, or remove it from here"
			}
			f.problems.Add(p)
		}
	}
	return names
}

// setAside reports whether the name of a file says that it is not to count: what
// people write, and what dpkg, rpm and ucf leave behind.
func setAside(name string) bool {
	if strings.HasPrefix(strings.ToUpper(name), "README") {
		return true
	}
	end := path.Ext(name)
	for _, kind := range []string{".dpkg-", ".rpm", ".ucf-"} {
		if strings.HasPrefix(end, kind) {
			return true
		}
	}
	return slices.Contains([]string{".disabled", ".off", ".bak", ".backup", ".old", ".orig", ".new", ".save", ".swp", ".rej"}, end)
}

// masked reports whether a path is a link to /dev/null.
func (f *finder) masked(p string) bool {
	if f.tree != nil && f.tree.regular(p) {
		return false
	}
	target, err := os.Readlink(f.host(p))
	return err == nil && path.Clean(target) == "/dev/null"
}

// read returns the contents of a regular file, or reports why not.
func (f *finder) read(p string) ([]byte, bool) {
	if f.masked(p) {
		f.fail(p, "remove the link to /dev/null to unmask it", "the VM is masked")
		return nil, false
	}
	data, what, err := readRegular(f.host(p))
	switch {
	case what != "":
		f.fail(p, "accepted: a regular file", "%s", what)
		return nil, false
	case err != nil:
		accepted := "accepted: a readable file"
		if _, dangling := f.dangling(p, err); p == f.argument && !strings.ContainsRune(p, '/') && !dangling {
			accepted += "; a VM of the search path is called without " + Suffix
		}
		f.fail(p, accepted, "%s", f.explain(p, err))
		return nil, false
	case len(data) > MaxFile:
		f.fail(p, fmt.Sprintf("accepted: at most %d bytes", MaxFile), "the file is too large")
		return nil, false
	case len(data) == 0:
		f.fail(p, "write its sections, remove it, or mask it with a link to /dev/null", "the file is empty")
		return nil, false
	}
	return data, true
}

// readRegular returns what is in a regular file, of a large one a little more
// than MaxFile; or what it is instead of one. It makes no more system calls than
// it must: the generator reads thousands of files while the machine boots.
func readRegular(path string) (data []byte, what string, err error) {
	// O_NONBLOCK: a FIFO must not hang the reader.
	fd, err := open(path)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = syscall.Close(fd) }()
	var stat syscall.Stat_t
	if err := syscall.Fstat(fd, &stat); err != nil {
		return nil, "", err
	}
	switch stat.Mode & syscall.S_IFMT {
	case syscall.S_IFREG:
	case syscall.S_IFDIR:
		return nil, "this is a directory", nil
	default:
		return nil, "this is not a regular file", nil
	}
	// One byte more than there should be: a short read is the end.
	data = make([]byte, min(stat.Size, MaxFile)+1)
	length := 0
	for length <= MaxFile {
		if length == len(data) { // it grows, or does not tell its size
			data = append(data, make([]byte, 64<<10)...)
		}
		n, err := syscall.Read(fd, data[length:])
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil:
			return nil, "", err
		case n == 0, n > 0 && length+n == int(stat.Size):
			return data[:length+n], "", nil
		}
		length += n
	}
	return data[:length], "", nil
}

func open(path string) (int, error) {
	for {
		fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
		if !errors.Is(err, syscall.EINTR) {
			return fd, err
		}
	}
}

// explain is reason, and names the target of a link that leads nowhere.
func (f *finder) explain(p string, err error) string {
	if target, ok := f.dangling(p, err); ok {
		return fmt.Sprintf("a link to %s, which does not exist", target)
	}
	return reason(err)
}

// dangling returns the target of a link behind which something is missing.
func (f *finder) dangling(p string, err error) (target string, ok bool) {
	if !errors.Is(err, fs.ErrNotExist) {
		return "", false
	}
	target, err = os.Readlink(f.host(p))
	return target, err == nil
}

// reason strips path and operation, which the message already has.
func reason(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		switch errno {
		case syscall.EACCES, syscall.EPERM:
			return fmt.Sprintf("cannot be read: %s (uid %d)", errno.Error(), os.Geteuid())
		case syscall.ENOENT:
			return "no such file"
		}
		return "cannot be read: " + errno.Error()
	}
	return "cannot be read"
}
