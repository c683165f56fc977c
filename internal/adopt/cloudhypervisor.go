package adopt

import (
	"strconv"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/microvmnix"
)

// cloudHypervisor reads a command line of Cloud Hypervisor. What it says without a
// word has its default here.
func (s *sheet) cloudHypervisor(words []microvmnix.Word) {
	for _, o := range byDashes(arguments(words)) {
		name := strings.TrimPrefix(o.name.text, "--")
		switch name {
		case "cpus", "memory", "balloon", "vsock", "platform":
			s.parameters(name, o)
		case "disk", "fs", "net", "device":
			s.elements(name, o)
		case "watchdog", "pvpanic", "landlock":
			s.add(name, "yes", o.all()...)
		case "cmdline":
			s.commandLine(o)
		case "initramfs":
			s.scalar("initrd", o)
		case "rng":
			for _, v := range o.values {
				s.add("rng", strings.TrimPrefix(v.text, "src="), o.name, v)
			}
		case "kernel", "console", "serial", "seccomp", "api-socket":
			s.scalar(name, o)
		case "gpu":
			s.add("graphics", "yes", o.all()...)
		default:
			s.add(s.next("argument"), joined(o), o.all()...)
		}
	}
	s.absent("cpus.max", s.value("cpus"))
	s.absent("memory.shared", "no")
	s.absent("rng", "/dev/urandom")
	s.absent("console", "tty")
	s.absent("serial", "null")
	s.absent("seccomp", "true")
}

// absent notes what holds where the command line says nothing.
func (s *sheet) absent(key, value string) {
	if s.find(key) == nil {
		s.settings = append(s.settings, Setting{Key: key, Value: value, File: s.file, Line: s.runner.Script.Exec.Line, Shown: "the default"})
	}
}

func joined(o option) string {
	out := o.name.text
	for _, v := range o.values {
		out += " " + v.text
	}
	return out
}

// scalar is an option with one word.
func (s *sheet) scalar(key string, o option) {
	if len(o.values) == 0 {
		s.add(key, "", o.name)
	}
	for _, v := range o.values {
		s.add(key, v.text, o.name, v)
	}
}

func (s *sheet) commandLine(o option) {
	for _, v := range o.values {
		s.add("cmdline", v.text, o.name, v)
		if _, ok := kernelWords(v.text); !ok {
			s.refuse(v, "cmdline", "a quote in the kernel's command line that does not end", "close it")
		}
	}
}

// sizes are parameters that are amounts of memory.
func isSize(key string) bool {
	return key == "size" || strings.HasSuffix(key, "_size") && key != "hugepage_size"
}

// parameters are those of an option for the VM as a whole.
func (s *sheet) parameters(name string, o option) {
	for _, v := range o.values {
		if v.text == "" {
			s.add(name, "", o.name, v) // microvm.nix writes --platform always
			continue
		}
		if v.open && name == "platform" {
			s.openStrings(o.name, v)
			continue
		}
		for _, p := range parameters(v.text) {
			key, value := name+"."+p.key, p.value
			switch {
			case key == "cpus.boot":
				key = "cpus"
			case key == "memory.size":
				key = "memory"
			case key == "platform.oem_strings":
				s.oemStrings(p.value, o.name, v)
				continue
			case key == "platform.uuid":
				key = "uuid"
			}
			if name == "memory" || name == "balloon" {
				if value = yes(value); isSize(p.key) {
					value = inBytes(p.value, 1)
				}
			}
			s.add(key, value, o.name, v)
		}
	}
	if name == "balloon" {
		s.add("balloon", "yes", o.all()...)
	}
}

// elements are the words of an option that makes a device of each.
func (s *sheet) elements(name string, o option) {
	for _, v := range o.values {
		switch name {
		case "disk":
			e := s.next("disk")
			s.add(e+".readonly", "no", o.name, v)
			s.add(e+".direct", "no", o.name, v)
			for _, p := range parameters(v.text) {
				key, value := p.key, p.value
				switch key {
				case "image_type":
					key = "format"
				case "readonly", "direct":
					s.find(e + "." + key).Value = yes(value)
					continue
				}
				s.add(e+"."+key, value, o.name, v)
			}
		case "fs":
			e := s.next("share")
			s.add(e+".protocol", "virtiofs", o.name, v)
			for _, p := range parameters(v.text) {
				s.add(e+"."+p.key, p.value, o.name, v)
			}
			s.served(e)
		case "net":
			s.network(s.next("net"), o.name, v)
		case "device":
			e := s.next("device")
			for _, p := range parameters(v.text) {
				if address, ok := strings.CutPrefix(p.value, "/sys/bus/pci/devices/"); ok && p.key == "path" {
					s.add(e, "pci:"+strings.ToLower(strings.TrimSuffix(address, "/")), o.name, v)
					continue
				}
				s.add(e+"."+p.key, p.value, o.name, v)
			}
		}
	}
}

