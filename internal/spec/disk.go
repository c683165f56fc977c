package spec

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/layer"
)

// Disk is one Disk= line.
type Disk struct {
	// Path is absolute, or relative to the VM's state directory.
	Path     string
	Format   string // one of DiskFormats
	ReadOnly bool
	// Direct: not through the host's page cache.
	Direct bool
	Serial string // empty: none
	// Size is that of a disk to be created, in bytes; 0: it must exist.
	Size int64
	// FileSystem is what a new disk is formatted with, and Label that file system's
	// name; empty: none.
	FileSystem, Label string
	From              From
}

// Relative reports whether the disk lies in the VM's state directory.
func (d Disk) Relative() bool { return !path.IsAbs(d.Path) }

// MaxSerial is the length of a virtio disk's serial number
// (VIRTIO_BLK_ID_BYTES).
const MaxSerial = 20

const acceptedDisk = "accepted: PATH[:OPTION,…] with the options raw, qcow2, vhd, vhdx, ro, direct, serial=S, size=SIZE, fs=ext4|xfs|btrfs|vfat, label=L; a colon in PATH is written \\:"

func diskRows() []Row {
	return []Row{{
		Name: "Disk", Merge: layer.List, Image: true, Form: "PATH[:OPTION,…]", Accepted: acceptedDisk,
		Help: "A disk of the guest. The guest has its disks in the order of their lines. A relative path lies in the VM's state directory, /var/lib/ampoule/vm/NAME. Options, separated by commas: " +
			"raw (default), qcow2, vhd or vhdx, the format; ro, read-only; direct, past the host's page cache (O_DIRECT); " +
			"serial=S, at most 20 bytes, by which the guest finds it as /dev/disk/by-id/virtio-S; size=SIZE creates the disk at the first start, in the state directory only; " +
			"fs=ext4, fs=xfs, fs=btrfs or fs=vfat makes a file system on all of it then, with the host's mkfs, and label=L gives that a name, by which the guest finds it as /dev/disk/by-label/L. " +
			"An existing disk is never resized, formatted or overwritten. A disk that another VM or program writes, and one to be written that another has open, is refused. A colon in the path is written \\:.",
		inImage: diskPath,
		apply: func(r *reader, value string, from From) error {
			expanded, err := r.Identity.Expand(value)
			if err != nil {
				return err
			}
			d, err := ParseDisk(expanded)
			if err != nil {
				return err
			}
			d.From = from
			r.vm.Disks = append(r.vm.Disks, d)
			return nil
		},
	}}
}

// ParseDisk reads PATH[:OPTION,…].
func ParseDisk(s string) (Disk, error) {
	d := Disk{Format: "raw"}
	file, options, hasOptions := cutUnescaped(s)
	if file == "" {
		return d, fmt.Errorf("the path is empty")
	}
	p, err := cleanPath(file)
	if err != nil {
		return d, err
	}
	if p == "/" || p == "." {
		return d, fmt.Errorf("the path is a directory")
	}
	d.Path = p
	if !hasOptions {
		return d, nil
	}
	var seen []string
	for option := range strings.SplitSeq(options, ",") {
		name, value, hasValue := strings.Cut(option, "=")
		kind := name
		if slices.Contains(DiskFormats(), name) {
			kind = "format"
		}
		if slices.Contains(seen, kind) {
			return d, fmt.Errorf("the option %s stands twice", name)
		}
		seen = append(seen, kind)
		if err := d.option(name, value, hasValue); err != nil {
			return d, err
		}
	}
	if d.Size > 0 && !d.Relative() {
		return d, fmt.Errorf("size= creates disks in the state directory only, and the path is absolute")
	}
	if d.Size > 0 && d.ReadOnly {
		return d, fmt.Errorf("a new disk that is read-only stays empty")
	}
	return d, d.checkNew()
}

func (d *Disk) option(name, value string, hasValue bool) error {
	switch {
	case slices.Contains(DiskFormats(), name) && !hasValue:
		d.Format = name
	case name == "ro" && !hasValue:
		d.ReadOnly = true
	case name == "direct" && !hasValue:
		d.Direct = true
	case name == "serial" && hasValue:
		if value == "" || len(value) > MaxSerial {
			return fmt.Errorf("a serial number has 1 to %d bytes", MaxSerial)
		}
		if strings.Trim(value, serialHas) != "" {
			return fmt.Errorf("a serial number has letters, digits, '.', '_' and '-'")
		}
		d.Serial = value
	case name == "size" && hasValue:
		n, err := ParseSize(value)
		if err != nil {
			return err
		}
		if n < 1<<20 || n%512 != 0 || n > 1<<50 {
			return fmt.Errorf("a disk has at least 1M, in whole sectors of 512 bytes")
		}
		d.Size = n
	case name == "fs" && hasValue:
		if _, ok := FindFileSystem(value); !ok {
			return fmt.Errorf("no file system that a new disk can be given")
		}
		d.FileSystem = value
	case name == "label" && hasValue:
		if strings.Trim(value, serialHas) != "" || strings.Trim(value[:min(1, len(value))], nameBegins) != "" || value == "" {
			return fmt.Errorf("a label has letters, digits, '.', '_' and '-', and begins with a letter or digit")
		}
		d.Label = value
	case name == "":
		return fmt.Errorf("an option is empty")
	default:
		return fmt.Errorf("unknown option %q", name)
	}
	return nil
}

// serialHas is what serial numbers and labels are made of: udev escapes the rest
// in the names of its links.
const serialHas = nameHas

// cutUnescaped cuts at the first colon that no backslash stands before.
func cutUnescaped(s string) (before, after string, found bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && (s[i+1] == ':' || s[i+1] == '\\'):
			i++
			b.WriteByte(s[i])
		case s[i] == ':':
			return b.String(), s[i+1:], true
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String(), "", false
}

// checkDisks refuses one disk, or one serial number, twice.
func (r *reader) checkDisks() {
	for i := range r.vm.Disks {
		d := &r.vm.Disks[i]
		for j := range i {
			other := &r.vm.Disks[j]
			if d.Path == other.Path {
				d.From.Errorf(r.problems, "remove one of the two", "the same disk as at %s", other.From.Origin)
			}
			if d.Serial != "" && d.Serial == other.Serial {
				d.From.Errorf(r.problems, "give each disk a serial number of its own", "the same serial number as at %s", other.From.Origin)
			}
		}
	}
}

// IsDevice reports whether the path of a disk is that of a device, by its place:
// nothing is looked at. /dev/shm holds files.
func IsDevice(path string) bool {
	return strings.HasPrefix(path, "/dev/") && !strings.HasPrefix(path, "/dev/shm/")
}
