package fake

import (
	"encoding/json"
	"fmt"
	"math/bits"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	minMTU       = 1280 // virtio-devices/src/net.rs
	vnetHeader   = 12   // virtio_net_hdr_v1
	nameLimit    = unix.IFNAMSIZ - 1
	ownTapNames  = "vmtap%d"
	netNamespace = "/sys/class/net/"
)

// netSettings are a network device. Its descriptors are never in a body: they come
// over the socket, with vm.add-net alone.
type netSettings struct {
	pciSettings
	Tap         *string `json:"tap"`
	IP          *string `json:"ip"`
	Mask        *string `json:"mask"`
	MAC         string  `json:"mac"`
	HostMAC     *string `json:"host_mac"`
	MTU         *uint16 `json:"mtu"`
	Queues      uint64  `json:"num_queues"`
	QueueSize   uint16  `json:"queue_size"`
	VhostUser   bool    `json:"vhost_user"`
	VhostSocket *string `json:"vhost_socket"`
	Limiter     any     `json:"rate_limiter_config"`
	TSO         bool    `json:"offload_tso"`
	UFO         bool    `json:"offload_ufo"`
	CSUM        bool    `json:"offload_csum"`
	FDs         []int   `json:"fds"` // ours; those that are in use
}

// mac is an address of six bytes in hexadecimal.
func mac() scalar {
	return scalar{expected: "a string", late: true, check: func(s string) string {
		parts := strings.Split(s, ":")
		ok := len(parts) == 6
		for _, p := range parts {
			_, err := strconv.ParseUint(p, 16, 8)
			ok = ok && err == nil && len(p) == 2
		}
		if !ok {
			return "The provided MAC address is invalid: parsing of " + s + " into a MAC address failed"
		}
		return ""
	}}
}

func address() scalar {
	return scalar{expected: "IP address", check: func(s string) string {
		if net.ParseIP(s) == nil {
			return "invalid IP address syntax"
		}
		return ""
	}}
}

// checkNets is what is said of network devices before a VM is built, and before one
// is added.
func (s *settings) checkNets(ids map[string]bool) string {
	for i := range s.Nets {
		if words := s.checkNet(&s.Nets[i]); words != "" {
			return words
		}
		if words := checkID(s.Nets[i].ID, ids); words != "" {
			return words
		}
	}
	return ""
}

func (s *settings) checkNet(n *netSettings) string {
	if n.VhostUser {
		switch {
		case !s.sharedMemory():
			return needsSharedMemory
		case n.VhostSocket == nil:
			return "No socket provided when using vhost-user"
		case n.Limiter != nil:
			return "Rate limiting is not supported with vhost-user"
		}
	}
	if words := s.checkPlace(n.pciSettings); words != "" {
		return words
	}
	switch given := uint64(2 * len(n.FDs)); {
	case n.Queues < 2:
		return fmt.Sprintf("Number of queues (%d) to virtio_net should be higher than 2", n.Queues)
	case given > 0 && given != n.Queues:
		return fmt.Sprintf("Number of queues (%d) to virtio_net does not match the number of FDs (%d)", n.Queues, given)
	case n.Queues/2 > uint64(s.CPUs.Boot):
		return fmt.Sprintf("Queue count (%d) must not exceed boot vCPUs (%d)", n.Queues, s.CPUs.Boot)
	case bits.OnesCount16(n.QueueSize) != 1:
		return fmt.Sprintf("Queue size must be a power of 2 no greater than 32768: %d", n.QueueSize)
	case n.VhostUser && n.IOMMU:
		return "Device does not support being placed behind IOMMU"
	case n.MTU != nil && *n.MTU < minMTU:
		return fmt.Sprintf("Provided MTU %d is lower than 1280 (expected by VIRTIO specification)", *n.MTU)
	case !n.CSUM && (n.TSO || n.UFO):
		return `"offload_tso" and "offload_ufo" depend on "offload_csum"`
	case n.Mask != nil && n.IP == nil:
		return "Mask provided without an IP"
	case n.IP != nil && n.Mask == nil:
		return "IP provided without a mask"
	}
	return ""
}

