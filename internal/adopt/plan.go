package adopt

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/ampoule-vm/ampoule/internal/microvmnix"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// planned are the settings of a plan, in the words that those of scripts have. They
// are read out of what the hypervisor will be told, its command line or the
// requests, and not out of what led to that.
func planned(p *plan.Plan) []Setting {
	s := &sheet{seen: map[string]int{}}
	put := func(key, value string) { s.settings = append(s.settings, Setting{Key: key, Value: value}) }
	vm := &p.VM
	put("program", vm.Binary.Path)
	switch {
	case vm.API == nil:
		plannedWords(s, vm)
	default:
		put("name", vm.Name)
		for _, r := range vm.API.Start {
			plannedRequest(s, vm, r)
		}
		for _, part := range vm.Command {
			if part.Ask == "" {
				var args []argument
				for _, w := range part.Words {
					args = append(args, argument{text: w})
				}
				for _, o := range byDashes(args) {
					plannedOption(s, o)
				}
			}
		}
	}
	put("accel", accelerators(vm))
	if vm.Hypervisor == microvmnix.CloudHypervisor {
		if s.find("seccomp") == nil {
			put("seccomp", "true")
		}
		if s.find("memory.shared") == nil {
			put("memory.shared", "no")
		}
	}
	for i, share := range vm.Shares {
		e := fmt.Sprintf("share[%d]", i)
		if share.Protocol == "virtiofs" {
			put(e+".source", share.Source)
			put(e+".readonly", map[bool]string{true: "yes", false: "no"}[share.ReadOnly])
			put(e+".cache", share.Cache)
		}
	}
	for _, port := range vm.Ports {
		text := fmt.Sprintf("%d:%d", port.Host, port.Guest)
		if port.Address != "" {
			text = port.Address + ":" + text
		}
		if port.Protocol != "tcp" {
			text += "/" + port.Protocol
		}
		if vm.API != nil {
			put(s.next("port"), text)
		}
	}
	for _, c := range vm.Credentials {
		put(credentialKey(c.Guest), c.Path)
	}
	if vm.Readiness.Mode == "guest" {
		put("notify", "guest")
	}
	return s.settings
}

func accelerators(vm *plan.VM) string {
	var names []string
	for _, a := range vm.Accelerator {
		names = append(names, a.Name)
	}
	return strings.Join(names, ":")
}

// plannedOption is an option of HypervisorArgs= on a command line that says nothing
// of the VM.
func plannedOption(s *sheet, o option) {
	switch o.name.text {
	case "--seccomp":
		s.settings = append(s.settings, Setting{Key: "seccomp", Value: strings.TrimPrefix(joined(o), "--seccomp ")})
	case "--level": // Ampoule's own, against the log
		s.settings = append(s.settings, Setting{Key: "level", Value: "Off"})
	default:
		s.settings = append(s.settings, Setting{Key: s.next("argument"), Value: joined(o)})
	}
}

