package spec

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/layer"
)

// Network is one Network= line.
type Network struct {
	// Kind is "user", "tap", "bridge" or "macvtap".
	Kind string
	// Parent is the bridge of a tap, or the interface below a macvtap.
	Parent string
	// Name is that of the interface on the host; a user network has none. Named: the
	// line says it.
	Name  string
	Named bool
	// MAC is the guest's address, in lower case with colons.
	MAC string
	// Queues are pairs of one for each direction.
	Queues int
	// VHost is "auto", "yes" or "no"; Mode is that of a macvtap, empty where somebody
	// else makes it.
	VHost, Mode string
	// MTU is in bytes; 0: what the interface has by itself.
	MTU int
	// External: somebody else makes the interface, and removes it.
	External bool
	From     From
}

// UserNetwork is the kind that is in the hypervisor's process.
const UserNetwork = "user"

const (
	// MaxInterface is the longest name of an interface in bytes (IFNAMSIZ without
	// its NUL).
	MaxInterface = 15
	// MaxQueues is well below what a tap takes (256, MAX_TAP_QUEUES) and a message
	// that passes descriptors on (253, SCM_MAX_FD).
	MaxQueues = 64
	// MinMTU is what IPv6 asks of every link (RFC 8200).
	MinMTU = 1280
	// MaxMTU is what a tap takes: 65535 bytes without the Ethernet header.
	MaxMTU = 65521
	// maxUserMTU is what the network in a hypervisor's process passes on.
	maxUserMTU = 1500
)

// MacVTapModes are the values of mode=, the default first.
func MacVTapModes() []string { return []string{"bridge", "private", "vepa", "passthru"} }

// VHosts are the values of vhost=, the default first.
func VHosts() []string { return []string{"auto", "yes", "no"} }

const acceptedNetwork = "accepted: user[:OPTION,…], tap[:OPTION,…], bridge:BRIDGE[,OPTION…], macvtap:LINK[,OPTION…]"

func networkRows() []Row {
	return []Row{{
		Name: "Network", Merge: layer.List, Form: "KIND[:OPTION,…]", Words: []string{"user", "tap", "bridge:", "macvtap:"}, Accepted: acceptedNetwork,
		Help: "A network of the guest. user: one in the hypervisor's process, by which the guest reaches what this host reaches, at 10.0.2.2 also what listens on this host's own 127.0.0.1 (IPAddressDeny= in [Service] says what not), and is itself reached by PublishPort= alone. " +
			"tap: an interface of this host, which somebody else gives an address or a bridge. bridge:BRIDGE: a tap that is attached to the bridge of that name. " +
			"macvtap:LINK: a second address of the interface LINK; this host itself cannot reach it. " +
			"Options, separated by commas: mac=MAC, the guest's address; mtu=N, in bytes. And for all but user: name=INTERFACE, at most 15 bytes; queues=N, pairs of queues, of which no more are of use than there are processors; " +
			"vhost=auto, yes or no: the host's kernel moves the packets, by default where it can. mode=bridge, private, vepa or passthru is that of a macvtap. " +
			"Without mac= the address is 02: and the first five bytes of the SHA-256 sum of NAME/N, where N counts the networks of the VM from 0; without name= the interface is called vmN-NAME, or, " +
			"where that is too long, vmN_ with the beginning of the name and of the sum. Interfaces are made when the VM starts and removed when it has ended. " +
			"external, for a tap or a macvtap with name=: somebody else makes the interface before the VM starts, and removes it. Nothing of it is changed, and root does nothing for it: the VM's own user opens it, and must be allowed to. " +
			"A macvtap then has the mode that it has, and mac= says its address; mtu= and queues= say what the interface has.",
		apply: func(r *reader, value string, from From) error {
			expanded, err := r.Identity.Expand(value)
			if err != nil {
				return err
			}
			n, err := ParseNetwork(expanded)
			if err != nil {
				return err
			}
			n.From = from
			n.complete(r.Identity.Name, len(r.vm.Networks))
			r.vm.Networks = append(r.vm.Networks, n)
			return nil
		},
	}, portRow()}
}

