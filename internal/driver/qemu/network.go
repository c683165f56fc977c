package qemu

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// netID names the backend of network number i.
func netID(i int) string { return "net" + strconv.Itoa(i) }

// networks are the parts of the command line that make the guest's interfaces.
func (m machine) networks(vm *spec.VM) []plan.Part {
	var parts []plan.Part
	for i, n := range vm.Networks {
		part, backend := plan.Part{From: n.From.ID}, "user,id="+netID(i)+forwards(vm)
		if n.Kind != spec.UserNetwork {
			part.Ask, backend = plan.AskNetwork, "tap,id="+netID(i)+",fds={fds}"
			if n.VHost != "no" {
				backend += "[,vhost=on,vhostfds={vhostfds}]"
			}
		}
		part.Words = []string{"-netdev", backend, "-device", m.nic(i, n)}
		parts = append(parts, part)
	}
	return parts
}

// nic is the guest's device. One on PCI has a program for the firmware by default,
// a file that need not be installed, and nothing boots from the network here.
func (m machine) nic(i int, n spec.Network) string {
	nic := "virtio-net-" + m.bus + ",netdev=" + netID(i) + ",mac=" + n.MAC
	if m.bus == "pci" {
		nic += ",romfile="
	}
	if n.Queues > 1 {
		nic += ",mq=on"
		if m.bus == "pci" {
			// Interrupts: one for each queue, one for the queue by which the guest
			// controls the others, and one for changes of the configuration.
			nic += fmt.Sprintf(",vectors=%d", 2*n.Queues+2)
		}
	}
	if n.MTU > 0 {
		nic += fmt.Sprintf(",host_mtu=%d", n.MTU)
	}
	return nic
}

// forwards are the published ports, as options of the one user network that a VM
// with such has.
func forwards(vm *spec.VM) string {
	var b strings.Builder
	for _, p := range vm.Ports {
		address := ""
		if p.Address.IsValid() {
			address = p.Address.String()
		}
		for i := range p.Count {
			fmt.Fprintf(&b, ",hostfwd=%s:%s:%d-:%d", p.Protocol, address, p.Host+i, p.Guest+i)
		}
	}
	return b.String()
}

// checkNetworks refuses what QEMU or the machine type does not take.
func (m machine) checkNetworks(vm *spec.VM, problems *diag.List) {
	for i, n := range vm.Networks {
		if len(vm.Disks)+i >= m.maxDisks {
			n.From.Errorf(problems, fmt.Sprintf("accepted: at most %d disks and networks together", m.maxDisks), "more devices than the machine type %s (%s) takes", m.name, vm.Machine.From.Origin)
		}
	}
	for _, p := range vm.Ports {
		if p.Address.IsValid() && !p.Address.Is4() {
			p.From.Errorf(problems, "accepted: an address of IPv4, or none for all of them", "%s", refusals()["port ipv6"])
		}
	}
}

// claimsNetwork reports whether the value of an option makes, or takes, the backend
// of one of the VM's networks. -netdev takes JSON too.
func claimsNetwork(vm *spec.VM, option, value string) *spec.Network {
	name := map[string]string{"netdev": "id", "nic": "id", "device": "netdev"}[option]
	if name == "" {
		return nil
	}
	var object map[string]any
	if json.Unmarshal([]byte(value), &object) == nil {
		value, _ = object[name].(string)
		value = name + "=" + value
	}
	for i := range vm.Networks {
		for part := range strings.SplitSeq(value, ",") {
			if part == name+"="+netID(i) {
				return &vm.Networks[i]
			}
		}
	}
	return nil
}
