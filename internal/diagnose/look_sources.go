package diagnose

import (
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/nixsource"
	"github.com/ampoule-vm/ampoule/internal/nixstore"
)

// Bounds of what is read of sources: a configuration has some hundred files, and a
// tree that has more is something else.
const (
	mostFiles   = 4000
	mostDepth   = 12
	mostSource  = 1 << 20
	mostBytes   = 32 << 20
	mostGuesses = 32
)

// sourceDir is a directory with a configuration.
type sourceDir struct {
	path string
	// sure: the system was built from it, or would be.
	sure bool
	// vm: it is the flake of that VM alone.
	vm string
}

// sourceFile is a file that has to do with microVMs.
type sourceFile struct {
	path string
	dir  sourceDir
	text []byte
}

func itoa(n int) string { return strconv.Itoa(n) }

// sources finds where the configuration sets something of a VM, and what of it git
// does not know.
func (l *looker) sources() {
	l.config = l.sourceFiles()
	for _, f := range l.config {
		if !strings.HasSuffix(f.path, ".nix") || !strings.Contains(string(f.text), "microvm") {
			continue
		}
		parsed := nixsource.Parse(f.text)
		for i := range parsed.Attributes {
			l.written(f, &parsed.Attributes[i])
		}
	}
	l.untracked()
}

// sourceDirs lists the directories: those that the system refers to, the host's
// own, the VMs' flakes, and the newest in the store that have to do with microVMs.
func (l *looker) sourceDirs() []sourceDir {
	var out []sourceDir
	add := func(p string, sure bool, vm string) {
		if real, err := l.tree.Resolve(p); err == nil {
			if !slices.ContainsFunc(out, func(d sourceDir) bool { return d.path == real }) {
				out = append(out, sourceDir{real, sure, vm})
			}
		}
	}
	if l.db != nil && l.host.System != "" {
		for _, base := range l.store.Sources {
			p := path.Join(nixstore.StoreDir, base)
			users, err := l.db.Users(p)
			if err == nil && users[l.host.System] {
				add(p, true, "")
			}
		}
	}
	add("/etc/nixos", true, "")
	for _, vm := range l.host.VMs {
		if dir, _ := flakeDir(vm.Flake); dir != "" {
			add(dir, true, vm.Name)
		}
	}
	// A system seldom refers to the sources of its configuration. What else is in the
	// store may be of another one, and serves as evidence alone, where that is wanted.
	if !slices.ContainsFunc(l.host.VMs, (*VM).unread) {
		return out
	}
	var guesses []string
	for _, base := range l.store.Sources {
		guesses = append(guesses, path.Join(nixstore.StoreDir, base))
	}
	slices.SortStableFunc(guesses, func(a, b string) int { return l.built(b).Compare(l.built(a)) })
	for _, p := range guesses[:min(len(guesses), mostGuesses)] {
		flake, err := l.tree.ReadFile(path.Join(p, "flake.nix"), mostSource)
		if err == nil && strings.Contains(string(flake), "microvm") {
			add(p, false, "")
		}
	}
	return out
}

// flakeDir is the directory of a reference to a flake; byGit: Nix takes from it what
// git tracks.
func flakeDir(ref string) (dir string, byGit bool) {
	ref, _, _ = strings.Cut(ref, "#")
	ref, query, _ := strings.Cut(ref, "?")
	byGit = true
	for _, scheme := range []string{"git+file://", "git+file:", "path://", "path:", "file://"} {
		if rest, ok := strings.CutPrefix(ref, scheme); ok {
			ref, byGit = rest, strings.HasPrefix(scheme, "git")
			break
		}
	}
	if !path.IsAbs(ref) {
		return "", false
	}
	for field := range strings.SplitSeq(query, "&") {
		if sub, ok := strings.CutPrefix(field, "dir="); ok {
			ref = path.Join(ref, sub)
		}
	}
	return path.Clean(ref), byGit && nixstore.Of(ref) == ""
}

// sourceFiles reads the files of all directories.
func (l *looker) sourceFiles() []sourceFile {
	var out []sourceFile
	for _, d := range l.sourceDirs() {
		// The package sets and microvm.nix itself are not what somebody configured.
		if l.tree.Exists(path.Join(d.path, "pkgs/top-level")) || l.tree.Exists(path.Join(d.path, "lib/runners")) {
			continue
		}
		left, bytes := mostFiles, mostBytes
		l.walk(d.path, 0, &left, func(p string) {
			if bytes < 0 || !interesting(p, d.sure) {
				return
			}
			text, ok := l.read(p, "what the configuration says")
			if ok {
				bytes -= len(text)
				out = append(out, sourceFile{p, d, text})
			}
		})
		if left <= 0 || bytes < 0 {
			l.partial(d.path, errorOf("it is too large"), "all that the configuration says")
		}
	}
	return out
}

// interesting reports whether a file may hold a configuration, or a secret in one.
func interesting(p string, sure bool) bool {
	switch path.Ext(p) {
	case ".nix":
		return true
	case ".env", ".json", ".yaml", ".yml", ".toml", ".txt", ".conf", "":
		return sure && path.Base(p) != "flake.lock" && path.Base(p) != "LICENSE"
	}
	return false
}

