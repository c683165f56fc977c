package spec

import (
	"fmt"
	"strings"
)

// The formats of a disk.
const (
	Raw   = "raw"
	QCOW2 = "qcow2"
	VHD   = "vhd"
	VHDX  = "vhdx"
)

// DiskFormats are all formats, the default first.
func DiskFormats() []string { return []string{Raw, QCOW2, VHD, VHDX} }

// largest is the largest disk of a format in bytes, of those that have a limit of
// their own (QEMU, block/vpc.c: VHD_MAX_SECTORS; block/vhdx.h: VHDX_MAX_IMAGE_SIZE).
func largest(format string) int64 {
	switch format {
	case VHD:
		return 0xff000000 * 512
	case VHDX:
		return 64 << 40
	}
	return 1 << 50
}

// FileSystem is one that a new disk can be given.
type FileSystem struct {
	Name string
	// Least is the smallest disk in bytes that its mkfs takes.
	Least int64
	// MaxLabel is in bytes; NotInLabel are characters that its mkfs refuses.
	MaxLabel   int
	NotInLabel string
}

// fileSystems are they. The limits are those of mkfs.ext4 1.47 (below 2M it makes no
// journal), mkfs.xfs 6.1, mkfs.btrfs 6.2 and mkfs.vfat 4.2, measured; the labels also
// those of their formats: s_volume_name, sb_fname, BS_VolLab, and BTRFS_LABEL_SIZE, of
// which blkid and so udev read one byte less.
func fileSystems() []FileSystem {
	return []FileSystem{
		{Name: "ext4", Least: 2 << 20, MaxLabel: 16},
		{Name: "xfs", Least: 300 << 20, MaxLabel: 12},
		{Name: "btrfs", Least: 109 << 20, MaxLabel: 254},
		{Name: "vfat", Least: 1 << 20, MaxLabel: 11, NotInLabel: "."},
	}
}

// FindFileSystem returns the file system of that name.
func FindFileSystem(name string) (FileSystem, bool) {
	for _, f := range fileSystems() {
		if f.Name == name {
			return f, true
		}
	}
	return FileSystem{}, false
}

// checkNew judges what a disk is to be given when it is created.
func (d *Disk) checkNew() error {
	if most := largest(d.Format); d.Size > most {
		return &valueError{"larger than a " + d.Format + " disk can be", "accepted: at most " + FormatSize(most)}
	}
	switch {
	case d.FileSystem == "" && d.Label != "":
		return &valueError{"label= names the file system that fs= makes, and there is no fs=", "add fs=, or remove label="}
	case d.FileSystem == "":
		return nil
	case d.Size == 0:
		return &valueError{"fs= is for a disk that is created, and there is no size=", "add size=SIZE, or remove fs="}
	case d.Format != Raw:
		return &valueError{"a file system is made on raw disks only", "use raw, or remove fs="}
	}
	f, _ := FindFileSystem(d.FileSystem)
	switch {
	case d.Size < f.Least:
		return &valueError{"too small for " + f.Name, "accepted: at least " + FormatSize(f.Least)}
	case len(d.Label) > f.MaxLabel:
		return &valueError{fmt.Sprintf("the label has %d bytes, and %s has room for %d", len(d.Label), f.Name, f.MaxLabel), "shorten it"}
	case strings.ContainsAny(d.Label, f.NotInLabel):
		return &valueError{f.Name + " takes no label with '" + f.NotInLabel + "' in it", "remove it"}
	}
	return nil
}
