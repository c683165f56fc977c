package adopt

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/microvmnix"
)

// device is what -device makes. The suffixes of virtio devices are those of their
// bus, which belongs to the machine.
func (q *qemuReader) device(o option) {
	params := qemuParameters(o.values[0].text)
	if len(params) == 0 {
		q.rest(o)
		return
	}
	model, params := params[0].key, params[1:]
	base, bus := model, ""
	for _, suffix := range []string{"-pci", "-device"} {
		if b, ok := strings.CutSuffix(model, suffix); ok && (strings.HasPrefix(model, "virtio-") || strings.HasPrefix(model, "vhost-")) {
			base, bus = b, strings.TrimPrefix(suffix, "-")
		}
	}
	if bus != "" && model != "virtio-mem-pci" && q.find("bus") == nil {
		q.add("bus", bus, o.all()...)
	}
	switch base {
	case "virtio-rng":
		q.random(params, o)
	case "virtio-blk":
		q.disk(params, o)
	case "virtio-net":
		q.nic(params, o)
	case "virtio-balloon":
		q.balloon(params, o)
	case "virtio-mem":
		q.addable(params, o)
	case "vhost-user-fs", "virtio-9p":
		q.share(base, params, o)
	case "vhost-vsock":
		q.vsock(params, o)
	case "vfio-pci", "usb-host":
		q.hostDevice(base, params, o)
	case "i8042", "qemu-xhci", "pvpanic", "i6300esb":
		if len(params) == 0 || base == "qemu-xhci" && len(params) == 1 && params[0].key == "id" {
			q.once(base, "yes", o)
			return
		}
		q.rest(o)
	case "virtio-gpu", "virtio-gpu-gl", "virtio-vga-gl":
		q.add("graphics", "yes", o.all()...)
	default:
		q.rest(o)
	}
}

// others adds what is left of a device's parameters; ids are names within the
// command line.
func (q *qemuReader) others(element string, params []parameter, o option, known ...string) {
	for _, p := range params {
		if p.key != "id" && !slices.Contains(known, p.key) {
			q.add(element+"."+p.key, yes(p.value), o.all()...)
		}
	}
}

func find(params []parameter, key string) string {
	for _, p := range params {
		if p.key == key {
			return p.value
		}
	}
	return ""
}

func (q *qemuReader) random(params []parameter, o option) {
	words := o.all()
	if object, ok := q.take("object", find(params, "rng")); ok {
		words = append(words, object.all()...)
	}
	q.add("rng", "yes", words...)
	q.others("rng", params, o, "rng")
}

// disk joins a device with its -drive or -blockdev.
func (q *qemuReader) disk(params []parameter, o option) {
	back, ok := q.take("drive", find(params, "drive"))
	if !ok {
		q.rest(o)
		return
	}
	e := q.next("disk")
	words := append(back.all(), o.all()...)
	readonly, direct := "no", "no"
	if strings.HasPrefix(back.values[0].text, "{") {
		q.blockdev(e, back.values[0].text, words)
	} else {
		for _, p := range qemuParameters(back.values[0].text) {
			switch p.key {
			case "id":
			case "file":
				q.add(e+".path", p.value, words...)
			case "read-only", "readonly":
				readonly = yes(p.value)
			case "cache":
				if direct = "no"; p.value == "none" {
					direct = "yes"
				} else {
					q.add(e+".cache", p.value, words...)
				}
			case "if":
				if p.value != "none" {
					q.add(e+".if", p.value, words...)
				}
			default:
				q.add(e+"."+p.key, p.value, words...)
			}
		}
		q.add(e+".readonly", readonly, words...)
		q.add(e+".direct", direct, words...)
	}
	q.others(e, params, o, "drive")
}

