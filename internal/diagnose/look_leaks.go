package diagnose

import (
	"bytes"
	"path"
	"slices"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/microvmnix"
	"github.com/ampoule-vm/ampoule/internal/nixstore"
	"github.com/ampoule-vm/ampoule/internal/secret"
)

// The least length of a value that is looked for: a shorter one stands in too many
// texts by chance.
const (
	leastInArgv = 6
	leastInText = 8
	// mostSecret bounds what is read of a source.
	mostSecret = 1 << 20
)

// inClear finds a credential that is given with its value, in the forms that systemd
// reads in a guest. The second group is the name, the third the first character of
// the value: "$" and "`" begin one that is made when the script runs.
var inClear = pattern(`(io\.systemd\.credential(?:\.binary)?:|opt/io\.systemd\.credentials/|systemd\.set_credential(?:_binary)?=)([^=:,\s'"\]]+)(?:=|:|,string=)["']?([^,\]\s'"])`)

// given lists the credentials that a word gives in clear, by name; made those whose
// value is put into it when the script runs.
func given(word string) []string { out, _ := inWords(word); return out }

func inWords(word string) (given, made []string) {
	for _, m := range inClear().FindAllStringSubmatch(word, -1) {
		name, first := m[2], m[3]
		switch {
		case name == "vmm.notify_socket", strings.HasPrefix(m[1], "opt/") && !strings.Contains(m[0], ",string="):
		case first == "$", first == "`":
			made = append(made, name)
		default:
			given = append(given, name)
		}
	}
	return given, made
}

// leaks looks for secrets in what runs and in what lies in the store.
func (l *looker) leaks(vm *VM) {
	oem := map[string]bool{}
	if vm.Deployed != nil && vm.Deployed.Runner.Script != nil {
		l.inScript(vm, oem)
	}
	if vm.Process != nil {
		for i, w := range vm.Process.Args {
			for _, name := range given(w) {
				if i > 0 && vm.Process.Args[i-1] == "--platform" && oem[name] {
					continue
				}
				vm.leak(InArgv, Evidence{Path: path.Join("/proc", itoa(vm.Process.PID), "cmdline"), What: "a word of the running hypervisor has the value of " + name}, name)
			}
		}
	}
	l.inUnit(vm)
	l.values(vm, oem)
}

func (vm *VM) leak(kind LeakKind, at Evidence, name string) {
	vm.leaks(Leak{Kind: kind, At: at, Name: name})
}

func (vm *VM) leaks(k Leak) {
	if !slices.Contains(vm.Leaks, k) {
		vm.Leaks = append(vm.Leaks, k)
	}
}

// inScript looks at the words of the deployed script, and at the user's text in it.
func (l *looker) inScript(vm *VM, oem map[string]bool) {
	s := vm.Deployed.Runner.Script
	file := s.File
	if vm.Deployed.Script != "" {
		file = vm.Deployed.Script
	}
	if s.Exec != nil {
		for i, w := range s.Exec.Args {
			literal, made := inWords(w.Text)
			for _, name := range made {
				vm.leak(InArgv, Evidence{Path: file, Line: w.Line, What: "the script puts the value of " + name + " into the hypervisor's command line"}, name)
			}
			for _, name := range literal {
				here := Evidence{Path: file, Line: w.Line, What: "the hypervisor's command line has the value of " + name}
				if i > 0 && s.Exec.Args[i-1].Text == "--platform" {
					oem[name] = true
					here.What = "--platform oem_strings= has the value of " + name
					vm.leak(InOEMStrings, here, name)
					continue
				}
				vm.leak(InArgv, here, name)
				if nixstore.Of(file) != "" {
					vm.leak(InStore, here, name)
				}
			}
		}
	}
	for _, st := range s.Statements {
		if st.Kind == "exec" {
			continue
		}
		inVariables(vm, st, file)
		if nixstore.Of(file) == "" {
			continue
		}
		for _, name := range given(st.Text) {
			vm.leak(InStore, Evidence{Path: file, Line: st.Line, What: "the script has the value of " + name}, name)
		}
	}
}

