package netdev

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// MacVTap is one that is to be made.
type MacVTap struct {
	Name, Alias string
	// Parent is the interface below it, Mode how it shares that.
	Parent, Mode string
	// MAC is the guest's too.
	MAC net.HardwareAddr
	// MTU is in bytes; 0: that of the interface below.
	MTU      int
	Queues   int
	FileName string
}

func modes() map[string]netlink.MacvlanMode {
	return map[string]netlink.MacvlanMode{
		"bridge": netlink.MACVLAN_MODE_BRIDGE, "private": netlink.MACVLAN_MODE_PRIVATE,
		"vepa": netlink.MACVLAN_MODE_VEPA, "passthru": netlink.MACVLAN_MODE_PASSTHRU,
	}
}

func modeName(mode netlink.MacvlanMode) string {
	for name, m := range modes() {
		if m == mode {
			return name
		}
	}
	return ""
}

// MakeMacVTap makes a macvtap that is switched on, with a file for each queue. It
// stays until it is removed. On error nothing is left of it.
func (l *Links) MakeMacVTap(m MacVTap) (files []*os.File, err error) {
	parent, err := l.handle.LinkByName(m.Parent)
	if err != nil {
		return nil, fmt.Errorf("looking for the interface %s: %w", m.Parent, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex, attrs.HardwareAddr, attrs.MTU = m.Name, parent.Attrs().Index, m.MAC, m.MTU
	link := &netlink.Macvtap{Macvlan: netlink.Macvlan{LinkAttrs: attrs, Mode: modes()[m.Mode]}}
	switch err := l.handle.LinkAdd(link); {
	case errors.Is(err, unix.EOPNOTSUPP):
		return nil, errors.New("this kernel has no macvtap (modprobe macvtap)")
	case err != nil:
		return nil, fmt.Errorf("making the macvtap %s on %s: %w", m.Name, m.Parent, err)
	}
	defer func() {
		if err != nil {
			closeAll(files)
			files = nil
			_ = l.Remove(m.Name)
		}
	}()
	made, err := l.handle.LinkByName(m.Name)
	if err != nil {
		return nil, fmt.Errorf("looking for the interface %s: %w", m.Name, err)
	}
	if err := l.handle.LinkSetAlias(made, m.Alias); err != nil {
		return nil, fmt.Errorf("the alias of %s: %w", m.Name, err)
	}
	_ = l.handle.LinkSetIP6AddrGenMode(made, nl6None) // the guest's address is not the host's too
	if err := l.handle.LinkSetUp(made); err != nil {
		return nil, fmt.Errorf("switching %s on: %w", m.Name, err)
	}
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if m.Queues > 1 {
		flags |= unix.IFF_MULTI_QUEUE
	}
	for i := range m.Queues {
		fd, err := openMacVTap(m.Name, made.Attrs().Index)
		if errors.Is(err, unix.EBUSY) {
			err = fmt.Errorf("%w: it refuses number %d", ErrQueues, i+1)
		}
		if err != nil {
			return files, err
		}
		files = append(files, os.NewFile(uintptr(fd), m.FileName))
		if err := setQueue(fd, m.Name, flags); err != nil {
			return files, fmt.Errorf("opening the macvtap %s: %w", m.Name, err)
		}
	}
	return files, nil
}

// setQueue says what packets of a macvtap's queue look like.
func setQueue(fd int, name string, flags uint16) error {
	if err := setInterface(fd, name, flags); err != nil {
		return err
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, headerBytes); err != nil {
		return fmt.Errorf("the length of its header: %w", err)
	}
	return nil
}

// openMacVTap opens the device of a macvtap. Where nobody makes its node, as in a
// container, we do.
func openMacVTap(name string, index int) (int, error) {
	number, err := deviceNumber(name, index)
	if err != nil {
		return -1, err
	}
	open := func(path string) (int, error) {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
		if err != nil {
			return -1, &os.PathError{Op: "open", Path: path, Err: err}
		}
		return fd, nil
	}
	path := "/dev/tap" + strconv.Itoa(index)
	var st unix.Stat_t
	if unix.Lstat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == number {
		return open(path)
	}
	// Below /dev, since /run does not let device nodes be opened.
	own := fmt.Sprintf("/dev/.ampoule-tap%d-%d", index, os.Getpid())
	if err := unix.Mknod(own, unix.S_IFCHR|0o600, int(number)); err != nil {
		return -1, fmt.Errorf("making a node for the macvtap %s: %w", name, &os.PathError{Op: "mknod", Path: own, Err: err})
	}
	defer func() { _ = unix.Unlink(own) }()
	return open(own)
}

// deviceNumber is that of a macvtap's device, as sysfs has it.
func deviceNumber(name string, index int) (uint64, error) {
	path := fmt.Sprintf("/sys/class/net/%s/tap%d/dev", name, index)
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		// Older kernels.
		path = fmt.Sprintf("/sys/class/net/%s/macvtap/tap%d/dev", name, index)
		text, err = os.ReadFile(path)
	}
	if err != nil {
		return 0, fmt.Errorf("looking for the device of the macvtap %s: %w", name, err)
	}
	major, minor, _ := strings.Cut(strings.TrimSpace(string(text)), ":")
	a, err := strconv.ParseUint(major, 10, 32)
	b, err2 := strconv.ParseUint(minor, 10, 32)
	if err := errors.Join(err, err2); err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return unix.Mkdev(uint32(a), uint32(b)), nil
}