// blockdev is a plan's form of a disk.
func (q *qemuReader) blockdev(e, text string, words []argument) {
	var b struct {
		Driver   string `json:"driver"`
		ReadOnly bool   `json:"read-only"`
		Discard  string `json:"discard"`
		Cache    struct {
			Direct bool `json:"direct"`
		} `json:"cache"`
		File struct {
			Name string `json:"filename"`
		} `json:"file"`
	}
	if json.Unmarshal([]byte(text), &b) != nil {
		q.add(e+".blockdev", text, words...)
		return
	}
	boolean := map[bool]string{true: "yes", false: "no"}
	q.add(e+".format", b.Driver, words...)
	q.add(e+".path", strings.TrimPrefix(b.File.Name, "./"), words...)
	q.add(e+".readonly", boolean[b.ReadOnly], words...)
	q.add(e+".direct", boolean[b.Cache.Direct], words...)
	q.add(e+".discard", b.Discard, words...)
}

// nic joins a device with its -netdev.
func (q *qemuReader) nic(params []parameter, o option) {
	id := find(params, "netdev")
	back, ok := q.take("netdev", id)
	if !ok {
		q.rest(o)
		return
	}
	e, words := q.next("net"), append(back.all(), o.all()...)
	options := qemuParameters(back.values[0].text)
	kind, options := options[0].key, options[1:]
	queues := max(1, number(find(options, "queues")))
	switch {
	case q.network != nil:
		if k, name, n, known := q.network(id); known {
			q.add(e+".kind", k, words...)
			if name != "" {
				q.add(e+".name", name, words...)
			}
			queues = n
		} else {
			q.add(e+".kind", kind, words...)
		}
	case find(options, "fd") != "" || find(options, "fds") != "":
		numbers := strings.Split(find(options, "fds")+find(options, "fd"), ":")
		queues = len(numbers)
		q.macvtap(e, numbers, words...)
	default:
		q.add(e+".kind", kind, words...)
	}
	for _, p := range options {
		switch p.key {
		case "id", "queues", "fd", "fds", "vhostfds", "helper", "vhost":
			if p.key == "vhost" && q.network == nil {
				q.add(e+".vhost", yes(p.value), words...)
			}
		case "script", "downscript":
			if p.value != "no" {
				q.add(e+"."+p.key, p.value, words...)
			}
		case "ifname":
			q.add(e+".name", p.value, words...)
		case "br":
			q.add(e+".bridge", p.value, words...)
		case "hostfwd":
			q.add(q.next("port"), forward(p.value), words...)
		default:
			q.add(e+"."+p.key, p.value, words...)
		}
	}
	q.add(e+".queues", strconv.Itoa(queues), words...)
	for _, p := range params {
		switch p.key {
		case "netdev", "romfile", "id":
		case "mac":
			q.add(e+".mac", strings.ToLower(p.value), words...)
		case "mq", "vectors": // follow from the queues
			if queues == 1 {
				q.add(e+"."+p.key, p.value, words...)
			}
		default:
			q.add(e+"."+p.key, p.value, words...)
		}
	}
}

// forward brings tcp:ADDRESS:PORT-GUEST:PORT into the form of PublishPort=, where it
// has one: the guest's address is then the one that it has by default.
func forward(text string) string {
	protocol, rest, _ := strings.Cut(text, ":")
	host, guest, ok := strings.Cut(rest, "-")
	address, port, okHost := strings.Cut(host, ":")
	to, guestPort, okGuest := strings.Cut(guest, ":")
	if !ok || !okHost || !okGuest || to != "" && to != "10.0.2.15" {
		return text
	}
	out := port + ":" + guestPort
	if address != "" && address != "0.0.0.0" {
		out = address + ":" + out
	}
	if protocol != "tcp" {
		out += "/" + protocol
	}
	return out
}

func (q *qemuReader) balloon(params []parameter, o option) {
	q.add("balloon", "yes", o.all()...)
	for _, p := range params {
		if p.key != "id" {
			q.add("balloon."+strings.ReplaceAll(strings.ReplaceAll(p.key, "deflate-on-oom", "deflate_on_oom"), "free-page-reporting", "free_page_reporting"), yes(p.value), o.all()...)
		}
	}
}