// assigned is a line that begins with an assignment.
var assigned = pattern(`^\s*(?:export\s+|local\s+)?([A-Za-z_][A-Za-z0-9_]*)\+?=`)

// inVariables looks for credentials that a statement puts into a variable of the
// hypervisor's command line. Where their names are those of a loop, they are all that the
// script reads.
func inVariables(vm *VM, st microvmnix.Statement, file string) {
	s := vm.Deployed.Runner.Script
	for i, line := range strings.Split(st.Text, "\n") {
		_, made := inWords(line)
		m := assigned().FindStringSubmatch(line)
		if len(made) == 0 || m == nil || s.Exec == nil || !slices.ContainsFunc(s.Exec.Args, func(w microvmnix.Word) bool { return w.Open && expands(w.Text, m[1]) }) {
			continue
		}
		for _, name := range made {
			names := []string{name}
			if strings.HasPrefix(name, "$") {
				names = names[:0]
				for _, c := range s.Credentials {
					if c.Name != "" && c.Name != "*" {
						names = append(names, c.Name)
					}
				}
			}
			for _, name := range names {
				vm.leak(InArgv, Evidence{Path: file, Line: st.Line + i, What: "the script puts the value of " + name + " into $" + m[1] + ", which is in the hypervisor's command line"}, name)
			}
		}
	}
}

// expands reports whether a word as it is written has the value of a variable in it.
func expands(word, variable string) bool {
	for _, before := range []string{"$", "${"} {
		for rest := word; ; {
			_, after, ok := strings.Cut(rest, before+variable)
			if !ok {
				break
			}
			if after == "" || !letter(after[0]) {
				return true
			}
			rest = after
		}
	}
	return false
}

