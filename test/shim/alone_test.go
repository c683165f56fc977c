package shim

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/testkit/need"
	"github.com/ampoule-vm/ampoule/test/shim/report"
)

// tool runs a program that a test needs.
func tool(t *testing.T, stdin string, args ...string) {
	t.Helper()
	installed(t, args[0])
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
}

// fileSystem makes an ext4 image with the probe as its init.
func fileSystem(t *testing.T, change func(root string) error) string {
	t.Helper()
	root := t.TempDir()
	for _, d := range []string{"bin", "dev", "proc", "run", "sbin"} {
		if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "sbin/init"), programs.probe, 0o755); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		if err := change(root); err != nil {
			t.Fatal(err)
		}
	}
	image := filepath.Join(t.TempDir(), "root.ext4")
	tool(t, "", "mkfs.ext4", "-q", "-d", root, image, "16M")
	return image
}

// partitioned puts a file system into the second partition of a disk.
func partitioned(t *testing.T, image, script string, at int64) string {
	t.Helper()
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 64<<20); err != nil {
		t.Fatal(err)
	}
	tool(t, script, "sfdisk", "-q", disk)
	f, err := os.OpenFile(disk, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(data, at); err != nil {
		t.Fatal(err)
	}
	return disk
}

const (
	gptScript = `label: gpt
start=2048, size=2048, uuid=11111111-2222-3333-4444-5555AAAABBBB, name="first"
start=8192, size=40960, uuid=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name="the root é"
`
	mbrScript = `label: dos
label-id: 0x1234abcd
start=2048, size=2048, type=83
start=8192, size=40960, type=83
`
	scriptAt = 8192 * 512
)

// nvme are the options for a disk whose driver is built into Debian's cloud
// kernels.
func nvme(image string) []string {
	return []string{"-drive", "file=" + image + ",if=none,id=d,format=raw,snapshot=on", "-device", "nvme,drive=d,serial=1"}
}

// alone is a guest whose initial RAM disk is the overlay and nothing else.
func alone(words string, options ...string) machine {
	return machine{initrd: overlay(few, ""), words: words, options: options}
}

// wantRoot fails unless the guest has its root mounted so.
func wantRoot(t *testing.T, r *report.Report, mode string) {
	t.Helper()
	wantMount(t, r, "/dev/root / ext4 "+mode+",relatime")
	wantMount(t, r, "devtmpfs /dev devtmpfs rw,")
	for _, m := range r.Mounts {
		if strings.Contains(m, "sysfs") || strings.Contains(m, ".ampoule") {
			t.Errorf("left mounted: %s", m)
		}
	}
}

// TestAlone: a guest without an init in its initial RAM disk gets the root that
// the kernel would have mounted, and its credentials with it.
func TestAlone(t *testing.T) {
	need.All(t, need.VMAll)
	plain := fileSystem(t, nil)
	// A file system with a feature that nobody knows can be read at best.
	readable := fileSystem(t, nil)
	tool(t, "", "debugfs", "-w", "-R", "feature FEATURE_R31", readable)
	gpt, mbr := partitioned(t, plain, gptScript, scriptAt), partitioned(t, plain, mbrScript, scriptAt)
	const uuid = "0fc63daf-8483-4772-8e79-3d69d8477de4"
	cases := map[string]struct {
		image, words, mode, says string
	}{
		"a name":                   {image: plain, words: "root=/dev/nvme0n1 word", mode: "ro"},
		"ro after rw":              {image: plain, words: "root=/dev/nvme0n1 rw ro word", mode: "ro"},
		"rw":                       {image: plain, words: "root=/dev/nvme0n1 rw word", mode: "rw"},
		"rw of what is read-only":  {image: readable, words: "root=/dev/nvme0n1 rw word", mode: "ro", says: "as ext4, read-only, as it cannot be written"},
		"a number":                 {image: plain, words: "root=259:0 word", mode: "ro"},
		"the kernel's number":      {image: plain, words: "root=10300 rootfstype=ext4 word", mode: "ro"},
		"a partition":              {image: gpt, words: "root=/dev/nvme0n1p2 rw word", mode: "rw"},
		"PARTUUID of a GPT":        {image: gpt, words: "root=PARTUUID=" + uuid + " rootwait word", mode: "ro"},
		"in capitals":              {image: gpt, words: "root=PARTUUID=" + strings.ToUpper(uuid) + " rootwait=5 word", mode: "ro"},
		"counted from another one": {image: gpt, words: "root=PARTUUID=11111111-2222-3333-4444-5555aaaabbbb/PARTNROFF=1 rootdelay=1 word", mode: "ro", says: "waiting 1 seconds"},
		"PARTLABEL":                {image: gpt, words: "\"root=PARTLABEL=the root \xe9\" word", mode: "ro"},
		"PARTUUID of an MBR":       {image: mbr, words: "root=PARTUUID=1234ABCD-02 word", mode: "ro"},
		"counted in an MBR":        {image: mbr, words: "root=PARTUUID=1234abcd-01/PARTNROFF=1 word", mode: "ro"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			r, o := alone(c.words, nvme(c.image)...).reported(t)
			wantDelivered(t, o, few)
			wantRoot(t, r, c.mode)
			if want := []string{"/sbin/init", "word"}; !slices.Equal(r.Args, want) || r.Cwd != "/" {
				t.Errorf("arguments %q in %s", r.Args, r.Cwd)
			}
			if !strings.Contains(o.console, c.says) {
				t.Errorf("the console lacks %q", c.says)
			}
			if len(r.Run) != 1 || r.Run[0].Path != "/run/credentials" {
				t.Errorf("/run has %+v", r.Run)
			}
		})
	}
}

