package plan

import (
	"encoding/base64"
	"maps"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/ampoule-vm/ampoule/internal/diag"
)

// encoder writes plans as encoding/json does with SetEscapeHTML(false): fields
// in the order of the Go types, map keys sorted, no blanks. A generator encodes
// every plan of the host at every daemon-reload, and reflection was most of what
// that took. TestEncoding holds it to encoding/json field by field.
type encoder struct {
	out []byte
	// bare leaves out what tells where a thing comes from and explains it, what
	// only this host is asked for, and channels that cannot be taken: what the
	// digests do not cover.
	bare bool
}

// begin opens an object, end closes it.
func (e *encoder) begin() { e.out = append(e.out, '{') }
func (e *encoder) end()   { e.out = append(e.out, '}') }

// field begins a field of the open object.
func (e *encoder) field(name string) {
	if e.out[len(e.out)-1] != '{' {
		e.out = append(e.out, ',')
	}
	e.out = append(e.out, '"')
	e.out = append(e.out, name...)
	e.out = append(e.out, '"', ':')
}

func (e *encoder) text(name, value string) {
	e.field(name)
	e.string(value)
}

// textIfSet is text for fields with omitempty, as the others of that name.
func (e *encoder) textIfSet(name, value string) {
	if value != "" {
		e.text(name, value)
	}
}

func (e *encoder) number(name string, value int64) {
	e.field(name)
	e.out = strconv.AppendInt(e.out, value, 10)
}

func (e *encoder) numberIfSet(name string, value int64) {
	if value != 0 {
		e.number(name, value)
	}
}

func (e *encoder) boolean(name string, value bool) {
	e.field(name)
	e.out = strconv.AppendBool(e.out, value)
}

func (e *encoder) trueIfSet(name string, value bool) {
	if value {
		e.boolean(name, true)
	}
}

func (e *encoder) words(name string, words []string) {
	e.field(name)
	if words == nil {
		e.out = append(e.out, "null"...)
		return
	}
	e.out = append(e.out, '[')
	for i, w := range words {
		if i > 0 {
			e.out = append(e.out, ',')
		}
		e.string(w)
	}
	e.out = append(e.out, ']')
}

func (e *encoder) wordsIfSet(name string, words []string) {
	if len(words) > 0 {
		e.words(name, words)
	}
}

// from is a field that the digests see empty.
func (e *encoder) from(value string) {
	if e.bare {
		value = ""
	}
	e.text("from", value)
}

// list writes a field that is an array; a nil one is null.
func list[T any](e *encoder, name string, of []T, element func(*T)) {
	e.field(name)
	if of == nil {
		e.out = append(e.out, "null"...)
		return
	}
	e.out = append(e.out, '[')
	for i := range of {
		if i > 0 {
			e.out = append(e.out, ',')
		}
		element(&of[i])
	}
	e.out = append(e.out, ']')
}

// listIfSet is list for a field that is left out without elements.
func listIfSet[T any](e *encoder, name string, of []T, element func(*T)) {
	if len(of) > 0 {
		list(e, name, of, element)
	}
}

