package explain

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/layer"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

// origin is what is behind a field of the plan: keys, by which it may be found
// in the files, or what is behind it where no key is.
type origin struct {
	// path is that of the field, or of something that it is a part of.
	path string
	keys []string
	why  string
}

// fieldOrigins are the fields of a plan. Those with a "from" of their own are
// found by that. TestEveryField fails for one that is not here.
func fieldOrigins() []origin {
	const stop = "Service.TimeoutStopSec"
	return []origin{
		{"schema", nil, "the form of the plan"},
		{"ampoule", nil, "the version that made the plan"},
		{"digest", nil, "computed from all of the VM, or of its [Service]"},
		{"vm.name", nil, "the name of the VM's file"},
		{"vm.architecture", nil, "that of the host"},
		{"vm.hypervisor", []string{"Hypervisor"}, ""},
		{"vm.image", []string{"Image"}, ""},
		{"vm.binary", []string{"HypervisorPath", "Hypervisor"}, ""},
		{"vm.machine", []string{"Machine", "Hypervisor"}, ""},
		{"vm.vcpu", []string{"VCPU"}, ""},
		{"vm.cpu_topology", []string{"CPUTopology"}, ""},
		{"vm.memory", []string{"Memory"}, ""},
		{"vm.huge_pages", []string{"HugePages"}, ""},
		{"vm.memory_hotplug", []string{"MemoryHotplug"}, ""},
		{"vm.balloon", []string{"Balloon"}, ""},
		{"vm.resize", []string{"MemoryHotplug", "Balloon", "HugePages", "Hypervisor"}, ""},
		{"vm.watchdog", []string{"Watchdog"}, ""},
		{"vm.kernel", []string{"Kernel"}, ""},
		{"vm.initrd", []string{"Initrd"}, ""},
		{"vm.kernel_command_line", []string{"KernelCommandLine", "Console", "Machine", "MachineID", "MemoryHotplug", "Hypervisor"}, ""},
		{"vm.kernel_command_line_max", []string{"Hypervisor"}, "a limit of the architecture"},
		{"vm.disks", []string{"Disk"}, ""},
		{"vm.devices", []string{"Device"}, ""},
		{"vm.shares", []string{"Share"}, ""},
		{"vm.console", []string{"Console"}, ""},
		{"vm.machine_id", []string{"MachineID"}, ""},
		{"vm.guest_systemd", []string{"GuestSystemd"}, ""},
		{"vm.readiness", []string{"Readiness", "VSockCID", "GuestSystemd", "Runner"}, ""},
		{"vm.stop_timeout_ms", []string{stop, "Service.TimeoutSec"}, ""},
		{"vm.runner", []string{"Runner"}, ""},
		{"vm.credentials", credentialKeys(""), ""},
		{"vm.given", []string{"SSH"}, ""},
		{"vm.vsock", []string{"VSockCID", "Hypervisor"}, ""},
		{"vm.networks", []string{"Network", "Hypervisor"}, ""},
		{"vm.ports", []string{"PublishPort"}, ""},
		{"vm.control", []string{"Hypervisor"}, ""},
		{"vm.api.oldest", []string{"MemoryHotplug", "Balloon", "Hypervisor"}, ""},
		{"vm.api", []string{"Hypervisor"}, ""},
		{"vm.command", []string{"Hypervisor", "Machine"}, ""},
		{"vm.accelerator", []string{"Accelerator", "Machine", "Hypervisor"}, ""},
		{"vm.channels", []string{"CredentialChannel", "Machine", "Hypervisor"}, ""},
		{"vm.kernel_formats", []string{"Hypervisor"}, "those that it boots"},
		{"vm.system_calls", []string{"Hypervisor"}, "those that it needs beyond what services may make"},
		{"vm.lock_disks", []string{"Hypervisor"}, "it does not lock its disks itself"},
		{"vm.fixed_vhd", []string{"Hypervisor"}, "what it reads of a format"},
		{"unit.credentials", credentialKeys("Service."), ""},
		{"unit.keep_running", []string{"RestartIfChanged"}, ""},
		{"unit.resources", nil, "the lines of [Service] that are about resources"},
		{"unit.service", nil, "there are no lines in [Service] whose change needs a restart"},
	}
}

