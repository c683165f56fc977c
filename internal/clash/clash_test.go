package clash

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/plan"
)

// vm is a VM in which one thing stands at line 7 of its file.
func vm(name string, has func(*plan.VM)) *plan.Plan {
	p := &plan.Plan{VM: plan.VM{Name: name}, Origins: map[string]diag.Origin{}}
	has(&p.VM)
	for _, from := range []string{"Disk[0]", "VSockCID", "Network[0]", "PublishPort[0]", "Device[0]"} {
		p.Origins[from] = diag.Origin{File: "/etc/ampoule/" + name + ".microvm", Line: 7}
	}
	return p
}

func disks(path string, readOnly bool) func(*plan.VM) {
	return func(v *plan.VM) { v.Disks = []plan.Disk{{Path: path, ReadOnly: readOnly, From: "Disk[0]"}} }
}

func vsock(cid int64, multiplexed bool) func(*plan.VM) {
	return func(v *plan.VM) { v.VSock = &plan.VSock{CID: cid, Multiplexed: multiplexed} }
}

func network(n plan.Network) func(*plan.VM) {
	n.From = "Network[0]"
	return func(v *plan.VM) { v.Networks = []plan.Network{n} }
}

func port(address string, host int, protocol string) func(*plan.VM) {
	return func(v *plan.VM) {
		v.Ports = []plan.Port{{Address: address, Host: host, Guest: 80, Protocol: protocol, From: "PublishPort[0]"}}
	}
}

func usb(address string) func(*plan.VM) {
	return func(v *plan.VM) { v.Devices = []plan.Device{{Bus: "usb", Address: address, From: "Device[0]"}} }
}

// TestFind: what two VMs cannot both have is an error at the line of each, which
// names that of the other; and what they can is none.
func TestFind(t *testing.T) {
	tap := func(name, mac string) func(*plan.VM) { return network(plan.Network{Kind: "tap", Name: name, MAC: mac}) }
	macvtap := func(link, mode, mac string) func(*plan.VM) {
		return network(plan.Network{Kind: "macvtap", Link: link, Mode: mode, MAC: mac})
	}
	user := func(mac string) func(*plan.VM) { return network(plan.Network{Kind: plan.UserNetwork, MAC: mac}) }
	for name, c := range map[string]struct {
		a, b func(*plan.VM)
		want string // at the first; empty: no clash
		back string // at the second, where it differs
	}{
		"a disk that both write":                     {disks("/srv/x", false), disks("/srv/./x", false), "Disk=/srv/x: the VM b has the same disk (/etc/ampoule/b.microvm:7); accepted: another disk, or ro in both", "Disk=/srv/./x: the VM a has the same disk"},
		"a disk that one writes":                     {disks("/srv/x", true), disks("/srv/x", false), "Disk=/srv/x: the VM b has the same disk (/etc/ampoule/b.microvm:7) and writes it", "the VM a has the same disk (/etc/ampoule/a.microvm:7), and this one writes it"},
		"a disk in the state directory of the other": {disks("/var/lib/ampoule/vm/b/d.raw", false), disks("d.raw", false), "the VM b has the same disk", ""},
		"a disk that nobody writes":                  {disks("/srv/x", true), disks("/srv/x", true), "", ""},
		"disks of the same relative path":            {disks("x", false), disks("x", false), "", ""},

		"a number":          {vsock(7, false), vsock(7, false), "VSockCID=7: the VM b has the same number on the host's vsock (/etc/ampoule/b.microvm:7); accepted: auto, or a number of its own", ""},
		"numbers of others": {vsock(7, false), vsock(8, false), "", ""},
		"any number":        {vsock(0, false), vsock(0, false), "", ""},
		"private numbers":   {vsock(3, true), vsock(3, true), "", ""},
		"a private number":  {vsock(3, true), vsock(3, false), "", ""},

		"an interface":            {tap("vm0", "02::1"), tap("vm0", "02::2"), "Network=tap:vm0: the VM b has the same interface (", ""},
		"an address":              {tap("vm0", "02::1"), tap("vm1", "02::1"), "Network=tap:mac=02::1: the VM b has the same MAC address (", ""},
		"interfaces":              {tap("vm0", "02::1"), tap("vm1", "02::2"), "", ""},
		"user networks":           {user("02::1"), user("02::1"), "", ""},
		"macvtaps":                {macvtap("eth0", "bridge", "02::1"), macvtap("eth0", "bridge", "02::2"), "", ""},
		"a macvtap for one alone": {macvtap("eth0", "passthru", "02::1"), macvtap("eth0", "bridge", "02::2"), "Network=macvtap:eth0: the VM b has the same interface below it", ""},

		"a port":                     {port("", 80, "tcp"), port("", 80, "tcp"), "PublishPort=80:80/tcp: the VM b has the same port of the host (", ""},
		"a port of one address":      {port("", 80, "tcp"), port("10.0.0.1", 80, "tcp"), "PublishPort=80:80/tcp: the VM b", "PublishPort=10.0.0.1:80:80/tcp: the VM a"},
		"a port of all of IPv6":      {port("::", 80, "tcp"), port("::1", 80, "tcp"), "PublishPort=[::]:80:80/tcp: the VM b", "PublishPort=[::1]:80:80/tcp"},
		"ports of two addresses":     {port("10.0.0.1", 80, "tcp"), port("10.0.0.2", 80, "tcp"), "", ""},
		"ports of two protocols":     {port("", 80, "tcp"), port("", 80, "udp"), "", ""},
		"ports of IPv4 and of IPv6":  {port("", 80, "tcp"), port("::1", 80, "tcp"), "", ""},
		"two ports of the same host": {port("", 80, "tcp"), port("", 81, "tcp"), "", ""},

		"a device": {usb("1-2"), usb("1-2"), "Device=usb:1-2: the VM b has the same device (/etc/ampoule/b.microvm:7); accepted: a device of its own", ""},
		"devices":  {usb("1-2"), usb("1-3"), "", ""},
	} {
		a, b := vm("a", c.a), vm("b", c.b)
		got, back := Find(a, []*plan.Plan{b, a}), Find(b, []*plan.Plan{a, b})
		if c.want == "" {
			if len(got)+len(back) > 0 {
				t.Errorf("%s: %v, %v", name, got, back)
			}
			continue
		}
		if c.back == "" {
			c.back = strings.NewReplacer("VM b", "VM a", "b.microvm", "a.microvm").Replace(c.want)
			if strings.HasPrefix(name, "a disk in") {
				c.back = "Disk=d.raw: the VM a has the same disk"
			}
		}
		for i, want := range []string{c.want, c.back} {
			list := []diag.List{got, back}[i]
			at := fmt.Sprintf("/etc/ampoule/%c.microvm:7: ", 'a'+i)
			if len(list) != 1 || !strings.HasPrefix(list[0].Error(), at) || !strings.Contains(list[0].Error(), want) {
				t.Errorf("%s: %v, want %s%s", name, list, at, want)
			}
		}
	}
}
