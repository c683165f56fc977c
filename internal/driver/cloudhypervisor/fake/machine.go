package fake

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// machine is a VM that was built; it runs when it has booted.
type machine struct {
	vmm       *vmm
	set       *settings
	state     string
	devices   []device
	disks     []*disk
	vsock     *net.UnixListener
	initramfs *os.File
	archive   []byte // what the guest's memory holds of it
	smbios    []byte // and of the OEM strings
	taps      []*os.File
	shares    []net.Conn
	named     int    // devices without a name of their own
	memory    uint64 // what it started with and what ACPI added
	added     uint64
	dimms     int
	requested uint64 // of virtio-mem
	inflated  uint64 // asked of the balloon
	guest     *guest
}

// device is one on the PCI bus, in the order of their slots.
type device struct{ id string }

type disk struct {
	file *os.File
	set  diskSettings
	size int64
}

// newMachine checks the configuration and opens what the devices need, in the
// order of the real one.
func newMachine(v *vmm) (*machine, *failure) {
	m := &machine{vmm: v, set: &v.config.set, state: "Created"}
	m.memory = m.set.Memory.Size
	if m.set.Memory.Hotplugged != nil {
		m.requested = *m.set.Memory.Hotplugged
	}
	if m.set.Balloon != nil {
		m.inflated = m.set.Balloon.Size / pageSize * pageSize
	}
	if f := m.set.checkMemory(); f != nil {
		return nil, f
	}
	if f := m.set.validate(); f != nil {
		return nil, f
	}
	v.log.info("vmm/src/vm.rs:606", "Booting VM from config: Mutex { data: "+debug(v.config.shown)+", poisoned: false, .. }")
	if names := v.config.unplayed(); len(names) > 0 {
		return nil, fail("the stand-in does not play " + strings.Join(names, ", "))
	}
	if f := m.addDevices(); f != nil {
		m.release()
		return nil, f.under("Error from device manager")
	}
	if path := m.set.Payload.Initramfs; path != nil {
		file, err := os.Open(*path)
		if err != nil {
			m.release()
			return nil, fail("Cannot open initramfs file", osError(err))
		}
		m.initramfs = file
	}
	return m, nil
}

func (m *machine) addDevices() *failure {
	if m.set.Console.Mode != "Off" {
		m.add("__console")
	}
	disks, _ := m.vmm.config.shown.get("disks").([]any)
	for i := range m.set.Disks {
		d := &m.set.Disks[i]
		m.identify(&d.pciSettings, "disk", disks[i].(*object))
		if f := m.addDisk(d, disks[i].(*object)); f != nil {
			m.vmm.config.shown.remove("disks")
			m.set.Disks = nil
			return f
		}
	}
	if f := m.addNets(); f != nil {
		return f
	}
	source, err := os.Open(m.set.Rng.Source)
	if err != nil {
		return fail("Cannot create virtio-rng device", osError(err))
	}
	source.Close()
	m.add("__rng")
	if f := m.addShares(); f != nil {
		return f
	}
	if s := m.set.Vsock; s != nil {
		m.identify(&s.pciSettings, "vsock", m.vmm.config.shown.get("vsock").(*object))
		if f := m.addVsock(s.Socket); f != nil {
			return f
		}
		m.add(*s.ID)
	}
	if hotplug := m.set.Memory; hotplug.HotplugMethod == "VirtioMem" && hotplug.HotplugSize != nil {
		if *hotplug.HotplugSize%plugAligned != 0 {
			return fail("Cannot create virtio-mem device", fmt.Sprintf("Virtio-mem size is not aligned with %d", plugAligned))
		}
		m.add("mem0")
	}
	if m.set.Balloon != nil {
		m.add("__balloon")
	}
	if m.set.Watchdog {
		m.add("__watchdog")
	}
	return m.addPassthrough()
}

// identify gives a device its name and shows it. The numbers are of all kinds of
// devices together.
func (m *machine) identify(p *pciSettings, prefix string, shown *object) {
	if p.ID != nil {
		return
	}
	id := ""
	for id == "" || slices.Contains(m.devices, device{id}) {
		id = fmt.Sprintf("_%s%d", prefix, m.named)
		m.named++
	}
	p.ID = &id
	shown.set("id", id)
}

func (m *machine) add(id string) { m.devices = append(m.devices, device{id}) }

