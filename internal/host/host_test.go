package host

import (
	"bytes"
	"encoding/binary"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

func write(t testing.TB, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestKVMUsable(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("needs amd64: other processors show no such flags")
	}
	dir := t.TempDir()
	cpu := func(flags string) string {
		return write(t, filepath.Join(dir, "cpuinfo"), "processor\t: 0\nvendor_id\t: X\nflags\t\t: fpu "+flags+" sse\nbugs\t: none\n\nprocessor\t: 1\nflags\t\t: fpu vmx\n")
	}
	device := write(t, filepath.Join(dir, "kvm"), "")
	for _, tt := range []struct{ name, kvm, flags, why string }{
		{"intel", device, "vmx", ""}, {"amd", device, "svm", ""},
		{"hidden", device, "vmx_flexpriority xvmx", "the processor shows neither vmx nor svm in " + dir + "/cpuinfo"},
		{"absent", dir + "/none", "vmx", dir + "/none does not exist"},
		{"directory", dir, "vmx", dir + " cannot be opened"},
	} {
		ok, why := Host{KVM: tt.kvm, CPUInfo: cpu(tt.flags)}.KVMUsable()
		if ok != (tt.why == "") || why != tt.why {
			t.Errorf("%s: %v, %q, want %q", tt.name, ok, why, tt.why)
		}
	}
	if ok, why := (Host{KVM: device, CPUInfo: dir + "/none"}).KVMUsable(); ok || !strings.Contains(why, "cannot be read") {
		t.Errorf("no cpuinfo: %v, %q", ok, why)
	}
}

func TestMemory(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]int64{
		"MemTotal:        4030612 kB\nMemFree: 1 kB\n": 4030612 << 10, "MemFree: 1 kB\nMemTotal: 7 kB\n": 7 << 10,
		"": -1, "MemTotal: lots kB\n": -1, "MemTotal:\n": -1,
	} {
		got, err := Host{MemInfo: write(t, filepath.Join(dir, "meminfo"), text)}.Memory()
		if (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
}

func TestMaySwap(t *testing.T) {
	const header = "Filename\tType\tSize\tUsed\tPriority\n"
	dir := t.TempDir()
	swaps := func(text string) string { return write(t, filepath.Join(dir, "swaps"), text) }
	group := write(t, filepath.Join(dir, "cgroup"), "1:name=x:/old\n0::/a.slice/b.service\n")
	for _, tt := range []struct {
		name, swaps, parent, own string
		may                      bool
	}{
		{"no swap", header, "max", "max", false},
		{"unlimited", header + "/dev/sda2 partition 1 0 -2\n", "max", "max", true},
		{"forbidden", header + "/dev/sda2 partition 1 0 -2\n", "max", "0\n", false},
		{"forbidden above", header + "/dev/sda2 partition 1 0 -2\n", "0\n", "max", false},
		{"limited", header + "/dev/sda2 partition 1 0 -2\n", "max", "4096\n", true},
	} {
		root := filepath.Join(dir, tt.name)
		write(t, root+"/a.slice/memory.swap.max", tt.parent)
		write(t, root+"/a.slice/b.service/memory.swap.max", tt.own)
		h := Host{Swaps: swaps(tt.swaps), Cgroup: group, CgroupRoot: root}
		if got := h.MaySwap(); got != tt.may {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
	for _, h := range []Host{{Cgroup: "/none"}, {Cgroup: group, CgroupRoot: "/none"}} {
		h.Swaps = swaps(header + "/dev/sda2 partition 1 0 -2\n")
		if !h.MaySwap() {
			t.Errorf("%+v: what is not known is taken for safe", h)
		}
	}
}

func TestFindBinary(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"one", "two"} {
		if err := os.Chmod(write(t, filepath.Join(dir, "bin", name), "x"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "first", "two"), "not executable")
	if err := os.Mkdir(filepath.Join(dir, "first", "one"), 0o755); err != nil {
		t.Fatal(err)
	}
	h := Host{Path: ":.:relative:" + dir + "/first:" + dir + "/bin"}
	if got, ok := h.FindBinary([]string{"zero", "two", "one"}); !ok || got != dir+"/bin/two" {
		t.Errorf("%q, %v", got, ok)
	}
	if got, ok := h.FindBinary([]string{"zero"}); ok {
		t.Errorf("found %q", got)
	}
	if _, ok := (Host{}).FindBinary(nil); ok {
		t.Error("found nothing")
	}
}

// kinds are files of every kind; a name ending in ! is one that must not be
// opened, since that would hang or have an effect.
func kinds(t *testing.T) map[string]string {
	t.Helper()
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	bz := make([]byte, 1024)
	bz[0x1fe], bz[0x1ff] = 0x55, 0xaa
	copy(bz[0x202:], "HdrS")
	all := map[string]string{
		"bzImage": write(t, in("bzImage"), string(bz)), "empty": write(t, in("empty"), ""), "one byte": write(t, in("one"), "x"),
		"text": write(t, in("text"), strings.Repeat("text ", 200)), "script": write(t, in("script"), "#!/bin/sh\n"),
		"gzip": write(t, in("gzip"), "\x1f\x8b\x08"), "cpio": write(t, in("cpio"), "070701"), "qcow2": write(t, in("qcow2"), "QFI\xfb\x00\x00\x00\x03"),
		"vmlinux": write(t, in("vmlinux"), elfFile(62, 18, "Xen\x00")), "elf without note": write(t, in("program"), elfFile(62, 1, "GNU\x00")),
		"arm": write(t, in("arm"), elfFile(183, 18, "Xen\x00")), "torn elf": write(t, in("torn"), elfFile(62, 18, "Xen\x00")[:70]),
		"missing": in("missing"), "directory": dir, "fifo": in("fifo"), "socket": in("socket"), "device": "/dev/null", "dangling": in("dangling"),
		"below a file": in("text/x"), "link": in("link"), "loop": in("loop"),
	}
	listener, err := net.Listen("unix", in("socket"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	for _, err := range []error{
		syscall.Mkfifo(in("fifo"), 0o600), os.Symlink("nowhere", in("dangling")),
		os.Symlink("bzImage", in("link")), os.Symlink("loop", in("loop")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// elfFile is one with a single note.
func elfFile(machine uint16, kind uint32, owner string) string {
	var b bytes.Buffer
	le := binary.LittleEndian
	b.WriteString("\x7fELF\x02\x01\x01")
	b.Write(make([]byte, 9))
	note := le.AppendUint32(nil, uint32(len(owner)))
	note = le.AppendUint32(note, 4)
	note = le.AppendUint32(note, kind)
	note = append(append(note, owner...), 0, 0, 0, 1)
	_ = binary.Write(&b, le, struct {
		Type, Machine                     uint16
		Version                           uint32
		Entry, PhOff, ShOff               uint64
		Flags                             uint32
		Size, PhSize, PhN, ShSize, ShN, X uint16
	}{2, machine, 1, 0, 64, 0, 0, 64, 56, 1, 64, 0, 0})
	_ = binary.Write(&b, le, struct {
		Type, Flags                          uint32
		Off, Vaddr, Paddr, Filesz, Memsz, Al uint64
	}{4, 4, 120, 0, 0, uint64(len(note)), uint64(len(note)), 4})
	b.Write(note)
	return b.String()
}

func TestFiles(t *testing.T) {
	common := map[string]string{
		"missing": "no such file", "directory": "this is a directory", "fifo": "this is not a regular file", "socket": "this is not a regular file",
		"device": "this is not a regular file", "dangling": "a symbolic link that leads nowhere", "below a file": "not a directory", "loop": "too many levels of symbolic links",
		"empty": "the file is empty",
	}
	kernel := map[string]string{
		"bzImage": "", "link": "", "vmlinux": "", "elf without note": "without the PVH note", "arm": "an ELF file for EM_AARCH64, not for x86-64", "torn elf": "a damaged ELF file",
		"text": "not a Linux kernel", "one byte": "not a Linux kernel", "script": "begins like a script", "gzip": "begins like gzip", "cpio": "begins like cpio", "qcow2": "begins like a qcow2 image",
	}
	initrd := map[string]string{
		"gzip": "", "cpio": "", "bzImage": "begins like a kernel", "link": "begins like a kernel", "vmlinux": "begins like an ELF file", "text": "not an initial RAM disk",
		"one byte": "not an initial", "script": "begins like a script", "qcow2": "begins like a qcow2", "elf without note": "ELF", "arm": "ELF", "torn elf": "ELF",
	}
	raw := map[string]string{"qcow2": "write :qcow2 behind the path"}
	for _, short := range []string{"one byte", "cpio", "vmlinux", "elf without note", "script", "gzip", "arm", "torn elf"} {
		raw[short] = "which is less than a sector of 512"
	}
	qcow2 := map[string]string{"qcow2": ""}
	for name, path := range kinds(t) {
		for what, tt := range map[string]struct {
			err   error
			wants map[string]string
			other string
		}{
			"kernel": {second(CheckKernel(path, nil)), kernel, "?"}, "initrd": {second(CheckInitrd(path)), initrd, "?"},
			"raw": {CheckDisk(Disk{Path: path, Format: "raw"}), raw, ""}, "raw, ro": {CheckDisk(Disk{Path: path, Format: "raw", ReadOnly: true}), raw, ""},
			"qcow2": {CheckDisk(Disk{Path: path, Format: "qcow2"}), qcow2, "not a qcow2 image"},
		} {
			want, ok := common[name]
			if !ok {
				if want, ok = tt.wants[name]; !ok {
					want = tt.other
				}
			}
			if (tt.err == nil) != (want == "") || tt.err != nil && !strings.Contains(tt.err.Error(), want) {
				t.Errorf("%s as %s: %v, want %q", name, what, tt.err, want)
			}
			if tt.err != nil && strings.Contains(tt.err.Error(), path) {
				t.Errorf("%s as %s: the path stands in %q twice in the message", name, what, tt.err)
			}
		}
	}
	if n, err := CheckKernel(kinds(t)["bzImage"], nil); n.Size != 1024 || err != nil {
		t.Errorf("the size is %d, %v", n.Size, err)
	}
}

func second[T any](_ T, err error) error { return err }

// No file makes the readers fall over.
func FuzzFiles(f *testing.F) {
	for _, seed := range []string{"", elfFile(62, 18, "Xen\x00"), elfFile(62, 18, "\x00\x00\x00\xff"), "QFI\xfb", "070701"} {
		f.Add([]byte(seed))
	}
	path := filepath.Join(f.TempDir(), "file")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		n, err := CheckKernel(path, nil)
		if err == nil && n.Size != int64(len(data)) {
			t.Errorf("a kernel of %d bytes has %d", len(data), n.Size)
		}
		_, _ = CheckInitrd(path)
		_ = CheckDisk(Disk{Path: path, Format: "raw"})
		_ = CheckDisk(Disk{Path: path, Format: "qcow2", ReadOnly: true})
		hasPVHNote(data, binary.LittleEndian)
		hasPVHNote(data, binary.BigEndian)
	})
}

// TestKernelFormats: what one hypervisor boots, another refuses, by name.
func TestKernelFormats(t *testing.T) {
	files := kinds(t)
	image := make([]byte, 0x40)
	copy(image[0x38:], "ARM\x64")
	binary.LittleEndian.PutUint64(image[0x10:], 1<<24)
	files["arm image"] = filepath.Join(t.TempDir(), "Image")
	if err := os.WriteFile(files["arm image"], image, 0o600); err != nil {
		t.Fatal(err)
	}
	pc, elfOnly, arm := []string{"bzImage", "pvh"}, []string{"elf"}, []string{"arm-image"}
	for _, c := range []struct {
		file    string
		formats []string
		want    string
	}{
		{"bzImage", nil, ""}, {"bzImage", pc, ""}, {"vmlinux", pc, ""}, {"vmlinux", elfOnly, ""}, {"elf without note", elfOnly, ""}, {"arm image", arm, ""},
		{"bzImage", elfOnly, "this is a bzImage, and this hypervisor boots an ELF file (vmlinux)"},
		{"elf without note", pc, "an ELF file without the PVH note"},
		{"arm image", pc, "this is an Image for arm64, and this hypervisor boots a bzImage or an ELF file (vmlinux) with the PVH note"},
		{"bzImage", arm, "this is a bzImage, and this hypervisor boots an uncompressed Image for arm64"},
		{"vmlinux", arm, "this is an ELF file (vmlinux), and this hypervisor boots an uncompressed Image for arm64"},
		{"text", elfOnly, "not a Linux kernel (not an ELF file (vmlinux))"},
		{"text", pc, "not a Linux kernel (neither a bzImage nor an ELF file)"},
	} {
		k, err := CheckKernel(files[c.file], c.formats)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, c.want) || c.want == "" && (got != "" || k.Size == 0) {
			t.Errorf("%s as %v: %q with %d bytes, want %q", c.file, c.formats, got, k.Size, c.want)
		}
	}
	if k, _ := CheckKernel(files["arm image"], arm); k.Memory != 1<<24 {
		t.Errorf("the image takes %d bytes", k.Memory)
	}
}
