package plan_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/driver/all"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/testkit/microvm"
)

// network is the first of a kind.
func network(vm *plan.VM, kind string) *plan.Network {
	return &vm.Networks[slices.IndexFunc(vm.Networks, func(n plan.Network) bool { return n.Kind == kind })]
}

// TestForeignNetworks: networks that Ampoule never makes are refused, whoever wrote
// the plan: root makes what stands there.
func TestForeignNetworks(t *testing.T) {
	const text = "[MicroVM]\nKernel=/k\nNetwork=user\nNetwork=bridge:br0\nNetwork=macvtap:eth0\nPublishPort=8080:80\n"
	tap := func(vm *plan.VM) *plan.Network { return network(vm, plan.Tap) }
	macvtap := func(vm *plan.VM) *plan.Network { return network(vm, plan.MacVTap) }
	user := func(vm *plan.VM) *plan.Network { return network(vm, plan.UserNetwork) }
	words := func(vm *plan.VM) []string { return vm.Command[part(vm, plan.AskNetwork)].Words }
	for want, change := range map[string]func(*plan.VM){
		"vm.networks[1]: the MAC address: not":   func(vm *plan.VM) { tap(vm).MAC = "x" },
		"(multicast)":                            func(vm *plan.VM) { tap(vm).MAC = "01:00:00:00:00:00" },
		"an MTU of":                              func(vm *plan.VM) { tap(vm).MTU = 99999 },
		"a user network has no interface":        func(vm *plan.VM) { user(vm).Name = "x" },
		"this version of Ampoule knows the k":    func(vm *plan.VM) { tap(vm).Kind = "bond" },
		"vm.networks[1]: the name of":            func(vm *plan.VM) { tap(vm).Name = "a/b" },
		"the name of an interface is empty":      func(vm *plan.VM) { tap(vm).Name = "" },
		"a character that is not for one":        func(vm *plan.VM) { tap(vm).Bridge = "a b" },
		"a tap is not above":                     func(vm *plan.VM) { tap(vm).Link = "eth0" },
		"vm.networks[2]: a macvtap is above":     func(vm *plan.VM) { macvtap(vm).Mode = "l2" },
		"vm.networks[2]: a macvtap is":           func(vm *plan.VM) { macvtap(vm).ByName = true },
		"bridge and mode of an interface are up": func(vm *plan.VM) { tap(vm).External = true },
		"vm.networks[2]: bridge and mode":        func(vm *plan.VM) { macvtap(vm).External = true },
		"0 queues":                               func(vm *plan.VM) { tap(vm).Queues = 0 },
		"has one queue":                          func(vm *plan.VM) { tap(vm).ByName, tap(vm).Queues = true, 2 },
		"vhost is neither":                       func(vm *plan.VM) { tap(vm).VHost = "" },
		"the name or the address of another":     func(vm *plan.VM) { tap(vm).MAC = user(vm).MAC },
		"vm.networks[2]: it has the name or the": func(vm *plan.VM) { macvtap(vm).Name = tap(vm).Name },
		"the line of another":                    func(vm *plan.VM) { macvtap(vm).From = tap(vm).From },
		"vm.networks[1]: it is handed over 0": func(vm *plan.VM) {
			vm.Command = slices.Delete(vm.Command, part(vm, plan.AskNetwork), part(vm, plan.AskNetwork)+1)
		},
		"vm.networks[1]: it is handed over 2":    func(vm *plan.VM) { vm.Command = append(vm.Command, vm.Command[part(vm, plan.AskNetwork)]) },
		"a network that is not there":            func(vm *plan.VM) { vm.Command[part(vm, plan.AskNetwork)].From = "Network[9]" },
		"descriptors of a network that has none": func(vm *plan.VM) { vm.Command[part(vm, plan.AskNetwork)].From = user(vm).From },
		"not one {fds}":                          func(vm *plan.VM) { words(vm)[1] = "tap" },
		"not one {vhostfds}":                     func(vm *plan.VM) { words(vm)[1] = "tap,{fds},{vhostfds}" },
		"have not one {vhostfds}":                func(vm *plan.VM) { words(vm)[1] = "tap,{fds}[a][{vhostfds}]" },
		"{vhostfds} in one pair":                 func(vm *plan.VM) { words(vm)[1] = "tap,{fds}]" },
		"vm.ports[0]: not an address":            func(vm *plan.VM) { vm.Ports[0].Address = "host" },
		"vm.ports[0]: not a port":                func(vm *plan.VM) { vm.Ports[0].Guest = 0 },
		"the protocols tcp and udp":              func(vm *plan.VM) { vm.Ports[0].Protocol = "sctp" },
		"and there are 0":                        func(vm *plan.VM) { vm.Networks = vm.Networks[1:] },
	} {
		p := load(t, text)
		change(&p.VM)
		p.Seal()
		_, err := plan.Parse(p.JSON())
		if err == nil || !strings.HasPrefix(err.Error(), "the plan cannot be carried out: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// TestForeignRequests: the same of those that are sent.
func TestForeignRequests(t *testing.T) {
	tried := 0
	for _, hypervisor := range driver.Names(all.Drivers()) {
		text := microvm.For("[MicroVM]\nHypervisor=%h\nKernel=/k\nInitrd=/i\nNetwork=tap\n", hypervisor)
		sends := func(vm *plan.VM) int {
			if vm.API == nil {
				return -1
			}
			return slices.IndexFunc(vm.API.Start, func(r plan.Request) bool { return r.Ask == plan.AskNetwork })
		}
		p := load(t, text)
		if sends(&p.VM) < 0 {
			continue
		}
		tried++
		for want, change := range map[string]func(*plan.VM){
			"it is handed over 0":         func(vm *plan.VM) { r := &vm.API.Start[sends(vm)]; r.Ask, r.From = "", "" },
			"it is handed over 2":         func(vm *plan.VM) { vm.API.Start = append(vm.API.Start, vm.API.Start[sends(vm)]) },
			"a network that is not there": func(vm *plan.VM) { vm.API.Start[sends(vm)].From = "Memory" },
			"it takes something with it":  func(vm *plan.VM) { vm.API.Start[sends(vm)].Ask = plan.AskVSock },
			"it asks, and starts nothing": func(vm *plan.VM) { vm.API.Alive.Ask = plan.AskNetwork },
		} {
			p := load(t, text)
			change(&p.VM)
			p.Seal()
			if _, err := plan.Parse(p.JSON()); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %s: %v", hypervisor, want, err)
			}
		}
	}
	if tried == 0 {
		t.Error("no hypervisor is sent its interfaces")
	}
}

// TestFillNetwork: a piece in brackets is there only with descriptors of vhost.
func TestFillNetwork(t *testing.T) {
	words := []string{"-netdev", "tap,fds={fds}[,vhostfds={vhostfds}]", "-device", "nic"}
	for vhost, want := range map[string]string{"": "tap,fds=3:4", "5:6": "tap,fds=3:4,vhostfds=5:6"} {
		if got := plan.FillNetwork(words, "3:4", vhost); !slices.Equal(got, []string{"-netdev", want, "-device", "nic"}) {
			t.Errorf("%q: %q", vhost, got)
		}
	}
}