func credentialKeys(prefix string) []string {
	keys := []string{"LoadCredential", "LoadCredentialEncrypted", "SetCredential", "SetCredentialEncrypted", "ImportCredential"}
	for i := range keys {
		keys[i] = prefix + keys[i]
	}
	if prefix == "" {
		keys = append(keys, "Credential")
	}
	return keys
}

// channelKeys are the keys behind a field of a channel: what it can take depends
// on the guest, and what it asks of the kernel on how the VM boots.
func channelKeys(field string) []string {
	keys := []string{"CredentialChannel", "Machine", "Hypervisor"}
	switch field {
	case "max_structure", "max_total", "why":
		keys = append(keys, "GuestSystemd", "Memory")
	case "kernel_command_line", "replaces_parameters", "init", "refused", "cure":
		keys = append(keys, "Initrd", "KernelCommandLine")
	}
	return keys
}

// commandLineMaxKeys are the keys behind the longest kernel command line. The
// kernel's own limit is a power of two with the NUL; of one that is not, the
// hypervisor keeps some for the devices that it announces there.
func commandLineMaxKeys(most int) []string {
	keys := []string{"Hypervisor"}
	if size := most + 1; size&most != 0 {
		keys = append(keys, "Disk", "Network", "VSockCID", "MemoryHotplug", "Balloon")
	}
	return keys
}

