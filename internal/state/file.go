package state

import (
	"fmt"
	"os"
	"syscall"
)

// File is a file of the host as a run found it when it started: enough to see
// later that another one lies there, or that it was written to: then what Identify
// says of its path is not equal any more.
type File struct {
	// Role says what it is to the VM, in the words of Role.
	Role Role   `json:"role"`
	Path string `json:"path"`
	// Device and Inode are those of the file that the path leads to, Size is in
	// bytes, Changed the time of its last change (ctime) in nanoseconds since 1970.
	Device  uint64 `json:"device"`
	Inode   uint64 `json:"inode"`
	Size    int64  `json:"size"`
	Changed int64  `json:"changed"`
}

// Role is what a file is to a VM.
type Role string

// The roles.
const (
	KernelFile Role = "kernel"
	InitrdFile Role = "initrd"
	ImageFile  Role = "image" // the microvm.conf of Image=
	RunnerFile Role = "runner"
	// HypervisorFile is its program, or a script in its place.
	HypervisorFile Role = "hypervisor"
)

// Identify looks at a file, through links.
func Identify(role Role, path string) (File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return File{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return File{}, fmt.Errorf("%s: its identity is not known on this system", path)
	}
	return File{
		Role: role, Path: path, Device: st.Dev, Inode: st.Ino, Size: st.Size,
		Changed: st.Ctim.Nano(),
	}, nil
}
