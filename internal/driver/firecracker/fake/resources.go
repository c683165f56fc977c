package fake

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
)

// The state that requests make, by rpc_interface.rs, resources.rs and
// vmm_config/*.rs.

// words are an error in the words of the real program, which begin with a
// capital and may end with a full stop.
type words string

func (w words) Error() string { return string(w) }

func wordsf(format string, args ...any) error { return words(fmt.Sprintf(format, args...)) }

const (
	errPostBoot = words("The requested operation is not supported after starting the microVM.")
	errPreBoot  = words("The requested operation is not supported before starting the microVM.")
)

type machine struct {
	vcpus, mem  uint64 // mem in MiB
	smt, track  bool
	hugePages   string
	cpuTemplate string // "" for none
}

type bootSource struct {
	config  map[string]any
	kernel  *os.File
	initrd  *os.File // nil: none
	cmdline cmdline
}

type drive struct {
	config map[string]any
	file   *os.File
}

func (d drive) root() bool { return d.config["is_root_device"] == true }

type vsock struct {
	config   map[string]any
	path     string
	listener *net.UnixListener
}

type resources struct {
	machine  machine
	boot     *bootSource // nil: none yet
	drives   []drive     // a root device is the first
	vsock    *vsock
	entropy  map[string]any // nil: no such device
	balloon  map[string]any // nil: no such device
	hotplug  map[string]any // nil: no such device
	networks []network
	serial   *string // where the console goes; nil: standard output
	metrics  *os.File
	pci      bool
}

// perform does what is asked; the body of the answer is "" where there is none.
func (p *process) perform(a action) (string, error) {
	switch a.do {
	case getInstance:
		return p.instance(), nil
	case getVersion:
		return asJSON(map[string]string{"firecracker_version": Version}), nil
	case getMachine:
		return p.vm.machine.json(), nil
	case getConfig:
		return p.vm.json(), nil
	}
	if p.run != nil {
		return p.performRunning(a)
	}
	switch a.do {
	case putBoot:
		return "", prefixed("Boot source error", p.vm.putBoot(a.config))
	case updateMachine:
		return "", prefixed("Machine config error", p.vm.updateMachine(a.config))
	case getBalloon:
		if p.vm.balloon == nil {
			return "", words("Balloon config error: No balloon device found.")
		}
		return p.vm.balloonJSON(), nil
	case putBalloon:
		return "", prefixed("Balloon config error", p.vm.putBalloon(a.config))
	case putHotplug:
		return "", prefixed("Memory hotplug config error", p.vm.putHotplug(a.config))
	case putNetwork:
		return "", prefixed("Network config error", p.vm.putNetwork(a.config))
	case putDrive:
		return "", prefixed("Drive config error", p.vm.putDrive(a.config))
	case putVsock:
		return "", prefixed("Vsock config error", p.vm.putVsock(a.config))
	case putEntropy:
		p.vm.entropy = a.config
		return "", nil
	case putSerial:
		p.vm.serial = optionalString(a.config["serial_out_path"])
		return "", nil
	case putLogger:
		if err := p.log.update(loggerSettings(a.config)); err != nil {
			return "", wordsf("Logger error: Failed to open target file: %s", osError(err))
		}
		return "", nil
	case putMetrics:
		return "", prefixed("Metrics error", p.vm.putMetrics(a.config))
	case startMachine:
		return "", prefixed("Start microvm error", p.start())
	}
	return "", errPreBoot
}

func (p *process) performRunning(a action) (string, error) {
	const internal, balloon = "Internal VMM error", "Balloon update error"
	switch a.do {
	case pressKeys:
		return "", prefixed(internal, prefixed("I8042 error", p.run.keyboard.press()))
	case flushMetrics:
		return "", nil
	case putDrive, putNetwork:
		if !p.vm.pci {
			return "", words("PCI is not enabled")
		}
		return "", errors.New("the stand-in does not play the hotplug of devices")
	case getBalloon:
		if p.vm.balloon == nil {
			return "", prefixed(internal, errNoDevice)
		}
		return p.vm.balloonJSON(), nil
	case getStatistics:
		body, err := p.statistics()
		return body, prefixed(internal, err)
	case patchBalloon:
		return "", prefixed(balloon, p.patchBalloon(a.config))
	case patchStatistics:
		return "", prefixed(balloon, p.patchStatistics(a.config))
	case getHotplug:
		body, err := p.hotplugStatus()
		return body, prefixed(internal, err)
	case patchHotplug:
		return "", prefixed("Memory hotplug update error", p.patchHotplug(a.config))
	}
	return "", errPostBoot
}

