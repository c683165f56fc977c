package pipeline

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/driver/all"
	"github.com/ampoule-vm/ampoule/internal/layer"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/source"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// outcome is what became of an assignment.
type outcome string

const (
	changes   outcome = "changes what runs"
	shadowed  outcome = "shadowed by a line that is named"
	reset     outcome = "reset by a line that is named"
	repeats   outcome = "says what was so before, and is the origin now"
	clears    outcome = "clears lines, which name it"
	nothing   outcome = "clears nothing, and is reported as one that clears"
	refused   outcome = "refused with its line"
	askedFor  outcome = "refused at the line that asks for what it takes away, by its key"
	uncovers  outcome = "does not cover a refused line any more, as what stood there did"
	hidden    outcome = "in a file that is reported as hidden"
	leftAlone outcome = "left alone, for its X-"
	lost      outcome = "LOST"
)

// trial is an assignment that was added to a VM, or changed in one.
type trial struct {
	files  []*layerFile // with the assignment
	target *written
	old    *written // what stood in its place, or nil
}

func (tr trial) before() []*layerFile { return replaced(tr.files, tr.target, tr.old) }

// account says what became of the assignment of a trial, and of a lost one why
// it counts as lost.
func (tr trial) account(before, after *loaded) (outcome, string) {
	if why := after.unlisted(); why != "" {
		return lost, why
	}
	file, line := after.where(tr.target)
	if got, why := after.hides(file); got {
		if why == "" && before.runs != after.runs && tr.old == nil {
			why = "its file is called hidden and yet changes what runs"
		}
		return because(hidden, why)
	}
	if file == ownImage && after.res.Resolved != nil && !after.names(path.Dir(ownImage)) {
		if before.runs != after.runs && tr.old == nil && !before.names(path.Dir(ownImage)) {
			return lost, "it stands in an image that is not the VM's, and yet changes what runs"
		}
		return hidden, ""
	}
	if after.res.Plan == nil {
		switch {
		case after.refuses(file, line, tr.target):
		case after.missed(tr.target):
			return askedFor, ""
		case tr.uncovers(before, after):
			return uncovers, ""
		default:
			return lost, "there are errors, and none names it:\n" + after.res.Problems.Error()
		}
		return refused, ""
	}
	e, g := after.entry(file, line)
	switch {
	case e == nil:
		return lost, "no file's layer has it"
	case e.Section != tr.target.section || e.Key != tr.target.key || e.Value != tr.target.value:
		return lost, fmt.Sprintf("the layers have it as [%s] %s=%s", e.Section, e.Key, e.Value)
	}
	if why := after.overruled(); why != "" {
		return lost, why
	}
	same := before.runs == after.runs
	switch e.Fate {
	case layer.Shadowed, layer.Reset:
		why := after.endedBy(e, g)
		if why == "" && !same && tr.old == nil {
			why = "it is called " + string(e.Fate) + " and yet changes what runs"
		}
		return because(map[layer.Fate]outcome{layer.Shadowed: shadowed, layer.Reset: reset}[e.Fate], why)
	case layer.Clears:
		return tr.cleared(after, e, g, same)
	case layer.Effective:
		return tr.counts(before, after, e, g, same)
	}
	return lost, fmt.Sprintf("unknown fate %q", e.Fate)
}

func because(o outcome, why string) (outcome, string) {
	if why != "" {
		return lost, why
	}
	return o, ""
}

// unlisted finds a file that is neither read nor called hidden.
func (l *loaded) unlisted() string {
	for _, f := range l.files {
		read := slices.ContainsFunc(l.res.Source.Files, func(s source.File) bool { return s.Path == f.path })
		if f.path == ownImage {
			// Another Image= is the line that tells.
			read = l.res.Image != nil && l.res.Image.Path == ownImage || !l.names(path.Dir(ownImage))
		}
		if is, _ := l.hides(f.path); !read && !is && !f.masked && f.path != commandLine {
			return "nobody says what became of " + f.path
		}
	}
	return ""
}

