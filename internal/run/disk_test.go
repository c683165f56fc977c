package run

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/host"
	"github.com/ampoule-vm/ampoule/internal/plan"
)

func disks(list ...plan.Disk) *plan.Plan { return &plan.Plan{VM: plan.VM{Disks: list}} }

func TestCreateDisks(t *testing.T) {
	// A directory with a name that is a pattern, and files beside it that the
	// pattern covers.
	base := t.TempDir()
	state := filepath.Join(base, "[ab]*")
	neighbour := filepath.Join(base, "a", newDisk+"1")
	stale := filepath.Join(state, newDisk+"2")
	for _, path := range []string{neighbour, stale} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	kept := filepath.Join(state, "kept")
	if err := os.WriteFile(kept, []byte("data"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(state, "dangling")); err != nil {
		t.Fatal(err)
	}
	p := disks(
		plan.Disk{Path: "sub/new", Format: "raw", Size: 1 << 20}, plan.Disk{Path: "new", Format: "raw", Size: 1 << 20},
		plan.Disk{Path: "kept", Format: "raw", Size: 1 << 20}, plan.Disk{Path: "dangling", Format: "raw", Size: 1 << 20},
		plan.Disk{Path: "/dev/null", Format: "raw"},
	)
	made, err := createDisks(context.Background(), p, state, host.Local())
	if err != nil || len(made) != 2 {
		t.Fatalf("%v, %v", made, err)
	}
	for _, path := range made {
		if info, err := os.Lstat(path); err != nil || info.Size() != 1<<20 || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	if data, err := os.ReadFile(kept); string(data) != "data" {
		t.Errorf("a disk that was there has %q, %v", data, err)
	}
	// Nor is one that appeared since it was looked for.
	if err := createDisk(context.Background(), plan.Disk{Path: "kept", Format: "raw", Size: 1 << 20}, kept, host.Local()); !os.IsExist(err) {
		t.Errorf("over a disk that is there: %v", err)
	}
	if data, err := os.ReadFile(kept); string(data) != "data" {
		t.Errorf("a disk that was there has %.20q, %v", data, err)
	}
	if _, err := os.Stat(filepath.Join(state, "nowhere")); err == nil {
		t.Error("a disk was made through a link")
	}
	if _, err := os.Stat(neighbour); err != nil {
		t.Error("a file in another directory was removed")
	}
	if _, err := os.Stat(stale); err == nil {
		t.Error("what a killed predecessor left is still there")
	}
}

// One that cannot be made leaves none.
func TestCreateDisksFails(t *testing.T) {
	state := t.TempDir()
	if err := os.WriteFile(filepath.Join(state, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	good := plan.Disk{Path: "good", Format: "raw", Size: 1 << 20}
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	none := host.Local()
	none.Path = "/nowhere"
	for name, tt := range map[string]struct {
		ctx  context.Context
		host host.Host
		disk plan.Disk
		want string
	}{
		"too large":    {context.Background(), host.Local(), plan.Disk{Path: "x", Format: "raw", Size: 1 << 49}, "of 562949953421312 bytes"},
		"below a file": {context.Background(), host.Local(), plan.Disk{Path: "file/x", Format: "raw", Size: 1 << 20}, "not a directory"},
		"no tool":      {context.Background(), none, plan.Disk{Path: "x", Format: "qcow2", Size: 1 << 20}, "qemu-img is absent"},
		"cancelled":    {cancelled, host.Local(), plan.Disk{Path: "x", Format: "qcow2", Size: 1 << 20}, "canceled"},
	} {
		if name == "cancelled" {
			if _, err := exec.LookPath("qemu-img"); err != nil {
				continue
			}
		}
		made, err := createDisks(tt.ctx, disks(good, tt.disk), state, tt.host)
		if err == nil || !strings.Contains(err.Error(), tt.want) || made != nil {
			t.Errorf("%s: %v, %v", name, made, err)
		}
		if entries, _ := os.ReadDir(state); len(entries) != 1 {
			t.Errorf("%s: %v is left", name, entries)
		}
	}
}

// A limit for files is an error, not the signal by which the kernel enforces it.
func TestFileSizeLimit(t *testing.T) {
	if dir := os.Getenv("AMPOULE_TEST_DISK"); dir != "" {
		_, err := createDisks(context.Background(), disks(plan.Disk{Path: "x", Format: "raw", Size: 1 << 30}), dir, host.Local())
		if err == nil || !strings.Contains(err.Error(), "RLIMIT_FSIZE") {
			t.Error(err)
		}
		return
	}
	cmd := exec.Command("sh", "-c", `ulimit -f 2000; exec "$0" -test.run='^TestFileSizeLimit$'`, self(t))
	cmd.Env = append(os.Environ(), "AMPOULE_TEST_DISK="+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%.2000s", err, out)
	}
}

// TestMakeFileSystem: a new disk has its file system and label once it has its name,
// and one that cannot be formatted never gets it.
func TestMakeFileSystem(t *testing.T) {
	label := func(path string) string {
		out, err := exec.Command("blkid", "-p", "-o", "value", "-s", "TYPE", "-s", "LABEL", path).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return strings.Join(strings.Fields(string(out)), " ")
	}
	for _, d := range []plan.Disk{
		{Path: "a", Format: "raw", Size: 2 << 20, FileSystem: "ext4", Label: "sixteen-bytes-16"},
		{Path: "b", Format: "raw", Size: 300 << 20, FileSystem: "xfs", Label: "twelve-bytes"},
		{Path: "c", Format: "raw", Size: 109 << 20, FileSystem: "btrfs", Label: strings.Repeat("l", 254)},
		{Path: "d", Format: "raw", Size: 1 << 20, FileSystem: "vfat", Label: "ELEVEN-BYTE"},
		{Path: "e", Format: "raw", Size: 4 << 20, FileSystem: "ext4"},
	} {
		for _, tool := range []string{"blkid", "mkfs." + d.FileSystem} {
			if _, err := exec.LookPath(tool); err != nil {
				t.Skipf("needs %s", tool)
			}
		}
		state := t.TempDir()
		made, err := createDisks(context.Background(), disks(d), state, host.Local())
		if err != nil || len(made) != 1 {
			t.Errorf("%s: %v", d.FileSystem, err)
			continue
		}
		want := strings.TrimSpace(d.Label + " " + d.FileSystem)
		if got := label(made[0]); got != want && got != d.FileSystem+" "+d.Label {
			t.Errorf("%.80q, want %q", got, want)
		}
		info, err := os.Stat(made[0])
		if err != nil || info.Size() != d.Size {
			t.Errorf("%s: %v, %v", d.FileSystem, info, err)
		}
	}
	state := t.TempDir()
	small := plan.Disk{Path: "x", Format: "raw", Size: 16 << 20, FileSystem: "btrfs"}
	_, err := createDisks(context.Background(), disks(small), state, host.Local())
	if err == nil || !strings.Contains(err.Error(), "mkfs.btrfs: exit status 1: ") || !strings.Contains(err.Error(), "too small") {
		t.Error(err)
	}
	if entries, _ := os.ReadDir(state); len(entries) != 0 {
		t.Errorf("%v is left", entries)
	}
}

// TestCreateFormats: what is created is what it is called, in the size that was asked
// for.
func TestCreateFormats(t *testing.T) {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("needs qemu-img")
	}
	for _, format := range []string{"qcow2", "vhd", "vhdx"} {
		const size = 17 << 20 // no whole number of a vhd's cylinders
		made, err := createDisks(context.Background(), disks(plan.Disk{Path: "d", Format: format, Size: size}), t.TempDir(), host.Local())
		if err != nil {
			t.Error(err)
			continue
		}
		if err := host.CheckDisk(host.Disk{Path: made[0], Format: format, FixedVHD: true}); err != nil {
			t.Errorf("%s: %v", format, err)
		}
		driver := map[string]string{"vhd": "vpc"}[format]
		if driver == "" {
			driver = format
		}
		out, err := exec.Command("qemu-img", "info", "-f", driver, made[0]).CombinedOutput()
		if err != nil || !strings.Contains(string(out), fmt.Sprintf("(%d bytes)", size)) {
			t.Errorf("%s: %v: %s", format, err, out)
		}
	}
}

// TestLockDisks: the disks of a hypervisor that does not lock them are locked by us,
// and one that somebody else has is an error at its line.
func TestLockDisks(t *testing.T) {
	state := t.TempDir()
	for _, name := range []string{"a", "b"} {
		if err := os.WriteFile(filepath.Join(state, name), make([]byte, 4096), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := disks(plan.Disk{Path: "a", Format: "raw", From: "Disk[0]"}, plan.Disk{Path: "b", Format: "raw", ReadOnly: true, From: "Disk[1]"})
	p.Origins = map[string]diag.Origin{"Disk[0]": {File: "f", Line: 3}, "Disk[1]": {File: "f", Line: 4}}
	if locks, problems := lockDisks(p, state); locks != nil || problems != nil {
		t.Errorf("%v, %v, though the hypervisor does it", locks, problems)
	}
	p.VM.LockDisks = true
	locks, problems := lockDisks(p, state)
	if len(locks) != 2 || problems != nil {
		t.Fatalf("%v, %v", locks, problems)
	}
	again, problems := lockDisks(p, state) // another VM with the same disks
	if len(again) != 1 || len(problems) != 1 || !strings.Contains(problems.Error(), "f:3: Disk=a: the disk is in use") {
		t.Errorf("%v, %v", again, problems)
	}
	closeAll(again)
	closeAll(locks)
	locks, problems = lockDisks(p, state)
	if len(locks) != 2 || problems != nil {
		t.Errorf("a lock is left: %v", problems)
	}
	closeAll(locks)
}
