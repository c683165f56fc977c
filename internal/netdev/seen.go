package netdev

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Seen are the interfaces of this process's own network as sysfs shows them, to whom
// may not ask the kernel by a socket. It knows no alias, no master and no mode.
//
// The files are those of Documentation/ABI/testing/sysfs-class-net, and of a tap
// tun_flags, owner and group (drivers/net/tun.c of Linux).
type Seen struct{}

const classNet = "/sys/class/net"

// Owner is who may open a tap beside whoever may do everything; -1: it does not say.
// Where it says neither, everybody may.
type Owner struct{ User, Group int }

// Find looks for an interface by its name.
func (Seen) Find(name string) (Interface, bool, error) {
	dir := path.Join(classNet, name)
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		if _, err := os.Stat(classNet); err != nil {
			return Interface{}, false, fmt.Errorf("looking for the interface %s: %w", name, err)
		}
		return Interface{}, false, nil
	}
	numbers := map[string]int{}
	for _, file := range []string{"ifindex", "iflink", "mtu", "flags"} {
		n, err := number(path.Join(dir, file))
		if err != nil {
			return Interface{}, false, fmt.Errorf("looking at the interface %s: %w", name, err)
		}
		numbers[file] = n
	}
	i := Interface{Index: numbers["ifindex"], Name: name, Kind: kind(dir), MTU: numbers["mtu"], Up: numbers["flags"]&unix.IFF_UP != 0}
	if address, err := os.ReadFile(path.Join(dir, "address")); err == nil {
		i.MAC = strings.TrimSpace(string(address))
	}
	if carrier, err := number(path.Join(dir, "carrier")); err == nil { // else it is off
		i.Carrier = carrier == 1
	}
	if below := numbers["iflink"]; below != i.Index {
		i.Parent = below
	}
	if _, err := deviceNumber(name, i.Index); err == nil {
		i.Kind = MacVTapKind // which has no name for its kind there
	}
	if flags, err := number(path.Join(dir, "tun_flags")); err == nil {
		i.Kind, i.Tun, i.MultiQueue = TapKind, flags&unix.IFF_TUN != 0, flags&unix.IFF_MULTI_QUEUE != 0
	}
	return i, true, nil
}

// kind is what the driver calls it.
func kind(dir string) string {
	text, err := os.ReadFile(path.Join(dir, "uevent"))
	if err != nil {
		return "device"
	}
	for line := range strings.Lines(string(text)) {
		if kind, ok := strings.CutPrefix(strings.TrimSpace(line), "DEVTYPE="); ok {
			return kind
		}
	}
	return "device"
}

// Owner says who may open a tap.
func (Seen) Owner(name string) (Owner, error) {
	var o Owner
	var err, err2 error
	o.User, err = number(path.Join(classNet, name, "owner"))
	o.Group, err2 = number(path.Join(classNet, name, "group"))
	if err := errors.Join(err, err2); err != nil {
		return Owner{-1, -1}, fmt.Errorf("looking at the interface %s: %w", name, err)
	}
	return o, nil
}

// number reads one, which may be in hexadecimal.
func number(file string) (int, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 0, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	return int(n), nil
}

// ErrBusy: a tap that can be opened once has somebody at its other end.
var ErrBusy = errors.New("another process has it open")

// OpenTap opens a tap that is there, once for each pair of queues. It stays as it is
// when the files are closed.
func OpenTap(i Interface, queues int, fileName string) (files []*os.File, err error) {
	defer func() {
		if err != nil {
			closeAll(files)
			files, err = nil, fmt.Errorf("opening the tap %s: %w", i.Name, err)
		}
	}()
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if i.MultiQueue {
		flags |= unix.IFF_MULTI_QUEUE
	}
	for n := range queues {
		f, err := openQueue(i.Name, flags, fileName)
		switch {
		case errors.Is(err, unix.EBUSY):
			return files, ErrBusy
		case errors.Is(err, unix.E2BIG):
			return files, fmt.Errorf("%w: it refuses number %d", ErrQueues, n+1)
		case err != nil:
			return files, err
		}
		files = append(files, f)
	}
	return files, sameStill(i)
}

// sameStill refuses an interface that took the place of the one that was looked at.
func sameStill(i Interface) error {
	if index, err := number(path.Join(classNet, i.Name, "ifindex")); err != nil || index != i.Index {
		return errors.New("it was removed, or made anew, just now")
	}
	return nil
}

// MacVTapNode is the device node of a macvtap.
func MacVTapNode(i Interface) string { return "/dev/tap" + strconv.Itoa(i.Index) }

// OpenMacVTap opens a macvtap that is there, once for each pair of queues. It stays as
// it is when the files are closed.
func OpenMacVTap(i Interface, queues int, fileName string) (files []*os.File, err error) {
	defer func() {
		if err != nil {
			closeAll(files)
			files, err = nil, fmt.Errorf("opening the macvtap %s: %w", i.Name, err)
		}
	}()
	device, err := deviceNumber(i.Name, i.Index)
	if err != nil {
		return nil, err
	}
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if queues > 1 {
		flags |= unix.IFF_MULTI_QUEUE
	}
	for n := range queues {
		node := MacVTapNode(i)
		fd, err := unix.Open(node, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
		switch {
		case errors.Is(err, unix.EBUSY):
			return files, fmt.Errorf("%w: it refuses number %d", ErrQueues, n+1)
		case err != nil:
			return files, &os.PathError{Op: "open", Path: node, Err: err}
		}
		files = append(files, os.NewFile(uintptr(fd), fileName))
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != device {
			return files, fmt.Errorf("%s is not its device", node)
		}
		if err := setQueue(fd, i.Name, flags); err != nil {
			return files, err
		}
	}
	return files, sameStill(i)
}