// names reports whether an image is the VM's.
func (l *loaded) names(image string) bool {
	for e := range l.res.Resolved.Group(spec.Section, "Image").Live() {
		return e.Value == image
	}
	return false
}

// hides reports whether a file is one that does not count, and what is wrong
// with the file that is named in its place.
func (l *loaded) hides(file string) (bool, string) {
	for _, s := range l.res.Source.Files {
		if s.Path == file {
			return false, ""
		}
	}
	i := slices.IndexFunc(l.res.Source.Hidden, func(h source.Hidden) bool { return h.Path == file })
	if i < 0 {
		return false, ""
	}
	by := l.res.Source.Hidden[i].By
	if !slices.ContainsFunc(l.files, func(f *layerFile) bool { return f.path == by }) || by == file {
		return true, "its file is hidden by " + by + ", which does not exist"
	}
	if by[strings.LastIndexByte(by, '/'):] != file[strings.LastIndexByte(file, '/'):] {
		return true, "its file is hidden by " + by + ", which has another name"
	}
	return true, ""
}

// refuses reports whether an error is about a line: it stands there, or names
// it. For a section that nobody knows the error is about its header.
func (l *loaded) refuses(file string, line int, w *written) bool {
	names := diag.Origin{File: file, Line: line}.String()
	for _, p := range l.res.Problems {
		if p.Severity != diag.Error {
			continue
		}
		if p.Origin.File == file && p.Origin.Line == line {
			return true
		}
		if p.Origin.File == file && strings.Contains(p.What, "unknown section ["+w.section+"]") {
			return true
		}
		for _, text := range []string{p.What, p.Accepted} {
			if _, rest, ok := strings.Cut(text, names); ok && (rest == "" || rest[0] < '0' || rest[0] > '9') {
				return true
			}
		}
	}
	return false
}

// missed reports whether a line is refused that asks for what an assignment takes
// away, naming the key of that. It is right without a line: what a credential channel
// lacks, an initial RAM disk or root= on the kernel's command line, or the vsock over
// which a guest would say that it is ready, stands nowhere; the line that can be cured
// is the one that asks.
func (l *loaded) missed(w *written) bool {
	asks := map[string]string{"Initrd": "CredentialChannel", "KernelCommandLine": "CredentialChannel", "VSockCID": "Readiness"}
	return slices.ContainsFunc(l.res.Problems, func(p diag.Problem) bool {
		return p.Severity == diag.Error && p.Key == asks[w.key] && strings.Contains(p.What+p.Accepted, w.key+"=")
	})
}

// uncovers reports whether an error is about a line that counts only since an
// assignment was changed, which shadowed or reset it before.
func (tr trial) uncovers(before, after *loaded) bool {
	now, _ := after.entry(after.where(tr.target))
	if tr.old == nil || now == nil || now.Key != tr.target.key || now.Value != tr.target.value {
		return false // it might cover that line too, if it had come in
	}
	var old diag.Origin
	old.File, old.Line = before.where(tr.old)
	for _, w := range assignments(before.files) {
		if w == tr.old {
			continue
		}
		e, _ := before.entry(before.where(w))
		if e == nil || e.By.File != old.File || e.By.Line != old.Line {
			continue
		}
		if file, line := after.where(w); after.refuses(file, line, w) {
			return true
		}
	}
	return false
}

func (l *loaded) entry(file string, line int) (*layer.Entry, *layer.Group) {
	for _, g := range l.res.Resolved.Groups {
		for i := range g.Entries {
			if e := &g.Entries[i]; e.Origin.File == file && e.Origin.Line == line {
				return e, g
			}
		}
	}
	return nil, nil
}

