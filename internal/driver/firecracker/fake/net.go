package fake

import (
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// network is an interface whose tap is open from the PUT on.
type network struct {
	config map[string]any
	tap    *os.File
}

const (
	smallestMTU = 68
	vnetHeader  = 12 // virtio_net_hdr_v1
	nameLimit   = unix.IFNAMSIZ - 1
)

// putNetwork opens the tap, or makes it, in the network namespace of the process.
// One of the same name takes the place of the one before, which is closed first,
// and is gone even where the new one cannot be opened.
func (v *resources) putNetwork(config map[string]any) error {
	mac := optionalString(config["guest_mac"])
	for _, n := range v.networks {
		if other := optionalString(n.config["guest_mac"]); mac != nil && other != nil && *other == *mac && n.config["iface_id"] != config["iface_id"] {
			return wordsf("The MAC address is already in use: %s", *mac)
		}
	}
	at := slices.IndexFunc(v.networks, func(n network) bool { return n.config["iface_id"] == config["iface_id"] })
	if at >= 0 {
		_ = v.networks[at].tap.Close()
		last := len(v.networks) - 1
		v.networks[at] = v.networks[last]
		v.networks = v.networks[:last]
	}
	tap, name, err := openTap(config["host_dev_name"].(string))
	if err != nil {
		return wordsf("Could not create the network device: Open tap device failed: %v", err)
	}
	if mtu, ok := config["mtu"].(uint64); ok && mtu < smallestMTU {
		_ = tap.Close()
		return wordsf("Could not create the network device: MTU %d is out of range [68, 65535]", mtu)
	}
	config["host_dev_name"] = name
	v.networks = append(v.networks, network{config, tap})
	return nil
}

func openTap(name string) (*os.File, string, error) {
	tap, err := os.OpenFile("/dev/net/tun", os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, "", wordsf("Couldn't open /dev/net/tun: %s", osError(err))
	}
	if len(name) > nameLimit {
		_ = tap.Close()
		return nil, "", words("Invalid interface name")
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(int(tap.Fd()), unix.TUNSETIFF, request)
	}
	if err != nil {
		_ = tap.Close()
		return nil, "", wordsf("Error while creating ifreq structure: %s. Invalid TUN/TAP Backend provided by %s. Check our documentation on setting up the network devices.", osError(err), name)
	}
	if err := unix.IoctlSetPointerInt(int(tap.Fd()), unix.TUNSETVNETHDRSZ, vnetHeader); err != nil {
		_ = tap.Close()
		return nil, "", wordsf("Error while setting size of the vnet header: %s", osError(err))
	}
	return tap, request.Name(), nil
}

// macAddress takes six bytes in hexadecimal, and writes them small.
func macAddress(s string) (any, *jsonError) {
	parts := strings.Split(s, ":")
	ok := len(parts) == 6
	for _, p := range parts {
		_, err := strconv.ParseUint(strings.TrimPrefix(p, "+"), 16, 8)
		ok = ok && err == nil && len(p) == 2
	}
	if !ok {
		return nil, &jsonError{text: "The provided MAC address is invalid."}
	}
	return strings.ToLower(s), nil
}
