package fake

import (
	"fmt"
	"math/bits"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	maxVCPUs       = 8192 // with the default features on x86-64
	maxPCISegments = 96
	serialLimit    = 20 // VIRTIO_BLK_ID_BYTES
	pageSize       = 4096
	lowMemory      = 3 << 30
)

// checkMemory is the first thing at vm.boot, before all other checks.
func (s *settings) checkMemory() *failure {
	m := s.Memory
	page, f := s.pageSize()
	if f != nil {
		return f
	}
	words := ""
	switch {
	case m.Size == 0 && len(m.Zones) == 0:
		words = "No memory zones found"
	case m.Size != 0 && m.Zones != nil,
		m.Hotplugged != nil && (m.HotplugSize == nil || *m.Hotplugged > *m.HotplugSize || m.HotplugMethod == "Acpi"):
		words = "Memory configuration is not valid"
	case m.Size%page != 0:
		words = "Memory size is misaligned with default page size or its hugepage size"
	case m.HotplugSize != nil && *m.HotplugSize == 0:
		words = "Invalid size for resizing. Can be anything except 0"
	case m.Size == 0:
		return fail("the stand-in does not play memory.zones")
	}
	if words != "" {
		return fail("Memory manager error", words)
	}
	return s.takePages()
}

// validate checks the configuration when a VM is built.
func (s *settings) validate() *failure {
	ids := map[string]bool{}
	for _, check := range []func(map[string]bool) string{
		func(map[string]bool) string { return s.checkConsoles() },
		func(map[string]bool) string { return s.checkCPUs() },
		s.checkDisks,
		s.checkNets,
		s.checkShares,
		func(ids map[string]bool) string { return s.checkPCI(s.Rng.pciSettings, ids) },
		func(ids map[string]bool) string { return s.checkPCI(s.Console.pciSettings, ids) },
		func(map[string]bool) string { return s.checkTopology() },
		func(map[string]bool) string { return s.checkMemoryFlags() },
		func(map[string]bool) string { return s.checkCID() },
		s.checkBalloon,
		s.checkPassthrough,
		s.checkVsock,
		func(map[string]bool) string { return s.checkPlatform() },
		func(map[string]bool) string { return s.checkRules() },
	} {
		if s.Payload == nil || s.Payload.Kernel == nil && s.Payload.Firmware == nil {
			return fail("Failed to validate config", "Payload configuration is not bootable", "No bootitem provided: neither firmware nor kernel")
		}
		if s.Payload.Kernel != nil && s.Payload.Firmware != nil {
			return fail("Failed to validate config", "Payload configuration is not bootable", "Specifying a kernel is not supported when a firmware is provided")
		}
		if words := check(ids); words != "" {
			return fail("Failed to validate config", words)
		}
	}
	return nil
}

func (s *settings) checkConsoles() string {
	for _, c := range []consoleSettings{s.Console, s.Serial} {
		if c.Mode == "File" && c.File == nil {
			return "Path missing when using file console mode"
		}
	}
	return ""
}

func (s *settings) checkCPUs() string {
	switch c := s.CPUs; {
	case c.Max < c.Boot:
		return fmt.Sprintf("Max CPUs (%d) lower than boot CPUs (%d)", c.Max, c.Boot)
	case c.Max > maxVCPUs:
		return fmt.Sprintf("Too many CPUs: specified %d but %d is the limit", c.Max, maxVCPUs)
	}
	return ""
}

func (s *settings) checkDisks(ids map[string]bool) string {
	for _, d := range s.Disks {
		if d.VhostSocket != nil && d.Path != nil {
			return "Disk path and vhost socket both provided"
		}
		if d.VhostUser && !s.Memory.Shared && !s.Memory.Hugepages {
			return "Using vhost-user requires using shared memory or huge pages"
		}
		if d.VhostUser && d.VhostSocket == nil {
			return "No socket provided when using vhost-user"
		}
		if d.RateLimitGroup != nil {
			return "Invalid rate-limiter group"
		}
		if words := s.checkPlace(d.pciSettings); words != "" {
			return words
		}
		switch {
		case d.Queues > uint64(s.CPUs.Boot):
			return fmt.Sprintf("Queue count (%d) must not exceed boot vCPUs (%d)", d.Queues, s.CPUs.Boot)
		case bits.OnesCount16(d.QueueSize) != 1:
			return fmt.Sprintf("Queue size must be a power of 2 no greater than 32768: %d", d.QueueSize)
		case d.QueueSize <= 2:
			return fmt.Sprintf("Block queue size must be greater than 2: %d", d.QueueSize)
		case d.Serial != nil && len(*d.Serial) > serialLimit:
			return fmt.Sprintf("Block device serial length (%d) exceeds maximum allowed length (%d)", len(*d.Serial), serialLimit)
		}
		if words := checkID(d.ID, ids); words != "" {
			return words
		}
	}
	return ""
}

func (s *settings) checkPCI(p pciSettings, ids map[string]bool) string {
	if words := s.checkPlace(p); words != "" {
		return words
	}
	return checkID(p.ID, ids)
}

// checkPlace looks at where a device is put on the PCI bus.
func (s *settings) checkPlace(p pciSettings) string {
	segments := uint16(1)
	var behind []uint16
	if s.Platform != nil {
		segments, behind = s.Platform.Segments, s.Platform.IOMMUSegments
	}
	if p.Segment >= segments {
		return fmt.Sprintf("Invalid PCI segment id: %d", p.Segment)
	}
	for _, segment := range behind {
		if segment == p.Segment && !p.IOMMU {
			return fmt.Sprintf("Device is on an IOMMU PCI segment (%d) but not placed behind IOMMU", segment)
		}
	}
	switch {
	case p.DeviceID != nil && *p.DeviceID >= 32:
		return fmt.Sprintf("Given PCI device ID (%d) is out of the supported range of 0..32", *p.DeviceID)
	case p.DeviceID != nil && *p.DeviceID == 0:
		return "Given PCI device ID (0) is reserved"
	}
	return ""
}