// walk goes through the regular files below a directory. Links are not followed.
func (l *looker) walk(dir string, depth int, left *int, each func(string)) {
	if depth > mostDepth || *left <= 0 {
		return
	}
	names, ok := l.names(dir, "what the configuration says")
	if !ok {
		return
	}
	for _, n := range names {
		if n == ".git" || n == "node_modules" || strings.HasPrefix(n, "result") {
			continue
		}
		p := path.Join(dir, n)
		info, err := l.tree.Lstat(p)
		switch {
		case err != nil:
		case info.Mode.IsDir():
			l.walk(p, depth+1, left, each)
		case regular(info) && info.Size <= mostSource && *left > 0:
			*left--
			each(p)
		}
	}
}

// written notes an attribute at the VMs that it is about.
func (l *looker) written(f sourceFile, a *nixsource.Attribute) {
	at := -1
	for i, name := range a.Path {
		if name == "microvm" {
			at = i
		}
	}
	if at < 0 || at+1 == len(a.Path) || a.Path[at+1] == "vms" {
		return
	}
	w := Written{Option: strings.Join(a.Path[at:], "."), File: f.path, From: a.From, To: a.To}
	if v, ok := a.Literal(); ok {
		w.Value = v
	}
	for _, vm := range l.host.VMs {
		switch {
		case a.Below("vms", vm.Name), a.Below("nixosConfigurations", vm.Name), f.dir.vm == vm.Name:
			w.Sure = f.dir.sure
		case a.Below("vms"), a.Below("nixosConfigurations"), f.dir.vm != "":
			continue // of another VM
		case named(f.path, vm.Name):
			w.Sure = f.dir.sure
		default:
			continue
		}
		vm.Written = append(vm.Written, w)
	}
}

// named reports whether a path has a VM's name as a directory or as the name of a
// file.
func named(p, name string) bool {
	for element := range strings.SplitSeq(p, "/") {
		if element == name || element == name+".nix" {
			return true
		}
	}
	return false
}

// setting returns where a VM's option is set, the surest first.
func (vm *VM) setting(option string) *Written {
	var best *Written
	for i := range vm.Written {
		if w := &vm.Written[i]; w.Option == option && (best == nil || w.Sure && !best.Sure) {
			best = w
		}
	}
	return best
}

// sourcePlaces are the files in the store's sources that the system refers to.
func (l *looker) sourcePlaces() []place {
	var out []place
	for _, f := range l.config {
		if f.dir.sure && nixstore.Of(f.path) != "" {
			out = append(out, place{f.path, f.text})
		}
	}
	return out
}

// untracked looks for files that a configuration in a git work tree names and that
// git does not know: Nix does not see them.
func (l *looker) untracked() {
	l.host.Untracked = l.untrackedIn("/etc/nixos")
	for _, vm := range l.host.VMs {
		if dir, byGit := flakeDir(vm.Flake); byGit {
			vm.Untracked = l.untrackedIn(dir)
		}
	}
}

func (l *looker) untrackedIn(dir string) []Untracked {
	dir, err := l.tree.Resolve(dir)
	if err != nil || !l.tree.Exists(path.Join(dir, "flake.nix")) {
		return nil
	}
	tree, index := l.workTree(dir)
	if index == nil {
		return nil
	}
	var out []Untracked
	for _, file := range index.Files(".nix") {
		text, err := l.tree.ReadFile(path.Join(tree, file), mostSource)
		if err != nil {
			continue
		}
		for _, ref := range nixsource.Parse(text).References {
			p := path.Join(path.Dir(file), ref.Text)
			if p == ".." || strings.HasPrefix(p, "../") || !l.forgotten(tree, p, index) {
				continue
			}
			out = append(out, Untracked{File: path.Join(tree, file), Line: ref.Line, Path: p, Tree: tree})
		}
	}
	return out
}

// forgotten reports whether a path is there, is Nix code or a directory, and is not
// tracked. Of a directory the file counts that Nix would read.
func (l *looker) forgotten(tree, p string, index *nixsource.Index) bool {
	info, err := l.tree.Stat(path.Join(tree, p))
	if err != nil {
		return false
	}
	if !info.Mode.IsDir() {
		return strings.HasSuffix(p, ".nix") && !index.Tracks(p)
	}
	if l.tree.Exists(path.Join(tree, p, "default.nix")) {
		return !index.Tracks(path.Join(p, "default.nix"))
	}
	names, err := l.tree.Names(path.Join(tree, p))
	return err == nil && len(names) > 0 && !index.Tracks(p)
}

// workTree finds the git work tree around a directory, and its index; nil where
// there is none.
func (l *looker) workTree(dir string) (string, *nixsource.Index) {
	for ; ; dir = path.Dir(dir) {
		git := path.Join(dir, ".git")
		info, err := l.tree.Lstat(git)
		if err != nil {
			if !nixstore.Missing(err) {
				l.partial(git, err, "which files git tracks")
				return "", nil
			}
			if dir == "/" {
				return "", nil
			}
			continue
		}
		if !info.Mode.IsDir() && info.Mode&fs.ModeSymlink == 0 {
			text, ok := l.read(git, "which files git tracks")
			target, isLink := strings.CutPrefix(strings.TrimSpace(string(text)), "gitdir: ")
			if !ok || !isLink {
				return "", nil
			}
			if git = target; !path.IsAbs(git) {
				git = path.Join(dir, target)
			}
		}
		file := path.Join(git, "index")
		data, err := l.tree.ReadFile(file, 64<<20)
		if err != nil {
			l.partial(file, err, "which files git tracks")
			return "", nil
		}
		index, err := nixsource.ParseIndex(data)
		if err != nil {
			l.partial(file, err, "which files git tracks")
			return "", nil
		}
		return dir, index
	}
}