// element is a place in a request's body that belongs to one of several.
var element = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^/(disks|fs|devices)/(\d+)/(.+)$`) })

// plannedRequest are the settings of a request.
func plannedRequest(s *sheet, vm *plan.VM, r plan.Request) {
	put := func(key, value string) { s.settings = append(s.settings, Setting{Key: key, Value: value}) }
	net := ""
	if strings.HasSuffix(r.Path, "vm.add-net") || strings.HasPrefix(r.Path, "/network-interfaces/") {
		net = s.next("net")
		plannedNetwork(s, vm, net)
	}
	disk := ""
	if strings.HasPrefix(r.Path, "/drives/") {
		disk = s.next("disk")
	}
	for _, f := range r.Body {
		value, at := f.Value, f.At
		if f.Type == plan.Boolean {
			value = yes(f.Value)
		}
		switch f.Ask {
		case plan.AskKernel:
			value = vm.Kernel
		case plan.AskInitrd:
			if value = vm.Initrd; value == "" {
				continue
			}
		case plan.AskCommandLine:
			value = spec.JoinCommandLine(vm.KernelCommandLine)
		case plan.AskChannel:
			continue // the credentials, which follow by name
		case plan.AskLandlock:
			value = "yes"
		case plan.AskVSock:
			value = "in the runtime directory"
		}
		m := element().FindStringSubmatch(at)
		switch {
		case r.Path == "/actions" || at == "":
		case net != "":
			plannedInterface(put, net, at, value)
		case disk != "":
			put(disk+"."+firecrackerField(at), value)
		case m != nil:
			plannedElement(put, m[1], m[2], m[3], value)
		case strings.HasSuffix(r.Path, "vm.create"):
			put(createKey(at), createValue(at, value))
		default:
			requestField(put, r.Path, at, value)
		}
	}
	switch {
	case r.Path == "/entropy":
		put("rng", "yes")
	case strings.HasSuffix(r.Path, "vm.create") && slices.ContainsFunc(r.Body, func(f plan.Field) bool { return strings.HasPrefix(f.At, "/balloon/") }), r.Path == "/balloon":
		put("balloon", "yes")
	}
	if strings.HasSuffix(r.Path, "vm.create") {
		for i := range vm.Disks {
			for _, key := range []string{"readonly", "direct"} {
				if k := fmt.Sprintf("disk[%d].%s", i, key); s.find(k) == nil {
					put(k, "no")
				}
			}
		}
		for i := range vm.Shares {
			put(fmt.Sprintf("share[%d].protocol", i), "virtiofs")
		}
	}
	if disk != "" && s.find(disk+".readonly") == nil {
		put(disk+".readonly", "no")
	}
}

// createKey is the key of a place in Cloud Hypervisor's VmConfig.
func createKey(at string) string {
	keys := map[string]string{
		"/cpus/boot_vcpus": "cpus", "/cpus/max_vcpus": "cpus.max", "/memory/size": "memory",
		"/payload/kernel": "kernel", "/payload/initramfs": "initrd", "/payload/cmdline": "cmdline",
		"/rng/src": "rng", "/serial/mode": "serial", "/console/mode": "console", "/landlock_enable": "landlock", "/platform/uuid": "uuid",
	}
	if key := keys[at]; key != "" {
		return key
	}
	return strings.ReplaceAll(strings.TrimPrefix(at, "/"), "/", ".")
}

func createValue(at, value string) string {
	switch at {
	case "/serial/mode", "/console/mode":
		return strings.ToLower(value)
	case "/memory/hotplug_method":
		return map[string]string{"VirtioMem": "virtio-mem", "Acpi": "acpi"}[value]
	}
	return value
}

func plannedElement(put func(key, value string), list, index, field, value string) {
	e := map[string]string{"disks": "disk", "fs": "share", "devices": "device"}[list] + "[" + index + "]"
	switch {
	case list == "devices" && field == "path":
		put(e, "pci:"+strings.TrimSuffix(strings.TrimPrefix(value, "/sys/bus/pci/devices/"), "/"))
	case field == "image_type":
		put(e+".format", map[string]string{"Raw": "raw", "Qcow2": "qcow2", "FixedVhd": "vhd", "Vhdx": "vhdx"}[value])
	default:
		put(e+"."+field, value)
	}
}

func firecrackerField(at string) string {
	name := strings.TrimPrefix(at, "/")
	if f := map[string]string{"path_on_host": "path", "is_read_only": "readonly", "is_root_device": "is_root_device"}[name]; f != "" {
		return f
	}
	return name
}

func plannedInterface(put func(key, value string), net, at, value string) {
	switch at {
	case "/mac", "/guest_mac":
		put(net+".mac", value)
	case "/num_queues":
		if n, err := strconv.Atoi(value); err == nil {
			put(net+".queues", strconv.Itoa(n/2))
		}
	case "/host_dev_name", "/id": // with the interface itself
	default:
		put(net+"."+strings.TrimPrefix(at, "/"), value)
	}
}

// plannedNetwork are the settings of an interface of this host.
func plannedNetwork(s *sheet, vm *plan.VM, net string) {
	i := number(strings.TrimSuffix(strings.TrimPrefix(net, "net["), "]"))
	if i >= len(vm.Networks) {
		return
	}
	n := vm.Networks[i]
	put := func(key, value string) { s.settings = append(s.settings, Setting{Key: net + "." + key, Value: value}) }
	kind, name, _ := networkKind(n)
	put("kind", kind)
	put("name", name)
	if n.ByName {
		put("queues", "1")
	}
	if n.Link != "" {
		put("link", n.Link)
		put("mode", n.Mode)
	}
	if n.Bridge != "" {
		put("bridge", n.Bridge)
	}
}

func networkKind(n plan.Network) (kind, name string, queues int) {
	switch {
	case n.Kind == plan.Tap && n.Bridge != "":
		return "bridge", n.Name, n.Queues
	case n.Kind == plan.Tap:
		return "tap", n.Name, n.Queues
	case n.Kind == plan.MacVTap:
		return "macvtap", n.Name, n.Queues
	}
	return "user", "", 1
}

// requestField is a place in one of Firecracker's other requests.
func requestField(put func(key, value string), request, at, value string) {
	key := firecrackerKey(request + at)
	switch key {
	case "memory", "balloon.size", "memory.hotplug_size":
		value = inBytes(value, 1<<20)
	}
	put(key, value)
}

// plannedWords are the settings of a command line.
func plannedWords(s *sheet, vm *plan.VM) {
	var args []argument
	text := func(words ...string) {
		for _, w := range words {
			args = append(args, argument{text: w})
		}
	}
	for _, part := range vm.Command {
		switch part.Ask {
		case plan.AskInitrd:
			if vm.Initrd != "" {
				text(part.Words[0], vm.Initrd)
			}
		case plan.AskCommandLine:
			text(part.Words[0], spec.JoinCommandLine(vm.KernelCommandLine))
		case plan.AskVSock:
			if vm.VSock != nil {
				for _, w := range part.Words {
					text(strings.NewReplacer("{cid}", strconv.FormatInt(vm.VSock.CID, 10)).Replace(w))
				}
			}
		case plan.AskConsole, plan.AskNetwork, "":
			text(part.Words...)
		case plan.AskControl:
			s.settings = append(s.settings, Setting{Key: "control", Value: "descriptor"})
		}
	}
	q := &qemuReader{sheet: s, options: qemuOptions(args), network: func(id string) (string, string, int, bool) {
		i, err := strconv.Atoi(strings.TrimPrefix(id, "net"))
		if err != nil || i >= len(vm.Networks) {
			return "", "", 0, false
		}
		kind, name, queues := networkKind(vm.Networks[i])
		return kind, name, queues, true
	}}
	q.read()
	for i, n := range vm.Networks {
		e := fmt.Sprintf("net[%d].", i)
		put := func(key, value string) { s.settings = append(s.settings, Setting{Key: e + key, Value: value}) }
		if n.Link != "" {
			put("link", n.Link)
			put("mode", n.Mode)
		}
		if n.Bridge != "" {
			put("bridge", n.Bridge)
		}
		if n.VHost == "yes" {
			put("vhost", "yes")
		}
	}
	if s.find("serial") == nil {
		s.settings = append(s.settings, Setting{Key: "serial", Value: "none"})
	}
	// What a command line says without a word, by QEMU's own defaults.
	for _, key := range []string{"machine.mem-merge", "machine.acpi"} {
		if s.find(key) == nil {
			s.settings = append(s.settings, Setting{Key: key, Value: "yes"})
		}
	}
}