// ParseNetwork reads the value of a line. Name and MAC are empty where it does not
// say them.
func ParseNetwork(s string) (Network, error) {
	kind, rest, hasRest := strings.Cut(s, ":")
	n := Network{Kind: kind}
	var options []string
	if hasRest {
		options = strings.Split(rest, ",")
	}
	switch kind {
	case UserNetwork:
	case "tap":
		n.Queues, n.VHost = 1, VHosts()[0]
	case "bridge", "macvtap":
		if rest == "" {
			return n, fmt.Errorf("it does not say which interface")
		}
		if err := CheckInterface(options[0]); err != nil {
			return n, err
		}
		n.Parent, options = options[0], options[1:]
		n.Queues, n.VHost = 1, VHosts()[0]
	default:
		return n, fmt.Errorf("not a kind of network")
	}
	var seen []string
	for _, option := range options {
		name, value, hasValue := strings.Cut(option, "=")
		if slices.Contains(seen, name) {
			return n, fmt.Errorf("the option %s stands twice", name)
		}
		seen = append(seen, name)
		if err := n.option(name, value, hasValue); err != nil {
			return n, err
		}
	}
	if n.External {
		return n, n.checkExternal()
	}
	if n.Kind == "macvtap" && n.Mode == "" {
		n.Mode = MacVTapModes()[0]
	}
	return n, nil
}

// checkExternal refuses what is not ours to say of an interface that somebody else
// makes, and demands what only the line can say.
func (n *Network) checkExternal() error {
	switch {
	case n.Kind == "bridge":
		return &valueError{"whoever makes the interface also attaches it to a bridge", "accepted: tap:name=INTERFACE,external"}
	case !n.Named:
		return &valueError{"external: it does not say which interface", "accepted: name=INTERFACE beside it"}
	case n.Mode != "":
		return &valueError{"mode= is up to whoever makes the interface", "accepted: external without mode="}
	case n.Kind == "macvtap" && n.MAC == "":
		return &valueError{"external: a macvtap takes only what is sent to its own address, and the line does not say which that is", "accepted: mac=MAC beside it, as ip link show has it"}
	}
	return nil
}

// option takes one option. Those that name something on this host are not for a user
// network, which has nothing there.
func (n *Network) option(name, value string, hasValue bool) error {
	var err error
	user := n.Kind == UserNetwork
	switch {
	case name == "":
		return fmt.Errorf("an option is empty")
	case name == "external" && !user && !hasValue:
		n.External = true
	case !hasValue && slices.Contains([]string{"mac", "mtu", "name", "queues", "vhost", "mode"}, name):
		return fmt.Errorf("the option %s has no value", name)
	case name == "mac":
		n.MAC, err = ParseMAC(value)
	case name == "mtu":
		most := MaxMTU
		if user {
			most = maxUserMTU
		}
		if n.MTU, err = ParseInt(value, MinMTU, most); err != nil {
			err = &valueError{"mtu=: " + err.Error(), fmt.Sprintf("accepted: %d to %d", MinMTU, most)}
		}
	case user && slices.Contains([]string{"name", "queues", "vhost", "external"}, name), n.Kind != "macvtap" && name == "mode":
		return fmt.Errorf("the option %s is not for %s", name, n.Kind)
	case name == "name":
		n.Name, n.Named, err = value, true, CheckInterface(value)
	case name == "queues":
		if n.Queues, err = ParseInt(value, 1, MaxQueues); err != nil {
			err = &valueError{"queues=: " + err.Error(), fmt.Sprintf("accepted: 1 to %d", MaxQueues)}
		}
	case name == "vhost":
		if n.VHost, err = ParseWordOf(value, VHosts()...); err != nil {
			err = &valueError{"vhost=: " + err.Error(), "accepted: " + list(VHosts())}
		}
	case name == "mode":
		if n.Mode, err = ParseWordOf(value, MacVTapModes()...); err != nil {
			err = &valueError{"mode=: " + err.Error(), "accepted: " + list(MacVTapModes())}
		}
	case name == "external":
		return fmt.Errorf("the option external has no value")
	default:
		return fmt.Errorf("unknown option %q", name)
	}
	return err
}