// endedBy says what is wrong with the line that an assignment is shadowed or
// reset by. It believes the files and not the layers.
func (l *loaded) endedBy(e *layer.Entry, g *layer.Group) string {
	by := l.standing(e.By.File, e.By.Line)
	winner, of := l.entry(e.By.File, e.By.Line)
	switch {
	case by == nil || winner == nil:
		return fmt.Sprintf("it is %s by %s, where no assignment stands", e.Fate, e.By)
	case by.section != e.Section || of != g:
		return fmt.Sprintf("it is %s by %s, which is %s=", e.Fate, e.By, by.key)
	case (e.Fate == layer.Reset) != (by.value == ""):
		return fmt.Sprintf("it is %s by %s, which is %s=%s", e.Fate, e.By, by.key, by.value)
	case !l.reads(e.Origin, e.By):
		return fmt.Sprintf("it is %s by %s, which is read before it", e.Fate, e.By)
	case e.Fate == layer.Shadowed && g.Rule.Merge != layer.Scalar && g.Rule.Merge != layer.ByID:
		return fmt.Sprintf("it is shadowed by %s, and of a list, in which all count", e.By)
	case e.Fate == layer.Shadowed && g.Rule.Merge == layer.ByID && elementOf(by.value) != elementOf(e.Value):
		return fmt.Sprintf("it is shadowed by %s, which is of another name", e.By)
	case e.Fate == layer.Shadowed && g.Rule.Merge != layer.ByID && by.key != e.Key:
		return fmt.Sprintf("it is shadowed by %s, which is of another key", e.By)
	}
	return ""
}

// elementOf is the name of what a line loads, sets or passes.
func elementOf(value string) string {
	name, _, _ := strings.Cut(value, ":")
	return strings.ReplaceAll(name, "%i", accountedVM)
}

// reads reports whether one line is read before another.
func (l *loaded) reads(first, then diag.Origin) bool {
	rank := func(o diag.Origin) int {
		if o.File == ownImage {
			return -1
		}
		for i, f := range l.res.Source.Files {
			if f.Path == o.File {
				return i
			}
		}
		return len(l.res.Source.Files) // the command line
	}
	a, b := rank(first), rank(then)
	return a < b || a == b && first.Line < then.Line
}

// overruled finds a credential that counts and that systemd gives up for another
// line of the unit: of those of one name it takes the last, and what is loaded
// before what is set. A value that is set beside a Load of the same section is
// the default of that.
func (l *loaded) overruled() string {
	last := map[string]string{}
	list := func(key string) string { return strings.TrimSuffix(key, "Encrypted") }
	for _, line := range l.unit {
		key, value, _ := strings.Cut(line, "=")
		last[list(key)+" "+elementOf(value)] = value
	}
	for _, g := range l.res.Resolved.Groups {
		if g.Section != "Service" || list(g.Name) != "LoadCredential" && list(g.Name) != "SetCredential" {
			continue
		}
		for e := range g.Live() {
			if got := last[list(e.Key)+" "+elementOf(e.Value)]; got != e.Value {
				return fmt.Sprintf("%s: %s=%s counts, and systemd takes %q instead", e.Origin, e.Key, e.Value, got)
			}
		}
	}
	loads := map[string]bool{}
	for e := range l.res.Resolved.Group(spec.Section, "LoadCredential").Live() {
		loads[elementOf(e.Value)] = true
	}
	for e := range l.res.Resolved.Group(spec.Section, "SetCredential").Live() {
		if got, ok := last["LoadCredential "+elementOf(e.Value)]; ok && !loads[elementOf(e.Value)] {
			return fmt.Sprintf("%s: %s=%s counts, and systemd loads %q instead", e.Origin, e.Key, e.Value, got)
		}
	}
	return ""
}

// waits: what the line clears may be in the image, which is not there yet.
func waits(l *loaded) bool { return l.res.Plan.VM.Waits() }

// cleared judges an empty assignment.
func (tr trial) cleared(after *loaded, e *layer.Entry, g *layer.Group, same bool) (outcome, string) {
	if tr.target.value != "" {
		return lost, "it is said to clear, and has a value"
	}
	var ended []layer.Entry
	for _, other := range g.Entries {
		if other.Fate == layer.Reset && other.By == e.Origin {
			ended = append(ended, other)
		}
	}
	for i := range ended {
		if why := after.endedBy(&ended[i], g); why != "" {
			return lost, fmt.Sprintf("of %s: %s", ended[i].Origin, why)
		}
	}
	switch {
	case len(ended) > 0:
		return clears, ""
	case same || tr.old != nil:
		return nothing, ""
	case tr.target.section != spec.Section, waits(after) && spec.InImage(tr.target.key):
		return changes, "" // the line itself stands in the unit, for what systemd has there
	}
	return lost, "it clears nothing and yet changes what runs"
}