func prefixed(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

func optionalString(v any) *string {
	if s, ok := v.(string); ok {
		return &s
	}
	return nil
}

func loggerSettings(config map[string]any) settings {
	s := settings{path: optionalString(config["log_path"]), module: optionalString(config["module"])}
	if l, ok := config["level"].(level); ok {
		s.level = &l
	}
	if show, ok := config["show_level"].(bool); ok {
		s.showLevel = &show
	}
	return s
}

// instance is the answer to GET /.
func (p *process) instance() string {
	state := "Not started"
	if p.run != nil {
		state = "Running"
	}
	return asJSON(struct {
		ID      string `json:"id"`
		State   string `json:"state"`
		Version string `json:"vmm_version"`
		App     string `json:"app_name"`
	}{p.log.instance, state, Version, "Firecracker"})
}

// updateMachine leaves the memory that a balloon is to hold.
func (v *resources) updateMachine(config map[string]any) error {
	next := v.machine
	if err := next.update(config); err != nil {
		return err
	}
	if v.balloon != nil && next.mem < v.balloon["amount_mib"].(uint64) {
		return words("The memory size (MiB) is smaller than the previously set balloon device target size.")
	}
	v.machine = next
	return nil
}

// update takes what is given and keeps the rest.
func (m *machine) update(config map[string]any) error {
	next := *m
	if n, ok := config["vcpu_count"].(uint64); ok {
		next.vcpus = n
	}
	if b, ok := config["smt"].(bool); ok {
		next.smt = b
	}
	if next.vcpus == 0 || next.vcpus > 32 || next.smt && next.vcpus > 1 && next.vcpus%2 == 1 {
		return words("The number of vCPUs must be greater than 0, less than 32 and must be 1 or an even number if SMT is enabled.")
	}
	if n, ok := config["mem_size_mib"].(uint64); ok {
		next.mem = n
	}
	if s, ok := config["huge_pages"].(string); ok {
		next.hugePages = s
	}
	if next.mem == 0 || next.hugePages == "2M" && next.mem%2 == 1 {
		return words("The memory size (MiB) is either 0, or not a multiple of the configured page size.")
	}
	if b, ok := config["track_dirty_pages"].(bool); ok {
		next.track = b
	}
	if s, ok := config["cpu_template"].(string); ok {
		if next.cpuTemplate = s; s == "None" {
			next.cpuTemplate = ""
		}
	}
	*m = next
	return nil
}

func (m machine) json() string {
	return asJSON(struct {
		VCPUs     uint64 `json:"vcpu_count"`
		Mem       uint64 `json:"mem_size_mib"`
		SMT       bool   `json:"smt"`
		Template  string `json:"cpu_template,omitempty"`
		Track     bool   `json:"track_dirty_pages"`
		HugePages string `json:"huge_pages"`
	}{m.vcpus, m.mem, m.smt, m.cpuTemplate, m.track, m.hugePages})
}

// putBoot opens both files and looks at the length of the command line. The
// content of the files is looked at when the machine starts.
func (v *resources) putBoot(config map[string]any) error {
	b := &bootSource{config: config}
	var err error
	if b.kernel, err = os.Open(config["kernel_image_path"].(string)); err != nil {
		return wordsf("The kernel file cannot be opened: %s", osError(err))
	}
	if path := optionalString(config["initrd_path"]); path != nil {
		if b.initrd, err = os.Open(*path); err != nil {
			_ = b.kernel.Close()
			return wordsf("The initrd file cannot be opened due to invalid path or invalid permissions. %s", osError(err))
		}
	}
	raw := defaultCmdline
	if s := optionalString(config["boot_args"]); s != nil {
		raw = *s
	}
	if b.cmdline, err = parseCmdline(raw); err != nil {
		b.close()
		return wordsf("The kernel command line is invalid: %v", err)
	}
	if v.boot != nil {
		v.boot.close()
	}
	v.boot = b
	return nil
}

func (b *bootSource) close() {
	_ = b.kernel.Close()
	if b.initrd != nil {
		_ = b.initrd.Close()
	}
}

// putDrive adds a drive or replaces the one of that name.
func (v *resources) putDrive(config map[string]any) error {
	at := slices.IndexFunc(v.drives, func(d drive) bool { return d.config["drive_id"] == config["drive_id"] })
	d := drive{config: config}
	if d.root() && len(v.drives) > 0 && v.drives[0].root() && at != 0 {
		return words("A root block device already exists!")
	}
	path := optionalString(config["path_on_host"])
	if path == nil || config["socket"] != nil {
		// One of vhost-user, which the stand-in has not, or neither.
		return words("Unable to create the virtio block device: Invalid block config.")
	}
	mode := os.O_RDWR
	if config["is_read_only"] == true {
		mode = os.O_RDONLY
	}
	var err error
	if d.file, err = os.OpenFile(*path, mode, 0); err != nil {
		return wordsf("Unable to create the virtio block device: Virtio backend error: Error manipulating the backing file: %s %s", osError(err), *path)
	}
	if at >= 0 {
		_ = v.drives[at].file.Close()
		v.drives[at] = d
		if d.root() {
			v.drives[0], v.drives[at] = v.drives[at], v.drives[0]
		}
		return nil
	}
	if d.root() {
		v.drives = slices.Insert(v.drives, 0, d)
	} else {
		v.drives = append(v.drives, d)
	}
	return nil
}

// putVsock binds the socket at once. A second one takes the place of the first,
// whose socket is removed; if that fails, there is none.
func (v *resources) putVsock(config map[string]any) error {
	if old := v.vsock; old != nil {
		v.vsock = nil
		err := os.Remove(old.path)
		_ = old.listener.Close()
		if err != nil {
			return wordsf("Cannot create backend for vsock device: Error binding to the host-side Unix socket: %s", osError(err))
		}
	}
	next := &vsock{config: config, path: config["uds_path"].(string)}
	var err error
	if next.listener, err = listenUnix(next.path); err != nil {
		return wordsf("Cannot create backend for vsock device: Error binding to the host-side Unix socket: %s", osError(err))
	}
	v.vsock = next
	return nil
}

func (v *resources) putMetrics(config map[string]any) error {
	f, err := openOutput(config["metrics_path"].(string))
	if err != nil {
		return wordsf("Cannot initialize the metrics system due to bad user input: %s", osError(err))
	}
	if v.metrics != nil {
		_ = f.Close()
		return words("Cannot initialize the metrics system due to bad user input: Reinitialization of metrics not allowed.")
	}
	v.metrics = f
	return nil
}
