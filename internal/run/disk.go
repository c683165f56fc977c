package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/host"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/preflight"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// createDisks makes the disks that have a size and are missing, and returns
// their paths. A disk appears whole or not at all; one that exists is never
// touched. On error none of them is left.
func createDisks(ctx context.Context, p *plan.Plan, state string, h host.Host) (made []string, err error) {
	defer func() {
		if err != nil {
			removeAll(made)
			made = nil
		}
	}()
	for _, d := range p.VM.Disks {
		if d.Size == 0 {
			continue
		}
		path := preflight.DiskPath(d, state)
		if _, err := os.Lstat(path); err == nil {
			continue
		} else if !errors.Is(err, os.ErrNotExist) {
			return made, fmt.Errorf("%s: creating the disk %s: %w", p.Origin(d.From), path, err)
		}
		if err := createDisk(ctx, d, path, h); err != nil {
			return made, fmt.Errorf("%s: creating the disk %s of %d bytes: %w", p.Origin(d.From), path, d.Size, err)
		}
		made = append(made, path)
	}
	return made, nil
}

func removeAll(paths []string) {
	for _, p := range paths {
		_ = os.Remove(p)
	}
}

// newDisk begins the name of a disk that is being made.
const newDisk = ".new-disk-"

func createDisk(ctx context.Context, d plan.Disk, path string, h host.Host) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	// What a killed predecessor left; the VM's lock is ours.
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), newDisk) {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
	tmp, err := os.CreateTemp(dir, newDisk+"*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // after the link below only a second name
	defer tmp.Close()
	switch d.Format {
	case spec.Raw:
		if err = reserve(tmp, d.Size); err == nil && d.FileSystem != "" {
			err = makeFileSystem(ctx, h, d, tmp.Name())
		}
	default:
		err = qemuImg(ctx, h, d, tmp.Name())
	}
	if err == nil {
		// Also after a crash the disk is whole or not there.
		err = tmp.Sync()
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
	// The kernel's own answer is a bare "file too large", or a signal.
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &limit); err == nil && limit.Cur < uint64(size) {
		return fmt.Errorf("this process may write files of %d bytes only (RLIMIT_FSIZE, LimitFSIZE=)", limit.Cur)
	}
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

func qemuImg(ctx context.Context, h host.Host, d plan.Disk, path string) error {
	// What a format is called, and that its disks have the size that was asked for
	// and can be read by every hypervisor.
	words := map[string][]string{
		spec.QCOW2: {"-f", "qcow2", "-o", "preallocation=metadata"},
		spec.VHD:   {"-f", "vpc", "-o", "subformat=fixed,force_size=on"},
		spec.VHDX:  {"-f", "vhdx"},
	}[d.Format]
	args := append([]string{"create", "-q"}, words...)
	return diskTool(ctx, h, preflight.ImageTool, append(args, path, strconv.FormatInt(d.Size, 10))...)
}

// makeFileSystem formats a disk that has no name yet. It runs with the rights that we
// have, which in a service are those of the VM's user. What was reserved is not given
// back: without a word to the contrary the programs discard all blocks first.
func makeFileSystem(ctx context.Context, h host.Host, d plan.Disk, path string) error {
	words := map[string][]string{
		"ext4":  {"-q", "-F", "-E", "nodiscard"},
		"xfs":   {"-q", "-f", "-K"},
		"btrfs": {"-q", "-f", "-K"},
		"vfat":  {},
	}[d.FileSystem]
	if d.Label != "" {
		option := "-L"
		if d.FileSystem == "vfat" {
			option = "-n"
		}
		words = append(words, option, d.Label)
	}
	return diskTool(ctx, h, preflight.FormatTool(d.FileSystem), append(words, path)...)
}

// maxToolWords is as much as is shown of what a program says: some print how they
// want to be called.
const maxToolWords = 300

func diskTool(ctx context.Context, h host.Host, name string, args ...string) error {
	tool, ok := h.FindBinary([]string{name})
	if !ok {
		return fmt.Errorf("%s is absent", name)
	}
	cmd := exec.CommandContext(ctx, tool, args...)
	cmd.Env = []string{}
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		words := oneLine(strings.TrimSpace(string(out)))
		if len(words) > maxToolWords {
			words = strings.ToValidUTF8(words[:maxToolWords], "") + "…"
		}
		return fmt.Errorf("%s: %w: %s", name, err, words)
	}
	return nil
}

// lockDisks locks the disks of a hypervisor that does not do it itself, as long as
// the files are open.
func lockDisks(p *plan.Plan, state string) ([]*os.File, diag.List) {
	var problems diag.List
	if !p.VM.LockDisks {
		return nil, nil
	}
	var locks []*os.File
	for _, d := range p.VM.Disks {
		f, err := host.LockDisk(preflight.HostDisk(&p.VM, d, state))
		if err != nil {
			problems.Errorf(p.Origin(d.From), "Disk", d.Path, preflight.InUseCure, "%v", err)
			continue
		}
		locks = append(locks, f)
	}
	return locks, problems
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
