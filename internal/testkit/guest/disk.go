package guest

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
)

// DiskGuest is a guest whose initrd mounts a root disk and switches to it.
type DiskGuest struct {
	// Its initrd is no root file system of its own.
	Guest
	// Disk is the absolute path of a raw image that holds an ext4 file system
	// without partitions: root=/dev/vda where it is the first virtio disk. Like
	// the other files it is shared and must not be written; see Overlay.
	Disk string
}

// GetDisk returns the guest of a suite with a root disk. Its initrd is dracut's,
// with systemd in it. It is built and cached as [Get] says.
func GetDisk(t testing.TB, suite string) DiskGuest {
	t.Helper()
	return getDisk(t, suite, "dracut")
}

// InitramfsTools returns bookworm's guest with a root disk and an initrd that
// Debian's mkinitramfs made: its init is a shell script.
func InitramfsTools(t testing.TB) DiskGuest {
	t.Helper()
	return getDisk(t, "bookworm", "initramfs-tools")
}

func getDisk(t testing.TB, suite, initrdBy string) DiskGuest {
	t.Helper()
	g, err := BuildDisk(suite, initrdBy)
	if err != nil {
		t.Fatalf("guest %s with a root disk: %v", suite, err)
	}
	return g
}

// BuildDisk builds the guest of a suite with a root disk, or finds it in the
// cache. initrdBy is "dracut" or "initramfs-tools".
func BuildDisk(suite, initrdBy string) (DiskGuest, error) {
	root, cache, err := places()
	if err != nil {
		return DiskGuest{}, err
	}
	g, dir, err := build(root, cache, suite, "--disk", "--initrd-by", initrdBy)
	if err != nil {
		return DiskGuest{}, err
	}
	d := DiskGuest{Guest: g, Disk: filepath.Join(dir, "root.ext4")}
	return d, present(d.Disk)
}

// Overlay makes a qcow2 image on top of the disk in a directory of the test, and
// returns its path. It may be written and goes with the test.
func (g DiskGuest) Overlay(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "root.qcow2")
	if err := makeOverlay(g.Disk, path); err != nil {
		t.Fatal(err)
	}
	return path
}

func makeOverlay(disk, path string) error {
	cmd := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", "-b", disk, "-F", "raw", path)
	if words, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("running %s: %w\n%s", cmd, err, words)
	}
	return nil
}