// counts judges an assignment that the layers call effective.
func (tr trial) counts(before, after *loaded, e *layer.Entry, g *layer.Group, same bool) (outcome, string) {
	switch {
	case !same:
		return changes, ""
	case strings.HasPrefix(e.Section, "X-"), e.Section == spec.Section && strings.HasPrefix(e.Key, "X-"):
		return leftAlone, "" // docs/unit-syntax.md: these are notes for others
	case !before.said(e, g):
		return lost, "it counts, and nothing changes"
	}
	named := false
	for _, other := range g.Entries {
		named = named || other.Fate == layer.Shadowed && other.By == e.Origin && after.endedBy(&other, g) == ""
	}
	for _, o := range after.res.Plan.Origins {
		named = named || o == e.Origin
	}
	if !named {
		return lost, "it says what was so before, and is nobody's origin"
	}
	return repeats, ""
}

// said reports whether an assignment says what was so before it.
func (l *loaded) said(e *layer.Entry, g *layer.Group) bool {
	value := ""
	for old := range l.res.Resolved.Group(e.Section, g.Name).Live() {
		if g.Rule.Merge == layer.Scalar || g.Rule.Merge == layer.ByID && elementOf(old.Value) == elementOf(e.Value) && old.Key == e.Key {
			value = old.Value
		}
	}
	if value == "" && e.Section == spec.Section {
		value = defaultOf(e.Key)
	}
	return value != "" && l.meaning(e.Key, value) == l.meaning(e.Key, e.Value)
}

func defaultOf(key string) string {
	switch key {
	case "GuestSystemd":
		return strconv.Itoa(spec.UnknownGuestSystemd)
	case "Machine": // the other hypervisors take none
		return "q35"
	}
	for _, row := range spec.Table() {
		if row.Name == key {
			return row.Default
		}
	}
	return ""
}

// meaning makes values equal that mean the same to a VM's hypervisor.
func (l *loaded) meaning(key, value string) string {
	vm := &l.res.Plan.VM
	switch n, err := spec.ParseSize(value); {
	case key == "Memory" && err == nil:
		return strconv.FormatInt(n, 10)
	case value != "auto":
	case key == "Readiness":
		if vm.VSock != nil && vm.GuestSystemd >= spec.NotifiesOverStreams && vm.Runner == "" {
			return "guest"
		}
		return "started"
	case key == "Accelerator" && refusedBy(vm.Hypervisor, "emulation"):
		return "kvm"
	case key == "CredentialChannel" && len(channelsOf(vm)) == 1:
		return channelsOf(vm)[0]
	case key == "VSockCID" && vm.VSock != nil && vm.VSock.Multiplexed:
		return "3" // nobody else sees it
	}
	return value
}

// channelsOf are the channels that a VM has, whatever CredentialChannel= says.
func channelsOf(vm *plan.VM) []string {
	as := spec.VM{Initrd: spec.Setting[string]{Set: vm.Initrd != ""}}
	for _, w := range vm.KernelCommandLine {
		as.KernelCommandLine = append(as.KernelCommandLine, spec.Word{Text: w})
	}
	return slices.DeleteFunc([]string{"smbios", "fw_cfg", "initrd"}, func(name string) bool {
		return refusedBy(vm.Hypervisor, "channel "+name) || name == "smbios" && vm.Machine == "microvm" || name == "initrd" && driver.InitrdChannel(&as).Refused != ""
	})
}

// refusedBy reports whether a hypervisor does not have a feature.
func refusedBy(hypervisor, feature string) bool {
	return slices.ContainsFunc(driver.Find(all.Drivers(), hypervisor).Features(), func(f driver.Feature) bool { return f.Name == feature && f.Refusal != "" })
}
