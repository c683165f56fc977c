package adopt

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/microvmnix"
	"github.com/ampoule-vm/ampoule/internal/spec"
	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

// writer makes the lines of the file out of the settings of a script. What it has
// no line for it leaves alone: the check finds that.
type writer struct {
	draft    *Draft
	sheet    *sheet
	problems *diag.List
	entries  []entry
}

// entry is a line of [MicroVM] with the settings that it comes from.
type entry struct {
	key, value string
	from       []Setting
	note       string
}

func (w *writer) file() {
	w.whole()
	w.boot()
	w.disks()
	w.shares()
	w.devices()
	w.networks()
	w.guest()
	w.credentials()
	w.arguments()
	w.format()
}

// line adds KEY=VALUE, whose value is literal: "%" is doubled. Left out are lines
// all of whose settings are.
func (w *writer) line(key, value string, from ...Setting) {
	left := func(set Setting) bool { return w.draft.options.without(set) }
	if len(from) > 0 && !slices.ContainsFunc(from, func(set Setting) bool { return !left(set) }) {
		return
	}
	w.entries = append(w.entries, entry{key: key, value: strings.ReplaceAll(value, "%", "%%"), from: from})
}

// copied is a line with the value of a setting as it is.
func (w *writer) copied(key, setting string) {
	if set := w.sheet.find(setting); set != nil {
		w.line(key, set.Value, *set)
	}
}

// sized is a line with an amount of memory.
func (w *writer) sized(key, setting string) {
	set := w.sheet.find(setting)
	if set == nil {
		return
	}
	n, err := strconv.ParseInt(set.Value, 10, 64)
	if err != nil {
		w.line(key, set.Value, *set)
		return
	}
	w.line(key, spec.FormatSize(n), *set)
}

// flag is a line for what is on.
func (w *writer) flag(key, setting string) {
	if set := w.sheet.find(setting); set != nil && set.Value == "yes" {
		w.line(key, "yes", *set)
	}
}

// whole are hypervisor, machine, processors and memory.
func (w *writer) whole() {
	exec := w.sheet.runner.Script.Exec
	program := exec.Program
	if w.draft.Hypervisor != "" {
		at := Setting{Key: "program", Value: program.Text, File: w.sheet.file, Line: program.Line, Shown: program.Text, Words: []int{-1}}
		w.draft.Script = append([]Setting{at}, w.draft.Script...)
		w.line("Hypervisor", w.draft.Hypervisor, at)
		w.line("HypervisorPath", program.Text, at)
	}
	if set := w.sheet.find("machine"); set != nil {
		machine := set.Value
		if w.draft.options.Machine != "" {
			machine = w.draft.options.Machine
		}
		w.line("Machine", machine, *set)
	}
	w.accelerator()
	w.copied("VCPU", "cpus")
	w.topology()
	w.sized("Memory", "memory")
	if set := w.sheet.find("memory.hugepages"); set != nil && set.Value != "no" && set.Value != "None" {
		size := "2M"
		if s := w.sheet.find("memory.hugepage_size"); s != nil && s.Value == strconv.Itoa(spec.HugePage1G) {
			size = "1G"
		}
		w.line("HugePages", size, *set)
	}
	if set := w.sheet.find("memory.hotplug_size"); set != nil && set.Value != "0" {
		w.sized("MemoryHotplug", "memory.hotplug_size")
	}
	w.flag("Balloon", "balloon")
	w.flag("Watchdog", "watchdog")
	w.flag("Watchdog", "i6300esb")
}

// accelerator: -enable-kvm stands beside accel=kvm:tcg in what microvm.nix writes.
func (w *writer) accelerator() {
	set := w.sheet.find("accel")
	if set == nil || w.draft.Hypervisor != microvmnix.QEMU {
		return
	}
	switch set.Value {
	case "kvm", "tcg":
		w.line("Accelerator", set.Value, *set)
	}
}

