package script

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/initrd/cpio"
	"github.com/ampoule-vm/ampoule/internal/plan"
)

// images writes files that are no more of what they stand for than check looks
// at: no case boots them. An initial RAM disk named after a maker looks as if
// that one had made it.
func images(names []string) error {
	for _, name := range names {
		data := make([]byte, 0x400)
		switch filepath.Ext(name) {
		case ".cpio":
			data = archive(strings.TrimSuffix(filepath.Base(name), ".cpio"))
		case ".gz":
			var packed bytes.Buffer
			w := gzip.NewWriter(&packed)
			_, _ = w.Write(archive("")) // to memory
			w.Close()
			data = packed.Bytes()
		case ".qcow2":
			copy(data, "QFI\xfb")
		case ".elf":
			copy(data, "\x7fELF\x02\x01\x01")
		case ".raw", ".zero":
		default:
			data[0x1FE], data[0x1FF] = 0x55, 0xAA
			copy(data[0x202:], "HdrS")
		}
		if err := os.WriteFile(name, data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// archive is an initial RAM disk: one with systemd in it, or what a maker makes.
func archive(maker string) []byte {
	var out []byte
	add := func(name string, mode uint32, body string) {
		out = cpio.AppendHeader(out, cpio.Header{Ino: uint32(len(out)), Mode: mode, NLink: 1, Size: uint32(len(body)), Name: name})
		out = append(append(out, body...), make([]byte, cpio.Padding(len(body)))...)
	}
	directory := func(names ...string) {
		for _, name := range names {
			add(name, cpio.TypeDir|0o755, "")
		}
	}
	program := func(name, body string) { add(name, cpio.TypeRegular|0o755, body) }
	switch maker {
	case "initramfs-tools":
		directory("conf", "scripts")
		add("conf/initramfs.conf", cpio.TypeRegular|0o644, "MODULES=most\n")
		add("conf/arch.conf", cpio.TypeRegular|0o644, "DPKG_ARCH=amd64\n")
		add("scripts/functions", cpio.TypeRegular|0o644, "panic() { :; }\n")
		program("init", "#!/bin/sh\n")
	case "own":
		program("init", "\x7fELF\x02\x01\x01")
		program("sbin", "\x7fELF\x02\x01\x01")
	case "no-init":
		directory("etc")
	case "conflict":
		directory(".ampoule")
		program("init", "\x7fELF\x02\x01\x01")
	case "run-link":
		add("run", cpio.TypeSymlink|0o777, "/var/run")
		fallthrough
	default:
		directory("usr", "usr/lib", "usr/lib/systemd")
		program("usr/lib/systemd/systemd", "\x7fELF\x02\x01\x01")
		add("init", cpio.TypeSymlink|0o777, "usr/lib/systemd/systemd")
	}
	return cpio.AppendTrailer(out)
}

// secrets writes files that hold a word over and over, which no message repeats.
func secrets(files []string) error {
	for _, file := range files {
		name, text, _ := strings.Cut(file, "=")
		size, err := strconv.Atoi(text)
		if err != nil {
			return err
		}
		data := bytes.Repeat([]byte("hunter2 "), size/8+1)[:size]
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(name, data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// socket leaves a socket behind that nobody listens on any more.
func socket(name string) error {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	return l.Close()
}

// nobodyID is the user that owns nothing.
const nobodyID = 65534

// dropRights gives up root's for good. A caller without them has none to give
// up, but another uid; the cases know only this one.
func dropRights() error {
	if err := syscall.Setgroups(nil); err != nil {
		return err
	}
	if err := syscall.Setgid(nobodyID); err != nil {
		return err
	}
	if err := syscall.Setuid(nobodyID); err != nil {
		return err
	}
	// A process that changed its user may not look at itself in /proc; one that
	// was started as that user may.
	return unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0)
}

// reseal prints a plan with some of its values replaced. A path is that of the
// JSON, with numbers for the elements of lists: vm.channels.0.each=[].
func reseal(file string, changes []string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var tree any
	if err := json.Unmarshal(data, &tree); err != nil {
		return err
	}
	for _, change := range changes {
		path, text, _ := strings.Cut(change, "=")
		var value any
		if err := json.Unmarshal([]byte(text), &value); err != nil {
			return fmt.Errorf("%s: %w", change, err)
		}
		if err := set(tree, strings.Split(path, "."), value); err != nil {
			return fmt.Errorf("%s: %w", change, err)
		}
	}
	changed, err := json.Marshal(tree)
	if err != nil {
		return err
	}
	var p plan.Plan
	if err := json.Unmarshal(changed, &p); err != nil {
		return err
	}
	p.Seal()
	_, err = os.Stdout.Write(append(p.JSON(), '\n'))
	return err
}

// set replaces what a path leads to, which must be there.
func set(tree any, path []string, value any) error {
	for i, name := range path {
		last := i == len(path)-1
		switch node := tree.(type) {
		case map[string]any:
			if tree = node[name]; last {
				node[name] = value
			}
		case []any:
			n, err := strconv.Atoi(name)
			if err != nil || n < 0 || n >= len(node) {
				return fmt.Errorf("there is no element %s", name)
			}
			if tree = node[n]; last {
				node[n] = value
			}
		default:
			return fmt.Errorf("%s leads nowhere", name)
		}
	}
	return nil
}