// addNet is vm.add-net: a device more, with the descriptors that came along. Where
// none came, the machine will make an interface of its own, without a word.
func (v *vmm) addNet(r request) response {
	n, problem := parseJSON(r.body)
	var decoded any
	if problem == nil {
		decoded, problem = netConfig().decode(n)
	}
	if problem != nil {
		return v.refused(400, []string{"Failed to deserialize JSON", problem.complete(r.body)})
	}
	const what = "The network device could not be added to the VM"
	shown, _ := decoded.(*object)
	v.log.info("vmm/src/api/mod.rs:1025", "API request event: VmAddNet "+debug(shown))
	if v.config == nil {
		return v.failed(notCreated().under(what))
	}
	v.dropFDs(shown)
	kept, err := keepFDs(r.files)
	if err != nil {
		return v.failed(fail("the stand-in cannot keep the descriptors: " + err.Error()).under(what))
	}
	if len(kept) > 0 {
		numbers := make([]any, len(kept))
		for i, fd := range kept {
			numbers[i] = json.Number(strconv.Itoa(fd))
		}
		shown.insert("fds", numbers, netConfig())
	}
	device, err := netFrom(shown)
	if err != nil {
		return v.failed(fail(err.Error()).under(what))
	}
	changed := v.config.set
	changed.Nets = append(append([]netSettings{}, changed.Nets...), device)
	if f := changed.validate(); f != nil {
		return v.failed(f.under(what)) // and nobody closes the descriptors
	}
	v.config.fds = append(v.config.fds, kept...)
	place := ""
	if v.machine != nil {
		if f := v.machine.plugNet(&device, shown); f != nil {
			return v.failed(f.under(what, "Error from device manager"))
		}
		place = fmt.Sprintf("0000:00:%02x.0", len(v.machine.devices))
	}
	v.config.set.Nets = append(v.config.set.Nets, device)
	all, _ := v.config.shown.get("net").([]any)
	v.config.shown.insert("net", append(all, shown), vmConfig())
	if place == "" {
		return answer(204, nil)
	}
	body, _ := json.Marshal(struct { // both are strings
		ID  string `json:"id"`
		BDF string `json:"bdf"`
	}{*device.ID, place})
	return answer(200, body)
}

func netFrom(shown *object) (netSettings, error) {
	var device netSettings
	text, err := json.Marshal(shown)
	if err == nil {
		err = json.Unmarshal(text, &device)
	}
	return device, err
}

// dropFDs: numbers in a body mean nothing, and it says so.
func (v *vmm) dropFDs(device *object) {
	if device.get("fds") == nil {
		return
	}
	id := "None"
	if s, ok := device.get("id").(string); ok {
		id = "Some(" + quote(s) + ")"
	}
	v.log.warn("vmm/src/api/http/http_endpoint.rs:188", "FD numbers were present in HTTP request body for device "+id+" but will be ignored")
	device.remove("fds")
}

// keepFDs keeps the descriptors over the end of the request. None becomes one of
// the first three.
func keepFDs(files []*os.File) ([]int, error) {
	var out []int
	for _, f := range files {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			closeFDs(out)
			return nil, err
		}
		out = append(out, fd)
	}
	return out, nil
}

