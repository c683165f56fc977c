package run

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

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
