package adopt

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/microvmnix"
)

// qemuAlone are options of QEMU without a word behind them, of those that occur.
var qemuAlone = []string{"nodefaults", "no-user-config", "no-reboot", "no-shutdown", "enable-kvm", "nographic", "S", "snapshot", "daemonize", "no-hpet", "no-acpi", "usb", "only-migratable"}

// qemu reads a command line of QEMU.
func (s *sheet) qemu(words []microvmnix.Word) {
	q := &qemuReader{sheet: s, options: qemuOptions(arguments(words)), daemons: true}
	q.read()
	s.absent("serial", "none")
	if s.value("accel") == "" {
		s.absent("accel", "tcg")
	}
}

// qemuOptions pairs options with their words.
func qemuOptions(args []argument) []option {
	var out []option
	for i := 0; i < len(args); i++ {
		o := option{name: args[i]}
		name := strings.TrimLeft(args[i].text, "-")
		if strings.HasPrefix(args[i].text, "-") && !slices.Contains(qemuAlone, name) && i+1 < len(args) {
			i++
			o.values = []argument{args[i]}
		}
		out = append(out, o)
	}
	return out
}

// qemuReader reads both the command lines that microvm.nix writes and those that
// Ampoule does.
type qemuReader struct {
	*sheet
	options []option
	// daemons: share/microvm has more of the shares than the command line.
	daemons bool
	// network says what a netdev is that comes as descriptors, where the command
	// line is a plan's.
	network func(id string) (kind, name string, queues int, ok bool)
	// backends are options that a later device names, by their ids.
	backends map[string]option
	used     map[string]bool
}

func (q *qemuReader) read() {
	q.backends, q.used = map[string]option{}, map[string]bool{}
	for _, o := range q.options {
		if id := q.backendID(o); id != "" {
			q.backends[id] = o
		}
	}
	for _, o := range q.options {
		q.option(o)
	}
	for _, o := range q.options {
		if id := q.backendID(o); id != "" && !q.used[id] {
			q.unused(o)
		}
	}
}

// unused is a backend that nothing names. The standard streams are there whether the
// guest has a console or not.
func (q *qemuReader) unused(o option) {
	if o.name.text == "-chardev" && unnamed(o) == standardStreams {
		q.add("serial.chardev", standardStreams, o.all()...)
		return
	}
	q.rest(o)
}

// standardStreams is where microvm.nix has the console.
const standardStreams = "stdio,signal=off"

// unnamed are the parameters of a backend without its id.
func unnamed(o option) string {
	var out []string
	for piece := range strings.SplitSeq(o.values[0].text, ",") {
		if !strings.HasPrefix(piece, "id=") {
			out = append(out, piece)
		}
	}
	return strings.Join(out, ",")
}

// backendID is the id of what another option refers to.
func (q *qemuReader) backendID(o option) string {
	if len(o.values) == 0 {
		return ""
	}
	kind := strings.TrimLeft(o.name.text, "-")
	switch kind {
	case "drive", "netdev", "chardev", "fsdev", "object":
		for _, p := range qemuParameters(o.values[0].text) {
			if p.key == "id" {
				return kind + " " + p.value
			}
		}
	case "blockdev":
		var b struct {
			Name string `json:"node-name"`
		}
		if json.Unmarshal([]byte(o.values[0].text), &b) == nil && b.Name != "" {
			return "drive " + b.Name
		}
	}
	return ""
}

// take is the backend of an id, which counts as read then.
func (q *qemuReader) take(kind, id string) (option, bool) {
	o, ok := q.backends[kind+" "+id]
	if ok {
		q.used[kind+" "+id] = true
	}
	return o, ok
}

// rest is an option that no key of Ampoule's stands for.
func (q *qemuReader) rest(o option) { q.add(q.next("argument"), joined(o), o.all()...) }

func (q *qemuReader) option(o option) {
	if q.backendID(o) != "" {
		return // when a device names it
	}
	name := strings.TrimLeft(o.name.text, "-")
	if len(o.values) == 0 {
		switch name {
		case "nographic":
			q.add("display", "none", o.name)
		case "enable-kvm":
			q.add("accel", "kvm", o.name)
		case "nodefaults", "no-user-config", "no-reboot", "S":
			q.add(name, "yes", o.name)
		default:
			q.rest(o)
		}
		return
	}
	value := o.values[0]
	switch name {
	case "name", "kernel", "initrd", "cpu", "qmp", "sandbox", "run-with":
		q.once(name, value.text, o)
	case "display":
		if value.text != "none" {
			name = "graphics"
		}
		q.add(name, value.text, o.all()...)
	case "append":
		if q.find("cmdline") != nil {
			q.rest(o)
			return
		}
		q.commandLine(o)
	case "M", "machine":
		q.machine(o)
	case "m":
		q.memory(o)
	case "smp":
		q.processors(o)
	case "serial":
		q.serial(o)
	case "smbios", "uuid":
		q.smbios(o)
	case "fw_cfg":
		q.fwCfg(o)
	case "numa":
		q.numa(o)
	case "accel":
		q.add("accel", value.text, o.all()...)
	case "action":
		q.add("action", value.text, o.all()...)
	case "device":
		q.device(o)
	default:
		q.rest(o)
	}
}

