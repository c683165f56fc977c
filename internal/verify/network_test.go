package verify

import (
	"github.com/ampoule-vm/ampoule/internal/netdev"
	"github.com/ampoule-vm/ampoule/internal/plan"
)

// others makes an interface that of somebody else.
func others(in *Interface) {
	in.Network.External, in.Network.Bridge, in.Seen.Alias, in.Seen.Carrier = true, "", "", true
}

// wires are what becomes of the interfaces of a VM that runs.
func wires() []judged {
	with := func(change func(*Interface)) func(*Facts) {
		return func(f *Facts) {
			in := Interface{
				Network: plan.Network{Kind: plan.Tap, Name: "vm0-web", Bridge: "br0", MTU: 1400}, At: "/etc/ampoule/web.microvm:5", There: true, Master: "br0",
				Seen: netdev.Interface{Name: "vm0-web", Kind: netdev.TapKind, Alias: "ampoule web", MTU: 1400, Up: true, Master: 3},
			}
			change(&in)
			f.Interfaces = []Interface{in}
		}
	}
	return []judged{
		{"an interface", with(func(*Interface) {}), "", "", ""},
		{"an interface is gone", with(func(in *Interface) { in.There = false }), "running interface-missing", "systemctl restart microvm@web.service", ""},
		{"another one in its place", with(func(in *Interface) { in.Seen.Alias = "" }), "running interface-missing", "systemctl restart microvm@web.service", ""},
		{"it is off", with(func(in *Interface) { in.Seen.Up = false }), "running interface-changed", "ip link set vm0-web up", ""},
		{"it has no bridge", with(func(in *Interface) { in.Master = "" }), "running interface-changed", "ip link set vm0-web master br0", ""},
		{"it has another bridge", with(func(in *Interface) { in.Master = "br1" }), "running interface-changed", "ip link set vm0-web master br0", ""},
		{"it has another MTU", with(func(in *Interface) { in.Seen.MTU = 1500 }), "running interface-changed", "ip link set vm0-web mtu 1400", ""},
		{"others' tap", with(others), "", "", ""},
		{"others' tap is gone", with(func(in *Interface) { others(in); in.There = false }), "running interface-missing", "systemctl restart microvm@web.service", ""},
		{"others' tap made anew", with(func(in *Interface) { others(in); in.Seen.Carrier = false }), "running interface-missing", "systemctl restart microvm@web.service", ""},
		{"others' tap is a bridge now", with(func(in *Interface) { others(in); in.Seen.Kind = netdev.BridgeKind }), "running interface-missing", "systemctl restart microvm@web.service", ""},
		{"others' macvtap, whose carrier is that of its link", with(func(in *Interface) {
			others(in)
			in.Network.Kind, in.Seen.Kind, in.Seen.Carrier = plan.MacVTap, netdev.MacVTapKind, false
		}), "", "", ""},
		{"nobody could look", func(f *Facts) { f.InterfacesUnseen = "its interfaces are not seen: x" }, "", "", "not seen"},
	}
}
