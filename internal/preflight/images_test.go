package preflight

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/initrd/cpio"
	"github.com/ampoule-vm/ampoule/internal/inspect"
)

func packed(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// archive has one file of so many bytes.
func archive(size int) []byte {
	out := cpio.AppendHeader(nil, cpio.Header{Mode: cpio.TypeRegular | 0o755, NLink: 1, Size: uint32(size), Name: "init"})
	out = append(out, make([]byte, size+cpio.Padding(size))...)
	return cpio.AppendTrailer(out)
}

// ext2 begins as a file system does.
func ext2() []byte {
	image := make([]byte, 64<<10)
	image[1080], image[1081] = 0x53, 0xef
	return image
}

// bzImage is a kernel with its configuration inside, and a word about the
// memory that it takes.
func bzImage(t *testing.T, config string, memory uint32) []byte {
	t.Helper()
	const setup = 2 * 512
	image := make([]byte, setup)
	image[0x1f1], image[0x1fe], image[0x1ff] = 1, 0x55, 0xaa
	copy(image[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(image[0x206:], 0x20f)
	payload := packed(t, []byte("\x7fELF IKCFG_ST"+string(packed(t, []byte(config)))+"IKCFG_ED"))
	binary.LittleEndian.PutUint32(image[0x248:], 0)
	binary.LittleEndian.PutUint32(image[0x24c:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(image[0x260:], memory)
	return append(image, payload...)
}

// TestImages: what the kernel would say in the dark is said before the start.
func TestImages(t *testing.T) {
	const takesAll = "CONFIG_BLK_DEV_INITRD=y\nCONFIG_RD_GZIP=y\nCONFIG_RD_XZ=y\n"
	for _, tt := range []struct {
		name         string
		config       string
		kernelMemory uint32
		initrd       []byte
		words        string
		want         string // of all problems; empty: none
	}{
		{name: "fine", config: takesAll, initrd: packed(t, archive(1<<20))},
		{name: "cut off", config: takesAll, initrd: packed(t, archive(1<<20))[:200], want: "f:1: Initrd=PATH: it is cut off: the gzip stream is cut off at byte 200"},
		{name: "not taken", config: "CONFIG_BLK_DEV_INITRD=y\n# CONFIG_RD_GZIP is not set\nCONFIG_RD_XZ=y\n", initrd: packed(t, archive(1)),
			want: "/vmlinuz cannot unpack gzip; accepted: one compressed by xz, or not at all; or a kernel with CONFIG_RD_GZIP"},
		{name: "plain is always taken", config: "CONFIG_BLK_DEV_INITRD=y\n# CONFIG_RD_GZIP is not set\n", initrd: archive(1)},
		{name: "none taken", config: "# CONFIG_BLK_DEV_INITRD is not set\n", initrd: archive(1), want: "f:2: Kernel=KERNEL: this kernel takes no initial RAM disk"},
		{name: "kernel that does not say", config: "CONFIG_SOMETHING=y\n", initrd: packed(t, archive(1))},
		{name: "junk behind", config: takesAll, initrd: append(archive(1), "junk"...), want: "f:1: warning: Initrd=PATH: the kernel will not take all of it"},
		{name: "an image of a file system", config: takesAll, initrd: packed(t, ext2()), want: "f:1: warning: Initrd=PATH: only a kernel with CONFIG_BLK_DEV_RAM"},
		{name: "half of the memory", config: takesAll, initrd: packed(t, archive(31<<20))},
		{name: "more than half", config: takesAll, initrd: packed(t, archive(33<<20)), want: "f:1: Memory=64M: the initial RAM disk does not fit once it is unpacked: its files have 33M; accepted: 67M or more"},
		{name: "more than half, beside a root", config: takesAll, initrd: packed(t, archive(33<<20)), words: "root=/dev/vda"},
		{name: "beside a kernel", config: takesAll, kernelMemory: 60 << 20, initrd: packed(t, archive(20<<20)), words: "root=/dev/vda", want: "f:1: Memory=64M: the initial RAM disk does not fit"},
		{name: "more than all", config: takesAll, initrd: packed(t, archive(65<<20)), words: "root=/dev/vda", want: "f:1: Memory=64M: the initial RAM disk does not fit once it is unpacked: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, true)
			w.plan.VM.Kernel = write(t, filepath.Join(w.dir, "vmlinuz"), string(bzImage(t, tt.config, tt.kernelMemory)), 0o600)
			w.plan.VM.Initrd = write(t, filepath.Join(w.dir, "image"), string(tt.initrd), 0o600)
			w.plan.VM.KernelCommandLine = strings.Fields(tt.words)
			want := strings.NewReplacer("PATH", w.plan.VM.Initrd, "KERNEL", w.plan.VM.Kernel).Replace(tt.want)
			// Twice: what was remembered says the same.
			for range 2 {
				a, problems := Judge(t.Context(), w.plan, w.host, Places{State: w.state, Seen: inspect.Memory{Dir: filepath.Join(w.dir, "cache")}})
				if text := problems.Error(); tt.want == "" && text != "" || !strings.Contains(text, want) {
					t.Errorf("%s, want %q", text, want)
				}
				if !problems.HasErrors() && a.Images.Initrd.Report == nil && a.Images.RAMDisk == "" {
					t.Error("nothing was seen")
				}
			}
			if entries, err := os.ReadDir(filepath.Join(w.dir, "cache")); tt.want == "" && (err != nil || len(entries) != 2) {
				t.Errorf("%d findings are remembered, want 2: %v", len(entries), err)
			}
		})
	}
}