func letter(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// inUnit looks at what the unit itself gives: values, and sources in the store.
func (l *looker) inUnit(vm *VM) {
	loaded := map[string]bool{}
	for _, c := range vm.Credentials {
		loaded[c.ID] = true
		if c.Key != "LoadCredential" {
			continue
		}
		if p := nixstore.Of(c.Source); p != "" {
			vm.leak(InStore, Evidence{Path: c.At.Path, Line: c.At.Line, What: "the source of " + c.ID + " is " + c.Source + ", which everybody may read"}, c.ID)
		} else if c.File != nil && nixstore.Of(c.File.Path) != "" {
			vm.leak(InStore, Evidence{Path: c.At.Path, Line: c.At.Line, What: "the source of " + c.ID + ", " + c.Source + ", leads to " + c.File.Path + ", which everybody may read"}, c.ID)
		}
	}
	for _, e := range vm.Unit.values("Service", "SetCredential") {
		id, value, _ := strings.Cut(e.Value, ":")
		// In a unit that starts Ampoule the line is one of its module's, which takes values
		// that are no secret.
		if e.Key != "SetCredential" || value == "" || ours(id) || loaded[id] || vm.Forced != nil && vm.Forced.Ours {
			continue
		}
		if real := vm.Unit.real(e.Origin.File); nixstore.Of(real) != "" {
			vm.leaks(Leak{Kind: InStore, At: Evidence{Path: e.Origin.File, Line: e.Origin.Line, What: "SetCredential= has the value of " + id + ", and the file is " + real}, Name: id, Plain: true})
		}
	}
}

// place is a text in which values are looked for.
type place struct {
	path string
	text []byte
}

// values looks for the values of sources that may be read.
func (l *looker) values(vm *VM, oem map[string]bool) {
	var places []place
	for _, c := range vm.Credentials {
		if c.Key != "LoadCredential" || c.File == nil || !regular(c.File.Info) || c.File.Size < leastInArgv || c.File.Size > mostSecret || nixstore.Of(c.File.Path) != "" {
			continue
		}
		f, err := l.tree.Open(c.File.Path)
		if err != nil {
			l.partial(c.File.Path, err, "whether the value of a credential stands anywhere else")
			continue
		}
		value, err := secret.ReadFrom(f, mostSecret)
		f.Close()
		if err != nil {
			continue
		}
		if places == nil {
			places = l.places(vm)
		}
		_ = value.Use(func(b []byte) error {
			l.value(vm, c.ID, bytes.TrimSpace(b), places, oem)
			return nil
		})
		value.Wipe()
	}
}

// value looks for one value, which it does not keep.
func (l *looker) value(vm *VM, id string, value []byte, places []place, oem map[string]bool) {
	if len(value) >= leastInArgv {
		if vm.Deployed != nil && vm.Deployed.Runner.Script != nil && vm.Deployed.Runner.Script.Exec != nil {
			args := vm.Deployed.Runner.Script.Exec.Args
			for i, w := range args {
				if line := found([]byte(w.Text), value); line > 0 && !(i > 0 && args[i-1].Text == "--platform" && len(given(w.Text)) > 0) {
					vm.leak(InArgv, Evidence{Path: vm.Deployed.Runner.Script.File, Line: w.Line, What: "the hypervisor's command line has the value of " + id}, id)
				}
			}
		}
		if vm.Process != nil && !oem[id] {
			for _, w := range vm.Process.Args {
				if found([]byte(w), value) > 0 {
					vm.leak(InArgv, Evidence{Path: path.Join("/proc", itoa(vm.Process.PID), "cmdline"), What: "a word of the running hypervisor has the value of " + id}, id)
				}
			}
		}
	}
	if len(value) < leastInText {
		return
	}
	for _, p := range places {
		if n := found(p.text, value); n > 0 && !vm.leaked(InOEMStrings, id) {
			vm.leak(InStore, Evidence{Path: p.path, Line: n, What: "it has the value of " + id}, id)
		}
	}
}

func (vm *VM) leaked(kind LeakKind, name string) bool {
	return slices.ContainsFunc(vm.Leaks, func(k Leak) bool { return k.Kind == kind && k.Name == name })
}

// found returns the line on which a text has a value that does not go on in front
// or behind; 0 where it has not.
func found(text, value []byte) int {
	for from := 0; ; {
		i := bytes.Index(text[from:], value)
		if i < 0 {
			return 0
		}
		i += from
		end := i + len(value)
		letter := func(c byte) bool {
			return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		}
		if (i == 0 || !letter(text[i-1])) && (end == len(text) || !letter(text[end])) {
			return 1 + bytes.Count(text[:i], []byte("\n"))
		}
		from = i + 1
	}
}

// places are the texts in the store that are for a VM: its units, files of
// environment variables, the scripts of its runner, and sources.
func (l *looker) places(vm *VM) []place {
	out := []place{}
	add := func(p string) {
		real, err := l.tree.Resolve(p)
		if err != nil || nixstore.Of(real) == "" {
			return
		}
		if info, err := l.tree.Stat(real); err != nil || !regular(info) || info.Size > mostSecret {
			return
		}
		if text, err := l.tree.ReadFile(real, mostSecret); err == nil {
			out = append(out, place{p, text})
		}
	}
	if vm.Unit != nil {
		for _, f := range vm.Unit.Files {
			add(f.Path)
		}
		for _, e := range vm.Unit.values("Service", "EnvironmentFile") {
			add(specifiers(strings.TrimPrefix(e.Value, "-"), vm.Unit.Name))
		}
	}
	if vm.Deployed != nil {
		for _, b := range vm.Deployed.Bin {
			if b.Target != "" {
				add(b.Target)
			}
		}
		for _, r := range vm.Deployed.Reads {
			if r.File != vm.Deployed.Runner.Script.File {
				add(r.File)
			}
		}
	}
	return append(out, l.sourcePlaces()...)
}