// complete gives a network what its line does not say, by the VM's name and the
// number of the network: the same at every start and on every host.
func (n *Network) complete(vm string, index int) {
	sum := sha256.Sum256([]byte(vm + "/" + strconv.Itoa(index)))
	if n.MAC == "" {
		// Locally administered, of one station.
		n.MAC = macText(append([]byte{2}, sum[:5]...))
	}
	if n.Kind == UserNetwork || n.Name != "" {
		return
	}
	// The number comes first, so that no two names are one: that of a VM may end in
	// a number too. In a hashed name the sign behind it is another.
	head := "vm" + strconv.Itoa(index)
	if n.Name = head + "-" + vm; len(n.Name) <= MaxInterface {
		return
	}
	const digits = 6
	room := MaxInterface - len(head) - 1 - digits
	n.Name = head + "_" + vm[:min(len(vm), room)] + hex.EncodeToString(sum[:digits/2])
}

// ParseMAC reads the address of one station, six bytes in hexadecimal with colons
// between, and returns it in lower case.
func ParseMAC(s string) (string, error) {
	accepted := "accepted: six bytes such as 02:00:00:00:00:01"
	mac, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
	switch {
	case err != nil || len(mac) != 6 || macText(mac) != strings.ToLower(s):
		return "", &valueError{"not a MAC address", accepted}
	case mac[0]&1 != 0:
		return "", &valueError{"a MAC address of many stations (multicast), and the guest is one", accepted + "; the first byte is even"}
	case strings.Trim(s, "0:") == "":
		return "", &valueError{"a MAC address of zeros is none", accepted}
	}
	return macText(mac), nil
}

func macText(mac []byte) string {
	bytes := make([]string, len(mac))
	for i := range mac {
		bytes[i] = hex.EncodeToString(mac[i : i+1])
	}
	return strings.Join(bytes, ":")
}

// CheckInterface says what is wrong with the name of an interface, or nil: what
// Linux refuses (dev_valid_name in net/core/dev.c), what it would fill in (%), and
// what would disturb a terminal.
func CheckInterface(name string) error {
	accepted := fmt.Sprintf("accepted: at most %d letters, digits, dots, dashes and underlines", MaxInterface)
	switch {
	case name == "":
		return &valueError{"the name of an interface is empty", accepted}
	case len(name) > MaxInterface:
		return &valueError{fmt.Sprintf("the name of an interface with %d bytes, and Linux takes %d", len(name), MaxInterface), accepted}
	case name == "." || name == "..":
		return &valueError{"not the name of an interface", accepted}
	case strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`/:%`, r) }):
		return &valueError{"the name of an interface with a character that is not for one", accepted}
	}
	return nil
}

// checkNetworks refuses one address, or one name of an interface, twice.
func (r *reader) checkNetworks(resolved *layer.Resolved) {
	for i := range r.vm.Networks {
		n := &r.vm.Networks[i]
		for j := range i {
			other := &r.vm.Networks[j]
			if n.MAC == other.MAC {
				n.From.Errorf(r.problems, "give each network a mac= of its own", "the same MAC address as at %s", other.From.Origin)
			}
			if n.Name != "" && n.Name == other.Name {
				n.From.Errorf(r.problems, "give each network a name= of its own", "the interface has the same name, %s, as that at %s", n.Name, other.From.Origin)
			}
		}
	}
	r.checkPorts(resolved)
}
