package compare

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

// treeOf is a plan as its JSON has it, so that no field can be forgotten.
func treeOf(p *plan.Plan) map[string]any {
	if p == nil {
		return nil
	}
	dec := json.NewDecoder(strings.NewReader(string(p.JSON())))
	dec.UseNumber()
	var tree map[string]any
	_ = dec.Decode(&tree) // the plan's own form always decodes
	return tree
}

// node compares what stands at a place; nil is nothing.
func (c *comparison) node(at place, old, now any) {
	if old == nil && now == nil {
		return
	}
	_, wasObject := old.(map[string]any)
	_, isObject := now.(map[string]any)
	switch {
	case isWhole(at.path(), old, now):
		c.add(at, whole(at.path(), old), whole(at.path(), now))
	case wasObject || isObject:
		before, after := asMap(old), asMap(now)
		for _, name := range names(before, after) {
			if name != "from" { // where something comes from is shown beside it
				c.node(at.in("."+name), before[name], after[name])
			}
		}
	case objects(old) || objects(now):
		c.list(at, asList(old), asList(now))
	case !same(old, now):
		c.add(at, shown(at.path(), old), shown(at.path(), now))
	}
}

// names are those of the members of two objects, by the alphabet.
func names(a, b map[string]any) []string {
	all := slices.Concat(slices.Collect(maps.Keys(a)), slices.Collect(maps.Keys(b)))
	slices.Sort(all)
	return slices.Compact(all)
}

func asMap(v any) map[string]any { m, _ := v.(map[string]any); return m }

func asList(v any) []any { l, _ := v.([]any); return l }

// objects reports whether a value is a list of objects; one of texts is one value.
func objects(v any) bool {
	return slices.ContainsFunc(asList(v), func(e any) bool { return asMap(e) != nil })
}

func same(a, b any) bool {
	if empty(a) && empty(b) {
		return true
	}
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return string(x) == string(y)
}

// empty: a list without elements is as good as none.
func empty(v any) bool { l, ok := v.([]any); return v == nil || ok && len(l) == 0 }

// list compares lists of objects: those that are the same thing in both, and
// their order; then those that took the place of another; then the others.
func (c *comparison) list(at place, old, now []any) {
	before, after := identities(at.path(), old), identities(at.path(), now)
	was, is := make([]bool, len(old)), make([]bool, len(now)) // compared
	pair := func(j, i int) {
		was[j], is[i] = true, true
		c.element(at, j, i, old[j], now[i])
	}
	var kept, ordered []string
	for i, id := range after {
		if j := slices.Index(before, id); j >= 0 {
			ordered = append(ordered, id)
			pair(j, i)
		}
	}
	for _, id := range before {
		if slices.Contains(after, id) {
			kept = append(kept, id)
		}
	}
	if !slices.Equal(kept, ordered) {
		from, to := order(kept), order(ordered)
		c.add(at, &from, &to)
	}
	for i := range now {
		for j := range old {
			if !was[j] && !is[i] && kin(at.path(), asMap(old[j])) == kin(at.path(), asMap(now[i])) {
				pair(j, i)
			}
		}
	}
	for j := range old {
		if !was[j] {
			c.add(place{old: fmt.Sprintf("%s[%d]", at.old, j)}, whole(at.path(), old[j]), nil)
		}
	}
	for i := range now {
		if !is[i] {
			c.add(place{now: fmt.Sprintf("%s[%d]", at.now, i)}, nil, whole(at.path(), now[i]))
		}
	}
}

// element compares two elements that correspond.
func (c *comparison) element(at place, j, i int, old, now any) {
	in := place{fmt.Sprintf("%s[%d]", at.old, j), fmt.Sprintf("%s[%d]", at.now, i)}
	switch listOf(at.path()) {
	case "unit.service", "unit.resources", "vm.command", "vm.image.lines", "vm.api.body":
		// Each is one line, or one piece of one.
		before, after := maps.Clone(asMap(old)), maps.Clone(asMap(now))
		delete(before, "from")
		delete(after, "from")
		if !same(before, after) {
			c.add(in, whole(at.path(), old), whole(at.path(), now))
		}
	default:
		c.node(in, old, now)
	}
}

// order shows identities, without what makes repeated ones differ.
func order(ids []string) string {
	shown := make([]string, len(ids))
	for i, id := range ids {
		shown[i], _, _ = strings.Cut(id, "\x00")
	}
	return strings.Join(shown, ", ")
}

// identities name the elements of a list, each once: by what a user knows them,
// and, where that is not enough, by all that they are.
func identities(list string, elements []any) []string {
	out := make([]string, len(elements))
	for i, e := range elements {
		id := identity(list, asMap(e))
		for n := 1; slices.Contains(out[:i], id); n++ {
			id = fmt.Sprintf("%s\x00%d", identity(list, asMap(e)), n)
		}
		out[i] = id
	}
	return out
}

