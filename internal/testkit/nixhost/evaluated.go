package nixhost

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/testkit/nixrunner"
)

// Evaluated gives a VM the runner of a fixture (nixrunner), which microvm.nix evaluated
// to: other options of the VM then say nothing of how it is started.
func Evaluated(fixture string) func(*VM) {
	return func(vm *VM) { vm.evaluated = fixture }
}

var guestSystem = regexp.MustCompile(`/nix/store/[0-9a-df-np-sv-z]{32}-nixos-system-[-.0-9A-Za-z]+`)

// evaluatedRunner puts the runner of a fixture into the store, with what else of it was in
// one; the guest's system is the VM's here.
func (h *Host) evaluatedRunner(vm *VM, top string) string {
	h.t.Helper()
	source, paths := filepath.Join(nixrunner.Dir(h.t), vm.evaluated), nixrunner.Paths(h.t, vm.evaluated)
	file := map[string]string{} // by store path
	for name, path := range paths {
		if strings.HasPrefix(name, "bin/") || strings.HasPrefix(name, "store/") {
			file[path] = filepath.Join(source, name)
		}
	}
	placed := map[string]string{}
	var place func(path string) string
	place = func(path string) string {
		if placed[path] == "" {
			text, err := os.ReadFile(file[path])
			h.ok(err)
			known := referencedPath.ReplaceAllStringFunc(guestSystem.ReplaceAllString(string(text), top), func(other string) string {
				if file[other] == "" {
					return other
				}
				return place(other)
			})
			e := Program(known)
			if !strings.HasPrefix(known, "#!") {
				e = Text(known)
			}
			// Scripts of older versions lie in a directory each.
			name, below, _ := strings.Cut(path[len(storeDir)+33:], "/")
			placed[path] = filepath.Join(h.Store(name, Files{below: e}), below)
		}
		return placed[path]
	}
	files := Files{}
	for name, path := range paths {
		switch {
		case strings.HasPrefix(name, "bin/"):
			files[name] = LinkTo(place(path))
		case strings.HasPrefix(name, "store/"):
			place(path)
		}
	}
	h.ok(fs.WalkDir(os.DirFS(source), "share", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if d.Type() == fs.ModeSymlink {
			files[name] = LinkTo(top)
			return nil
		}
		text, err := os.ReadFile(filepath.Join(source, name))
		files[name] = Text(string(text))
		return err
	}))
	return h.Store(paths["."][len(storeDir)+33:], files)
}

var referencedPath = regexp.MustCompile(`/nix/store/[0-9a-df-np-sv-z]{32}-[-+._?=0-9A-Za-z]+`)

// started is the program that a run script ends in and its argv, as bash makes them of
// the last command.
func (h *Host) started(vm *VM, runner string) (program string, argv []string) {
	h.t.Helper()
	text, err := os.ReadFile(h.At(h.Readlink(runner + "/bin/microvm-run")))
	h.ok(err)
	last := string(text[strings.LastIndex(string(text), "\nexec "):])
	cmd := exec.Command("bash", "-euc", "exec() { printf '%s\\0' \"$@\"; }\nruntime_args=$1\n"+last, "bash", strings.Join(vm.RuntimeArgs, " "))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	h.ok(err)
	words := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	if words[0] == "-a" {
		return words[2], append([]string{words[1]}, words[3:]...)
	}
	return words[0], words
}