// TestAloneNewerKernel: once with Linux 6.12.
func TestAloneNewerKernel(t *testing.T) {
	need.All(t, need.VMAll)
	m := alone("root=PARTLABEL=first rootflags=commit=77", nvme(partitioned(t, fileSystem(t, nil),
		strings.ReplaceAll(strings.ReplaceAll(gptScript, "first", "other"), "the root é", "first"), scriptAt))...)
	m.suite = "trixie"
	r, o := m.reported(t)
	wantDelivered(t, o, few)
	wantMount(t, r, "/dev/root / ext4 ro,", "commit=77")
}

// TestAloneInit: which program of the root is executed.
func TestAloneInit(t *testing.T) {
	need.All(t, need.VMAll)
	move := func(to string) func(string) error {
		return func(root string) error {
			return os.Rename(filepath.Join(root, "sbin/init"), filepath.Join(root, to))
		}
	}
	cases := map[string]struct {
		at, words string
		want      string // "": the kernel panics
	}{
		"/bin/init":        {at: "bin/init", want: "/bin/init"},
		"/bin/sh":          {at: "bin/sh", want: "/bin/sh"},
		"init=":            {at: "bin/own", words: "init=/bin/own", want: "/bin/own"},
		"init= is missing": {at: "sbin/init", words: "init=/bin/own"},
		"nothing":          {at: "other"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			o := alone("root=/dev/nvme0n1 "+c.words, nvme(fileSystem(t, move(c.at)))...).boot(t)
			if c.want == "" {
				wantPanic(t, o, "nothing could be executed")
				return
			}
			if o.report == nil || len(o.report.Args) == 0 || o.report.Args[0] != c.want {
				t.Fatalf("executed was %+v", o.report)
			}
			wantDelivered(t, o, few)
		})
	}
}

func wantPanic(t *testing.T, o outcome, reason string) {
	t.Helper()
	if o.report != nil || !strings.Contains(o.console, "Attempted to kill init!") {
		t.Errorf("the kernel did not panic: %+v", o.report)
	}
	if !strings.Contains(o.console, "ampoule-init: error: "+reason) {
		t.Errorf("the console lacks %q", reason)
	}
}

// TestAloneFails: the reason is on the console before the kernel panics.
func TestAloneFails(t *testing.T) {
	need.All(t, need.VMAll)
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, bytes.Repeat([]byte{0}, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	gpt := partitioned(t, empty, gptScript, scriptAt)
	cases := map[string]struct {
		words   string
		options []string
		reason  string
	}{
		"no such device":    {"root=/dev/vda", nvme(gpt), "root=/dev/vda is not there; what is there: nvme0n1 nvme0n1p1 nvme0n1p2"},
		"no disk":           {"root=/dev/vda", nil, "root=/dev/vda is not there; what is there: no disk at all"},
		"no such partition": {"root=PARTUUID=0fc63daf-8483-4772-8e79-3d69d8477de4/PARTNROFF=1 rootwait=11", nvme(gpt), "root=PARTUUID=0fc63daf-8483-4772-8e79-3d69d8477de4/PARTNROFF=1 is not there"},
		"no file system":    {"root=/dev/nvme0n1 rw", nvme(empty), "root=/dev/nvme0n1: none of these is its file system: ext3 ext2 ext4"},
		"another type":      {"root=/dev/nvme0n1 rootfstype=nofs", nvme(empty), "mounting root=/dev/nvme0n1 as nofs: no such device"},
		"UUID=":             {"root=UUID=0fc63daf-8483-4772-8e79-3d69d8477de4", nil, "root=UUID=0fc63daf-8483-4772-8e79-3d69d8477de4: only an initrd can find"},
		"a network":         {"root=/dev/nfs", nil, "root=/dev/nfs: roots on the network"},
		"a tag":             {"root=tag rootfstype=ext4", nil, "root=tag: not a device, and rootfstype= names no file system without one"},
		"an empty tag":      {"root=tag rootfstype=nofs,tmpfs", nil, "nothing could be executed"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) { wantPanic(t, alone(c.words, c.options...).boot(t), c.reason) })
	}
}

// TestAloneRun: a root without a place for /run boots without credentials.
func TestAloneRun(t *testing.T) {
	need.All(t, need.VMAll)
	without := func(root string) error { return os.Remove(filepath.Join(root, "run")) }
	linked := func(root string) error {
		if err := without(root); err != nil {
			return err
		}
		return os.Symlink("proc", filepath.Join(root, "run"))
	}
	t.Run("it can be made", func(t *testing.T) {
		r, o := alone("root=/dev/nvme0n1 rw", nvme(fileSystem(t, without))...).reported(t)
		wantDelivered(t, o, few)
		wantRoot(t, r, "rw")
	})
	t.Run("it cannot", func(t *testing.T) {
		r, o := alone("root=/dev/nvme0n1", nvme(fileSystem(t, without))...).reported(t)
		wantNothing(t, o, "making /root/run: read-only file system")
		wantRoot(t, r, "ro")
	})
	t.Run("it is a link", func(t *testing.T) {
		r, o := alone("root=/dev/nvme0n1 rw", nvme(fileSystem(t, linked))...).reported(t)
		wantNothing(t, o, "/root/run is not a directory")
		wantRoot(t, r, "rw")
	})
}
