package fake

import "encoding/json"

// vm is what is stored at vm.create: the configuration as it is shown, and what
// the stand-in uses of it.
type vm struct {
	shown *object
	set   settings
	fds   []int // of network devices; they stay until the VM is deleted
}

// settings are read from the shown form, in which all names are the real ones
// and all values are of their types.
type settings struct {
	CPUs struct {
		Boot     uint32 `json:"boot_vcpus"`
		Max      uint32 `json:"max_vcpus"`
		Topology *struct {
			Threads  uint16 `json:"threads_per_core"`
			Cores    uint16 `json:"cores_per_die"`
			Dies     uint16 `json:"dies_per_package"`
			Packages uint16 `json:"packages"`
		} `json:"topology"`
	} `json:"cpus"`
	Memory struct {
		Size          uint64            `json:"size"`
		HotplugMethod string            `json:"hotplug_method"`
		HotplugSize   *uint64           `json:"hotplug_size"`
		Hotplugged    *uint64           `json:"hotplugged_size"`
		Mergeable     bool              `json:"mergeable"`
		Shared        bool              `json:"shared"`
		Hugepages     bool              `json:"hugepages"`
		HugepageSize  *uint64           `json:"hugepage_size"`
		Zones         []json.RawMessage `json:"zones"`
	} `json:"memory"`
	Payload *struct {
		Firmware  *string `json:"firmware"`
		Kernel    *string `json:"kernel"`
		Cmdline   *string `json:"cmdline"`
		Initramfs *string `json:"initramfs"`
	} `json:"payload"`
	Disks        []diskSettings   `json:"disks"`
	Nets         []netSettings    `json:"net"`
	FS           []fsSettings     `json:"fs"`
	Devices      []vfioSettings   `json:"devices"`
	Rng          rngSettings      `json:"rng"`
	Balloon      *balloonSettings `json:"balloon"`
	Serial       consoleSettings  `json:"serial"`
	Console      consoleSettings  `json:"console"`
	DebugConsole consoleSettings  `json:"debug_console"`
	Vsock        *struct {
		pciSettings
		CID    uint32 `json:"cid"`
		Socket string `json:"socket"`
	} `json:"vsock"`
	PVPanic       bool              `json:"pvpanic"`
	Watchdog      bool              `json:"watchdog"`
	Platform      *platformSettings `json:"platform"`
	Landlock      bool              `json:"landlock_enable"`
	LandlockRules []struct {
		Path   string `json:"path"`
		Access string `json:"access"`
	} `json:"landlock_rules"`
}

type pciSettings struct {
	ID       *string `json:"id"`
	IOMMU    bool    `json:"iommu"`
	Segment  uint16  `json:"pci_segment"`
	DeviceID *uint8  `json:"pci_device_id"`
}

type balloonSettings struct {
	pciSettings
	Size uint64 `json:"size"`
}

type diskSettings struct {
	pciSettings
	Path            *string         `json:"path"`
	ReadOnly        bool            `json:"readonly"`
	Direct          bool            `json:"direct"`
	BackingFiles    bool            `json:"backing_files"`
	Queues          uint64          `json:"num_queues"`
	QueueSize       uint16          `json:"queue_size"`
	VhostUser       bool            `json:"vhost_user"`
	VhostSocket     *string         `json:"vhost_socket"`
	RateLimitGroup  *string         `json:"rate_limit_group"`
	RateLimiter     json.RawMessage `json:"rate_limiter_config"`
	Serial          *string         `json:"serial"`
	ImageType       string          `json:"image_type"`
	LockGranularity string          `json:"lock_granularity"`
}

type rngSettings struct {
	pciSettings
	Source string `json:"src"`
}

type consoleSettings struct {
	pciSettings
	File   *string `json:"file"`
	Mode   string  `json:"mode"`
	Socket *string `json:"socket"`
}

type platformSettings struct {
	Segments      uint16   `json:"num_pci_segments"`
	IOMMUSegments []uint16 `json:"iommu_segments"`
	AddressWidth  uint8    `json:"iommu_address_width_bits"`
	UUID          *string  `json:"system_uuid"`
	OEMStrings    []string `json:"oem_strings"`
	IOMMUFD       bool     `json:"iommufd"`
	IOMMUFDFD     *int32   `json:"iommufd_fd"`
}

// decodeVM reads the body of vm.create.
func decodeVM(body []byte) (*vm, *jsonError) {
	n, problem := parseJSON(body)
	if problem != nil {
		return nil, problem
	}
	decoded, problem := vmConfig().decode(n)
	if problem != nil {
		return nil, problem
	}
	v := &vm{shown: decoded.(*object)}
	shown, err := json.Marshal(v.shown)
	if err == nil {
		err = json.Unmarshal(shown, &v.set)
	}
	if err != nil {
		return nil, &jsonError{text: "the stand-in cannot read what it has accepted: " + err.Error()}
	}
	return v, nil
}

// unplayed names what the configuration asks for and the stand-in has not.
func (v *vm) unplayed() []string {
	var names []string
	for _, name := range []string{"generic_vhost_user", "pmem", "user_devices", "vdpa", "numa", "tpm", "rtc", "pci_segments", "rate_limit_groups"} {
		if items := v.shown.get(name); items != nil {
			if l, ok := items.([]any); !ok || len(l) > 0 {
				names = append(names, name)
			}
		}
	}
	if v.set.Payload != nil && v.set.Payload.Firmware != nil {
		names = append(names, "payload.firmware")
	}
	for _, c := range []struct{ name, mode string }{{"serial", v.set.Serial.Mode}, {"console", v.set.Console.Mode}} {
		if c.mode == "Pty" {
			names = append(names, c.name+".mode="+c.mode)
		}
	}
	return names
}

// cmdline is the kernel command line, which may be missing.
func (s *settings) cmdline() string {
	if s.Payload == nil || s.Payload.Cmdline == nil {
		return ""
	}
	return *s.Payload.Cmdline
}
