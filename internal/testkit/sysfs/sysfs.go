// Package sysfs makes trees as Linux 5.15 to 6.18 shows its PCI and USB devices in, and
// does what the kernel does when something is written to them: a machine that has none
// can have tests of them.
package sysfs

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Tree is a host's devices. Sys and Dev take the places of /sys and /dev.
type Tree struct {
	Sys, Dev string
	t        testing.TB
	// own are the drivers that take the devices by themselves, by address.
	own map[string]string
	// Writes are those that Write was asked for: the path below Sys, and the value.
	Writes []string
}

// New makes a host without devices, with the drivers vfio-pci and those named.
func New(t testing.TB, drivers ...string) *Tree {
	t.Helper()
	dir := t.TempDir()
	h := &Tree{Sys: filepath.Join(dir, "sys"), Dev: filepath.Join(dir, "dev"), t: t, own: map[string]string{}}
	for _, d := range append(drivers, "vfio-pci") {
		h.mkdir(filepath.Join("bus/pci/drivers", d))
	}
	h.mkdir("bus/pci/devices")
	h.mkdir("bus/usb/devices")
	if err := os.MkdirAll(filepath.Join(h.Dev, "vfio"), 0o755); err != nil {
		t.Fatal(err)
	}
	return h
}

// PCI adds a device with its class, the driver that it has, and its IOMMU group; the
// last two may be empty.
func (h *Tree) PCI(address, class, driver, group string) {
	h.t.Helper()
	dir := "devices/pci0000:00/" + address
	h.file(dir+"/class", class)
	h.file(dir+"/driver_override", "(null)")
	h.link("bus/pci/devices/"+address, dir)
	if group != "" {
		h.mkdir("kernel/iommu_groups/" + group + "/devices")
		h.link(dir+"/iommu_group", "kernel/iommu_groups/"+group)
		h.link("kernel/iommu_groups/"+group+"/devices/"+address, dir)
	}
	if driver != "" {
		h.own[address] = driver
		h.bind(address, driver)
	}
}

// USB adds a device by its name, such as 1-2.3, with its node.
func (h *Tree) USB(name, vendor, product, class, bus, number string) {
	h.t.Helper()
	dir := "devices/usb/" + name
	for file, text := range map[string]string{"idVendor": vendor, "idProduct": product, "bDeviceClass": class, "busnum": bus, "devnum": number} {
		h.file(dir+"/"+file, text)
	}
	h.link("bus/usb/devices/"+name, dir)
	h.mkdir("devices/usb/" + name + "/" + name + ":1.0")
	h.link("bus/usb/devices/"+name+":1.0", dir+"/"+name+":1.0")
	pad := func(s string) string { return strings.Repeat("0", 3-len(s)) + s }
	h.node("bus/usb/" + pad(bus) + "/" + pad(number))
}

// Driver is the driver of a PCI device now; empty: none.
func (h *Tree) Driver(address string) string {
	target, err := os.Readlink(filepath.Join(h.Sys, "devices/pci0000:00", address, "driver"))
	if err != nil {
		return ""
	}
	return filepath.Base(target)
}

// Write does what the kernel does (drivers/pci/pci-driver.c, drivers/base/bus.c).
func (h *Tree) Write(path, value string) error {
	rel, err := filepath.Rel(h.Sys, path)
	if err != nil {
		return err
	}
	h.Writes = append(h.Writes, rel+" "+strings.TrimSpace(value))
	switch name := filepath.Base(path); {
	case name == "driver_override":
		if value = strings.TrimSpace(value); value == "" {
			value = "(null)"
		}
		return os.WriteFile(path, []byte(value+"\n"), 0o600)
	case name == "unbind":
		if h.Driver(value) == "" {
			return errors.New("no such device")
		}
		h.unbind(value)
	case strings.HasSuffix(rel, "pci/drivers_probe"):
		if h.Driver(value) != "" {
			return nil
		}
		driver := h.own[value]
		text, err := os.ReadFile(filepath.Join(h.Sys, "bus/pci/devices", value, "driver_override"))
		if err != nil {
			return err
		}
		if o := strings.TrimSpace(string(text)); o != "(null)" {
			driver = o
		}
		if driver != "" && h.has(driver) {
			h.bind(value, driver)
		}
	case name == "bind":
		if driver := filepath.Base(filepath.Dir(path)); h.has(driver) {
			h.bind(value, driver)
			return nil
		}
		return os.ErrNotExist
	case strings.HasSuffix(rel, "usb/drivers_probe"):
	default:
		return os.ErrNotExist
	}
	return nil
}

// Unload takes a driver away, with what it has.
func (h *Tree) Unload(driver string) {
	h.t.Helper()
	if err := os.RemoveAll(filepath.Join(h.Sys, "bus/pci/drivers", driver)); err != nil {
		h.t.Fatal(err)
	}
}

func (h *Tree) has(driver string) bool {
	_, err := os.Stat(filepath.Join(h.Sys, "bus/pci/drivers", driver))
	return err == nil
}

func (h *Tree) bind(address, driver string) {
	h.link("devices/pci0000:00/"+address+"/driver", "bus/pci/drivers/"+driver)
	if group := h.group(address); driver == "vfio-pci" && group != "" {
		h.node("vfio/" + group)
	}
}

// unbind takes a device from its driver. A group has its node as long as vfio-pci has
// one of its devices.
func (h *Tree) unbind(address string) {
	if err := os.Remove(filepath.Join(h.Sys, "devices/pci0000:00", address, "driver")); err != nil {
		h.t.Fatal(err)
	}
	group := h.group(address)
	entries, _ := os.ReadDir(filepath.Join(h.Sys, "kernel/iommu_groups", group, "devices"))
	if !slices.ContainsFunc(entries, func(e os.DirEntry) bool { return h.Driver(e.Name()) == "vfio-pci" }) {
		_ = os.Remove(filepath.Join(h.Dev, "vfio", group))
	}
}

func (h *Tree) group(address string) string {
	target, err := os.Readlink(filepath.Join(h.Sys, "devices/pci0000:00", address, "iommu_group"))
	if err != nil {
		return ""
	}
	return filepath.Base(target)
}

func (h *Tree) mkdir(rel string) {
	h.t.Helper()
	if err := os.MkdirAll(filepath.Join(h.Sys, rel), 0o755); err != nil {
		h.t.Fatal(err)
	}
}

func (h *Tree) file(rel, text string) {
	h.t.Helper()
	h.mkdir(filepath.Dir(rel))
	if err := os.WriteFile(filepath.Join(h.Sys, rel), []byte(text+"\n"), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

func (h *Tree) link(rel, to string) {
	h.t.Helper()
	if err := os.Symlink(filepath.Join(h.Sys, to), filepath.Join(h.Sys, rel)); err != nil {
		h.t.Fatal(err)
	}
}

func (h *Tree) node(rel string) {
	h.t.Helper()
	path := filepath.Join(h.Dev, rel)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		return
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		h.t.Fatal(err)
	}
}
