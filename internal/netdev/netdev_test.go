package netdev

import (
	"errors"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/testkit/ownnet"
)

func TestMain(m *testing.M) { os.Exit(ownnet.Main(m)) }

// on calls do with the interfaces of the test's own network.
func on(t *testing.T, do func(*Links)) {
	t.Helper()
	if err := In("", func(l *Links) error { do(l); return nil }); err != nil {
		t.Fatal(err)
	}
}

// add makes an interface for a test and removes it afterwards.
func add(t *testing.T, link netlink.Link) {
	t.Helper()
	if err := netlink.LinkAdd(link); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(link) })
	if err := netlink.LinkSetUp(link); err != nil {
		t.Fatal(err)
	}
}

func bridge(name string, mtu int) netlink.Link {
	a := netlink.NewLinkAttrs()
	a.Name, a.MTU = name, mtu
	return &netlink.Bridge{LinkAttrs: a}
}

// cable is an interface with another one at its other end.
func cable(t *testing.T, name string, mtu int) {
	t.Helper()
	a := netlink.NewLinkAttrs()
	a.Name, a.MTU = name, mtu
	add(t, &netlink.Veth{LinkAttrs: a, PeerName: name + "-far", PeerMTU: uint32(mtu)})
	far, err := netlink.LinkByName(name + "-far")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(far); err != nil {
		t.Fatal(err)
	}
}

func find(t *testing.T, l *Links, name string) Interface {
	t.Helper()
	i, ok, err := l.Find(name)
	if err != nil || !ok {
		t.Fatalf("there is no %s: %v", name, err)
	}
	return i
}

func gone(t *testing.T, l *Links, name string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		_, ok, err := l.Find(name)
		if err == nil && !ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is there (%v)", name, err)
		}
	}
}

