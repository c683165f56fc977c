package scan

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// allowedStore is the class of files in a directory of credentials: they are
// not looked into, unless everybody may read them.
const allowedStore Class = ""

// stores is the directory of the credential stores: PID 1's own and one for
// each service that loads some.
const stores = "/run/credentials/"

// Machine scans the machine that it runs on, for values by name. It must run as
// root. It reads
//
//   - every regular file on rootfs, tmpfs, ramfs and devtmpfs, in every mount
//     name space of a running process, whatever its age: an initramfs that is
//     the root is read whole;
//   - the root file system where it lies on a disk, except /usr;
//   - memory files that processes have open;
//   - arguments and environments of all processes, the kernel's command line,
//     boot configuration, keys and log;
//   - what the firmware left: the initrd, DMI tables, and the first 64 KiB of
//     each fw_cfg file.
//
// The stores below /run/credentials are left out, except files of them that
// everybody may read.
func Machine(values map[string][]byte) Result {
	s := newScanner(values)
	s.fileSystems()
	s.processes()
	for _, path := range []string{"/proc/cmdline", "/proc/bootconfig", "/proc/keys"} {
		s.file(Kernel, path, anyDevice)
	}
	s.kernelLog()
	s.firmware()
	return s.Result
}

// fwCfgBytes is how much is read of each fw_cfg file. For every page of one the
// kernel reads all that lies before it, through a port: a megabyte takes a
// quarter of a minute where a processor is emulated.
const fwCfgBytes = 64 << 10

// firmware scans what the machine came with.
func (s *scanner) firmware() {
	for _, from := range []struct {
		pattern string
		limit   int64
	}{
		{"/sys/firmware/initrd", whole},
		{"/sys/firmware/dmi/entries/*/raw", whole},
		{"/sys/firmware/dmi/tables/*", whole},
		{"/sys/firmware/qemu_fw_cfg/by_key/*/raw", fwCfgBytes},
	} {
		paths, _ := filepath.Glob(from.pattern) // the patterns are well formed
		for _, path := range paths {
			s.beginning(Firmware, path, anyDevice, from.limit)
		}
	}
}

// mount is a line of mountinfo.
type mount struct {
	// device and root say what of which file system is mounted.
	device, root  string
	point, fstype string
}

// parseMounts reads mountinfo; lines that it cannot read are left out.
func parseMounts(text string) []mount {
	var out []mount
	for line := range strings.Lines(text) {
		before, after, ok := strings.Cut(line, " - ")
		fields, rest := strings.Fields(before), strings.Fields(after)
		if ok && len(fields) >= 6 && len(rest) >= 1 {
			out = append(out, mount{fields[2], Unescape(fields[3]), Unescape(fields[4]), rest[0]})
		}
	}
	return out
}

func (m mount) inMemory() bool {
	return slices.Contains([]string{"rootfs", "tmpfs", "ramfs", "devtmpfs"}, m.fstype)
}

// fileSystems scans what is mounted, as each name space shows it.
func (s *scanner) fileSystems() {
	done := map[string]bool{}
	for _, space := range nameSpaces() {
		text, err := os.ReadFile(space.mountinfo)
		if err != nil {
			s.unread(space.mountinfo, err)
			continue
		}
		for _, m := range parseMounts(string(text)) {
			// One mount of a whole file system stands for all of its parts.
			key := m.device + " " + m.root
			if done[m.device+" /"] || done[key] || !m.inMemory() && m.point != "/" {
				continue
			}
			done[key] = true
			s.mounted(space.root, m)
		}
	}
}

func (s *scanner) mounted(root string, m mount) {
	other := Disk
	if m.inMemory() {
		other = Memory
	}
	s.tree(tree{
		dir:   filepath.Join(root, m.point),
		shown: func(path string) string { return "/" + strings.TrimPrefix(strings.TrimPrefix(path, root), "/") },
		class: func(path string) Class {
			switch {
			case strings.HasPrefix(path, stores):
				return allowedStore
			case strings.Contains(path, "/log/journal/"):
				return Journal
			}
			return other
		},
		// What a disk image brought along is as the build left it.
		skip: func(path string) bool { return other == Disk && path == "/usr" },
	})
}

// space is a mount name space as one of its processes sees it.
type space struct{ mountinfo, root string }

// nameSpaces lists the mount name spaces of all processes, ours first.
func nameSpaces() []space {
	seen := map[string]bool{}
	own, _ := os.Readlink("/proc/self/ns/mnt")
	seen[own] = true
	out := []space{{"/proc/self/mountinfo", ""}}
	for _, pid := range processes() {
		dir := "/proc/" + pid
		name, err := os.Readlink(dir + "/ns/mnt")
		// Threads of the kernel live in the first, with PID 1.
		if err != nil || seen[name] {
			continue
		}
		seen[name] = true
		out = append(out, space{dir + "/mountinfo", dir + "/root"})
	}
	return out
}

// processes lists the numbers of all processes.
func processes() []string {
	entries, _ := os.ReadDir("/proc") // then nothing is scanned, and the counts say so
	var out []string
	for _, entry := range entries {
		if _, err := strconv.Atoi(entry.Name()); err == nil {
			out = append(out, entry.Name())
		}
	}
	return out
}

// processes scans what the kernel tells of each process, and the memory files
// it has open.
func (s *scanner) processes() {
	for _, pid := range processes() {
		dir := "/proc/" + pid
		// A thread of the kernel has neither.
		if target, err := os.Readlink(dir + "/exe"); err != nil || target == "" {
			continue
		}
		s.file(Process, dir+"/environ", anyDevice)
		s.file(Process, dir+"/cmdline", anyDevice)
		entries, err := os.ReadDir(dir + "/fd")
		if err != nil {
			s.unread(dir+"/fd", err)
		}
		for _, entry := range entries {
			path := dir + "/fd/" + entry.Name()
			if target, _ := os.Readlink(path); strings.HasPrefix(target, "/memfd:") {
				s.file(Memfd, path, anyDevice)
			}
		}
	}
}

// kernelLog scans what the kernel's log holds.
func (s *scanner) kernelLog() {
	const readAll, sizeOf = 3, 10 // of syslog(2)
	const path = "/dev/kmsg"
	size, err := syscall.Klogctl(sizeOf, nil)
	if err != nil {
		s.unread(path, err)
		return
	}
	text := make([]byte, size)
	n, err := syscall.Klogctl(readAll, text)
	if err == nil {
		err = s.read(Leak{Class: Kernel, Mode: "-", Path: path}, bytes.NewReader(text[:n]))
	}
	if err != nil {
		s.unread(path, err)
	}
}

// Escape writes a path so that it has no blank, line end or byte beyond ASCII:
// those, and backslashes, become three octal digits behind a backslash, as in
// mountinfo.
func Escape(path string) string {
	var b strings.Builder
	for _, c := range []byte(path) {
		if c <= ' ' || c >= 0x7f || c == '\\' {
			fmt.Fprintf(&b, `\%03o`, c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// Unescape reads what Escape wrote; what is no escape stays.
func Unescape(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+3 < len(text) {
			if c, err := strconv.ParseUint(text[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(text[i])
	}
	return b.String()
}