// addable is memory that can be added, with its object.
func (q *qemuReader) addable(params []parameter, o option) {
	object, ok := q.take("object", find(params, "memdev"))
	if !ok {
		q.rest(o)
		return
	}
	words := append(object.all(), o.all()...)
	for _, p := range qemuParameters(object.values[0].text) {
		if p.key == "size" {
			q.add("memory.hotplug_size", inBytes(p.value, 1), words...)
		}
	}
	for _, p := range params {
		switch p.key {
		case "id", "memdev", "prealloc":
		case "requested-size":
			q.add("memory.hotplugged_size", inBytes(p.value, 1), words...)
		default:
			q.add("memory.hotplug."+p.key, p.value, words...)
		}
	}
}

// share joins a device with its socket or its -fsdev.
func (q *qemuReader) share(model string, params []parameter, o option) {
	e := q.next("share")
	if model == "vhost-user-fs" {
		back, ok := q.take("chardev", find(params, "chardev"))
		if !ok {
			q.rest(o)
			return
		}
		words := append(back.all(), o.all()...)
		q.add(e+".protocol", "virtiofs", words...)
		q.add(e+".socket", find(qemuParameters(back.values[0].text), "path"), words...)
		q.add(e+".tag", find(params, "tag"), words...)
		if q.daemons {
			q.served(e)
		}
		q.others(e, params, o, "chardev", "tag")
		return
	}
	back, ok := q.take("fsdev", find(params, "fsdev"))
	if !ok {
		q.rest(o)
		return
	}
	words := append(back.all(), o.all()...)
	q.add(e+".protocol", "9p", words...)
	q.add(e+".tag", find(params, "mount_tag"), words...)
	readonly := "no"
	for _, p := range qemuParameters(back.values[0].text)[1:] {
		switch p.key {
		case "id":
		case "path":
			q.add(e+".source", p.value, words...)
		case "security_model":
			q.add(e+".security", strings.TrimSuffix(p.value, "-xattr"), words...)
		case "readonly":
			readonly = yes(p.value)
		default:
			q.add(e+"."+p.key, p.value, words...)
		}
	}
	q.add(e+".readonly", readonly, words...)
	q.others(e, params, o, "fsdev", "mount_tag")
}

func (q *qemuReader) vsock(params []parameter, o option) {
	for _, p := range params {
		if p.key == "guest-cid" {
			q.add("vsock.cid", p.value, o.all()...)
		}
	}
	q.others("vsock", params, o, "guest-cid", "vhostfd")
}

// hostDevice is one of the host's.
func (q *qemuReader) hostDevice(model string, params []parameter, o option) {
	e := q.next("device")
	if model == "vfio-pci" {
		address := strings.ToLower(find(params, "host"))
		if strings.Count(address, ":") == 1 {
			address = "0000:" + address // QEMU's default domain
		}
		q.add(e, "pci:"+address, o.all()...)
		for _, p := range params {
			if p.key != "host" && (p.key != "id" || q.daemons) {
				q.add(e+"."+p.key, yes(p.value), o.all()...)
			}
		}
		return
	}
	hex := func(s string) string {
		n, err := strconv.ParseUint(s, 0, 16)
		if err != nil {
			return s
		}
		text := strconv.FormatUint(n, 16)
		return strings.Repeat("0", 4-len(text)) + text
	}
	switch {
	case find(params, "vendorid") != "" && find(params, "productid") != "":
		q.add(e, "usb:"+hex(find(params, "vendorid"))+":"+hex(find(params, "productid")), o.all()...)
		q.others(e, params, o, "vendorid", "productid", "bus")
	case find(params, "hostbus") != "" && find(params, "hostport") != "":
		q.add(e, "usb:"+find(params, "hostbus")+"-"+find(params, "hostport"), o.all()...)
		q.others(e, params, o, "hostbus", "hostport", "bus")
	default:
		q.add(e, "usb:"+microvmnix.Shown(o.values[0].text), o.all()...)
	}
}
