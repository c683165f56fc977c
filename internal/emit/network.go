package emit

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

// Network shows a network of the guest.
func Network(n plan.Network) string {
	var parts []string
	switch {
	case n.Kind == plan.MacVTap:
		parts = append(parts, "macvtap "+n.Name+" above "+n.Link)
		if n.Mode != "" {
			parts = append(parts, n.Mode)
		}
	case n.Bridge != "":
		parts = append(parts, "tap "+n.Name+" on the bridge "+n.Bridge)
	case n.Kind == plan.Tap:
		parts = append(parts, "tap "+n.Name)
	default:
		parts = append(parts, "in the hypervisor's process")
	}
	if n.External {
		parts = append(parts, "made by others")
	}
	parts = append(parts, n.MAC)
	if n.Queues > 1 {
		parts = append(parts, fmt.Sprintf("%d pairs of queues", n.Queues))
	}
	if n.VHost == "yes" {
		parts = append(parts, "vhost="+n.VHost)
	}
	if n.MTU > 0 {
		parts = append(parts, fmt.Sprintf("MTU %d", n.MTU))
	}
	return strings.Join(parts, ", ")
}

// published shows a port.
func published(p plan.Port) string {
	host := strconv.Itoa(p.Host)
	if p.Address != "" {
		host = hostPort(p.Address, host)
	}
	return fmt.Sprintf("%s to the guest's %d, %s", host, p.Guest, p.Protocol)
}

// hostPort puts an address of IPv6 in brackets.
func hostPort(address, port string) string {
	if strings.Contains(address, ":") {
		address = "[" + address + "]"
	}
	return address + ":" + port
}

// vhost stands for the descriptors of vhost, which with vhost=auto may not be there.
func vhost(vm plan.VM, from string) string {
	auto := func(n plan.Network) bool { return n.From == from && n.VHost == "auto" }
	if slices.ContainsFunc(vm.Networks, auto) {
		return "<descriptors where the host has vhost>"
	}
	return "<descriptors>"
}

// networks opens what the guest's networks need. An interface that root makes and that
// comes by descriptors needs nothing of the host's network, and none of it is opened.
func (s UnitSource) networks() []unitfile.Entry {
	var out []unitfile.Entry
	user, opened := false, map[string]bool{}
	for _, n := range s.Plan.VM.Networks {
		why := s.Plan.Origin(n.From).String() + ", " + plan.KeyOf(n.From) + "="
		if n.Kind != plan.UserNetwork && !n.ByName && !n.External {
			continue
		}
		if !user && len(opened) == 0 {
			out = append(out, entry(why, "PrivateNetwork", "no"))
		}
		if n.Kind == plan.UserNetwork {
			if !user {
				// The empty line takes back what the sandbox denies.
				out = append(out, entry(why, "IPAddressDeny", ""), entry(why, "RestrictAddressFamilies", "AF_INET AF_INET6"))
			}
			user = true
			continue
		}
		for _, device := range interfaceDevices(&n) {
			if !opened[device] {
				out = append(out, entry(why, "DeviceAllow", device+" rw"))
			}
			opened[device] = true
		}
	}
	return out
}
