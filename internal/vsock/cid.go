package vsock

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// devicePath is where a hypervisor, or we for it, gets vhost-vsock from.
const devicePath = "/dev/vhost-vsock"

// lastCID is the last that is given out, as by systemd-vmspawn: larger ones are
// negative numbers to programs that are not careful.
const lastCID = 1<<31 - 1

// tries is how many identifiers are tried. Even if every second one were taken,
// all of them would be so once in 10^19 times.
const tries = 64

// CIDFor returns an identifier that is always the same for a VM's name, so that
// those who connect to a VM find it again after a restart. It need not be free.
func CIDFor(name string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name))
	return inRange(h.Sum32())
}

// ClaimCID opens vhost-vsock and takes a context identifier for a guest, first if
// it is free and any other if not. It stays taken as long as the file, or a copy
// of it, is open; a hypervisor that inherits the file (QEMU's vhostfd=) is to be
// given the same identifier. The error wraps ErrNoDevice where this host has
// none.
func ClaimCID(first uint32) (*os.File, uint32, error) {
	file, err := os.OpenFile(devicePath, os.O_RDWR, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.ENXIO):
		// The node can be there although the module is not.
		return nil, 0, fmt.Errorf("%w: %w", ErrNoDevice, err)
	case err != nil:
		return nil, 0, err
	}
	cid, err := claim(vhostDevice{file}, first, randomCID)
	if err != nil {
		file.Close()
		return nil, 0, fmt.Errorf("%s: %w", devicePath, err)
	}
	return file, cid, nil
}

// device is vhost-vsock as far as it is needed.
type device interface {
	// setGuestCID takes an identifier; EADDRINUSE says that another has it.
	setGuestCID(cid uint64) error
}

func claim(d device, first uint32, next func() (uint32, error)) (uint32, error) {
	cid := inRange(first)
	for range tries {
		err := d.setGuestCID(uint64(cid))
		if err == nil {
			return cid, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return 0, fmt.Errorf("taking context identifier %d: %w", cid, err)
		}
		if cid, err = next(); err != nil {
			return 0, err
		}
	}
	return 0, ErrNoFreeCID
}

// inRange makes of any number an identifier that a guest can have, and leaves
// those alone.
func inRange(n uint32) uint32 {
	if n >= firstCID && n <= lastCID {
		return n
	}
	return firstCID + n%(lastCID-firstCID+1)
}

func randomCID() (uint32, error) {
	var b [4]byte
	if _, err := rand.Read(b[:]); err != nil {
		return 0, err
	}
	return inRange(binary.NativeEndian.Uint32(b[:])), nil
}

// setGuestCIDRequest is VHOST_VSOCK_SET_GUEST_CID of linux/vhost.h,
// _IOW(VHOST_VIRTIO, 0x60, __u64) with 0xaf for VHOST_VIRTIO, where requests are
// numbered as in asm-generic/ioctl.h: on x86, ARM and RISC-V.
const setGuestCIDRequest = 1<<30 | 8<<16 | 0xaf<<8 | 0x60

// vhostDevice is the kernel's.
type vhostDevice struct{ file *os.File }

// setGuestCID refuses what the kernel does: identifiers of up to 2, of 32 ones,
// and larger ones, with EINVAL.
func (d vhostDevice) setGuestCID(cid uint64) error {
	raw, err := d.file.SyscallConn()
	if err != nil {
		return err
	}
	var errno syscall.Errno
	if err := raw.Control(func(fd uintptr) {
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, setGuestCIDRequest, uintptr(unsafe.Pointer(&cid)))
	}); err != nil {
		return err
	}
	if errno != 0 {
		return os.NewSyscallError("ioctl VHOST_VSOCK_SET_GUEST_CID", errno)
	}
	return nil
}
