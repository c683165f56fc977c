package plan

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/spec"
)

// The kinds of a network.
const (
	// UserNetwork is one in the hypervisor's process, which needs no rights: what
	// the guest sends leaves the host as if that process had sent it.
	UserNetwork = "user"
	// Tap is an interface of the host, with the guest at its other end; MacVTap one
	// that is a second address of another interface.
	Tap     = "tap"
	MacVTap = "macvtap"
)

// Network is a network of the guest.
type Network struct {
	Kind string `json:"kind"`
	// Name is that of the interface on the host; a user network has none.
	Name string `json:"name,omitempty"`
	// Bridge is the interface to which a tap is attached; empty for none. Link is the
	// interface below a macvtap, and Mode how it shares that: "bridge", "private",
	// "vepa" or "passthru".
	Bridge string `json:"bridge,omitempty"`
	Link   string `json:"link,omitempty"`
	Mode   string `json:"mode,omitempty"`
	// MAC is the guest's address.
	MAC string `json:"mac"`
	// Queues are pairs of one for each direction; each is a descriptor.
	Queues int `json:"queues,omitempty"`
	// VHost says whether the host's kernel moves the packets: "yes", "no", or "auto"
	// where it can.
	VHost string `json:"vhost,omitempty"`
	// MTU is in bytes; 0 is the interface's own.
	MTU int `json:"mtu,omitempty"`
	// ByName: the hypervisor opens the tap itself, by its name. Else it gets
	// descriptors.
	ByName bool `json:"by_name,omitempty"`
	// External: somebody else makes the interface, and removes it. Whoever starts the
	// hypervisor opens it, with no more rights than it has.
	External bool   `json:"external,omitempty"`
	From     string `json:"from"`
}

// ByDescriptor reports whether the hypervisor inherits or is sent the interface,
// a descriptor for each pair of queues.
func (n *Network) ByDescriptor() bool { return n.Kind != UserNetwork && !n.ByName }

// Made reports whether root makes the interface.
func (n *Network) Made() bool { return n.Kind != UserNetwork && !n.External }

// Port is a port of this host that leads to one of the guest's.
type Port struct {
	// Address is the one of the host's; empty for all of IPv4.
	Address string `json:"address,omitempty"`
	Host    int    `json:"host"`
	Guest   int    `json:"guest"`
	// Protocol is "tcp" or "udp".
	Protocol string `json:"protocol"`
	From     string `json:"from"`
}

// String is the port as PublishPort= has it.
func (p *Port) String() string {
	s := fmt.Sprintf("%d:%d/%s", p.Host, p.Guest, p.Protocol)
	if p.Address != "" {
		s = p.Address + ":" + s
	}
	return s
}

func (e *encoder) network(n *Network) {
	e.begin()
	e.text("kind", n.Kind)
	e.textIfSet("name", n.Name)
	e.textIfSet("bridge", n.Bridge)
	e.textIfSet("link", n.Link)
	e.textIfSet("mode", n.Mode)
	e.text("mac", n.MAC)
	e.numberIfSet("queues", int64(n.Queues))
	e.textIfSet("vhost", n.VHost)
	e.numberIfSet("mtu", int64(n.MTU))
	e.trueIfSet("by_name", n.ByName)
	e.trueIfSet("external", n.External)
	e.from(n.From)
	e.end()
}

func (e *encoder) port(p *Port) {
	e.begin()
	e.textIfSet("address", p.Address)
	e.number("host", int64(p.Host))
	e.number("guest", int64(p.Guest))
	e.text("protocol", p.Protocol)
	e.from(p.From)
	e.end()
}

// checkNetworks refuses interfaces that root would make, and addresses that a guest
// would have, which no file can ask for.
func checkNetworks(vm *VM) error {
	users := 0
	for i := range vm.Networks {
		n := &vm.Networks[i]
		if err := n.check(); err != nil {
			return fmt.Errorf("vm.networks[%d]: %w", i, err)
		}
		for _, other := range vm.Networks[:i] {
			switch {
			case n.From == other.From:
				return fmt.Errorf("vm.networks[%d]: it has the line of another", i)
			case n.MAC == other.MAC, n.Name != "" && n.Name == other.Name:
				return fmt.Errorf("vm.networks[%d]: it has the name or the address of another", i)
			}
		}
		if n.Kind == UserNetwork {
			users++
		}
	}
	for i, p := range vm.Ports {
		at := fmt.Sprintf("vm.ports[%d]", i)
		if _, err := netip.ParseAddr(p.Address); err != nil && p.Address != "" {
			return fmt.Errorf("%s: not an address", at)
		}
		switch {
		case min(p.Host, p.Guest) < 1 || max(p.Host, p.Guest) > math.MaxUint16:
			return fmt.Errorf("%s: not a port", at)
		case p.Protocol != "tcp" && p.Protocol != "udp":
			return fmt.Errorf("%s: this version of Ampoule knows the protocols tcp and udp", at)
		case users != 1:
			return fmt.Errorf("%s: ports are those of one user network, and there are %d", at, users)
		}
	}
	return nil
}

