package adopt

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/microvmnix"
)

// firecracker reads a command line of Firecracker, and the file that it names.
func (s *sheet) firecracker(words []microvmnix.Word) {
	for _, o := range byDashes(arguments(words)) {
		switch name := strings.TrimLeft(o.name.text, "-"); name {
		case "api-sock":
			s.scalar("api-socket", o)
		case "config-file":
			s.add("config-file", joined(o), o.all()...)
		default:
			s.add(s.next("argument"), joined(o), o.all()...)
		}
	}
	c := s.runner.Config
	if c == nil {
		s.problems.Errorf(diag.Origin{File: s.file, Line: s.runner.Script.Exec.Line}, "config-file", "", "the file that --config-file names", "nothing says what the VM is")
		return
	}
	fields, err := flatten(c.Text)
	if err != nil {
		s.problems.Errorf(diag.Origin{File: c.File}, "", "", "the JSON of Firecracker's --config-file", "%s", err)
		return
	}
	for _, f := range fields {
		set := Setting{Key: firecrackerKey(f.at), Value: f.value, File: c.File, Line: f.line, Shown: microvmnix.Shown(strings.TrimPrefix(f.at, "/") + ": " + f.value)}
		if f.value == "null" {
			continue // as if it were not there
		}
		switch set.Key {
		case "memory", "balloon.size", "memory.hotplug_size":
			set.Value = inBytes(f.value, 1<<20)
		}
		switch {
		case strings.HasSuffix(set.Key, ".readonly"), strings.HasSuffix(set.Key, ".is_root_device"), strings.HasSuffix(set.Key, ".deflate_on_oom"), strings.HasSuffix(set.Key, ".free_page_reporting"):
			set.Value = yes(f.value)
		case strings.HasSuffix(set.Key, ".mac"):
			set.Value = strings.ToLower(f.value)
		case set.Key == "cpus.smt":
			set.Value = yes(f.value)
		}
		s.settings = append(s.settings, set)
		if strings.HasPrefix(set.Key, "balloon.") && s.find("balloon") == nil {
			set.Key, set.Value = "balloon", "yes"
			s.settings = append(s.settings, set)
		}
	}
	for i := range s.settings {
		if e, ok := strings.CutSuffix(s.settings[i].Key, ".name"); ok && strings.HasPrefix(e, "net[") {
			kind := s.settings[i]
			kind.Key, kind.Value = e+".kind", "tap"
			s.settings = append(s.settings, kind)
			kind.Key, kind.Value = e+".queues", "1"
			s.settings = append(s.settings, kind)
		}
	}
}

// firecrackerKey is the key of a place in the configuration, which has the names of
// the API's requests; a place that is not known keeps its name.
func firecrackerKey(at string) string {
	switch at {
	case "/boot-source/kernel_image_path":
		return "kernel"
	case "/boot-source/initrd_path":
		return "initrd"
	case "/boot-source/boot_args":
		return "cmdline"
	case "/machine-config/vcpu_count":
		return "cpus"
	case "/machine-config/mem_size_mib":
		return "memory"
	case "/machine-config/smt":
		return "cpus.smt"
	case "/machine-config/huge_pages":
		return "memory.hugepages"
	case "/vsock/guest_cid":
		return "vsock.cid"
	case "/vsock/uds_path":
		return "vsock.socket"
	case "/balloon/amount_mib":
		return "balloon.size"
	case "/hotplug/memory/total_size_mib", "/memory-hotplug/total_size_mib":
		return "memory.hotplug_size"
	}
	parts := strings.Split(strings.TrimPrefix(at, "/"), "/")
	lists := map[string]string{"drives": "disk", "network-interfaces": "net"}
	fields := map[string]string{"path_on_host": "path", "is_read_only": "readonly", "host_dev_name": "name", "guest_mac": "mac"}
	if list := lists[parts[0]]; list != "" && len(parts) == 3 {
		field := parts[2]
		if f := fields[field]; f != "" {
			field = f
		}
		return list + "[" + parts[1] + "]." + field
	}
	return strings.Join(parts, ".")
}

// field is a value of a JSON document, with its place and its line.
type field struct {
	at, value string
	line      int
}

// flatten lists the values of a JSON document in their order. An empty list or
// object says nothing, and is left out.
func flatten(text []byte) ([]field, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	f := &flattener{dec: dec, text: text}
	if err := f.value(""); err != nil {
		return nil, fmt.Errorf("line %d: not JSON as it has to be", f.line())
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("line %d: something stands behind the object", f.line())
	}
	return f.out, nil
}

type flattener struct {
	dec   *json.Decoder
	text  []byte
	out   []field
	depth int
}

func (f *flattener) line() int {
	return 1 + bytes.Count(f.text[:min(int(f.dec.InputOffset()), len(f.text))], []byte("\n"))
}

func (f *flattener) value(at string) error {
	token, err := f.dec.Token()
	if err != nil {
		return err
	}
	if f.depth++; f.depth > 64 {
		return fmt.Errorf("too deep")
	}
	defer func() { f.depth-- }()
	switch t := token.(type) {
	case json.Delim:
		for i := 0; f.dec.More(); i++ {
			place := at + "/" + strconv.Itoa(i)
			if t == '{' {
				name, err := f.dec.Token()
				if err != nil {
					return err
				}
				place = fmt.Sprintf("%s/%v", at, name)
			}
			if err := f.value(place); err != nil {
				return err
			}
		}
		_, err = f.dec.Token()
		return err
	case nil:
		f.out = append(f.out, field{at, "null", f.line()})
	default:
		f.out = append(f.out, field{at, fmt.Sprint(t), f.line()})
	}
	return nil
}
