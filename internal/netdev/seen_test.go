package netdev

import (
	"errors"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/testkit/ownnet"
)

// lasting is a tap of somebody else's, as ip tuntap add makes it.
func lasting(name string, flags netlink.TuntapFlag, mode netlink.TuntapMode, owner uint32) netlink.Link {
	a := netlink.NewLinkAttrs()
	a.Name = name
	return &netlink.Tuntap{LinkAttrs: a, Mode: mode, Flags: flags | netlink.TUNTAP_NO_PI, Owner: owner, Group: 0}
}

// addLasting makes one that nobody has open.
func addLasting(t *testing.T, name string, flags netlink.TuntapFlag, mode netlink.TuntapMode) {
	t.Helper()
	link := lasting(name, flags, mode, 4711)
	add(t, link)
	closeAll(link.(*netlink.Tuntap).Fds)
}

// TestSeen: sysfs and the kernel's socket tell the same of an interface, as far as
// both tell of it.
func TestSeen(t *testing.T) {
	ownnet.Need(t)
	add(t, bridge("br0", 1400))
	cable(t, "up0", 1500)
	addLasting(t, "tap0", netlink.TUNTAP_VNET_HDR, netlink.TUNTAP_MODE_TAP)
	addLasting(t, "tap1", netlink.TUNTAP_VNET_HDR|netlink.TUNTAP_MULTI_QUEUE, netlink.TUNTAP_MODE_TAP)
	addLasting(t, "tun0", 0, netlink.TUNTAP_MODE_TUN)
	on(t, func(l *Links) {
		mac := mac(t, "02:00:00:00:00:07")
		files, err := l.MakeMacVTap(MacVTap{Name: "mac0", Parent: "up0", Mode: "private", MAC: mac, Queues: 1})
		if err != nil {
			t.Fatal(err)
		}
		closeAll(files)
		defer func() { _ = l.Remove("mac0") }()
		for _, name := range []string{"br0", "tap0", "tap1", "tun0", "mac0"} {
			want := find(t, l, name)
			want.Alias, want.Master, want.Mode = "", 0, ""
			got, ok, err := Seen{}.Find(name)
			if err != nil || !ok || got != want {
				t.Errorf("%s is seen as %+v (%v, %v), and is %+v", name, got, ok, err, want)
			}
		}
		if up := find(t, l, "up0"); find(t, l, "mac0").Parent != up.Index {
			t.Error("mac0 is not seen above up0")
		}
	})
	if _, ok, err := (Seen{}).Find("absent"); ok || err != nil {
		t.Errorf("absent: %v, %v", ok, err)
	}
	if o, err := (Seen{}).Owner("tap0"); err != nil || o.User != 4711 {
		t.Errorf("the owner of tap0: %+v, %v", o, err)
	}
	if _, err := (Seen{}).Owner("br0"); err == nil {
		t.Error("a bridge has an owner")
	}
}

func seen(t *testing.T, name string) Interface {
	t.Helper()
	i, ok, err := Seen{}.Find(name)
	if err != nil || !ok {
		t.Fatalf("there is no %s: %v", name, err)
	}
	return i
}

// TestOpenTap: a tap of somebody else's is opened as it is, once or as often as it
// says, and is there afterwards.
func TestOpenTap(t *testing.T) {
	ownnet.Need(t)
	addLasting(t, "tap0", 0, netlink.TUNTAP_MODE_TAP)
	addLasting(t, "tap1", netlink.TUNTAP_MULTI_QUEUE, netlink.TUNTAP_MODE_TAP)
	add(t, bridge("br0", 1500))
	for name, queues := range map[string]int{"tap0": 1, "tap1": 3} {
		before := seen(t, name)
		files, err := OpenTap(before, queues, "net0")
		if err != nil || len(files) != queues {
			t.Fatal(files, err)
		}
		if _, err := OpenTap(before, 1, "again"); name == "tap0" && !errors.Is(err, ErrBusy) {
			t.Errorf("opened twice: %v", err)
		}
		request, err := unix.NewIfreq("")
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.IoctlIfreq(int(files[0].Fd()), unix.TUNGETIFF, request); err != nil {
			t.Fatal(err)
		}
		if flags := request.Uint16(); request.Name() != name || flags&unix.IFF_VNET_HDR == 0 || flags&unix.IFF_PERSIST == 0 || flags&unix.IFF_TAP == 0 {
			t.Errorf("%s is opened with the flags %x", request.Name(), flags)
		}
		if i := seen(t, name); !i.Carrier || files[0].Name() != "net0" {
			t.Errorf("%+v, %s", i, files[0].Name())
		}
		closeAll(files)
		after := seen(t, name)
		if before.MultiQueue {
			after.Carrier = before.Carrier // the kernel leaves it on
		}
		if after != before {
			t.Errorf("it was %+v, and is %+v", before, after)
		}
	}
	one := seen(t, "tap0")
	if _, err := OpenTap(one, 2, "net0"); !errors.Is(err, ErrBusy) {
		t.Errorf("two queues of one: %v", err)
	}
	one.Index++
	if _, err := OpenTap(one, 1, "net0"); err == nil {
		t.Error("another tap of the same name is opened")
	}
	if _, err := OpenTap(seen(t, "br0"), 1, "net0"); err == nil {
		t.Error("a bridge is opened")
	}
}

// TestOpenMacVTap: likewise, by its node, which somebody else makes too.
func TestOpenMacVTap(t *testing.T) {
	ownnet.Need(t)
	cable(t, "up0", 1500)
	on(t, func(l *Links) {
		files, err := l.MakeMacVTap(MacVTap{Name: "mac0", Parent: "up0", Mode: "bridge", MAC: mac(t, "02:00:00:00:00:07"), Queues: 1})
		if err != nil {
			t.Fatal(err)
		}
		closeAll(files)
		defer func() { _ = l.Remove("mac0") }()
		i := seen(t, "mac0")
		node := MacVTapNode(i)
		number, err := deviceNumber("mac0", i.Index)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(node); err != nil { // nobody makes it here
			if _, err := OpenMacVTap(i, 1, "net0"); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("without a node: %v", err)
			}
			if err := unix.Mknod(node, unix.S_IFCHR|0o600, int(number)); err != nil {
				t.Fatal(err)
			}
			defer os.Remove(node)
		}
		files, err = OpenMacVTap(i, 2, "net0")
		if err != nil || len(files) != 2 || files[1].Name() != "net0" {
			t.Fatal(files, err)
		}
		closeAll(files)
		if after := seen(t, "mac0"); after != i {
			t.Errorf("it was %+v, and is %+v", i, after)
		}
		other := i
		other.Index++
		if _, err := OpenMacVTap(other, 1, "net0"); err == nil {
			t.Error("another one is opened under its name")
		}
	})
}