func (n *Network) check() error {
	if _, err := spec.ParseMAC(n.MAC); err != nil {
		return fmt.Errorf("the MAC address: %w", err)
	}
	if n.MTU != 0 && (n.MTU < spec.MinMTU || n.MTU > spec.MaxMTU) {
		return fmt.Errorf("an MTU of %d bytes", n.MTU)
	}
	if n.Kind == UserNetwork {
		if bare := (Network{Kind: n.Kind, MAC: n.MAC, MTU: n.MTU, From: n.From}); *n != bare {
			return fmt.Errorf("a user network has no interface on the host")
		}
		return nil
	}
	for _, name := range []string{n.Name, n.Bridge, n.Link} {
		if err := spec.CheckInterface(name); err != nil && (name != "" || n.Name == "") {
			return fmt.Errorf("the name of an interface: %w", err)
		}
	}
	switch {
	case n.Kind != Tap && n.Kind != MacVTap:
		return fmt.Errorf("this version of Ampoule knows the kinds user, tap and macvtap")
	case n.Kind == Tap && (n.Link != "" || n.Mode != ""):
		return fmt.Errorf("a tap is not above another interface")
	case n.External && (n.Bridge != "" || n.Mode != ""):
		return fmt.Errorf("bridge and mode of an interface are up to whoever makes it")
	case n.Kind == MacVTap && (n.Link == "" || !n.External && !slices.Contains(spec.MacVTapModes(), n.Mode) || n.Bridge != "" || n.ByName):
		return fmt.Errorf("a macvtap is above another interface, in a mode, and on no bridge")
	case n.Queues < 1 || n.Queues > spec.MaxQueues:
		return fmt.Errorf("%d queues", n.Queues)
	case n.ByName && n.Queues > 1:
		return fmt.Errorf("an interface that is opened by its name has one queue")
	case !slices.Contains(spec.VHosts(), n.VHost):
		return fmt.Errorf("vhost is neither auto, yes nor no")
	}
	return nil
}

// checkNetworkWords demands the place of a network's descriptors, and a network
// behind the part.
func checkNetworkWords(vm *VM, part Part) error {
	if err := vm.sends(part.From); err != nil {
		return err
	}
	words := strings.Join(part.Words, "\n")
	if strings.Count(words, "{fds}") != 1 {
		return fmt.Errorf("the words have not one {fds} in them")
	}
	optional, found, whole := vhostPiece(words)
	if found && !(whole && strings.Count(optional, "{vhostfds}") == 1 && strings.Count(words, "{vhostfds}") == 1) || !found && strings.Contains(words, "{vhostfds}") {
		return fmt.Errorf("the words have not one {vhostfds} in one pair of brackets")
	}
	return nil
}

// sends says what is wrong with an interface that is to be handed over for the line
// from.
func (vm *VM) sends(from string) error {
	i := slices.IndexFunc(vm.Networks, func(n Network) bool { return n.From == from })
	switch {
	case i < 0:
		return fmt.Errorf("it asks for a network that is not there")
	case !vm.Networks[i].ByDescriptor():
		return fmt.Errorf("it asks for the descriptors of a network that has none")
	}
	return nil
}

// vhostPiece finds the piece in brackets.
func vhostPiece(words string) (piece string, found, whole bool) {
	_, rest, found := strings.Cut(words, "[")
	piece, rest, closed := strings.Cut(rest, "]")
	return piece, found || strings.Contains(words, "]"), found && closed && !strings.ContainsAny(piece+rest, "[]")
}

// FillNetwork writes the words of a part that asks for a network: the numbers of the
// descriptors, and what stands in brackets only where there are vhost descriptors.
func FillNetwork(words []string, fds, vhost string) []string {
	out := make([]string, len(words))
	for i, w := range words {
		before, rest, _ := strings.Cut(w, "[")
		piece, after, _ := strings.Cut(rest, "]")
		if vhost == "" {
			piece = ""
		}
		out[i] = strings.NewReplacer("{fds}", fds, "{vhostfds}", vhost).Replace(before + piece + after)
	}
	return out
}

// checkHandedOver demands that each interface reaches the hypervisor, and once.
func checkHandedOver(vm *VM) error {
	asked := map[string]int{}
	for _, p := range vm.Command {
		if p.Ask == AskNetwork {
			asked[p.From]++
		}
	}
	if vm.API != nil {
		for _, r := range vm.API.Start {
			if r.Ask == "" {
				continue
			}
			if err := vm.sends(r.From); err != nil {
				return fmt.Errorf("vm.api: the request %q: %w", r.Path, err)
			}
			asked[r.From]++
		}
	}
	for i := range vm.Networks {
		if n := &vm.Networks[i]; n.ByDescriptor() && asked[n.From] != 1 {
			return fmt.Errorf("vm.networks[%d]: it is handed over %d times", i, asked[n.From])
		}
	}
	return nil
}