// asked are the keys behind what waits for an answer at start, of a command line
// or a request.
func asked(vm *plan.VM, q plan.Question) []string {
	var keys []string
	switch q {
	case plan.AskAccelerator:
		return []string{"Accelerator"}
	case plan.AskChannel:
		keys = append([]string{"CredentialChannel"}, credentialKeys("")...)
	case plan.AskCommandLine:
		keys = []string{"KernelCommandLine", "Console", "Machine", "MachineID", "MemoryHotplug", "Accelerator", "CredentialChannel"}
	case plan.AskConsole, plan.AskStdio:
		return []string{"Console"}
	case plan.AskInitrd:
		return []string{"Initrd", "CredentialChannel"}
	case plan.AskKernel:
		return []string{"Kernel"}
	case plan.AskVSock:
		return []string{"VSockCID"}
	case plan.AskNetwork:
		return []string{"Network"}
	case plan.AskLandlock: // it does not go with an initial RAM disk in memory
		return []string{"Hypervisor", "CredentialChannel"}
	case plan.AskControl, plan.AskEvents:
	}
	for _, g := range vm.Given {
		if key := plan.KeyOf(g.From); q == plan.AskChannel && !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	if keys != nil && vm.VSock != nil {
		keys = append(keys, "VSockCID") // over which the guest says how it goes
	}
	return keys
}

// planFields lists every field of the plan with its causes.
func (x *Explainer) planFields() []Field {
	var tree any
	// The plan's own form: it always decodes.
	_ = json.Unmarshal(x.res.JSON, &tree)
	var out []Field
	walk("", tree, func(path, value string) {
		switch {
		case lastOf(path) == "from" || isWithin(path, "origins"):
			return // where something comes from comes from nowhere
		case lastOf(path) == "value" && strings.Contains(path, "credentials["):
			value = diag.Elided // not secret, and long
		case lastOf(path) == "value" && isWithin(path, "vm.image.lines"):
			_, i := element(path)
			l := x.res.Draft.VM.Image.Lines[i]
			value = spec.Show(unitfile.Assignment{Section: spec.Section, Key: l.Key, Value: l.Value})
		}
		out = append(out, Field{Where: path, Value: value, Causes: x.causes(path)})
	})
	return out
}

// lastOf is the last name of a path.
func lastOf(path string) string { return path[strings.LastIndexByte(path, '.')+1:] }

// walk visits the leaves of JSON in the order of their names. A list of texts is
// one leaf, and so are a request, without its body, and each field of that.
func walk(path string, node any, visit func(path, value string)) {
	switch n := node.(type) {
	case map[string]any:
		if value, body, ok := request(path, n); ok {
			visit(path, value)
			walk(path+".body", body, visit)
			return
		}
		if value, ok := field(path, n); ok {
			visit(path, value)
			return
		}
		for _, name := range slices.Sorted(maps.Keys(n)) {
			walk(strings.TrimPrefix(path+"."+name, "."), n[name], visit)
		}
	case []any:
		words, all := texts(n)
		if all {
			visit(path, words)
			return
		}
		for i, element := range n {
			walk(fmt.Sprintf("%s[%d]", path, i), element, visit)
		}
	case nil: // a request without a body
	case string:
		visit(path, n)
	default:
		text, _ := json.Marshal(n)
		visit(path, string(text))
	}
}

// texts joins a list of nothing but texts.
func texts(list []any) (joined string, all bool) {
	words := make([]string, len(list))
	for i, element := range list {
		word, ok := element.(string)
		if !ok {
			return "", false
		}
		words[i] = unitfile.QuoteWord(word)
	}
	return strings.Join(words, " "), true
}

// Behind says what is behind the field at a path of a plan: the ID of one
// assignment, by which the plan's Origins have it; or else keys, of which the
// first is the one that is named like the field, or a reason where no key is.
// The keys of other sections are SECTION.KEY.
func Behind(p *plan.Plan, path string) (id string, keys []string, why string) {
	for _, o := range fieldOrigins() {
		if isWithin(path, o.path) {
			keys, why = o.keys, o.why
			break
		}
	}
	switch head, i := element(path); head {
	case "vm.channels":
		keys = channelKeys(lastOf(path))
	case "vm.image.lines":
		return p.VM.Image.Lines[i].From, nil, ""
	case "vm.disks":
		return p.VM.Disks[i].From, nil, ""
	case "vm.networks":
		if field := lastOf(path); field == "vhost" || field == "by_name" {
			return "", keys, "" // the hypervisor may have only one way
		}
		return p.VM.Networks[i].From, nil, ""
	case "vm.ports":
		return p.VM.Ports[i].From, nil, ""
	case "vm.devices":
		return p.VM.Devices[i].From, nil, ""
	case "vm.credentials":
		return p.VM.Credentials[i].From, nil, ""
	case "vm.given":
		if from := p.VM.Given[i].From; from != "" {
			return from, nil, ""
		}
	case "unit.credentials":
		return p.Unit.Credentials[i].From, nil, ""
	case "unit.service":
		return p.Unit.Service[i].From, nil, ""
	case "unit.resources":
		return p.Unit.Resources[i].From, nil, ""
	case "vm.command":
		part := p.VM.Command[i]
		if publishes(&p.VM, part) {
			return "", []string{"Network", "PublishPort", "Machine"}, ""
		}
		if part.From != "" {
			return part.From, nil, ""
		}
		if more := asked(&p.VM, part.Ask); more != nil {
			keys = more
		}
	}
	switch {
	case isWithin(path, "vm.api"), isWithin(path, "vm.resize"):
		if id, more := behindRequest(&p.VM, path); id != "" || more != nil {
			return id, more, ""
		}
	case path == "vm.kernel_command_line_max":
		keys = commandLineMaxKeys(p.VM.CommandLineMax)
	}
	return "", keys, why
}

// alsoBehind are further keys behind the words of a command line that a line of a
// key asks for: the machine has the bus of a device, and memory that has to be
// made in its own way is as large as it is.
func alsoBehind(key string) []string {
	switch key {
	case "Disk", "Network", "VSockCID", "Balloon":
		return []string{"Machine"}
	case "MemoryHotplug":
		return []string{"Memory", "HugePages"}
	case "HugePages":
		return []string{"Memory"}
	}
	return nil
}

// publishes reports whether a part makes the network that passes ports on.
func publishes(vm *plan.VM, part plan.Part) bool {
	return len(vm.Ports) > 0 && slices.ContainsFunc(vm.Networks, func(n plan.Network) bool { return n.Kind == plan.UserNetwork && n.From == part.From })
}

// causes are those of the field at a path.
func (x *Explainer) causes(path string) []Cause {
	id, keys, why := Behind(x.res.Draft, path)
	if id == "" {
		return x.keys(keys, why)
	}
	out := x.line(id)
	switch head, _ := element(path); {
	case head == "vm.command":
		if more := alsoBehind(plan.KeyOf(id)); more != nil {
			out = append(out, x.keys(more, "")...)
		}
	case head == "vm.image.lines": // for which it waits
		out = append(out, x.keys([]string{"Image"}, "")...)
	}
	return out
}

// element splits the path of something in a list: vm.disks[2].path is number 2
// of vm.disks.
func element(path string) (list string, index int) {
	list, rest, ok := strings.Cut(path, "[")
	number, _, closed := strings.Cut(rest, "]")
	i, err := strconv.Atoi(number)
	if !ok || !closed || err != nil {
		return "", 0
	}
	return list, i
}

// line is the cause by the ID of an assignment, as the plan has them.
func (x *Explainer) line(id string) []Cause {
	c := Cause{Key: plan.KeyOf(id)}
	if o, ok := x.res.Draft.Origins[id]; ok {
		c.Origin = &o
	}
	return []Cause{c}
}

// keys are the causes by the names of keys: the lines that set them, and the
// defaults of those that have one.
func (x *Explainer) keys(keys []string, why string) []Cause {
	var out []Cause
	for _, key := range keys {
		set := x.set(key, why)
		if len(set) == 0 && hasDefault(key) {
			set = []Cause{byDefault(key, why)}
		}
		out = append(out, set...)
	}
	switch {
	case len(out) > 0:
		return out
	case len(keys) > 0:
		return []Cause{byDefault(keys[0], why)}
	case why == "":
		why = "Ampoule's own"
	}
	return []Cause{{Why: why}}
}

// set are the lines that set a key.
func (x *Explainer) set(key, why string) []Cause {
	section, name, dotted := strings.Cut(key, ".")
	if !dotted {
		section, name = spec.Section, key
	}
	var out []Cause
	for _, g := range x.res.Resolved.Groups {
		if g.Section != section {
			continue
		}
		for e := range g.Live() {
			if e.Key == name {
				o := e.Origin
				out = append(out, Cause{Key: key, Origin: &o, Why: why})
			}
		}
	}
	return out
}

func hasDefault(key string) bool {
	return slices.ContainsFunc(spec.Table(), func(row spec.Row) bool { return row.Name == key && row.Default != "" })
}

func byDefault(key, why string) Cause {
	return Cause{Key: key, Why: strings.TrimSuffix("by default; "+why, "; ")}
}

// UnitLine is one of a unit that Ampoule wrote.
type UnitLine struct {
	Section, Key, Value string
	// Comment is what stands right above it, without "# ".
	Comment string
}

// Lines splits the text of a unit that Ampoule wrote.
func Lines(text []byte) []UnitLine {
	var out []UnitLine
	section, comment := "", ""
	for line := range strings.SplitSeq(string(text), "\n") {
		switch {
		case strings.HasPrefix(line, "# "):
			comment = strings.TrimPrefix(line, "# ")
			continue
		case strings.HasPrefix(line, "["):
			section = strings.Trim(line, "[]")
		case line != "":
			key, value, _ := strings.Cut(line, "=")
			out = append(out, UnitLine{section, key, value, comment})
		}
		comment = ""
	}
	return out
}

// unitFields lists the lines of the unit with their causes, which stand above
// them as comments.
func (x *Explainer) unitFields(text []byte) []Field {
	var out []Field
	for _, l := range Lines(text) {
		value := l.Value
		if l.Key == "SetCredential" {
			id, _, _ := strings.Cut(value, ":")
			value = diag.Elide(id+":"+value, ":")
		}
		out = append(out, Field{Where: "[" + l.Section + "] " + l.Key, Value: value, Causes: x.unitCauses(l.Comment)})
	}
	return out
}

// unitCauses reads the comment above a line of a unit: a place in a file, with
// the key behind it where that is not the line's own; a key with its value; or
// the reason in words.
func (x *Explainer) unitCauses(comment string) []Cause {
	for _, g := range x.res.Resolved.Groups {
		for _, e := range g.Entries {
			place := e.Origin.String()
			if e.Fate != layer.Effective && e.Fate != layer.Clears || comment != place && comment != place+", "+e.Key+"=" {
				continue
			}
			o := e.Origin
			return []Cause{{Key: keyID(e.Section, e.Key), Origin: &o}}
		}
	}
	if strings.HasPrefix(comment, "Accelerator=") {
		return x.keys([]string{"Accelerator"}, comment)
	}
	if comment == "" {
		return []Cause{{Why: "Ampoule's own"}}
	}
	return []Cause{{Why: comment}}
}