// asIs are the bytes that JSON has as they are.
var asIs = func() (t [256]bool) {
	for c := ' '; c < utf8.RuneSelf; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// string writes a quoted string. What is not UTF-8 becomes U+FFFD.
func (e *encoder) string(s string) {
	out := append(e.out, '"')
	done := 0 // s[:done] is written
	for i := 0; i < len(s); {
		c := s[i]
		if asIs[c] {
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			out = append(append(out, s[done:i]...), `\ufffd`...)
		case r == '\u2028', r == '\u2029':
			out = append(append(out, s[done:i]...), `\u202`...)
			out = append(out, byte('0'+r&0xF))
		case r < utf8.RuneSelf:
			out = appendEscaped(append(out, s[done:i]...), c)
		default:
			i += size
			continue
		}
		i += size
		done = i
	}
	e.out = append(append(out, s[done:]...), '"')
}

// appendEscaped writes a character that JSON does not take as it is.
func appendEscaped(out []byte, c byte) []byte {
	const digits = "0123456789abcdef"
	switch c {
	case '"', '\\':
		return append(out, '\\', c)
	case '\b':
		return append(out, `\b`...)
	case '\f':
		return append(out, `\f`...)
	case '\n':
		return append(out, `\n`...)
	case '\r':
		return append(out, `\r`...)
	case '\t':
		return append(out, `\t`...)
	}
	return append(out, '\\', 'u', '0', '0', digits[c>>4], digits[c&0xF])
}

func (e *encoder) plan(p *Plan) {
	e.begin()
	e.number("schema", int64(p.Schema))
	e.text("ampoule", p.Ampoule)
	e.field("digest")
	e.begin()
	e.text("vm", p.Digest.VM)
	e.text("unit", p.Digest.Unit)
	e.end()
	e.field("vm")
	e.vm(&p.VM)
	e.field("unit")
	e.unit(&p.Unit)
	e.field("origins")
	e.origins(p.Origins)
	e.end()
}

func (e *encoder) unit(u *Unit) {
	e.begin()
	list(e, "service", u.Service, e.assignment)
	if !e.bare {
		if len(u.Resources) > 0 {
			list(e, "resources", u.Resources, e.assignment)
		}
		if u.KeepRunning {
			e.boolean("keep_running", true)
		}
	}
	list(e, "credentials", u.Credentials, e.credential)
	e.end()
}

func (e *encoder) assignment(a *Assignment) {
	e.begin()
	e.text("key", a.Key)
	e.text("value", a.Value)
	if !e.bare {
		e.textIfSet("from", a.From)
	}
	e.end()
}

func (e *encoder) origins(origins map[string]diag.Origin) {
	if origins == nil {
		e.out = append(e.out, "null"...)
		return
	}
	ids := make([]string, 0, len(origins))
	for id := range maps.Keys(origins) {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	e.begin()
	for i, id := range ids {
		if i > 0 {
			e.out = append(e.out, ',')
		}
		e.string(id)
		e.out = append(e.out, ':')
		o := origins[id]
		e.begin()
		e.text("file", o.File)
		e.numberIfSet("line", int64(o.Line))
		e.textIfSet("layer", o.Layer)
		e.end()
	}
	e.end()
}

func (e *encoder) vm(vm *VM) {
	e.begin()
	e.text("name", vm.Name)
	e.text("architecture", vm.Architecture)
	e.text("hypervisor", vm.Hypervisor)
	e.field("binary")
	e.begin()
	e.textIfSet("path", vm.Binary.Path)
	e.wordsIfSet("search", vm.Binary.Search)
	e.end()
	e.text("machine", vm.Machine)
	e.number("vcpu", int64(vm.VCPU))
	if t := vm.Topology; t != nil {
		e.field("cpu_topology")
		e.begin()
		e.number("sockets", int64(t.Sockets))
		e.number("cores", int64(t.Cores))
		e.number("threads", int64(t.Threads))
		e.end()
	}
	e.number("memory", vm.Memory)
	e.numberIfSet("huge_pages", vm.HugePages)
	e.numberIfSet("memory_hotplug", vm.MemoryHotplug)
	e.trueIfSet("balloon", vm.Balloon)
	if vm.Resize != nil {
		e.resize(vm.Resize)
	}
	e.trueIfSet("watchdog", vm.Watchdog)
	e.text("kernel", vm.Kernel)
	e.textIfSet("initrd", vm.Initrd)
	e.words("kernel_command_line", vm.KernelCommandLine)
	e.number("kernel_command_line_max", int64(vm.CommandLineMax))
	list(e, "disks", vm.Disks, e.disk)
	listIfSet(e, "devices", vm.Devices, e.device)
	listIfSet(e, "shares", vm.Shares, e.share)
	e.boolean("console", vm.Console)
	e.textIfSet("machine_id", vm.MachineID)
	e.number("guest_systemd", int64(vm.GuestSystemd))
	e.field("readiness")
	e.begin()
	e.text("mode", vm.Readiness.Mode)
	e.textIfSet("pattern", vm.Readiness.Pattern)
	e.end()
	e.number("stop_timeout_ms", int64(vm.StopTimeout))
	e.textIfSet("runner", vm.Runner)
	list(e, "credentials", vm.Credentials, e.credential)
	listIfSet(e, "given", vm.Given, e.given)
	if v := vm.VSock; v != nil {
		e.field("vsock")
		e.begin()
		e.numberIfSet("cid", v.CID)
		e.trueIfSet("multiplexed", v.Multiplexed)
		e.end()
	}
	listIfSet(e, "networks", vm.Networks, e.network)
	listIfSet(e, "ports", vm.Ports, e.port)
	e.text("control", vm.Control)
	if vm.API != nil {
		e.api(vm.API)
	}
	list(e, "command", vm.Command, e.part)
	list(e, "accelerator", vm.Accelerator, func(a *Accelerator) {
		e.begin()
		e.text("name", a.Name)
		e.words("words", a.Words)
		e.wordsIfSet("kernel_command_line", a.CommandLine)
		e.end()
	})
	channels := vm.Channels
	if e.bare {
		channels = taken(channels)
	}
	list(e, "channels", channels, e.channel)
	if vm.Image != nil {
		e.image(vm.Image)
	}
	if !e.bare {
		e.wordsIfSet("kernel_formats", vm.KernelFormats)
		e.wordsIfSet("system_calls", vm.SystemCalls)
		e.trueIfSet("lock_disks", vm.LockDisks)
		e.trueIfSet("fixed_vhd", vm.FixedVHD)
	}
	e.end()
}

func (e *encoder) api(a *API) {
	e.field("api")
	e.begin()
	e.field("alive")
	e.request(&a.Alive)
	e.textIfSet("version", a.Version)
	e.textIfSet("oldest", a.Oldest)
	list(e, "start", a.Start, e.request)
	if a.Power != nil {
		e.field("power")
		e.request(a.Power)
	}
	if len(a.Events) > 0 {
		list(e, "events", a.Events, func(v *Event) {
			e.begin()
			e.text("source", v.Source)
			e.text("event", v.Event)
			e.text("means", string(v.Means))
			e.end()
		})
	}
	e.textIfSet("halted", a.Halted)
	e.end()
}

func (e *encoder) request(r *Request) {
	e.begin()
	e.text("method", r.Method)
	e.text("path", r.Path)
	if len(r.Body) > 0 {
		list(e, "body", r.Body, func(f *Field) {
			e.begin()
			e.text("at", f.At)
			e.textIfSet("value", f.Value)
			e.textIfSet("type", string(f.Type))
			e.textIfSet("ask", string(f.Ask))
			if !e.bare {
				e.textIfSet("from", f.From)
			}
			e.end()
		})
	}
	e.textIfSet("ask", string(r.Ask))
	if !e.bare {
		e.textIfSet("from", r.From)
	}
	e.end()
}

func (e *encoder) resize(r *Resize) {
	e.field("resize")
	e.begin()
	e.number("step", r.Step)
	for _, l := range []struct {
		name  string
		lever *Lever
	}{{"add", r.Add}, {"balloon", r.Balloon}} {
		if l.lever != nil {
			e.field(l.name)
			e.begin()
			e.field("request")
			e.request(&l.lever.Request)
			e.text("counts", string(l.lever.Counts))
			e.number("unit", l.lever.Unit)
			e.end()
		}
	}
	list(e, "gauges", r.Gauges, func(g *Gauge) {
		e.begin()
		e.field("request")
		e.request(&g.Request)
		e.textIfSet("pointer", g.At)
		e.text("counts", string(g.Counts))
		e.number("unit", g.Unit)
		e.end()
	})
	e.end()
}

func (e *encoder) image(i *Image) {
	e.field("image")
	e.begin()
	e.text("path", i.Path)
	e.trueIfSet("at_start", i.AtStart)
	if len(i.Lines) > 0 {
		list(e, "lines", i.Lines, func(l *ImageLine) {
			e.begin()
			e.text("key", l.Key)
			e.text("value", l.Value)
			e.from(l.From)
			e.end()
		})
	}
	e.end()
}

// taken are the channels that are not refused; one that is reaches nobody.
func taken(channels []Channel) []Channel {
	refused := func(c Channel) bool { return c.Refused != "" }
	if !slices.ContainsFunc(channels, refused) {
		return channels
	}
	return slices.DeleteFunc(slices.Clone(channels), refused)
}

func (e *encoder) disk(d *Disk) {
	e.begin()
	e.text("path", d.Path)
	e.text("format", d.Format)
	e.trueIfSet("read_only", d.ReadOnly)
	e.trueIfSet("direct", d.Direct)
	e.textIfSet("serial", d.Serial)
	e.numberIfSet("size", d.Size)
	e.textIfSet("file_system", d.FileSystem)
	e.textIfSet("label", d.Label)
	e.from(d.From)
	e.end()
}

func (e *encoder) device(d *Device) {
	e.begin()
	e.text("bus", d.Bus)
	e.text("address", d.Address)
	e.trueIfSet("external", d.External)
	e.from(d.From)
	e.end()
}

func (e *encoder) share(s *Share) {
	e.begin()
	e.text("source", s.Source)
	e.text("tag", s.Tag)
	e.textIfSet("mount_point", s.MountPoint)
	e.trueIfSet("read_only", s.ReadOnly)
	e.text("protocol", s.Protocol)
	e.textIfSet("cache", s.Cache)
	e.textIfSet("security", s.Security)
	e.textIfSet("socket", s.Socket)
	e.from(s.From)
	e.end()
}

func (e *encoder) credential(c *Credential) {
	e.begin()
	e.text("kind", c.Kind)
	e.text("id", c.ID)
	e.textIfSet("guest", c.Guest)
	e.textIfSet("path", c.Path)
	if len(c.Value) > 0 {
		e.field("value")
		e.out = append(base64.StdEncoding.AppendEncode(append(e.out, '"'), c.Value), '"')
	}
	e.from(c.From)
	e.end()
}

func (e *encoder) given(g *Given) {
	e.begin()
	e.text("name", g.Name)
	e.textIfSet("value", g.Value)
	e.textIfSet("ask", string(g.Ask))
	e.from(g.From)
	e.end()
}

func (e *encoder) part(p *Part) {
	e.begin()
	e.wordsIfSet("words", p.Words)
	e.textIfSet("ask", string(p.Ask))
	if !e.bare {
		e.textIfSet("from", p.From)
	}
	e.end()
}

func (e *encoder) channel(c *Channel) {
	e.begin()
	e.text("name", c.Name)
	e.text("encoding", string(c.Encoding))
	e.numberIfSet("max_name", int64(c.MaxName))
	e.textIfSet("refuse_in_name", c.RefuseInName)
	e.numberIfSet("max_structure", int64(c.MaxStructure))
	e.numberIfSet("max_total", int64(c.MaxTotal))
	e.numberIfSet("max_count", int64(c.MaxCount))
	e.wordsIfSet("once", c.Once)
	e.wordsIfSet("each", c.Each)
	e.textIfSet("doubled", c.Doubled)
	e.wordsIfSet("kernel_command_line", c.CommandLine)
	e.wordsIfSet("replaces_parameters", c.Replaces)
	e.textIfSet("init", c.Init)
	e.textIfSet("refused", c.Refused)
	e.textIfSet("cure", c.Cure)
	if !e.bare {
		e.textIfSet("why", c.Why)
	}
	e.end()
}