// network is a word of --net.
func (s *sheet) network(e string, words ...argument) {
	queues := 1
	for _, p := range parameters(words[len(words)-1].text) {
		switch p.key {
		case "tap":
			s.add(e+".kind", "tap", words...)
			s.add(e+".name", p.value, words...)
		case "fd":
			s.macvtap(e, list(p.value), words...)
		case "mac":
			s.add(e+".mac", strings.ToLower(p.value), words...)
		case "num_queues":
			if n, err := strconv.Atoi(p.value); err == nil && n%2 == 0 {
				queues = n / 2 // one for each direction
				continue
			}
			s.add(e+".num_queues", p.value, words...)
		default:
			s.add(e+"."+p.key, p.value, words...)
		}
	}
	s.add(e+".queues", strconv.Itoa(queues), words...)
}

// macvtap finds the interface behind descriptors that the script opened.
func (s *sheet) macvtap(e string, numbers []string, words ...argument) {
	name, same := "", true
	for _, number := range numbers {
		found := ""
		for _, st := range s.runner.Script.Statements {
			if st.Descriptor != nil && strconv.Itoa(st.Descriptor.Number) == number {
				found = st.Descriptor.Interface
			}
		}
		same = same && found != "" && (name == "" || name == found)
		name = found
	}
	at := words[len(words)-1]
	if !same || name == "" {
		s.refuse(at, e, "descriptors that the script does not open for one interface", "exec N<>/dev/tap$(< /sys/class/net/ID/ifindex) in front of it")
		return
	}
	s.add(e+".kind", "macvtap", words...)
	s.add(e+".name", name, words...)
	for _, m := range s.runner.MacVTaps {
		if m.ID == name {
			s.add(e+".link", m.Link, words...)
			s.add(e+".mode", m.Mode, words...)
			return
		}
	}
	s.refuse(at, e, "nothing says which interface the macvtap "+name+" is to lie on", "a line of share/microvm/macvtap-interfaces: ID MAC LINK MODE")
}

// served adds what the runner says of a share's daemon.
func (s *sheet) served(e string) {
	tag := s.value(e + ".tag")
	for _, share := range s.runner.Shares {
		if share.Tag != tag {
			continue
		}
		set := *s.find(e + ".tag")
		add := func(key, value string) {
			set.Key, set.Value = e+"."+key, value
			s.settings = append(s.settings, set)
		}
		add("source", share.Source)
		s.daemon(e, share.Daemon, add)
		return
	}
	at := s.find(e + ".protocol")
	s.problems.Errorf(at.origin(), e, "", "the files socket and source in share/microvm/virtiofs/"+tag, "nothing says which directory the share is")
}

// daemon reads the words with which virtiofsd is started.
func (s *sheet) daemon(e string, d *microvmnix.Daemon, add func(key, value string)) {
	readonly, cache := "no", "auto"
	defer func() {
		add("readonly", readonly)
		add("cache", cache)
	}()
	if d == nil {
		return
	}
	for i := 0; i < len(d.Args); i++ {
		w := d.Args[i]
		name, value, joined := strings.Cut(w.Text, "=")
		words := w.Text
		if !joined && i+1 < len(d.Args) && !strings.HasPrefix(d.Args[i+1].Text, "-") {
			i++
			value = d.Args[i].Text
			words += " " + value
		}
		set := Setting{Key: e + ".virtiofsd" + strings.TrimPrefix(name, "-"), Value: value, File: d.File, Line: w.Line, Shown: microvmnix.Shown(words)}
		switch name {
		case "--readonly":
			readonly = "yes"
			continue
		case "--cache":
			cache = value
			continue
		case "--socket-path", "--shared-dir":
			continue // in share/microvm too
		}
		s.settings = append(s.settings, set)
	}
}