func mac(t *testing.T, s string) net.HardwareAddr {
	t.Helper()
	m, err := net.ParseMAC(s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestTap(t *testing.T) {
	ownnet.Need(t)
	add(t, bridge("br0", 9000))
	on(t, func(l *Links) {
		tap := Tap{Name: "vm0-web", Alias: "ampoule web", MAC: mac(t, "fe:00:00:00:00:01"), Bridge: "br0", Queues: 2, FileName: "net0"}
		files, err := l.MakeTap(tap)
		if err != nil {
			t.Fatal(err)
		}
		if len(files) != 2 || files[1].Name() != "net0" {
			t.Fatal(files)
		}
		i, br := find(t, l, "vm0-web"), find(t, l, "br0")
		want := Interface{Index: i.Index, Name: "vm0-web", Kind: TapKind, Alias: "ampoule web", MTU: 9000, MAC: "fe:00:00:00:00:01", Up: true, Carrier: true, MultiQueue: true, Master: br.Index}
		if i != want {
			t.Errorf("it is %+v, want %+v", i, want)
		}
		if br.MTU != 9000 || br.Kind != BridgeKind {
			t.Errorf("the bridge is %+v now", br)
		}
		request, err := unix.NewIfreq("")
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.IoctlIfreq(int(files[0].Fd()), unix.TUNGETIFF, request); err != nil {
			t.Fatal(err)
		}
		for flag, want := range map[uint16]bool{unix.IFF_TAP: true, unix.IFF_VNET_HDR: true, unix.IFF_MULTI_QUEUE: true, unix.IFF_NO_PI: true, unix.IFF_PERSIST: false} {
			if got := request.Uint16()&flag != 0; got != want {
				t.Errorf("the flag %#x is %v", flag, got)
			}
		}
		if text, err := os.ReadFile("/proc/sys/net/ipv6/conf/vm0-web/addr_gen_mode"); err == nil && strings.TrimSpace(string(text)) != "1" {
			t.Errorf("it gives itself an address: %s", text)
		}
		if _, err := l.MakeTap(tap); !errors.Is(err, unix.EBUSY) {
			t.Errorf("a second one of that name: %v", err)
		}
		closeAll(files)
		gone(t, l, "vm0-web")
	})
}

func TestTapFails(t *testing.T) {
	ownnet.Need(t)
	on(t, func(l *Links) {
		for _, tap := range []Tap{
			{Name: "vm0-web", Queues: 1, Bridge: "absent", MAC: mac(t, "fe:00:00:00:00:01")},
			{Name: "vm0-web", Queues: 1, MAC: mac(t, "ff:00:00:00:00:01")},
			{Name: "vm0-web", Queues: 1, MTU: 10, MAC: mac(t, "fe:00:00:00:00:01"), Lasting: true},
			{Name: "vm0-web", Queues: 300, MAC: mac(t, "fe:00:00:00:00:01")},
		} {
			files, err := l.MakeTap(tap)
			if err == nil || files != nil {
				t.Errorf("%+v: %v %v", tap, files, err)
			}
			if (tap.Queues > 256) != errors.Is(err, ErrQueues) {
				t.Errorf("%+v: %v", tap, err)
			}
			gone(t, l, "vm0-web")
		}
	})
}

func TestLastingTap(t *testing.T) {
	ownnet.Need(t)
	on(t, func(l *Links) {
		files, err := l.MakeTap(Tap{Name: "vm0-web", Alias: "ampoule web", MAC: mac(t, "fe:00:00:00:00:01"), MTU: 1400, Queues: 1, Lasting: true, Owner: 12345})
		if err != nil || len(files) > 0 {
			t.Fatalf("%v %v", files, err)
		}
		i := find(t, l, "vm0-web")
		if i.MTU != 1400 || !i.Up {
			t.Errorf("%+v", i)
		}
		owner, err := os.ReadFile("/sys/class/net/vm0-web/owner")
		if err != nil || strings.TrimSpace(string(owner)) != "12345" {
			t.Errorf("its owner is %s (%v)", owner, err)
		}
		for range 2 {
			if err := l.Remove("vm0-web"); err != nil {
				t.Fatal(err)
			}
			gone(t, l, "vm0-web")
		}
	})
}

func TestMacVTap(t *testing.T) {
	ownnet.Need(t)
	cable(t, "up0", 1500)
	on(t, func(l *Links) {
		m := MacVTap{Name: "vm0-web", Alias: "ampoule web", Parent: "up0", Mode: "vepa", MAC: mac(t, "02:00:00:00:00:01"), MTU: 1400, Queues: 2, FileName: "net0"}
		files, err := l.MakeMacVTap(m)
		if err != nil {
			t.Fatal(err)
		}
		i, up := find(t, l, "vm0-web"), find(t, l, "up0")
		want := Interface{Index: i.Index, Name: "vm0-web", Kind: MacVTapKind, Alias: "ampoule web", MTU: 1400, MAC: "02:00:00:00:00:01", Up: true, Carrier: true, Parent: up.Index, Mode: "vepa"}
		if i != want {
			t.Errorf("it is %+v, want %+v", i, want)
		}
		all, err := l.All()
		if err != nil || len(all) < 4 {
			t.Errorf("%v %v", all, err)
		}
		if len(files) != 2 {
			t.Errorf("it has %d files", len(files))
		}
		closeAll(files)
		if err := l.Remove("vm0-web"); err != nil {
			t.Fatal(err)
		}
		gone(t, l, "vm0-web")

		m.MTU = 9000
		if _, err := l.MakeMacVTap(m); err == nil {
			t.Error("its MTU is over that of the interface below")
		}
		gone(t, l, "vm0-web")
	})
}

// TestIn: what is made in another namespace is not in ours.
func TestIn(t *testing.T) {
	ownnet.Need(t)
	held, release := make(chan string), make(chan bool)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with its namespace
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			held <- ""
			return
		}
		held <- "/proc/self/task/" + strconv.Itoa(unix.Gettid()) + "/ns/net"
		<-release
	}()
	other := <-held
	defer close(release)
	if other == "" {
		t.Fatal("there is no other namespace")
	}
	var files []*os.File
	err := In(other, func(l *Links) (err error) {
		files, err = l.MakeTap(Tap{Name: "vm0-web", MAC: mac(t, "fe:00:00:00:00:01"), Queues: 1})
		find(t, l, "vm0-web")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(files)
	on(t, func(l *Links) {
		if _, ok, _ := l.Find("vm0-web"); ok {
			t.Error("it is in our namespace")
		}
	})
	if err := In("/proc/absent", func(*Links) error { return nil }); err == nil {
		t.Error("a namespace that is not there")
	}
}