func (w *writer) topology() {
	count := number(w.sheet.value("cpus"))
	switch {
	case w.sheet.value("cpus.topology") != "":
		set := w.sheet.find("cpus.topology")
		// THREADS:CORES:DIES:PACKAGES; of dies Ampoule has one in each package.
		if p := strings.Split(set.Value, ":"); len(p) == 4 && p[2] == "1" {
			w.line("CPUTopology", p[3]+":"+p[1]+":"+p[0], *set)
		}
	case w.sheet.value("cpus.smt") == "yes" && count > 1 && count%2 == 0:
		set := w.sheet.find("cpus.smt")
		w.line("CPUTopology", fmt.Sprintf("1:%d:2", count/2), *set)
	case w.sheet.value("cpus.sockets") != "" && w.sheet.value("cpus.cores") != "" && w.sheet.value("cpus.threads") != "":
		s, c, t := w.sheet.find("cpus.sockets"), w.sheet.find("cpus.cores"), w.sheet.find("cpus.threads")
		w.line("CPUTopology", s.Value+":"+c.Value+":"+t.Value, *s, *c, *t)
	}
}

func (w *writer) boot() {
	w.copied("Kernel", "kernel")
	w.copied("Initrd", "initrd")
	if set := w.sheet.find("cmdline"); set != nil {
		words, _ := kernelWords(set.Value)
		for i := range words {
			words[i] = unitfile.QuoteWord(words[i])
		}
		w.line("KernelCommandLine", strings.Join(words, " "), *set)
	}
}