func identity(list string, e map[string]any) string {
	text := func(name string) string { s, _ := e[name].(string); return s }
	switch listOf(list) {
	case "vm.disks":
		return text("path")
	case "vm.networks":
		return text("mac")
	case "vm.ports":
		return text("protocol") + " " + port(e)
	case "vm.devices":
		return text("bus") + ":" + text("address")
	case "vm.shares":
		return text("tag")
	case "vm.api.start":
		return text("method") + " " + text("path")
	case "vm.api.body":
		return text("at")
	case "vm.api.events":
		return text("source") + " " + text("event")
	case "vm.credentials", "unit.credentials":
		return text("id") + " " + text("guest")
	case "unit.service", "unit.resources", "vm.image.lines":
		return text("key") + "\x00" + text("value")
	case "vm.command":
		words, _ := json.Marshal(e["words"])
		return text("ask") + "\x00" + string(words)
	}
	return text("name")
}

// port is one of the host's, with its address.
func port(e map[string]any) string {
	number := ""
	if n := shown("", e["host"]); n != nil {
		number = *n
	}
	address, _ := e["address"].(string)
	switch {
	case address == "":
		return number
	case strings.Contains(address, ":"):
		return "[" + address + "]:" + number
	}
	return address + ":" + number
}

// kin is what two elements have in common of which one has taken the place of the
// other: the line that they come from, its key, or the option.
func kin(list string, e map[string]any) string {
	text := func(name string) string { s, _ := e[name].(string); return s }
	switch listOf(list) {
	case "vm.api.start", "vm.api.body", "vm.api.events":
		return identity(list, e) // another request, or field, is another thing
	case "unit.service", "unit.resources", "vm.image.lines":
		return text("key")
	case "vm.command":
		option, _, _ := strings.Cut(*whole(list, e), " ")
		return option
	case "vm.disks", "vm.shares", "vm.devices", "vm.networks", "vm.ports", "vm.credentials", "unit.credentials":
		return text("from")
	}
	return text("name")
}

// shown is a value as a reader knows it; nil where there is none.
func shown(path string, v any) *string {
	if v == nil {
		return nil
	}
	text := ""
	switch value := v.(type) {
	case string:
		text = value
	case []any:
		words := make([]string, len(value))
		for i, w := range value {
			word, _ := w.(string)
			if words[i] = shorten(word); words[i] == word {
				words[i] = unitfile.QuoteWord(word)
			}
		}
		text = strings.Join(words, " ")
	case json.Number:
		text = number(path, value)
	default:
		data, _ := json.Marshal(v)
		text = string(data)
	}
	if strings.Contains(path, "credentials[") && strings.HasSuffix(path, ".value") {
		text = diag.Elided // the line may be thought to be secret
	}
	return &text
}

// shorten keeps of a word of a command line what stands before something that may
// be a password.
func shorten(word string) string {
	lower := strings.ToLower(word)
	end := len(word)
	for _, mark := range []string{"credential", "pass", "secret", "token", "key="} {
		if i := strings.Index(lower, mark); i >= 0 {
			end = min(end, i+len(mark))
		}
	}
	if end < len(lower) && len(lower) == len(word) && strings.Contains(word, "=") {
		return word[:end] + diag.Elided
	}
	return word
}

// number shows what counts bytes as the files have it.
func number(path string, n json.Number) string {
	if name := path[strings.LastIndexByte(path, '.')+1:]; name == "memory" || name == "size" || name == "huge_pages" || name == "memory_hotplug" {
		if bytes, err := n.Int64(); err == nil {
			return spec.FormatSize(bytes)
		}
	}
	return n.String()
}