func checkID(id *string, ids map[string]bool) string {
	switch {
	case id == nil:
	case strings.HasPrefix(*id, "__"):
		return "Identifier " + *id + " is not invalid"
	case ids[*id]:
		return "Identifier " + *id + " is not unique"
	default:
		ids[*id] = true
	}
	return ""
}

func (s *settings) checkTopology() string {
	t := s.CPUs.Topology
	switch {
	case t == nil:
	case t.Threads == 0 || t.Cores == 0 || t.Dies == 0 || t.Packages == 0:
		return "No part of the CPU topology can be zero"
	case t.Threads > 2:
		return "CPU topology supports at most 2 threads per core"
	case uint32(t.Threads)*uint32(t.Cores)*uint32(t.Dies)*uint32(t.Packages) != s.CPUs.Max:
		return "Product of CPU topology parts does not match maximum vCPU"
	}
	return ""
}

func (s *settings) checkMemoryFlags() string {
	switch m := s.Memory; {
	case m.HugepageSize != nil && !m.Hugepages:
		return "Huge page size specified but huge pages not enabled"
	case m.HugepageSize != nil && bits.OnesCount64(*m.HugepageSize) != 1:
		return fmt.Sprintf("Huge page size is not power of 2: %d", *m.HugepageSize)
	case m.Shared && m.Mergeable:
		return "Invalid to set both 'mergeable' and 'shared' for memory"
	}
	return ""
}

func (s *settings) checkVsock(ids map[string]bool) string {
	if s.Vsock == nil {
		return ""
	}
	return s.checkPCI(s.Vsock.pciSettings, ids)
}

func (s *settings) checkCID() string {
	if s.Vsock == nil {
		return ""
	}
	if cid := s.Vsock.CID; cid <= 2 || cid == ^uint32(0) {
		return fmt.Sprintf("%d is a special VSOCK CID", cid)
	}
	return ""
}

// checkBalloon: it must leave the guest something, of all that it may ever have.
func (s *settings) checkBalloon(ids map[string]bool) string {
	if s.Balloon == nil {
		return ""
	}
	if words := s.checkPCI(s.Balloon.pciSettings, ids); words != "" {
		return words
	}
	all := s.Memory.Size
	if s.Memory.Hotplugged != nil {
		all += *s.Memory.Hotplugged
	}
	if s.Balloon.Size >= all {
		return fmt.Sprintf("Balloon size (%d) greater than RAM (%d)", s.Balloon.Size, all)
	}
	return ""
}

func (s *settings) checkPlatform() string {
	p := s.Platform
	switch {
	case p == nil:
	case p.Segments == 0 || p.Segments > maxPCISegments:
		return fmt.Sprintf("Number of PCI segments (%d) not in range of 1 to %d", p.Segments, maxPCISegments)
	case p.AddressWidth > 64:
		return fmt.Sprintf("IOMMU address width in bits (%d) should be less than or equal to 64", p.AddressWidth)
	case p.IOMMUFDFD != nil && !p.IOMMUFD:
		return "Platform `iommufd_fd=<fd>` requires `iommufd=on`"
	}
	return ""
}

func (s *settings) checkRules() string {
	for _, rule := range s.LandlockRules {
		if _, err := os.Stat(rule.Path); err != nil {
			return "Path " + quote(rule.Path) + " provided in landlock-rules does not exist"
		}
		if words := landlockAccess(rule.Access); words != "" {
			return "Invalid landlock access: " + words
		}
	}
	return ""
}

// checkLandlock stands for what Landlock itself refuses at vm.create. The rules
// are not applied. A path that is not there is no mistake: no rule comes of it. A
// memory file or a pipe has no place in a file system that a rule could be about.
func (s *settings) checkLandlock() *failure {
	for _, path := range s.paths() {
		f, err := os.OpenFile(path, unix.O_PATH, 0)
		if err != nil {
			continue
		}
		target, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
		f.Close()
		if strings.HasPrefix(target, "/memfd:") || strings.HasPrefix(target, "pipe:") {
			return fail("Error creating/adding/restricting ruleset", "failed to add a rule: "+osError(unix.EBADFD))
		}
	}
	for _, rule := range s.LandlockRules {
		if words := landlockAccess(rule.Access); words != "" {
			return fail(words)
		}
	}
	return nil
}

// paths are those that the configuration names.
func (s *settings) paths() []string {
	all := []string{s.Rng.Source}
	add := func(path *string) {
		if path != nil {
			all = append(all, *path)
		}
	}
	for _, d := range s.Disks {
		add(d.Path)
	}
	for _, fs := range s.FS {
		all = append(all, fs.Socket)
	}
	for _, d := range s.Devices {
		add(d.Path)
	}
	add(s.Console.File)
	add(s.Serial.File)
	if s.Vsock != nil {
		all = append(all, s.Vsock.Socket)
	}
	if p := s.Payload; p != nil {
		add(p.Kernel)
		add(p.Initramfs)
	}
	for _, rule := range s.LandlockRules {
		all = append(all, rule.Path)
	}
	return all
}

func landlockAccess(access string) string {
	if access == "" {
		return "Invalid Landlock access: Access cannot be empty"
	}
	if rest := strings.TrimLeft(access, "rw"); rest != "" {
		return "Invalid Landlock access: Invalid access: " + rest[:1]
	}
	return ""
}