func (m *machine) addDisk(d *diskSettings, shown *object) *failure {
	if d.VhostUser || d.Path == nil {
		return fail("No disk path was specified when one was expected")
	}
	how := os.O_RDWR
	if d.ReadOnly {
		how = os.O_RDONLY
	}
	if d.Direct {
		how |= unix.O_DIRECT
	}
	file, err := os.OpenFile(*d.Path, how, 0)
	if err != nil {
		return fail("Cannot open disk path", "I/O error (path="+*d.Path+" op=open)", osError(err))
	}
	one := &disk{file: file, set: *d}
	m.disks = append(m.disks, one)
	kind, f := one.detect()
	if f != nil {
		return f
	}
	if d.ImageType == "Unknown" {
		m.warnAboutType(kind)
		d.ImageType = kind
		shown.set("image_type", kind)
	} else if d.ImageType != kind {
		return fail(fmt.Sprintf("Disk image type does not match expected type: specified = %s, detected = %s", imageName(d.ImageType), imageName(kind)))
	}
	m.add(*d.ID)
	return nil
}

// detect reads the beginning of an image.
func (d *disk) detect() (string, *failure) {
	start := make([]byte, 512)
	if _, err := d.file.ReadAt(start, 0); err != nil {
		words := "failed to fill whole buffer"
		if !errors.Is(err, io.EOF) {
			words = osError(err)
		}
		return "", fail("Cannot open disk path", "I/O error (op=detect_image_type)", words)
	}
	size, err := d.file.Seek(0, io.SeekEnd)
	if err != nil {
		return "", fail("Cannot open disk path", "I/O error (op=detect_image_type)", osError(err))
	}
	d.size = size
	switch {
	case bytes.HasPrefix(start, []byte("QFI\xfb")):
		return "Qcow2", nil
	case d.fixedVHD():
		return "FixedVhd", nil
	case bytes.HasPrefix(start, []byte("vhdxfile")):
		return "Vhdx", nil
	}
	return "Raw", nil
}

// fixedVHD reads the footer of an image, which all that is fixed in size has: of
// version 1.0, with nothing behind it.
func (d *disk) fixedVHD() bool {
	footer := make([]byte, 512)
	if _, err := d.file.ReadAt(footer, d.size-int64(len(footer))); err != nil {
		return false
	}
	return bytes.HasPrefix(footer, []byte("conectix")) && binary.BigEndian.Uint32(footer[12:]) == 0x10000 &&
		binary.BigEndian.Uint64(footer[16:]) == 1<<64-1 && binary.BigEndian.Uint32(footer[60:]) == 2
}

func imageName(kind string) string {
	if kind == "FixedVhd" {
		return "vhd"
	}
	return strings.ToLower(kind)
}

func (m *machine) warnAboutType(kind string) {
	const where = "vmm/src/device_manager.rs:2757"
	m.vmm.log.warn(where, "DEPRECATION: auto-detection of disk image type is deprecated and will be removed in a future release. Please specify image type explicitly.")
	m.vmm.log.warn(where, "No image_type specified - detected as "+imageName(kind)+". Configuration updated to persist type across reboots and migrations.")
	if kind == "Raw" {
		m.vmm.log.warn(where, "Autodetected "+imageName(kind)+" image type. Disabling sector 0 writes.")
	}
}

// addVsock binds the socket, which must not be there yet. Nobody in the guest
// listens: whoever asks for a port is turned away.
func (m *machine) addVsock(path string) *failure {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return fail("Cannot create virtio-vsock backend", "Error binding to the host-side Unix socket", osError(err))
	}
	l.SetUnlinkOnClose(true)
	m.vsock = l
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = bufio.NewReader(io.LimitReader(conn, 32)).ReadString('\n')
				conn.Close()
			}()
		}
	}()
	return nil
}

// boot loads what the guest needs and lets it run.
func (m *machine) boot() *failure {
	for _, d := range m.disks {
		if f := m.lock(d); f != nil {
			return f
		}
	}
	if f := m.checkCmdline(); f != nil {
		return f
	}
	if f := loadKernel(*m.set.Payload.Kernel, m.set.Memory.Size); f != nil {
		return f
	}
	if f := m.loadInitramfs(); f != nil {
		return f
	}
	if f := m.writeSMBIOS(); f != nil {
		return f
	}
	m.state = "Running"
	m.guest = newGuest(m)
	go m.guest.run()
	return nil
}

// lock takes the disk for this process. A reader does not exclude readers.
func (m *machine) lock(d *disk) *failure {
	kind, name := int16(unix.F_WRLCK), "Write"
	if d.set.ReadOnly {
		kind, name = unix.F_RDLCK, "Read"
	}
	size := d.size
	if d.set.LockGranularity == "Full" {
		size = 0
	}
	err := unix.FcntlFlock(d.file.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: kind, Whence: io.SeekStart, Len: size})
	if err == nil {
		return nil
	}
	words := []string{"The lock state could not be checked or set", osError(err)}
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		words = []string{"The file is already locked"}
		m.vmm.log.error("vmm", "virtio-devices/src/block.rs:760", "Can't get "+name+" lock for "+*d.set.Path+" as there is already a lock")
	}
	return fail(words...).under("Error locking disk images: Another instance likely holds a lock", "Cannot lock images of all block devices",
		"Failed to get "+name+" lock for disk image: "+*d.set.Path)
}

