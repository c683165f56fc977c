package adopt

import (
	"fmt"
	"path"
	"regexp"
	"strings"
	"sync"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/microvmnix"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// Verdict is what the check says of a setting.
type Verdict string

// The verdicts.
const (
	Equal Verdict = "equal"
	// Differs: by intent, for the reason that is with it.
	Differs Verdict = "differs"
	// LeftOut: the operator said so.
	LeftOut Verdict = "left out"
	// Added: only Ampoule has it, for the reason that is with it.
	Added Verdict = "added"
	// Lost: nothing of the plan is like it. Such a file is not written.
	Lost Verdict = "lost"
)

// Row is a setting of the check.
type Row struct {
	Key     string  `json:"key"`
	Verdict Verdict `json:"verdict"`
	// Script is the value that the runner has, Plan that of what Ampoule starts; of
	// credentials neither is shown.
	Script string `json:"script,omitempty"`
	Plan   string `json:"plan,omitempty"`
	Reason string `json:"reason,omitempty"`
	// File and Line are where the runner says it, Words the words.
	File  string `json:"file,omitempty"`
	Line  int    `json:"line,omitempty"`
	Words string `json:"words,omitempty"`
}

// Check compares the settings of the runner with those of the plan that its file
// has come to. broken are lines of the file for which there is a problem already.
func (d *Draft) Check(p *plan.Plan, broken map[int]bool) ([]Row, diag.List) {
	var rows []Row
	var problems diag.List
	refused := d.refused(broken)
	plans := planned(p)
	met := map[string]bool{}
	for _, set := range d.Script {
		row := Row{Key: set.Key, Script: set.Value, File: set.File, Line: set.Line, Words: set.Shown}
		if d.options.without(set) {
			row.Verdict, row.Reason = LeftOut, "by --without"
			rows, met[set.Key] = append(rows, row), true
			continue
		}
		other := counterpart(Setting{Key: d.place(set.Key), Value: set.Value}, plans, met)
		if other != nil {
			met[other.Key], row.Plan = true, other.Value
		}
		var warn bool
		row.Verdict, row.Reason, warn = d.judge(set, other)
		if warn {
			problems.Add(diag.Problem{Origin: set.origin(), Severity: diag.Warning, What: row.Reason + ": " + diag.Printable(set.Shown, diag.MaxShown)})
		}
		if strings.HasPrefix(set.Key, "credential[") {
			row.Script, row.Plan = "", ""
		}
		if set.secret {
			row.Script = diag.Elided
		}
		row.Script, row.Plan = microvmnix.Shown(row.Script), microvmnix.Shown(row.Plan)
		if row.Verdict == Lost && !refused[set.Key] && !strings.HasPrefix(set.Key, "credential[") { // said when the file was made
			problems.Add(d.lost(set, row))
		}
		rows = append(rows, row)
	}
	for _, set := range plans {
		if met[set.Key] {
			continue
		}
		met[set.Key] = true
		row := Row{Key: set.Key, Plan: microvmnix.Shown(set.Value), Verdict: Added, Reason: d.added(set)}
		if strings.HasPrefix(set.Key, "credential[") {
			row.Plan = ""
		}
		if row.Reason == "" {
			row.Verdict = Lost
			problems.Errorf(diag.Origin{File: d.file, Line: 1}, set.Key, row.Plan, "tell Ampoule's makers, with the runner", "Ampoule would start the VM with this, and the script does not have it")
		}
		rows = append(rows, row)
	}
	return rows, problems
}

// inList takes a key of a list apart: disk, 1 and .path.
var inList = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^(disk|net|share|device|port)\[(\d+)\](.*)$`) })

// place is the key that a setting of the script has in the plan: the elements that
// the operator left out are not counted there.
func (d *Draft) place(key string) string {
	m := inList().FindStringSubmatch(key)
	if m == nil {
		return key
	}
	n := number(m[2])
	for i := range n {
		if d.options.without(Setting{Key: fmt.Sprintf("%s[%d]", m[1], i)}) {
			n--
		}
	}
	return fmt.Sprintf("%s[%d]%s", m[1], n, m[3])
}

// counterpart is the plan's setting for one of the script, nil where there is none.
// What no key has is found by its words: the two have numbers of their own.
func counterpart(set Setting, plans []Setting, met map[string]bool) *Setting {
	words := strings.HasPrefix(set.Key, "argument[")
	for i := range plans {
		other := &plans[i]
		if !words && other.Key == set.Key || words && strings.HasPrefix(other.Key, "argument[") && other.Value == set.Value && !met[other.Key] {
			return other
		}
	}
	return nil
}

// refused are the keys of settings for which a line of the file has a problem.
func (d *Draft) refused(broken map[int]bool) map[string]bool {
	out := map[string]bool{}
	for n := range broken {
		for _, set := range d.lines[n].from {
			out[set.Key] = true
		}
	}
	return out
}

// Blame brings problems of the file to the words of the script that are behind
// their lines.
func (d *Draft) Blame(problems diag.List, file string) (out diag.List, broken map[int]bool) {
	broken = map[int]bool{}
	for _, p := range problems {
		l, ok := d.lines[p.Origin.Line]
		if p.Origin.File != file || !ok {
			out = append(out, p)
			continue
		}
		if p.Severity == diag.Error {
			broken[p.Origin.Line] = true
		}
		if len(l.from) > 0 {
			from := l.from[0]
			p.Origin = diag.Origin{File: from.File, Line: from.Line}
			p.What += ", and is what comes of: " + diag.Printable(from.Shown, diag.MaxShown)
			if p.Severity == diag.Error {
				p.Accepted = strings.TrimPrefix(strings.ReplaceAll(p.Accepted, "use Machine=", "use --machine ")+"; or repeat with --without "+from.Key, "; or ")
			}
		}
		out = append(out, p)
	}
	return out, broken
}

// lost is the error about a setting that nothing in the plan is like.
func (d *Draft) lost(set Setting, row Row) diag.Problem {
	p := diag.Problem{Origin: set.origin()}
	if row.Script != "" {
		p.Key, p.Value = set.Key, row.Script
	}
	key := set.Key
	if first, last, ok := statementLines(key); ok {
		key = fmt.Sprint(first)
		if last > first {
			key = fmt.Sprintf("%d-%d", first, last)
		}
		p.Key, p.Value = "", ""
		p.What = "a command of the operator's, which no key of a .microvm file can say: " + diag.Printable(set.Shown, diag.MaxShown)
		p.Accepted = "put what is needed of it into a program, add ExecStartPre=PROGRAM in [Service] to the file that comes out, and repeat with --without " + key
		if set.Value == "runtime_args" || strings.HasPrefix(set.Value, "the output of") {
			p.What = "the hypervisor gets " + set.Value + ", which is known only when it runs"
			p.Accepted = "write the words that it gives into HypervisorArgs= of the file that comes out, or use the keys for them, and repeat with --without " + key
		}
		return p
	}
	base, _, _ := strings.Cut(general(key), "=")
	if cure := cures()[base]; cure != "" {
		p.Accepted = cure + ", and repeat with --without " + key
	} else {
		p.Accepted = "remove it from the VM, or repeat with --without " + key
	}
	if row.Plan != "" {
		p.What = "Ampoule would start the VM with " + diag.Printable(row.Plan, diag.MaxShown) + " instead: " + diag.Printable(set.Shown, diag.MaxShown)
		return p
	}
	if base == "graphics" {
		p.What = "Ampoule's guests have no graphics: " + diag.Printable(set.Shown, diag.MaxShown)
		return p
	}
	p.What = "no key of a .microvm file says this: " + diag.Printable(set.Shown, diag.MaxShown)
	return p
}

// indexes are those in keys.
var indexes = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`\[[^\]]*\]`) })

// general is a key for any index: disk[].path.
func general(key string) string { return indexes().ReplaceAllString(key, "[]") }

// judge compares a setting with the plan's of that key, nil where there is none.
func (d *Draft) judge(set Setting, other *Setting) (verdict Verdict, reason string, warn bool) {
	if other != nil && d.same(set, *other) {
		return Equal, "", false
	}
	value := ""
	if other != nil {
		value = other.Value
	}
	key := general(set.Key)
	if d.options.External {
		if reason := external(key); reason != "" {
			return Differs, reason, false
		}
	}
	for _, i := range intents() {
		if i.key == key && (i.when == nil || i.when(set.Value, value)) && (i.hypervisor == "" || i.hypervisor == d.Hypervisor) {
			return Differs, i.reason, i.warn
		}
	}
	if reason = d.special(set, key, value, other != nil); reason != "" {
		return Differs, reason, false
	}
	return Lost, "", false
}

// external are settings of what microvm.nix's own units do, with --external.
func external(key string) string {
	switch {
	case key == "net[].mode":
		return "microvm-macvtap-interfaces@ makes the interface so"
	case strings.HasPrefix(key, "share[].virtiofsd-"), key == "share[].cache":
		return "microvm-virtiofsd@ serves the share so"
	}
	return ""
}

// special are differences that more than the values decides about.
func (d *Draft) special(set Setting, key, value string, has bool) string {
	switch {
	case key == "cmdline" && has:
		words, _ := kernelWords(set.Value)
		if ours, ok := strings.CutSuffix(value, spec.JoinCommandLine(words)); ok {
			return "Ampoule's own words come first, and the script's win over them: " + strings.TrimSpace(ours)
		}
	case key == "line[]":
		return ownStatements()[set.Value]
	case key == "machine" && d.options.Machine != "" && value == d.options.Machine:
		return "by --machine"
	case key == "credential[]" && has:
		return "it comes to the guest by Ampoule's channel, out of sealed memory"
	case key == "credential" && (len(d.options.Units) > 0 || len(d.options.Credentials) > 0):
		return "the credentials are those of --unit and --credential"
	}
	return ""
}

// same compares values; paths are those of the directories that they lie in.
func (d *Draft) same(set, other Setting) bool {
	if set.Value == other.Value {
		return true
	}
	switch key := general(set.Key); key {
	case "share[].socket":
		return d.options.External && place(set.Value, d.options.StateDir) == other.Value
	case "disk[].path", "share[].source":
		return place(set.Value, d.options.StateDir) == place(other.Value, ownState(d.Name))
	case "cmdline":
		words, _ := kernelWords(set.Value)
		return spec.JoinCommandLine(words) == other.Value
	}
	return false
}

func place(p, dir string) string {
	if path.IsAbs(p) {
		return path.Clean(p)
	}
	return path.Join(dir, p)
}

// ownStatements are the commands that microvm.nix itself writes, with what takes
// their place.
func ownStatements() map[string]string {
	return map[string]string{
		string(microvmnix.Set):               "the shell's options",
		string(microvmnix.Setup):             "of a hypervisor's own",
		string(microvmnix.SocketCleanup):     "Ampoule's sockets are in a directory of the run, which goes with it",
		string(microvmnix.NotifyBridge):      "Ampoule hands the guest's readiness on itself",
		string(microvmnix.VolumePath):        "the tools are those of the host",
		string(microvmnix.MacVTapDescriptor): "Ampoule makes and opens the interface",
		string(microvmnix.Arguments):         "there are none",
	}
}

// added says why a setting is there that the script does not have; empty where
// nothing says it.
func (d *Draft) added(set Setting) string {
	key := general(set.Key)
	for _, i := range additions() {
		if i.key == key && (i.hypervisor == "" || i.hypervisor == d.Hypervisor) && (i.when == nil || i.when("", set.Value)) {
			return i.reason
		}
	}
	if key == "credential[]" {
		return "by --unit or --credential"
	}
	return ""
}