// escapePath writes a path in front of a colon.
func escapePath(p string) string {
	return strings.ReplaceAll(strings.ReplaceAll(p, `\`, `\\`), ":", `\:`)
}

// placed is a path of the script as the file has it.
func (w *writer) placed(p string) string {
	if path.IsAbs(p) || w.own() {
		return p
	}
	return path.Join(w.draft.options.StateDir, p)
}

// own reports whether relative paths lie where Ampoule has a VM's disks.
func (w *writer) own() bool { return path.Clean(w.draft.options.StateDir) == ownState(w.draft.Name) }

func ownState(name string) string { return "/var/lib/ampoule/vm/" + name }

// each are the elements of a list, by a field that each has.
func (w *writer) each(list, field string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for _, set := range w.sheet.settings {
			if e, ok := strings.CutSuffix(set.Key, "."+field); ok && strings.HasPrefix(e, list+"[") && !yield(e) {
				return
			}
		}
	}
}

func (w *writer) disks() {
	for e := range w.each("disk", "path") {
		at := w.sheet.below(e)
		image := w.sheet.value(e + ".path")
		var options []string
		if f := w.sheet.value(e + ".format"); f != "" && f != "raw" {
			options = append(options, f)
		}
		if w.sheet.value(e+".readonly") == "yes" {
			options = append(options, "ro")
		}
		if w.sheet.value(e+".direct") == "yes" {
			options = append(options, "direct")
		}
		if s := w.sheet.value(e + ".serial"); s != "" {
			options = append(options, "serial="+s)
		}
		note := ""
		if v := w.sheet.volumeOf(image); v != nil && !w.draft.options.without(Setting{Key: "volume[" + image + "]"}) {
			if w.own() && !path.IsAbs(image) && fits(v) {
				options = append(options, volume(v))
			} else {
				note = "The script makes it where it is missing: " + volume(v) + ". Ampoule makes disks in " + ownState(w.draft.Name) + " alone, and names one that is missing."
			}
		}
		w.element("Disk", w.placed(image), options, note, at)
	}
}

func (w *writer) element(key, head string, options []string, note string, from []Setting) {
	value := escapePath(head)
	if key != "Disk" {
		value = head
	}
	if len(options) > 0 {
		value += ":" + strings.Join(options, ",")
	}
	before := len(w.entries)
	w.line(key, value, from...)
	if len(w.entries) > before {
		w.entries[before].note = note
	}
}

func (w *writer) shares() {
	for e := range w.each("share", "protocol") {
		source := w.sheet.value(e + ".source")
		if source == "" {
			continue // said
		}
		if !path.IsAbs(source) {
			source = path.Join(w.draft.options.StateDir, source)
		}
		var options []string
		if w.sheet.value(e+".readonly") == "yes" {
			options = append(options, "ro")
		}
		if w.sheet.value(e+".protocol") == "9p" {
			options = append(options, "9p", "security="+w.sheet.value(e+".security"))
		} else if w.draft.options.External {
			options = append(options, "socket="+place(w.sheet.value(e+".socket"), w.draft.options.StateDir))
		} else if c := w.sheet.value(e + ".cache"); c != "" && c != "auto" {
			options = append(options, "cache="+c)
		}
		w.element("Share", escapePath(source)+":"+w.sheet.value(e+".tag"), options, "", w.sheet.below(e))
	}
}

func (w *writer) devices() {
	for i := range w.sheet.seen["device"] {
		set := w.sheet.find(fmt.Sprintf("device[%d]", i))
		if set == nil {
			continue
		}
		bus, address, _ := strings.Cut(set.Value, ":")
		w.line("Device", spec.DeviceLine(bus, address, w.draft.options.External && bus == "pci"), *set)
	}
}

func (w *writer) networks() {
	for e := range w.each("net", "kind") {
		get := func(key string) string { return w.sheet.value(e + "." + key) }
		head := get("kind")
		var options []string
		switch head {
		case "bridge":
			options = append(options, get("bridge"))
		case "macvtap":
			options = append(options, get("link"))
			if mode := get("mode"); mode != "" && !w.draft.options.External {
				options = append(options, "mode="+mode)
			}
		case "":
			continue // said
		}
		if get("name") != "" && head != "user" {
			options = append(options, "name="+get("name"))
		}
		if w.draft.options.External && (head == "tap" || head == "macvtap") {
			options = append(options, "external")
		}
		if get("mac") != "" {
			options = append(options, "mac="+get("mac"))
		}
		if q := get("queues"); q != "" && q != "1" && head != "user" {
			options = append(options, "queues="+q)
		}
		if get("vhost") == "yes" {
			options = append(options, "vhost=yes")
		}
		w.element("Network", head, options, "", w.sheet.below(e))
	}
	for i := range w.sheet.seen["port"] {
		w.copied("PublishPort", fmt.Sprintf("port[%d]", i))
	}
}

// guest are console, vsock, readiness and the machine's ID.
func (w *writer) guest() {
	if set := w.sheet.find("serial"); set != nil && (set.Value == "null" || set.Value == "none" || set.Value == "off") {
		w.line("Console", "none", *set)
	}
	if set := w.sheet.find("uuid"); set != nil {
		w.line("MachineID", strings.ReplaceAll(set.Value, "-", ""), *set)
	}
	w.copied("VSockCID", "vsock.cid")
	if set := w.sheet.find("notify"); set != nil {
		w.line("Readiness", "guest", *set)
	}
}

// arguments are what no key has; the hypervisor's driver says whether it takes it.
func (w *writer) arguments() {
	words := func(text ...string) string {
		for i := range text {
			text[i] = unitfile.QuoteWord(text[i])
		}
		return strings.Join(text, " ")
	}
	if set := w.sheet.find("seccomp"); set != nil && set.Value != "true" {
		w.line("HypervisorArgs", words("--seccomp", set.Value), *set)
	}
	if set := w.sheet.find("sandbox"); set != nil {
		w.line("HypervisorArgs", words("-sandbox", set.Value), *set)
	}
	if set := w.sheet.find("cpu"); set != nil && !defaultCPU(set.Value) {
		w.line("HypervisorArgs", words("-cpu", set.Value), *set)
	}
	if set := w.sheet.find("qemu-xhci"); set != nil && !w.hasUSB() {
		w.line("HypervisorArgs", words("-device", "qemu-xhci"), *set)
	}
	args := w.sheet.runner.Script.Exec.Args
	for _, set := range w.sheet.settings {
		if !strings.HasPrefix(set.Key, "argument[") || len(set.Words) == 0 {
			continue
		}
		var text []string
		for _, i := range set.Words {
			text = append(text, args[i].Text)
		}
		w.line("HypervisorArgs", words(text...), set)
	}
}

// hasUSB reports whether a device of the host hangs on USB, for which there is a
// controller then.
func (w *writer) hasUSB() bool {
	return slices.ContainsFunc(w.sheet.settings, func(set Setting) bool {
		return strings.HasPrefix(set.Key, "device[") && strings.HasPrefix(set.Value, "usb:") && !w.draft.options.without(set)
	})
}

// defaultCPU reports whether a processor is the one that microvm.nix takes by
// itself: the host's.
func defaultCPU(cpu string) bool { return cpu == "host" || cpu == "host,+x2apic,-sgx" }

// credentials writes a line for each, and says which have no source.
func (w *writer) credentials() {
	o := w.draft.options
	sources, order := o.sources(w.problems)
	named := map[string]bool{}
	for _, set := range w.sheet.settings {
		name, ok := strings.CutPrefix(set.Key, "credential[")
		if name = strings.TrimSuffix(name, "]"); !ok || named[name] {
			continue
		}
		named[name] = true
		_, has := sources[name]
		switch {
		case o.without(set):
		case has:
		case slices.Contains(o.Public, name) && set.secret:
			w.entries = append(w.entries, entry{key: "SetCredential", value: publicValue(name, set.public), from: []Setting{set}, note: "By --public."})
		case set.secret:
			w.problems.Errorf(set.origin(), "", "", fmt.Sprintf("write the value to a file that root alone may read, and repeat with --credential %s:FILE; or, if it is no secret, with --public %s", name, name),
				"the value of the credential %s stands in the script in clear, and every user of this host can read it there and in the hypervisor's command line", name)
		case set.Value != "":
			w.line("LoadCredential", name+":"+w.placedSource(set.Value), set)
		default:
			w.problems.Errorf(set.origin(), "", "", fmt.Sprintf("repeat with --unit FILE, the service that loads it, or with --credential %s:SOURCE", name), "the script reads the credential %s, and nothing says where it comes from", name)
		}
	}
	for _, name := range order {
		src := sources[name]
		e := entry{key: src.key, value: src.value, note: "From " + src.from + "."}
		for _, set := range w.sheet.settings {
			if set.Key == credentialKey(name) {
				e.from = append(e.from, set)
			}
		}
		if len(e.from) == 0 && src.from != "--credential" && !strings.HasSuffix(name, ":default") {
			e.note = "From " + src.from + "; the script does not read it."
		}
		w.entries = append(w.entries, e)
	}
	for _, name := range o.Public {
		if set := w.sheet.find(credentialKey(name)); set == nil || !set.secret {
			w.problems.Errorf(diag.Origin{File: "--public"}, "", "", "accepted: names of credentials whose values stand in the script", "the script has no value of a credential %s", name)
		}
	}
}

func (w *writer) placedSource(p string) string {
	if path.IsAbs(p) {
		return p
	}
	return path.Join(w.draft.options.StateDir, p)
}

// format writes the file, and remembers which line comes from what.
func (w *writer) format() {
	script := w.sheet.runner.Script
	head := "Made by ampoule adopt from the runner of microvm.nix whose script is " + script.File + ".\n" +
		"Above each line stand the words of the script that it comes from, with their lines."
	blocks := []unitfile.Block{{Comment: head}, {Name: spec.Section}}
	for _, e := range w.entries {
		blocks[1].Entries = append(blocks[1].Entries, unitfile.Entry{Key: e.key, Value: e.value, Comment: w.comment(e)})
	}
	text, err := unitfile.Format(blocks)
	if err != nil {
		w.problems.Errorf(diag.Origin{File: script.File, Line: script.Exec.Line}, "", "", "remove it from the runner", "something in it cannot stand in a unit file: %s", err)
		return
	}
	w.draft.Text = text
	parsed := unitfile.Parse(w.draft.FileName(), "main", text)
	for i, a := range parsed.Assignments {
		if i < len(w.entries) {
			w.draft.lines[a.Origin.Line] = line{key: a.Key, value: a.Value, from: w.entries[i].from}
		}
	}
}

// FileName is what the file is called where it has no place yet.
func (d *Draft) FileName() string { return d.Name + ".microvm" }

// maxComment is the longest piece of a comment, in bytes.
const maxComment = 160

func (w *writer) comment(e entry) string {
	var lines []string
	add := func(s string) {
		if !slices.Contains(lines, s) {
			lines = append(lines, s)
		}
	}
	for _, set := range e.from {
		place := "line " + strconv.Itoa(set.Line)
		if set.File != w.sheet.file {
			place = set.File + ":" + strconv.Itoa(set.Line)
		}
		add(place + ": " + diag.Printable(set.Shown, maxComment))
	}
	if e.note != "" {
		add(diag.Printable(e.note, 2*maxComment))
	}
	return strings.Join(lines, "\n")
}
