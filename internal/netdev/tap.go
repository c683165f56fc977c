package netdev

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TunDevice is the file by which taps are made.
const TunDevice = "/dev/net/tun"

// ErrQueues: the kernel does not take that many.
var ErrQueues = errors.New("the kernel does not take that many queues")

// Tap is one that is to be made.
type Tap struct {
	Name, Alias string
	// MAC is that of the host's end.
	MAC net.HardwareAddr
	// MTU is in bytes; 0: the kernel's default, or the bridge's.
	MTU int
	// Bridge is the interface to which it is attached; empty: none.
	Bridge string
	Queues int
	// Lasting: it stays until it is removed, and the user Owner may open it by its
	// name. Else it is gone when the last of its files is closed.
	Lasting bool
	Owner   int
	// FileName is the name of its files.
	FileName string
}

// headerBytes is the length of what stands before each packet for virtio
// (struct virtio_net_hdr_v1).
const headerBytes = 12

// MakeTap makes a tap that is switched on, with a file for each queue, or none
// where it is lasting. On error nothing is left of it.
func (l *Links) MakeTap(t Tap) (files []*os.File, err error) {
	defer func() {
		if err != nil {
			closeAll(files)
			files = nil
			if t.Lasting {
				_ = l.Remove(t.Name)
			}
		}
	}()
	// What a hypervisor that opens it by its name asks for must be the same.
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if t.Queues > 1 {
		flags |= unix.IFF_MULTI_QUEUE
	}
	for i := range t.Queues {
		asked := flags
		if i == 0 {
			asked |= unix.IFF_TUN_EXCL // not one of somebody else's
		}
		f, err := openQueue(t.Name, asked, t.FileName)
		if errors.Is(err, unix.E2BIG) || i > 0 && errors.Is(err, unix.ENFILE) {
			err = fmt.Errorf("%w: it refuses number %d", ErrQueues, i+1)
		}
		if err != nil {
			return files, fmt.Errorf("making the tap %s: %w", t.Name, err)
		}
		files = append(files, f)
	}
	if err := l.setUp(t); err != nil {
		return files, err
	}
	if !t.Lasting {
		return files, nil
	}
	for _, set := range []struct {
		request uint
		value   int
	}{{unix.TUNSETOWNER, t.Owner}, {unix.TUNSETPERSIST, 1}} {
		if err := unix.IoctlSetInt(int(files[0].Fd()), set.request, set.value); err != nil {
			return files, fmt.Errorf("giving the tap %s to its user: %w", t.Name, err)
		}
	}
	closeAll(files)
	return nil, nil
}

// openQueue opens a queue of the tap, which the first makes.
func openQueue(name string, flags uint16, fileName string) (*os.File, error) {
	fd, err := unix.Open(TunDevice, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: TunDevice, Err: err}
	}
	if err := setInterface(fd, name, flags); err != nil {
		unix.Close(fd)
		return nil, err
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, headerBytes); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("the length of its header: %w", err)
	}
	return os.NewFile(uintptr(fd), fileName), nil
}

func setInterface(fd int, name string, flags uint16) error {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	request.SetUint16(flags)
	return unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
}

// setUp gives the interface what is not the file's, and switches it on last: by
// then everything about it is as it is to be for whoever watches interfaces.
func (l *Links) setUp(t Tap) error {
	link, err := l.handle.LinkByName(t.Name)
	if err != nil {
		return fmt.Errorf("looking for the interface %s: %w", t.Name, err)
	}
	if err := l.handle.LinkSetAlias(link, t.Alias); err != nil {
		return fmt.Errorf("the alias of %s: %w", t.Name, err)
	}
	if err := l.handle.LinkSetHardwareAddr(link, t.MAC); err != nil {
		return fmt.Errorf("the MAC address of %s: %w", t.Name, err)
	}
	mtu := t.MTU
	if t.Bridge != "" {
		bridge, err := l.handle.LinkByName(t.Bridge)
		if err != nil {
			return fmt.Errorf("looking for the bridge %s: %w", t.Bridge, err)
		}
		if mtu == 0 {
			mtu = bridge.Attrs().MTU // or the bridge's would become that of the tap
		}
		if err := l.setMTU(link, mtu); err != nil {
			return err
		}
		// A port of a bridge has no address of its own.
		_ = l.handle.LinkSetIP6AddrGenMode(link, nl6None)
		if err := l.handle.LinkSetMasterByIndex(link, bridge.Attrs().Index); err != nil {
			return fmt.Errorf("attaching %s to the bridge %s: %w", t.Name, t.Bridge, err)
		}
	} else if err := l.setMTU(link, mtu); err != nil {
		return err
	}
	if err := l.handle.LinkSetUp(link); err != nil {
		return fmt.Errorf("switching %s on: %w", t.Name, err)
	}
	return nil
}

// nl6None is IN6_ADDR_GEN_MODE_NONE. A kernel without IPv6 has no such setting.
const nl6None = 1

func (l *Links) setMTU(link netlink.Link, mtu int) error {
	if mtu == 0 || mtu == link.Attrs().MTU {
		return nil
	}
	if err := l.handle.LinkSetMTU(link, mtu); err != nil {
		return fmt.Errorf("an MTU of %d for %s: %w", mtu, link.Attrs().Name, err)
	}
	return nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
