package host

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// VSockUsable reports whether the kernel connects guests by vsock, and if not, why
// and what helps.
func (h Host) VSockUsable() (ok bool, why, cure string) {
	// Opening it has the kernel load the module, where it has one.
	f, err := os.OpenFile(h.VHostVSock, os.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case err == nil:
		f.Close()
		return true, "", ""
	case os.IsNotExist(err):
		return false, h.VHostVSock + " does not exist", "modprobe vhost_vsock"
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return false, "nothing is behind " + h.VHostVSock, "modprobe vhost_vsock"
	case os.IsPermission(err):
		return false, fmt.Sprintf("uid %d may not open %s for reading and writing", os.Geteuid(), h.VHostVSock), "join the group of the device"
	}
	return false, h.VHostVSock + " cannot be opened", "modprobe vhost_vsock"
}
