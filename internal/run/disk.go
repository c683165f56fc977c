package run

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/host"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/preflight"
)

// createDisks makes the disks that have a size and are missing. A disk appears
// whole or not at all; one that exists is never touched.
func createDisks(p *plan.Plan, state string, h host.Host) error {
	for _, d := range p.VM.Disks {
		if d.Size == 0 {
			continue
		}
		path := preflight.DiskPath(d, state)
		if _, err := os.Lstat(path); err == nil {
			continue
		} else if !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%s: creating the disk %s: %w", p.Origin(d.From), path, err)
		}
		if err := createDisk(d, path, h); err != nil {
			return fmt.Errorf("%s: creating the disk %s of %d bytes: %w", p.Origin(d.From), path, d.Size, err)
		}
	}
	return nil
}

func createDisk(d plan.Disk, path string, h host.Host) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	// What a killed predecessor left; the VM's lock is ours.
	stale, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".new-disk-*"))
	for _, s := range stale {
		_ = os.Remove(s)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-disk-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // after the link below only a second name
	defer tmp.Close()
	switch d.Format {
	case "raw":
		err = reserve(tmp, d.Size)
	default:
		err = qemuImg(h, d, tmp.Name())
	}
	if err != nil {
		return err
	}
	// A link, unlike a rename, never replaces a disk that appeared meanwhile.
	return os.Link(tmp.Name(), path)
}

// reserve gives the file its size and its blocks: a disk that does not fit is
// an error now and not an I/O error in the guest later.
func reserve(f *os.File, size int64) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, size)
	for errors.Is(err, unix.EINTR) {
		err = unix.Fallocate(int(f.Fd()), 0, 0, size)
	}
	if errors.Is(err, unix.EOPNOTSUPP) {
		// File systems that copy on write promise nothing by reserving.
		return f.Truncate(size)
	}
	return err
}

func qemuImg(h host.Host, d plan.Disk, path string) error {
	tool, ok := h.FindBinary([]string{preflight.ImageTool})
	if !ok {
		return fmt.Errorf("%s is absent", preflight.ImageTool)
	}
	cmd := exec.Command(tool, "create", "-q", "-f", d.Format, "-o", "preallocation=metadata", path, strconv.FormatInt(d.Size, 10))
	cmd.Env = []string{}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", preflight.ImageTool, err, strings.TrimSpace(string(out)))
	}
	return nil
}
