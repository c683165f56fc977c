package netdev

import (
	"os"

	"golang.org/x/sys/unix"
)

// VHostDevice is the file by which the host's kernel moves packets.
const VHostDevice = "/dev/vhost-net"

// OpenVHost opens it for each pair of queues: all or none.
func OpenVHost(queues int, fileName string) ([]*os.File, error) {
	var files []*os.File
	for range queues {
		fd, err := unix.Open(VHostDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			closeAll(files)
			return nil, &os.PathError{Op: "open", Path: VHostDevice, Err: err}
		}
		files = append(files, os.NewFile(uintptr(fd), fileName))
	}
	return files, nil
}
