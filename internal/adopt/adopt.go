// Package adopt turns a runner of microvm.nix into a .microvm file that starts the
// same VM, and compares what Ampoule would start with what the runner starts.
//
// Both sides are brought into one form, settings: KEY=VALUE with the words behind
// them. The file is made from those of the script. The check compares them with
// those of the plan that the file comes to, and knows for each difference that is
// meant why it is; what is left is an error. So a word that no line of the file
// carries cannot get lost: it has a setting, and the plan has none like it.
//
// Everything here is a function of its arguments. No value of a credential is in a
// message, a table or, unless the operator says that it is public, the file.
package adopt

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/microvmnix"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// Options are what the operator says beside the runner.
type Options struct {
	// Name is the VM's; empty takes that of the script.
	Name string
	// StateDir is where relative paths of the script lie; empty takes the directory in
	// which the runner is current or booted, or /var/lib/microvms/ and the name that
	// the script has.
	StateDir string
	// Credentials are NAME:SOURCE, as LoadCredential= has them.
	Credentials []string
	// Public are names of credentials whose values, in clear in the script, are no
	// secrets.
	Public []string
	// Units are the files of the service that starts the runner, in their order.
	Units []Unit
	// Without are keys of the check, and lines N or N-M of the script, that the VM
	// shall be without.
	Without []string
	// Machine takes the place of QEMU's machine type.
	Machine string
	// External: the units of microvm.nix go on making interfaces, serving shares and
	// binding devices.
	External bool
}

// Unit is a unit file, or a drop-in.
type Unit struct {
	File string
	Text []byte
}

// Draft is the file, with what is needed to check it.
type Draft struct {
	Name string
	// Text is the file; empty where nothing could be made.
	Text []byte
	// Script are the settings of the runner.
	Script []Setting
	// Hypervisor is the one that the file names.
	Hypervisor string
	// lines are those of the file, by their numbers.
	lines   map[int]line
	options Options
	file    string
	// settled are open words of the script that are no problem.
	settled []microvmnix.Word
}

// Setting is one thing that a hypervisor is told.
type Setting struct {
	Key   string
	Value string
	// File and Line are where the runner says it; empty in a plan's settings.
	File string
	Line int
	// Shown are the words, fit for a message.
	Shown string
	// Words are the numbers of the words of the command line behind it.
	Words []int
	// secret: the value must not be shown, and stands in the script in clear;
	// public then has it.
	secret bool
	public string
}

// line is one of the file.
type line struct {
	key, value string
	from       []Setting
}

// Adopt makes the file of a runner.
func Adopt(r *microvmnix.Runner, o Options) (*Draft, diag.List) {
	d := &Draft{options: o, lines: map[int]line{}}
	var problems diag.List
	if r.Script == nil || r.Script.Exec == nil {
		return d, nil // said when it was read
	}
	d.file = r.Script.File
	d.Hypervisor = cmp.Or(r.Script.Hypervisor(), r.Hypervisor) // a program may have a name of its own
	s := &sheet{runner: r, file: d.file, problems: &problems, seen: map[string]int{}}
	at := diag.Origin{File: d.file, Line: r.Script.Exec.Line}
	switch d.Hypervisor {
	case microvmnix.CloudHypervisor:
		s.cloudHypervisor(r.Script.Exec.Args)
	case microvmnix.QEMU:
		s.qemu(r.Script.Exec.Args)
	case microvmnix.Firecracker:
		s.firecracker(r.Script.Exec.Args)
	default:
		what := "a runner of " + d.Hypervisor + ", which Ampoule does not have"
		if d.Hypervisor == "" {
			what = "the program is no hypervisor that microvm.nix starts: " + microvmnix.Shown(r.Script.Exec.Program.Text)
		}
		problems.Add(diag.Problem{Origin: at, What: what, Accepted: "accepted: runners of qemu, cloud-hypervisor and firecracker; set microvm.hypervisor to one of them"})
		return d, problems
	}
	d.name(r, s, &problems)
	if name := strings.TrimPrefix(r.Script.Exec.Name, "microvm@"); name != "" && s.find("name") == nil {
		s.settings = append(s.settings, Setting{Key: "name", Value: name, File: d.file, Line: r.Script.Exec.Line, Shown: "-a " + r.Script.Exec.Name})
	}
	s.statements()
	s.credentials(o)
	s.needed(o)
	d.settle(s)
	d.Script = s.settings
	if d.Name != "" {
		w := &writer{draft: d, sheet: s, problems: &problems}
		w.file()
	}
	return d, problems
}

