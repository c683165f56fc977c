// Package devices looks at the devices of a host that a guest can get, in sysfs, and
// judges whether it may have them. It reads, and changes nothing.
//
// The layout is that of Linux 5.15 to 6.18 (Documentation/ABI/testing/sysfs-bus-pci,
// sysfs-bus-usb, sysfs-kernel-iommu_groups).
package devices

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// Tree is where the kernel shows its devices.
type Tree struct{ Sys, Dev string }

// Host is this host's.
func Host() Tree { return Tree{"/sys", "/dev"} }

// VFIO is the driver that hands a PCI device to a process.
const VFIO = "vfio-pci"

// PCI is a PCI device.
type PCI struct {
	// Address is that of spec.Device.
	Address string
	// Driver is empty where it has none.
	Driver string
	Bridge bool
	// Group is the number of its IOMMU group; empty: none.
	Group string
	// Others are the addresses of the other devices in the group.
	Others []string
}

// PCIDir is the device's directory in sysfs.
func (t Tree) PCIDir(address string) string {
	return filepath.Join(t.Sys, "bus/pci/devices", address)
}

// GroupNode is the device node of an IOMMU group.
func (t Tree) GroupNode(group string) string { return filepath.Join(t.Dev, "vfio", group) }

// FindPCI looks at a PCI device; os.ErrNotExist: there is none.
func (t Tree) FindPCI(address string) (PCI, error) {
	dir := t.PCIDir(address)
	d := PCI{Address: address}
	class, err := read(filepath.Join(dir, "class"))
	if err != nil {
		return d, err
	}
	d.Bridge = strings.HasPrefix(class, "0x0604")
	if d.Driver, err = linked(filepath.Join(dir, "driver")); err != nil {
		return d, err
	}
	if d.Group, err = linked(filepath.Join(dir, "iommu_group")); err != nil || d.Group == "" {
		return d, err
	}
	entries, err := os.ReadDir(filepath.Join(dir, "iommu_group/devices"))
	if err != nil {
		return d, err
	}
	for _, e := range entries {
		if e.Name() != address {
			d.Others = append(d.Others, e.Name())
		}
	}
	return d, nil
}

// USB is a USB device.
type USB struct {
	// Name is its name in sysfs, such as 1-2.3.
	Name string
	// Node is its device node.
	Node string
	Hub  bool
}

// USBDir is the directory of USB devices in sysfs.
func (t Tree) USBDir() string { return filepath.Join(t.Sys, "bus/usb/devices") }

// FindUSB returns the devices that an address of spec.Device means.
func (t Tree) FindUSB(address string) ([]USB, error) {
	vendor, product, byID := strings.Cut(address, ":")
	names := []string{address}
	if byID {
		names = nil
		entries, err := os.ReadDir(t.USBDir())
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			if !strings.Contains(e.Name(), ":") { // else it is an interface
				names = append(names, e.Name())
			}
		}
	}
	var found []USB
	for _, name := range names {
		about := map[string]string{}
		for _, file := range []string{"idVendor", "idProduct", "busnum", "devnum", "bDeviceClass"} {
			if text, err := read(filepath.Join(t.USBDir(), name, file)); err == nil {
				about[file] = text
			}
		}
		if about["busnum"] == "" || byID && (about["idVendor"] != vendor || about["idProduct"] != product) {
			continue // or it was unplugged while we looked
		}
		node := fmt.Sprintf("bus/usb/%03s/%03s", about["busnum"], about["devnum"])
		found = append(found, USB{Name: name, Node: filepath.Join(t.Dev, node), Hub: about["bDeviceClass"] == "09"})
	}
	return found, nil
}

// Problem is why the guest cannot have a device, and what helps.
type Problem struct{ What, Cure string }

// Judge says why a VM cannot have one of its devices; nil: it can.
func (t Tree) Judge(d plan.Device, all []plan.Device) *Problem {
	if d.Bus == spec.USB {
		return t.judgeUSB(d)
	}
	p, err := t.FindPCI(d.Address)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return &Problem{"this host has no such PCI device", "accepted: one that lspci -D lists"}
	case err != nil:
		return &Problem{fmt.Sprintf("looking at the device: %v", err), "see whether lspci -D lists it"}
	case p.Bridge:
		return &Problem{"this is a bridge, which is no guest's to have", "accepted: a device behind it"}
	case p.Group == "":
		return &Problem{"no IOMMU keeps it within the guest's memory: the host has none, or it is off",
			"switch it on in the firmware (VT-d, AMD-Vi), and with an Intel processor boot the host with intel_iommu=on"}
	}
	for _, address := range p.Others {
		given := slices.ContainsFunc(all, func(g plan.Device) bool { return g.Bus == spec.PCI && g.Address == address })
		other, err := t.FindPCI(address)
		// What the kernel takes for harmless too: VFIO_DRIVER_ALLOWED in
		// drivers/vfio/group.c and vfio_iommu_driver_allowed_register_ops.
		harmless := other.Driver == "" || slices.Contains([]string{VFIO, "pci-stub", "pcieport"}, other.Driver)
		if given || err == nil && (other.Bridge || harmless) {
			continue
		}
		return &Problem{fmt.Sprintf("%s is in the same IOMMU group (%s), and the host uses it by its driver %s", address, p.Group, other.Driver),
			"add Device=pci:" + address + ", or take it from its driver, or put the device into another slot"}
	}
	if p.Driver != VFIO {
		if _, err := os.Stat(filepath.Join(t.Sys, "bus/pci/drivers", VFIO)); err != nil {
			return &Problem{"the host's kernel has no driver vfio-pci", "modprobe vfio-pci"}
		}
	}
	return nil
}

// Given is the node of a device that somebody else has taken from the host for a
// guest; a problem where it was not, or is not there. Empty: it cannot be told.
func (t Tree) Given(d plan.Device) (node string, problem *Problem) {
	if d.Bus == spec.USB {
		found, err := t.FindUSB(d.Address)
		if err != nil || len(found) != 1 {
			return "", nil // which Judge says
		}
		return found[0].Node, nil
	}
	p, err := t.FindPCI(d.Address)
	switch {
	case err != nil || p.Group == "":
		return "", nil
	case p.Driver == VFIO:
		return t.GroupNode(p.Group), nil
	}
	what := "the host uses it by its driver " + p.Driver
	if p.Driver == "" {
		what = "it has no driver"
	}
	return "", &Problem{what + ", and somebody else was to bind it to vfio-pci", "whoever does has to before the VM starts; or remove external, and Ampoule does it"}
}

func (t Tree) judgeUSB(d plan.Device) *Problem {
	found, err := t.FindUSB(d.Address)
	switch {
	case err != nil:
		return &Problem{fmt.Sprintf("looking for USB devices: %v", err), "see whether lsusb lists it"}
	case len(found) == 0:
		return &Problem{"this host has no such USB device now", "plug it in; accepted: one that lsusb lists"}
	case len(found) > 1:
		var names []string
		for _, u := range found {
			names = append(names, "usb:"+u.Name)
		}
		return &Problem{"this host has several such USB devices", "accepted: one of them by its port: " + strings.Join(names, ", ")}
	case found[0].Hub:
		return &Problem{"this is a hub, which is no guest's to have", "accepted: a device behind it"}
	}
	return nil
}

// read is a file of sysfs without its newline.
func read(path string) (string, error) {
	text, err := os.ReadFile(path)
	return strings.TrimSpace(string(text)), err
}

// linked is the name of what a link leads to; empty: there is no such link.
func linked(path string) (string, error) {
	target, err := os.Readlink(path)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	return filepath.Base(target), err
}