func closeFDs(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// addNets builds the devices that the configuration has. Where one fails, the
// configuration has lost them all.
func (m *machine) addNets() *failure {
	shown, _ := m.vmm.config.shown.get("net").([]any)
	for i := range m.set.Nets {
		if f := m.plugNet(&m.set.Nets[i], shown[i].(*object)); f != nil {
			m.vmm.config.shown.remove("net")
			m.set.Nets = nil
			return f
		}
	}
	return nil
}

// plugNet opens what is behind a device.
func (m *machine) plugNet(n *netSettings, shown *object) *failure {
	m.identify(&n.pciSettings, "net", shown)
	if n.VhostUser {
		return fail("the stand-in does not play net.vhost_user")
	}
	if len(n.FDs) > 0 {
		for _, fd := range n.FDs {
			if f := m.attach(fd, len(n.FDs)); f != nil {
				return f.under("Cannot create virtio-net device", "Using existing tap")
			}
		}
		if n.MTU != nil {
			if f := setMTU(m.taps[len(m.taps)-len(n.FDs)], int(*n.MTU)); f != nil {
				return f.under("Cannot create virtio-net device", "Using existing tap")
			}
		}
		m.add(*n.ID)
		return nil
	}
	name := ownTapNames
	if n.Tap != nil {
		name = *n.Tap
	}
	for range n.Queues / 2 {
		f, real := m.openTap(name, n.Queues > 3)
		if f != nil {
			return f.under("Cannot create virtio-net device", "Failed to open taps")
		}
		name = real
	}
	if n.MTU != nil {
		if f := setMTU(m.taps[len(m.taps)-1], int(*n.MTU)); f != nil {
			return f.under("Cannot create virtio-net device", "Failed to open taps", "Setting MTU failed")
		}
	}
	m.add(*n.ID)
	return nil
}

// attach takes a copy of a descriptor, as at every boot, so that it is there for
// the next one.
func (m *machine) attach(fd, queues int) *failure {
	copied, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return fail("Error calling dup() on tap fd", osError(err))
	}
	tap := os.NewFile(uintptr(copied), "tap")
	m.taps = append(m.taps, tap)
	if err := unix.SetNonblock(copied, true); err != nil {
		return fail("Unable to configure tap interface", osError(err))
	}
	request, _ := unix.NewIfreq("")
	if err := unix.IoctlIfreq(copied, unix.TUNGETIFF, request); err != nil {
		return ioctlFailed(unix.TUNGETIFF, err)
	}
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if queues > 1 {
		flags |= unix.IFF_MULTI_QUEUE
	}
	request.SetUint16(flags)
	if err := unix.IoctlIfreq(copied, unix.TUNSETIFF, request); err != nil && err != unix.EEXIST {
		return fail("Unable to configure tap interface", osError(err))
	}
	if err := unix.IoctlSetPointerInt(copied, unix.TUNSETVNETHDRSZ, vnetHeader); err != nil {
		return ioctlFailed(unix.TUNSETVNETHDRSZ, err)
	}
	return nil
}

// openTap opens an interface by name, or makes it.
func (m *machine) openTap(name string, several bool) (*failure, string) {
	if f := checkQueues(name, several); f != nil {
		return f, ""
	}
	if len(name) > nameLimit {
		return fail("Open tap device failed", fmt.Sprintf("Interface name too long (max length is %d): %s", nameLimit, name)), ""
	}
	tap, err := os.OpenFile("/dev/net/tun", os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return fail("Open tap device failed", "Couldn't open /dev/net/tun", osError(err)), ""
	}
	m.taps = append(m.taps, tap)
	request, err := unix.NewIfreq(name)
	if err != nil {
		return fail("Open tap device failed", "Interface name contains interior NUL byte: "+quote(name)), ""
	}
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if several {
		flags |= unix.IFF_MULTI_QUEUE
	}
	request.SetUint16(flags)
	if err := unix.IoctlIfreq(int(tap.Fd()), unix.TUNSETIFF, request); err != nil {
		return fail("Open tap device failed", "Unable to configure tap interface", osError(err)), ""
	}
	return nil, request.Name()
}

func checkQueues(name string, several bool) *failure {
	text, err := os.ReadFile(netNamespace + name + "/tun_flags")
	if err != nil {
		return nil // it is not there yet
	}
	flags, err := strconv.ParseUint(strings.TrimPrefix(strings.TrimSpace(string(text)), "0x"), 16, 32)
	has := flags&unix.IFF_MULTI_QUEUE != 0
	switch {
	case err != nil:
		return fail("Failed to convert an hexadecimal string into an integer", err.Error())
	case has && !several:
		return fail("Error related to the multiqueue support (no support device side)")
	case !has && several:
		return fail("Error related to the multiqueue support (no support TAP side)")
	}
	return nil
}

// setMTU goes by the name of the interface, in the network namespace of the process,
// which need not be that of the interface.
func setMTU(tap *os.File, mtu int) *failure {
	request, _ := unix.NewIfreq("")
	if err := unix.IoctlIfreq(int(tap.Fd()), unix.TUNGETIFF, request); err != nil {
		return ioctlFailed(unix.TUNGETIFF, err)
	}
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fail("Failed to create a socket", osError(err))
	}
	defer unix.Close(socket)
	request.SetUint32(uint32(mtu))
	if err := unix.IoctlIfreq(socket, unix.SIOCSIFMTU, request); err != nil {
		return ioctlFailed(unix.SIOCSIFMTU, err)
	}
	return nil
}

func ioctlFailed(number uint, err error) *failure {
	return fail(fmt.Sprintf("Ioctl failed (%d)", number), osError(err))
}
