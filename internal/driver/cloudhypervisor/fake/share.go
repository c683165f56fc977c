package fake

import (
	"fmt"
	"net"
	"os"
	"time"
)

const (
	needsSharedMemory = "Using vhost-user requires using shared memory or huge pages"
	connectEvery      = 100 * time.Millisecond
	connectFor        = time.Minute
)

type fsSettings struct {
	pciSettings
	Tag       string `json:"tag"`
	Socket    string `json:"socket"`
	Queues    uint64 `json:"num_queues"`
	QueueSize uint16 `json:"queue_size"`
}

// sharedMemory: a process beside this one can map the guest's memory.
func (s *settings) sharedMemory() bool { return s.Memory.Shared || s.Memory.Hugepages }

func (s *settings) checkShares(ids map[string]bool) string {
	if len(s.FS) > 0 && !s.sharedMemory() {
		return needsSharedMemory
	}
	for _, fs := range s.FS {
		if fs.IOMMU {
			return "Device does not support being placed behind IOMMU"
		}
		if fs.QueueSize == 0 || fs.QueueSize&(fs.QueueSize-1) != 0 {
			return fmt.Sprintf("Queue size must be a power of 2 no greater than 32768: %d", fs.QueueSize)
		}
		if words := s.checkPCI(fs.pciSettings, ids); words != "" {
			return words
		}
	}
	return ""
}

// addShares connects to the process behind each share. It tries for a minute, in
// which nothing else is answered.
func (m *machine) addShares() *failure {
	shown, _ := m.vmm.config.shown.get("fs").([]any)
	for i := range m.set.FS {
		fs := &m.set.FS[i]
		m.identify(&fs.pciSettings, "fs", shown[i].(*object))
		deadline := time.Now().Add(connectFor)
		conn, err := net.Dial("unix", fs.Socket)
		for err != nil && time.Now().Before(deadline) {
			time.Sleep(connectEvery)
			conn, err = net.Dial("unix", fs.Socket)
		}
		if err != nil {
			m.vmm.config.shown.remove("fs")
			m.set.FS = nil
			return fail("Cannot create virtio-fs device", "Connection to socket failed", "socket error: "+osError(err))
		}
		m.shares = append(m.shares, conn)
		m.add(*fs.ID)
	}
	return nil
}

type vfioSettings struct {
	pciSettings
	Path   *string  `json:"path"`
	FD     *int32   `json:"fd"`
	Clique *uint8   `json:"x_nv_gpudirect_clique"`
	Bars   []uint64 `json:"x_exclude_mmap_bars"`
}

func (s *settings) checkPassthrough(ids map[string]bool) string {
	seen := map[string]bool{}
	for _, d := range s.Devices {
		if d.Path != nil && seen[*d.Path] {
			return "Duplicated device path: " + *d.Path
		}
		if d.Path == nil {
			return "VFIO device config must specify `path=` or `fd=`"
		}
		seen[*d.Path] = true
		if words := s.checkPlace(d.pciSettings); words != "" {
			return words
		}
		for _, bar := range d.Bars {
			if bar > 5 {
				return fmt.Sprintf("Invalid VFIO excluded-mmap BAR index: %d", bar)
			}
		}
		if words := checkID(d.ID, ids); words != "" {
			return words
		}
	}
	return ""
}

// addPassthrough goes as far as a host without an IOMMU lets it.
func (m *machine) addPassthrough() *failure {
	if len(m.set.Devices) == 0 {
		return nil
	}
	container, err := os.OpenFile("/dev/vfio/vfio", os.O_RDWR, 0)
	if err == nil {
		container.Close()
		return fail("the stand-in does not play devices beyond /dev/vfio/vfio")
	}
	m.vmm.config.shown.remove("devices")
	m.set.Devices = nil
	return fail("Cannot create a VFIO device", "failed to open /dev/vfio/vfio container: "+osError(err), osError(err))
}