// checkCmdline refuses a command line that is too long, or has more than
// printable ASCII.
func (m *machine) checkCmdline() *failure {
	const limit = 0x10000
	line := strings.TrimSpace(m.set.cmdline())
	for _, r := range line {
		if r < ' ' || r > '~' {
			return fail("Cannot modify the kernel command line", "String contains a non-printable ASCII character.")
		}
	}
	if len(line)+1 > limit {
		return fail("Cannot modify the kernel command line", "Inserting string would make command line too long.")
	}
	return nil
}

// loadInitramfs reads it to the end, which it has to have: a pipe will not do.
func (m *machine) loadInitramfs() *failure {
	if m.initramfs == nil {
		return nil
	}
	size, err := m.initramfs.Seek(0, io.SeekEnd)
	if err != nil {
		return fail("Cannot load the initramfs into memory", osError(err))
	}
	if uint64(size) > min(m.set.Memory.Size, lowMemory) {
		return fail("Cannot determine initramfs load address", "Failed to compute initramfs address")
	}
	m.archive = make([]byte, size)
	if _, err := m.initramfs.ReadAt(m.archive, 0); err != nil && !errors.Is(err, io.EOF) {
		return fail("Cannot read initramfs into guest memory", osError(err))
	}
	return nil
}

// writeSMBIOS keeps the OEM strings where the guest would read them: one after
// the other, of whatever length.
func (m *machine) writeSMBIOS() *failure {
	p := m.set.Platform
	if p == nil {
		return nil
	}
	if p.UUID != nil && !uuidForm().MatchString(*p.UUID) {
		return fail("Cannot configure system", "Platform specific error (x86_64)", "Error setting up SMBIOS table", "Failure to parse uuid: "+*p.UUID, uuidMistake(*p.UUID))
	}
	for _, s := range p.OEMStrings {
		m.smbios = append(append(m.smbios, s...), 0)
	}
	return nil
}

func uuidMistake(s string) string {
	for i, r := range s {
		if !strings.ContainsRune("0123456789abcdefABCDEF-", r) {
			return fmt.Sprintf("invalid character: found `%c` at %d", r, i)
		}
	}
	return fmt.Sprintf("invalid length: expected length 32 for simple format, found %d", len(s))
}

func uuidForm() *regexp.Regexp {
	return regexp.MustCompile(`^(urn:uuid:)?[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$|^[0-9a-fA-F]{32}$|^\{[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\}$`)
}

// change goes to another state where there is a way.
func (m *machine) change(to string) *failure {
	if m.state == to || m.state == "Shutdown" && to != "Running" {
		return fail(fmt.Sprintf("Invalid transition: InvalidStateTransition(%s, %s)", m.state, to))
	}
	m.state = to
	if m.guest != nil {
		m.guest.hold(to == "Paused")
	}
	return nil
}

func (m *machine) press() {
	if m.guest != nil {
		m.guest.press()
	}
}

// stop ends the guest and gives everything back.
func (m *machine) stop() {
	if m.guest != nil {
		m.guest.stop()
	}
	m.state = "Shutdown"
	m.release()
}

func (m *machine) release() {
	if m.vsock != nil {
		_ = m.vsock.Close()
	}
	for _, d := range m.disks {
		d.file.Close()
	}
	if m.initramfs != nil {
		m.initramfs.Close()
	}
	closeAll(m.taps)
	for _, c := range m.shares {
		c.Close()
	}
}

// tree is the device tree of vm.info.
func (m *machine) tree() *object {
	node := func(id string, more ...entry) entry {
		return entry{id, &object{entries: append([]entry{{"id", id}, {"resources", []any{}}}, more...)}}
	}
	out := &object{entries: []entry{node("__ioapic", entry{"children", []any{}}), node("__serial", entry{"children", []any{}})}}
	for i, d := range m.devices {
		bus := "_virtio-pci-" + d.id
		out.entries = append(out.entries,
			node(bus, entry{"children", []any{d.id}}, entry{"pci_bdf", fmt.Sprintf("0000:00:%02x.0", i+1)}),
			node(d.id, entry{"parent", bus}, entry{"children", []any{}}))
	}
	return out
}