// once is an option that counts once; a second one is somebody's own.
func (q *qemuReader) once(key, value string, o option) {
	if q.find(key) != nil {
		q.rest(o)
		return
	}
	q.add(key, value, o.all()...)
}

func (q *qemuReader) machine(o option) {
	for _, p := range qemuParameters(o.values[0].text) {
		switch {
		case p.key == "type" || p.value == "" && q.find("machine") == nil:
			q.once("machine", p.key, o)
		case p.key == "accel":
			q.add("accel", p.value, o.all()...)
		case p.key == "memory-backend":
			q.backing(p.value, o)
		default:
			q.add("machine."+p.key, yes(p.value), o.all()...)
		}
	}
}

func (q *qemuReader) memory(o option) {
	for _, p := range qemuParameters(o.values[0].text) {
		switch {
		case p.value == "":
			q.once("memory", inBytes(p.key, 1<<20), o)
		case p.key == "size":
			q.once("memory", inBytes(p.value, 1<<20), o)
		case p.key == "maxmem":
			q.add("memory.max", inBytes(p.value, 1<<20), o.all()...)
		default:
			q.add("memory."+p.key, p.value, o.all()...)
		}
	}
}

func (q *qemuReader) processors(o option) {
	for _, p := range qemuParameters(o.values[0].text) {
		if p.value == "" || p.key == "cpus" {
			q.once("cpus", p.key+p.value, o)
			continue
		}
		q.add("cpus."+p.key, p.value, o.all()...)
	}
}

// serial is the console where it goes to the standard streams, or to a plan's.
func (q *qemuReader) serial(o option) {
	id, ok := strings.CutPrefix(o.values[0].text, "chardev:")
	if backend, found := q.take("chardev", id); ok && found {
		kind := qemuParameters(backend.values[0].text)[0].key
		if kind == "stdio" || id == "console" {
			q.once("serial", "tty", o)
			q.add("serial.chardev", unnamed(backend), backend.all()...)
			return
		}
		delete(q.used, "chardev "+id)
	}
	q.rest(o)
}

func (q *qemuReader) smbios(o option) {
	if strings.TrimLeft(o.name.text, "-") == "uuid" {
		q.once("uuid", strings.ToLower(o.values[0].text), o)
		return
	}
	params := qemuParameters(o.values[0].text)
	if slices.Contains(params, parameter{"type", "1"}) && len(params) == 2 && params[1].key == "uuid" {
		q.once("uuid", strings.ToLower(params[1].value), o)
		return
	}
	q.rest(o)
}

// fwCfg is a credential from a file, or something else.
func (q *qemuReader) fwCfg(o option) {
	name, file, inClear := "", "", ""
	for _, p := range qemuParameters(o.values[0].text) {
		switch p.key {
		case "name":
			name = p.value
		case "file":
			file = p.value
		case "string":
			inClear = p.value
		}
	}
	credential, ok := strings.CutPrefix(name, "opt/io.systemd.credentials/")
	if !ok {
		q.rest(o)
		return
	}
	q.add(credentialKey(credential), file, o.all()...)
	if file == "" {
		set := &q.settings[len(q.settings)-1]
		set.secret, set.public = true, inClear
	}
}

// numa names the memory.
func (q *qemuReader) numa(o option) {
	params := qemuParameters(o.values[0].text)
	if len(params) == 2 && params[0].key == "node" && params[1].key == "memdev" {
		q.backing(params[1].value, o)
		return
	}
	q.rest(o)
}

// backing is the object that the guest's memory is.
func (q *qemuReader) backing(id string, o option) {
	object, ok := q.take("object", id)
	if !ok {
		q.rest(o)
		return
	}
	words := append(o.all(), object.all()...)
	params := qemuParameters(object.values[0].text)
	q.add("memory.backend", params[0].key, words...)
	for _, p := range params[1:] {
		switch p.key {
		case "id", "size":
		case "share":
			q.add("memory.shared", yes(p.value), words...)
		case "hugetlb":
			q.add("memory.hugepages", yes(p.value), words...)
		case "hugetlbsize":
			q.add("memory.hugepage_size", inBytes(p.value, 1), words...)
		default:
			q.add("memory."+p.key, p.value, words...)
		}
	}
}

// number reads a whole number; what is none is 0.
func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0
	}
	return n
}

// qemuParameters splits as QEMU does: at commas, of which two are one in the value.
func qemuParameters(text string) []parameter {
	var out []parameter
	for _, piece := range strings.Split(strings.ReplaceAll(text, ",,", "\x00"), ",") {
		if piece = strings.ReplaceAll(piece, "\x00", ","); piece != "" {
			key, value, _ := strings.Cut(piece, "=")
			out = append(out, parameter{key, value})
		}
	}
	return out
}
