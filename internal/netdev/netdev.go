// Package netdev is the interfaces of a network namespace: what there is, and
// making and removing those that a VM has.
//
// What must not live here: plans, files, whose an interface is.
package netdev

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Links are the interfaces of one network namespace. They are good only within
// the function that got them, on its goroutine.
type Links struct{ handle *netlink.Handle }

// Interface is what the kernel says of one.
type Interface struct {
	Index int
	Name  string
	// Kind is "tun" (a tap too), "macvtap", "bridge", …, or "device".
	Kind string
	// Alias is a text that an administrator, or whoever made it, gave it.
	Alias string
	MTU   int
	// MAC is its address, in lower case with colons.
	MAC string
	// Up: it was switched on. Carrier: and has somebody at its other end, which of a
	// tap is who has it open.
	Up, Carrier bool
	// Tun: of the kind "tun", it carries no Ethernet frames, and is no tap. MultiQueue:
	// it can be opened more than once, by whoever says so.
	Tun, MultiQueue bool
	// Master is the index of the bridge that it is attached to, Parent that of the
	// interface below it; 0: none.
	Master, Parent int
	// Mode is that of a macvtap.
	Mode string
}

// The kinds that matter here.
const (
	TapKind     = "tun"
	MacVTapKind = "macvtap"
	BridgeKind  = "bridge"
)

// In calls do in the network namespace of a file, such as /proc/1/ns/net; empty:
// in our own. Do must not start goroutines that go on with it.
func In(namespace string, do func(*Links) error) error {
	done := make(chan error)
	go func() {
		// A thread in another namespace is not given back: it ends with this
		// goroutine.
		runtime.LockOSThread()
		moved, err := enter(namespace)
		if err == nil {
			err = within(do)
		}
		if !moved {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

func within(do func(*Links) error) error {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("asking the kernel for its network interfaces: %w", err)
	}
	defer handle.Close()
	return do(&Links{handle})
}

// enter moves the thread, unless it is there.
func enter(namespace string) (moved bool, err error) {
	if namespace == "" {
		return false, nil
	}
	there, err := os.Open(namespace)
	if err != nil {
		return false, fmt.Errorf("looking for the host's network: %w", err)
	}
	defer there.Close()
	own, err := os.Stat("/proc/thread-self/ns/net")
	if err != nil {
		return false, fmt.Errorf("looking for the network of this process: %w", err)
	}
	if info, err := there.Stat(); err == nil && os.SameFile(info, own) {
		return false, nil
	}
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return true, fmt.Errorf("entering the host's network: %w", os.NewSyscallError("setns", err))
	}
	return true, nil
}

// Find looks for an interface by its name.
func (l *Links) Find(name string) (Interface, bool, error) {
	link, err := l.handle.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return Interface{}, false, nil
	}
	if err != nil {
		return Interface{}, false, fmt.Errorf("looking for the interface %s: %w", name, err)
	}
	return describe(link), true, nil
}

// All lists the interfaces.
func (l *Links) All() ([]Interface, error) {
	for range 10 {
		list, err := l.handle.LinkList()
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			continue // they changed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("listing the network interfaces: %w", err)
		}
		var out []Interface
		for _, link := range list {
			out = append(out, describe(link))
		}
		return out, nil
	}
	return nil, errors.New("listing the network interfaces: they change all the time")
}

func describe(link netlink.Link) Interface {
	a := link.Attrs()
	out := Interface{
		Index: a.Index, Name: a.Name, Kind: link.Type(), Alias: a.Alias, MTU: a.MTU, Up: a.RawFlags&unix.IFF_UP != 0,
		Master: a.MasterIndex, Parent: a.ParentIndex, MAC: a.HardwareAddr.String(), Carrier: a.RawFlags&unix.IFF_LOWER_UP != 0,
	}
	switch m := link.(type) {
	case *netlink.Macvtap:
		out.Mode = modeName(m.Mode)
	case *netlink.Macvlan:
		out.Mode = modeName(m.Mode)
	case *netlink.Tuntap:
		out.Kind, out.Tun, out.MultiQueue = TapKind, m.Mode == netlink.TUNTAP_MODE_TUN, m.Flags&netlink.TUNTAP_MULTI_QUEUE != 0
	}
	return out
}

// Remove removes an interface. One that is not there is no error.
func (l *Links) Remove(name string) error {
	link, err := l.handle.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil
	}
	if err == nil {
		err = l.handle.LinkDel(link)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("removing the interface %s: %w", name, err)
	}
	return nil
}