// whole shows an element of a list, or an object that is one thing; nil is none.
func whole(list string, v any) *string {
	e := asMap(v)
	if e == nil {
		return nil
	}
	text := func(name string) string { s, _ := e[name].(string); return s }
	var out string
	switch listOf(list) {
	case "vm.api.start", "vm.api.alive", "vm.api.power":
		out = (&plan.Request{Method: text("method"), Path: text("path"), Ask: plan.Question(text("ask"))}).String()
	case "vm.api.body":
		f := plan.Field{At: text("at"), Value: text("value"), Type: plan.Type(text("type")), Ask: plan.Question(text("ask"))}
		out = shorten(f.String())
	case "vm.api.events":
		out = text("source") + " " + text("event") + ": " + text("means")
	case "vm.vsock":
		out = "auto"
		if cid, ok := e["cid"].(json.Number); ok {
			out = cid.String()
		}
		if e["multiplexed"] == true {
			out += ", multiplexed"
		}
	case "vm.devices":
		out = text("bus") + ":" + text("address")
		if e["external"] == true {
			out += ",external"
		}
	case "vm.disks":
		out = text("path") + ":" + text("format")
		for _, name := range []string{"read_only", "direct", "serial", "size", "file_system", "label"} {
			if value := shown(list+"[]."+name, e[name]); value != nil {
				out += "," + name + "=" + *value
			}
		}
	case "vm.networks":
		out = text("kind")
		for _, name := range []string{"name", "bridge", "link", "mode", "mac", "queues", "vhost", "mtu", "external"} {
			if value := shown(list+"[]."+name, e[name]); value != nil {
				out += "," + name + "=" + *value
			}
		}
	case "vm.shares":
		out = text("source") + ":" + text("tag")
		if at := text("mount_point"); at != "" {
			out += ":" + at
		}
		out += ":" + text("protocol")
		for _, name := range []string{"read_only", "cache", "security"} {
			if value := shown(list+"[]."+name, e[name]); value != nil {
				out += "," + name + "=" + *value
			}
		}
	case "vm.ports":
		out = port(e)
		if guest := shown("", e["guest"]); guest != nil {
			out += ":" + *guest
		}
		out += "/" + text("protocol")
	case "vm.credentials", "unit.credentials":
		out = text("id")
		if path := text("path"); path != "" {
			out += ":" + path
		} else if e["value"] != nil {
			out += ":" + diag.Elided
		}
		if guest := text("guest"); guest != "" && guest != text("id") {
			out += " as " + guest
		}
	case "unit.service", "unit.resources":
		out = spec.Show(unitfile.Assignment{Section: "Service", Key: text("key"), Value: text("value")})
	case "vm.image.lines":
		out = text("key") + "=" + spec.Show(unitfile.Assignment{Section: spec.Section, Key: text("key"), Value: text("value")})
	case "vm.command":
		words := shown("", e["words"])
		if words != nil {
			out = *words
		}
		if ask := text("ask"); ask != "" {
			out = strings.TrimSpace(out + " {" + ask + "}")
		}
	default:
		out = text("name")
	}
	return &out
}

// listOf is the name of a list for the tables here: the bodies of all requests are
// of one kind.
func listOf(path string) string {
	if (strings.HasPrefix(path, "vm.api.") || strings.HasPrefix(path, "vm.resize.")) && strings.HasSuffix(path, ".body") {
		return "vm.api.body"
	}
	return path
}

// isWhole reports whether an object is shown in one piece: a request that is
// another, and a vsock that comes or goes.
func isWhole(path string, old, now any) bool {
	switch path {
	case "vm.vsock":
		return old == nil || now == nil
	case "vm.api.alive", "vm.api.power":
		return old == nil || now == nil || identity("vm.api.start", asMap(old)) != identity("vm.api.start", asMap(now))
	}
	return false
}

// derived reports whether a driver makes this part of a plan of the others. Which
// channels and accelerators there are is a choice of the user's; what is in them is
// not.
func derived(path string) bool {
	_, in, isElement := strings.Cut(path, "]")
	if strings.HasPrefix(path, "vm.api.") || strings.HasPrefix(path, "vm.resize") {
		return true
	}
	switch head, _, _ := strings.Cut(path, "["); head {
	case "vm.command", "vm.kernel_command_line_max", "vm.control", "vm.binary.search", "vm.image.lines", "vm.kernel_formats", "vm.system_calls":
		return true
	case "unit.credentials":
		return true // of the lines in unit.service
	case "vm.channels", "vm.accelerator":
		return isElement && in != ""
	}
	return false
}

// ownPart reports whether a change is one of what each hypervisor has for its own.
// The words that a user passes on stand nowhere else.
func ownPart(ch *Change) bool {
	return (strings.HasPrefix(ch.Where, "vm.command") || strings.HasPrefix(ch.Where, "vm.api.") || strings.HasPrefix(ch.Where, "vm.resize")) && ch.Key != "HypervisorArgs"
}

// follow marks the changes that others bring about: those of derived parts which
// a key has a say in that has changed something of its own.
func (c *comparison) follow() {
	changed := map[string]bool{}
	for _, ch := range c.changes {
		if !derived(ch.Where) {
			changed[ch.Key] = true
		}
	}
	for i := range c.changes {
		switch ch := &c.changes[i]; {
		case derived(ch.Where):
			ch.Follows = slices.ContainsFunc(c.keys[i], func(key string) bool { return changed[key] }) || c.other() && ownPart(ch)
		case ch.Key == hypervisor:
			ch.Follows = ch.Where != "vm.hypervisor" && c.other() // what it has for its own
		}
	}
}
