package preflight

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/host"
	"github.com/ampoule-vm/ampoule/internal/plan"
)

// TestJudgeDisks: what is wrong with a disk on this host is said at its line.
func TestJudgeDisks(t *testing.T) {
	sector := strings.Repeat("d", 512)
	for name, tt := range map[string]struct {
		disks   func(w *world) []plan.Disk
		running bool
		want    string // of the only problem; empty: there is none
	}{
		"in use": {func(w *world) []plan.Disk {
			path := write(t, filepath.Join(w.dir, "used"), sector, 0o600)
			lock(t, host.Disk{Path: path})
			return []plan.Disk{{Path: path, Format: "raw", ReadOnly: true, From: "Disk[0]"}}
		}, false, "/used: the disk is in use by another VM or program, which writes it; stop whoever has it, or give the VM another disk"},
		"in the VM's own use": {func(w *world) []plan.Disk {
			path := write(t, filepath.Join(w.dir, "used"), sector, 0o600)
			lock(t, host.Disk{Path: path})
			return []plan.Disk{{Path: path, Format: "raw", From: "Disk[0]"}}
		}, true, ""},
		"read by two": {func(w *world) []plan.Disk {
			path := write(t, filepath.Join(w.dir, "shared"), sector, 0o600)
			lock(t, host.Disk{Path: path, ReadOnly: true})
			return []plan.Disk{{Path: path, Format: "raw", ReadOnly: true, From: "Disk[0]"}}
		}, false, ""},
		"twice by a link": {func(w *world) []plan.Disk {
			path := write(t, filepath.Join(w.dir, "disk"), sector, 0o600)
			if err := os.Symlink(path, filepath.Join(w.dir, "link")); err != nil {
				t.Fatal(err)
			}
			return []plan.Disk{{Path: path, Format: "raw", From: "Disk[0]"}, {Path: filepath.Join(w.dir, "link"), Format: "raw", ReadOnly: true, From: "Disk[1]"}}
		}, false, "f:4: Disk="},
		"twice by a link, to be read": {func(w *world) []plan.Disk {
			path := write(t, filepath.Join(w.dir, "disk"), sector, 0o600)
			if err := os.Symlink(path, filepath.Join(w.dir, "link")); err != nil {
				t.Fatal(err)
			}
			return []plan.Disk{{Path: path, Format: "raw", ReadOnly: true, From: "Disk[0]"}, {Path: filepath.Join(w.dir, "link"), Format: "raw", ReadOnly: true, From: "Disk[1]"}}
		}, false, ""},
		"no mkfs": {func(*world) []plan.Disk {
			return []plan.Disk{{Path: "new", Format: "raw", Size: 300 << 20, FileSystem: "xfs", From: "Disk[0]"}}
		}, false, "f:3: Disk=new: a new xfs disk is created with mkfs.xfs, which is in no directory of $PATH ("},
		"no mkfs for a disk that is there": {func(w *world) []plan.Disk {
			write(t, filepath.Join(w.state, "old"), sector, 0o600)
			return []plan.Disk{{Path: "old", Format: "raw", Size: 300 << 20, FileSystem: "xfs", From: "Disk[0]"}}
		}, false, ""},
		"less than a sector": {func(w *world) []plan.Disk {
			return []plan.Disk{{Path: write(t, filepath.Join(w.dir, "d"), "d", 0o600), Format: "raw", From: "Disk[0]"}}
		}, false, "less than a sector of 512; accepted: a raw disk that may be opened for reading and writing"},
	} {
		w := newWorld(t, false)
		w.plan.VM.Disks = tt.disks(w)
		_, problems := Judge(t.Context(), w.plan, w.host, Places{State: w.state, Running: tt.running})
		if tt.want == "" && len(problems) > 0 || tt.want != "" && (len(problems) != 1 || !strings.Contains(problems.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", name, problems, tt.want)
		}
	}
}

// lock has a disk for somebody else.
func lock(t *testing.T, d host.Disk) {
	t.Helper()
	f, err := host.LockDisk(d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
}
