package preflight

import (
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/host"
	"github.com/ampoule-vm/ampoule/internal/netdev"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// taps are the interfaces of a made-up host, all of uid 4711 and gid 12.
type taps map[string]netdev.Interface

func (h taps) Find(name string) (netdev.Interface, bool, error) {
	if name == "sick" {
		return netdev.Interface{}, false, errors.New("nobody can say")
	}
	i, ok := h[name]
	i.Name = name
	return i, ok, nil
}

func (taps) Owner(string) (netdev.Owner, error) { return netdev.Owner{User: 4711, Group: 12}, nil }

func tapHost() taps {
	return taps{
		"one":  {Index: 1_000_001, Kind: netdev.TapKind, Up: true, MTU: 1500},
		"many": {Index: 1_000_002, Kind: netdev.TapKind, Up: true, MTU: 1500, MultiQueue: true},
		"tun":  {Index: 1_000_003, Kind: netdev.TapKind, Up: true, Tun: true},
		"off":  {Index: 1_000_004, Kind: netdev.TapKind, MTU: 1500},
		"ours": {Index: 1_000_005, Kind: netdev.TapKind, Up: true, Alias: Alias("db")},
		"br0":  {Index: 1_000_006, Kind: netdev.BridgeKind, Up: true},
		"eth0": {Index: 1_000_007, Kind: "device", Up: true},
		"mac":  {Index: 1_000_008, Kind: netdev.MacVTapKind, Up: true, MTU: 1500, Parent: 1_000_007, MAC: "02:00:00:00:00:01"},
	}
}

// externalPlan has one thing at line 5 of its file.
func externalPlan(has func(*plan.VM)) *plan.Plan {
	p := &plan.Plan{VM: plan.VM{Name: "web", Hypervisor: "qemu"}, Origins: map[string]diag.Origin{}}
	has(&p.VM)
	for _, from := range []string{"Network[0]", "Share[0]", "Device[0]"} {
		p.Origins[from] = diag.Origin{File: "web.microvm", Line: 5}
	}
	return p
}

func externalNet(change func(*plan.Network)) *plan.Plan {
	n := plan.Network{Kind: plan.Tap, Name: "one", External: true, Queues: 1, MAC: "02:00:00:00:00:01", From: "Network[0]"}
	change(&n)
	return externalPlan(func(vm *plan.VM) { vm.Networks = []plan.Network{n} })
}

func macvtapOf(name, link, mac string) func(*plan.Network) {
	return func(n *plan.Network) { n.Kind, n.Name, n.Link, n.MAC = plan.MacVTap, name, link, mac }
}

// TestExternalNetworks: an interface of somebody else's must be what the line says, and
// the user's to open; each mistake is said at its line.
func TestExternalNetworks(t *testing.T) {
	owner, stranger, group := &host.User{ID: 4711, Groups: []int{100, 12}}, &host.User{ID: 1000, Groups: []int{12}}, &host.User{ID: 4711, Groups: []int{100}}
	root := &host.User{AnyTap: true}
	name := func(name string) func(*plan.Network) { return func(n *plan.Network) { n.Name = name } }
	for _, tt := range []struct {
		name   string
		change func(*plan.Network)
		user   *host.User
		want   string
	}{
		{"a tap", name("one"), owner, ""},
		{"a tap, and nobody starts", name("one"), nil, ""},
		{"a tap, by root", name("one"), root, ""},
		{"a queue of many", name("many"), owner, ""},
		{"many queues", func(n *plan.Network) { n.Name, n.Queues = "many", 4 }, owner, ""},
		{"its own MTU", func(n *plan.Network) { n.MTU = 1500 }, owner, ""},
		{"missing", name("absent"), owner, "web.microvm:5: Network=tap:name=absent: there is no interface absent; whoever makes it has to before the VM starts; or remove external, and Ampoule makes it"},
		{"missing yet", name("absent"), nil, "web.microvm:5: warning: Network=tap:name=absent: there is no interface absent; "},
		{"nobody can say", name("sick"), owner, "web.microvm:5: Network=tap:name=sick: nobody can say"},
		{"no tap", name("br0"), owner, "the interface br0 is no tap but a bridge"},
		{"a tun", name("tun"), owner, "is a tun, which carries no Ethernet frames; make it with ip tuntap add mode tap"},
		{"of a VM", name("ours"), owner, "the interface ours is that of the VM db, and goes with it; accepted: another name="},
		{"off", name("off"), owner, "web.microvm:5: warning: Network=tap:name=off: the interface off is switched off; ip link set off up"},
		{"too few queues", func(n *plan.Network) { n.Queues = 2 }, owner, "the tap one has one queue; accepted: queues=1; or make it with multi_queue"},
		{"by name", func(n *plan.Network) { n.Name, n.ByName = "many", true }, owner, "the tap many was made with multi_queue, and qemu cannot open such"},
		{"another MTU", func(n *plan.Network) { n.MTU = 9000 }, owner, "the guest would be told an MTU of 9000, and one has 1500; accepted: mtu=1500, or none; or ip link set one mtu 9000"},
		{"of another user", name("one"), stranger, "the tap one belongs to uid 4711, and this is uid 1000; make it with user"},
		{"of another group", name("one"), group, "the tap one belongs to gid 12, in which uid 4711 is not"},
		{"a macvtap, and nobody starts", macvtapOf("mac", "eth0", "02:00:00:00:00:01"), nil, ""},
		{"a macvtap without a node", macvtapOf("mac", "eth0", "02:00:00:00:00:01"), owner, "may not open /dev/tap1000008, the device of mac (no such file or directory)"},
		{"of another link", macvtapOf("mac", "br0", "02:00:00:00:00:01"), nil, "web.microvm:5: Network=macvtap:br0,name=mac: the macvtap mac is not above br0"},
		{"another address", macvtapOf("mac", "eth0", "02:00:00:00:00:02"), nil, "the macvtap mac has the address 02:00:00:00:00:01, and takes nothing for another; accepted: mac=02:00:00:00:00:01"},
		{"a tap for a macvtap", macvtapOf("one", "eth0", "02:00:00:00:00:01"), nil, "the interface one is no macvtap but a tun or tap of somebody else's"},
	} {
		problems := External(externalNet(tt.change), tapHost(), tt.user)
		if len(problems) > 1 || problems.Error() != "" != (tt.want != "") || !strings.Contains(problems.Error(), tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, problems.Error(), tt.want)
		}
	}
}

