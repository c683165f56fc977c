package spec

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/layer"
)

// Ports are those of one PublishPort= line: Count of them from Host on lead to as
// many of the guest's from Guest on.
type Ports struct {
	// Address is the one of this host's; not valid for all of IPv4.
	Address            netip.Addr
	Host, Guest, Count int
	// Protocol is "tcp" or "udp".
	Protocol string
	From     From
}

// MaxPorts is how many ports a VM may publish: each stands in the plan, and on the
// hypervisor's command line.
const MaxPorts = 512

const acceptedPort = "accepted: [IP:]HOSTPORT:GUESTPORT[/tcp|udp], and FIRST-LAST for either port; an address of IPv6 stands in brackets"

func portRow() Row {
	return Row{
		Name: "PublishPort", Merge: layer.List, Form: "[IP:]HOSTPORT:GUESTPORT[/PROTOCOL]", Accepted: acceptedPort,
		Help: "Has the hypervisor listen on a port of this host and pass on to the guest what comes there, by its network of the kind user, of which there has to be one. " +
			"As with Podman: without IP on all addresses of this host; PROTOCOL is tcp (default) or udp; 8000-8009:80-89 are ten ports. " +
			"Unlike there the port of this host has to be said.",
		apply: func(r *reader, value string, from From) error {
			expanded, err := r.Identity.Expand(value)
			if err != nil {
				return err
			}
			p, err := ParsePorts(expanded)
			if err != nil {
				return err
			}
			p.From = from
			r.vm.Ports = append(r.vm.Ports, p)
			return nil
		},
	}
}

// ParsePorts reads [IP:]HOSTPORT:GUESTPORT[/PROTOCOL].
func ParsePorts(s string) (Ports, error) {
	p := Ports{Protocol: "tcp"}
	ports, protocol, has := strings.Cut(s, "/")
	if has {
		if p.Protocol = protocol; protocol != "tcp" && protocol != "udp" {
			return p, fmt.Errorf("the protocol is neither tcp nor udp")
		}
	}
	cut := strings.LastIndexByte(ports, ':')
	if cut < 0 {
		return p, fmt.Errorf("it does not say the port of this host")
	}
	host, guest := ports[:cut], ports[cut+1:]
	if cut = strings.LastIndexByte(host, ':'); cut >= 0 {
		var err error
		if p.Address, err = parseListen(host[:cut]); err != nil {
			return p, err
		}
		host = host[cut+1:]
	}
	if host == "" {
		return p, fmt.Errorf("it does not say the port of this host")
	}
	var hosts, guests int
	var err error
	if p.Host, hosts, err = parseRange(host); err != nil {
		return p, fmt.Errorf("the port of this host: %w", err)
	}
	if p.Guest, guests, err = parseRange(guest); err != nil {
		return p, fmt.Errorf("the guest's port: %w", err)
	}
	if hosts != guests {
		return p, fmt.Errorf("%d ports of this host, and %d of the guest's", hosts, guests)
	}
	p.Count = hosts
	return p, nil
}

// parseListen reads an address to listen on; one of IPv6 has brackets.
func parseListen(s string) (netip.Addr, error) {
	inner, opened := strings.CutPrefix(s, "[")
	inner, closed := strings.CutSuffix(inner, "]")
	a, err := netip.ParseAddr(inner)
	switch {
	case err != nil, opened != closed:
		return a, fmt.Errorf("not an address")
	case a.Is6() != opened:
		return a, fmt.Errorf("an address of IPv6 stands in brackets, and no other")
	case a.Zone() != "" || a.IsMulticast():
		return a, fmt.Errorf("not an address of this host")
	}
	return a, nil
}

// parseRange reads a port, or FIRST-LAST.
func parseRange(s string) (first, count int, err error) {
	begin, end, isRange := strings.Cut(s, "-")
	if first, err = parsePort(begin); err != nil || !isRange {
		return first, 1, err
	}
	last, err := parsePort(end)
	if err == nil && last < first {
		err = fmt.Errorf("the last is before the first")
	}
	return first, last - first + 1, err
}

func parsePort(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || !decimal(s) || n < 1 || n > 65535 {
		return 0, fmt.Errorf("not a number from 1 to 65535")
	}
	return n, nil
}

// checkPorts refuses ports without the one network that passes them on, and one
// port of the host twice.
func (r *reader) checkPorts(resolved *layer.Resolved) {
	var users []From
	for _, n := range r.vm.Networks {
		if n.Kind == UserNetwork {
			users = append(users, n.From)
		}
	}
	none := "none"
	if g := resolved.Group(Section, "Network"); g != nil && len(r.vm.Networks) == 0 {
		for _, e := range g.Entries {
			if e.Fate == layer.Clears {
				none = "none (" + e.Origin.String() + ")"
			}
		}
	}
	total := 0
	for i := range r.vm.Ports {
		p := &r.vm.Ports[i]
		switch {
		case len(users) == 0:
			p.From.Errorf(r.problems, "add Network=user, or reach the guest by its own address", "ports are published by a network of the kind user, and the VM has %s", none)
		case len(users) > 1:
			p.From.Errorf(r.problems, "keep one of them", "ports are published by the one network of the kind user, and the VM has %d (%s, %s)", len(users), users[0].Origin, users[1].Origin)
		}
		if total += p.Count; total > MaxPorts && total-p.Count <= MaxPorts {
			p.From.Errorf(r.problems, fmt.Sprintf("accepted: at most %d ports in all", MaxPorts), "more ports than can be published")
		}
		for j := range i {
			if other := &r.vm.Ports[j]; p.overlaps(other) {
				p.From.Errorf(r.problems, "publish each port of this host once", "the same port of this host as at %s", other.From.Origin)
			}
		}
	}
}

// overlaps reports whether two lines want one port of the host.
func (p *Ports) overlaps(other *Ports) bool {
	if p.Protocol != other.Protocol || p.Host >= other.Host+other.Count || other.Host >= p.Host+p.Count {
		return false
	}
	all := func(a netip.Addr) bool { return !a.IsValid() || a.IsUnspecified() }
	six := func(a netip.Addr) bool { return a.IsValid() && a.Is6() }
	return p.Address == other.Address || six(p.Address) == six(other.Address) && (all(p.Address) || all(other.Address))
}