// name decides what the VM is called, and where relative paths lie: in the directory
// that microvm.nix has for it, whatever it is called here.
func (d *Draft) name(r *microvmnix.Runner, s *sheet, problems *diag.List) {
	state, own := "", ""
	if base := path.Base(r.Dir); base == "current" || base == "booted" {
		state = path.Dir(r.Dir)
	}
	for _, candidate := range []string{strings.TrimPrefix(r.Script.Exec.Name, "microvm@"), s.value("name"), path.Base(state)} {
		if candidate != "" && candidate != "." {
			own = candidate
			break
		}
	}
	if d.Name = d.options.Name; d.Name == "" {
		d.Name = own
	}
	at := diag.Origin{File: d.file, Line: r.Script.Exec.Line}
	if d.Name == "" {
		problems.Add(diag.Problem{Origin: at, What: "nothing says what the VM is called", Accepted: "add --name NAME"})
	} else if err := spec.CheckName(d.Name); err != nil {
		problems.Add(diag.Problem{Origin: at, Key: "name", Value: d.Name, What: err.Error(), Accepted: spec.AcceptedName + "; choose one with --name NAME"})
	}
	switch {
	case d.options.StateDir != "":
	case state != "":
		d.options.StateDir = state
	case own != "":
		d.options.StateDir = stateRoot + own
	default:
		d.options.StateDir = stateRoot + d.Name
	}
}

// stateRoot is microvm.stateDir by default.
const stateRoot = "/var/lib/microvms/"

// sheet collects the settings of a runner.
type sheet struct {
	runner   *microvmnix.Runner
	file     string
	settings []Setting
	problems *diag.List
	// known are the numbers of open words of which all pieces are.
	known []int
	// seen counts keys of lists.
	seen map[string]int
}

// add notes a setting that words of the command line make.
func (s *sheet) add(key, value string, words ...argument) {
	set := Setting{Key: key, Value: value, File: s.file}
	var shown []string
	for _, w := range words {
		if set.Line == 0 {
			set.Line = w.line
		}
		set.Words = append(set.Words, w.index)
		shown = append(shown, w.text)
	}
	set.Shown = microvmnix.Shown(strings.Join(shown, " "))
	s.settings = append(s.settings, set)
}

// next numbers the elements of a list: disk[0], disk[1].
func (s *sheet) next(list string) string {
	n := s.seen[list]
	s.seen[list]++
	return list + "[" + strconv.Itoa(n) + "]"
}

func (s *sheet) find(key string) *Setting {
	for i := range s.settings {
		if s.settings[i].Key == key {
			return &s.settings[i]
		}
	}
	return nil
}

func (s *sheet) value(key string) string {
	if set := s.find(key); set != nil {
		return set.Value
	}
	return ""
}

// below are the settings that belong to an element: disk[0].path of disk[0].
func (s *sheet) below(element string) []Setting {
	var out []Setting
	for _, set := range s.settings {
		if strings.HasPrefix(set.Key, element+".") {
			out = append(out, set)
		}
	}
	return out
}

// without reports whether the operator left a setting out.
func (o Options) without(set Setting) bool {
	return slices.ContainsFunc(o.Without, func(what string) bool {
		if from, to, ok := lineRange(what); ok {
			first, last, isLines := statementLines(set.Key)
			return isLines && first >= from && last <= to
		}
		return what == set.Key || strings.HasPrefix(set.Key, what+".") || strings.HasPrefix(set.Key, what+"[")
	})
}

// lineRange reads N or N-M.
func lineRange(s string) (from, to int, ok bool) {
	a, b, both := strings.Cut(s, "-")
	from, err := strconv.Atoi(a)
	if err != nil {
		return 0, 0, false
	}
	to = from
	if both {
		if to, err = strconv.Atoi(b); err != nil {
			return 0, 0, false
		}
	}
	return from, to, true
}

// statementKey is the key of a statement of the script.
func statementKey(first, last int) string {
	if first == last {
		return fmt.Sprintf("line[%d]", first)
	}
	return fmt.Sprintf("line[%d-%d]", first, last)
}

func statementLines(key string) (first, last int, ok bool) {
	inner, ok := strings.CutPrefix(key, "line[")
	if !ok {
		return 0, 0, false
	}
	return lineRange(strings.TrimSuffix(inner, "]"))
}

// Settle drops those problems of reading a runner that are none any more: words
// that are made when the script runs, but of which all pieces are known, or that the
// operator left out.
func (d *Draft) Settle(problems diag.List) diag.List {
	return slices.DeleteFunc(slices.Clone(problems), func(p diag.Problem) bool {
		return slices.ContainsFunc(d.settled, func(w microvmnix.Word) bool { return w.Problem(d.file) == p })
	})
}

// needed refuses options that have no effect.
func (s *sheet) needed(o Options) {
	for i, what := range o.Without {
		one := Options{Without: []string{what}}
		if !slices.ContainsFunc(s.settings, one.without) {
			s.problems.Errorf(diag.Origin{File: "--without", Line: i + 1}, "", "", "accepted: a key that ampoule adopt --all shows, such as balloon.size or disk[1], or lines of the script that hold commands, such as 5-18",
				"the runner has nothing that is called %s", what)
		}
	}
	if o.Machine != "" && s.find("machine") == nil {
		s.problems.Errorf(diag.Origin{File: "--machine", Line: 1}, "", "", "remove it", "the runner's hypervisor has no types of machines")
	}
}

// settle finds these words.
func (d *Draft) settle(s *sheet) {
	for i, w := range s.runner.Script.Exec.Args {
		if !w.Open {
			continue
		}
		left, some := true, false
		for _, set := range s.settings {
			if slices.Contains(set.Words, i) {
				some = true
				left = left && d.options.without(set)
			}
		}
		if some && left || slices.Contains(s.known, i) {
			d.settled = append(d.settled, w)
		}
	}
}
