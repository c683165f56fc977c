package preflight

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/ampoule-vm/ampoule/internal/host"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// DiskPath is where a disk lies on the host.
func DiskPath(d plan.Disk, state string) string {
	if filepath.IsAbs(d.Path) {
		return d.Path
	}
	return filepath.Join(state, d.Path)
}

// HostDisk is a disk of a VM as its hypervisor opens it.
func HostDisk(vm *plan.VM, d plan.Disk, state string) host.Disk {
	return host.Disk{Path: DiskPath(d, state), Format: d.Format, ReadOnly: d.ReadOnly, Direct: d.Direct, FixedVHD: vm.FixedVHD}
}

func (j *judge) disks() {
	var seen []os.FileInfo
	for _, d := range j.plan.VM.Disks {
		if j.State == "" && !filepath.IsAbs(d.Path) {
			j.fail(d.From, d.Path, "in a unit, StateDirectory=ampoule/vm/"+j.plan.VM.Name+" or Environment=STATE_DIRECTORY=…; by hand, HOME, XDG_STATE_HOME or STATE_DIRECTORY; or give an absolute path",
				"the disk lies in the VM's state directory, and nothing says where that is")
			seen = append(seen, nil)
			continue
		}
		on := HostDisk(&j.plan.VM, d, j.State)
		info, err := os.Stat(on.Path)
		if err != nil {
			info = nil
		}
		if j.sameDisk(d, info, seen) {
			seen = append(seen, nil)
			continue
		}
		seen = append(seen, info)
		if err := host.CheckDisk(on); err != nil {
			j.noDisk(d, on.Path, err)
			continue
		}
		if j.Running {
			continue
		}
		if err := host.DiskFree(on); err != nil {
			j.fail(d.From, d.Path, InUseCure, "%v", err)
		}
	}
}

// InUseCure is what helps against a disk that somebody else has.
const InUseCure = "stop whoever has it, or give the VM another disk; VMs that all have a disk with ro can share it"

// sameDisk refuses a disk that is an earlier one by another path. infos are those of
// the disks before it.
func (j *judge) sameDisk(d plan.Disk, info os.FileInfo, infos []os.FileInfo) bool {
	for i, other := range infos {
		if info != nil && other != nil && os.SameFile(info, other) && !(d.ReadOnly && j.plan.VM.Disks[i].ReadOnly) {
			j.fail(d.From, d.Path, "remove one of the two", "the same disk as at %s, by another path", j.plan.Origin(j.plan.VM.Disks[i].From))
			return true
		}
	}
	return false
}

// noDisk reports a disk that is missing and not created, or cannot be opened.
func (j *judge) noDisk(d plan.Disk, path string, err error) {
	_, statErr := os.Lstat(path)
	switch missing := errors.Is(statErr, os.ErrNotExist); {
	case missing && d.Size > 0:
		for _, tool := range DiskTools(d) {
			if _, ok := j.host.FindBinary([]string{tool.Name}); !ok {
				j.fail(d.From, d.Path, "install "+tool.Package+", or use "+tool.Instead, "a %s disk is created with %s, which is in no directory of $PATH (%s)", tool.For, tool.Name, j.host.Path)
			}
		}
	case missing && path != d.Path:
		j.fail(d.From, d.Path, "create it, or add size=SIZE to have it created", "there is no %s", path)
	default:
		j.fail(d.From, d.Path, "accepted: a "+d.Format+" disk that may be opened"+access(d), "%v", err)
	}
}

func access(d plan.Disk) string {
	if d.ReadOnly {
		return " for reading"
	}
	return " for reading and writing"
}

// Tool is a program that creates disks.
type Tool struct {
	// Name is that of the program, and Package that of what it comes with.
	Name, Package string
	// For is what it is needed for, Instead what needs none.
	For, Instead string
}

// ImageTool creates disks in formats other than raw.
const ImageTool = "qemu-img"

// DiskTools are the programs by which a disk is created.
func DiskTools(d plan.Disk) []Tool {
	var tools []Tool
	if d.Format != spec.Raw {
		tools = append(tools, Tool{ImageTool, ImageTool, d.Format, "raw"})
	}
	if d.FileSystem != "" {
		packages := map[string]string{"ext4": "e2fsprogs", "xfs": "xfsprogs", "btrfs": "btrfs-progs", "vfat": "dosfstools"}
		tools = append(tools, Tool{FormatTool(d.FileSystem), packages[d.FileSystem], "new " + d.FileSystem, "another fs="})
	}
	return tools
}

// FormatTool makes file systems of that name.
func FormatTool(fileSystem string) string { return "mkfs." + fileSystem }