// TestExternalShare: the socket must be there, and one, and the user's to connect to.
func TestExternalShare(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan struct{}, 1)
	go func() {
		if c, err := l.Accept(); err == nil {
			c.Close()
			accepted <- struct{}{}
		}
	}()
	file := write(t, filepath.Join(dir, "file"), "", 0o600)
	for path, want := range map[string]string{
		socket: "", dir + "/absent": "web.microvm:5: Share=/srv/a:a: there is no socket " + dir + "/absent; whoever serves the share has to",
		file: "web.microvm:5: Share=/srv/a:a: " + file + " is not a socket; accepted: the --socket-path of a virtiofsd", file + "/x": "socket=: stat ",
	} {
		p := externalPlan(func(vm *plan.VM) {
			vm.Shares = []plan.Share{{Source: "/srv/a", Tag: "a", Protocol: spec.VirtioFS, Socket: path, From: "Share[0]"}}
		})
		problems := External(p, tapHost(), host.Self())
		if len(problems) > 1 || problems.Error() != "" != (want != "") || !strings.Contains(problems.Error(), want) {
			t.Errorf("%s: %q, want %q", path, problems.Error(), want)
		}
		if early := External(p, tapHost(), nil); early.HasErrors() && path != file {
			t.Errorf("%s: before the start %q", path, early.Error())
		}
	}
	select {
	case <-accepted:
		t.Error("whoever serves it was connected to, and serves one guest alone")
	default:
	}
}
