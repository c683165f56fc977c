package spec

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/layer"
)

// The buses of a device of the host.
const (
	PCI = "pci"
	USB = "usb"
)

// Device is one Device= line: a device of the host that the guest gets for itself.
type Device struct {
	Bus string
	// Address is for PCI DOMAIN:BUS:DEVICE.FUNCTION, in lower case; for USB
	// VENDOR:PRODUCT in lower case, or BUS-PORT[.PORT…].
	Address string
	// External: somebody else takes it from the host, and gives it back.
	External bool
	From     From
}

// String returns the value as it is written in a file.
func (d Device) String() string { return DeviceLine(d.Bus, d.Address, d.External) }

// DeviceLine is the value of a line.
func DeviceLine(bus, address string, external bool) string {
	if external {
		address += externalDevice
	}
	return bus + ":" + address
}

// externalDevice is the option behind an address.
const externalDevice = ",external"

func deviceRows() []Row {
	return []Row{{
		Name: "Device", Merge: layer.List, Form: "pci:DDDD:BB:DD.F|usb:VVVV:PPPP|usb:BUS-PORT[,external]", Default: "none",
		Accepted: "accepted: pci:DDDD:BB:DD.F, as lspci -D has it; usb:VVVV:PPPP, as lsusb has it; usb:BUS-PORT or usb:BUS-PORT.PORT, as lsusb -t has it; each with ,external behind it where somebody else prepares it",
		Help: "Takes a device of the host and gives it to the guest. pci: by vfio, with the host's IOMMU; every other device of its IOMMU group must be given too, or have no driver or vfio-pci. " +
			"Before the start root takes it from its driver, and gives it back afterwards. usb: by vendor and product, or by where it is plugged in. " +
			"With ,external somebody else does what root does: binds a PCI device to vfio-pci, and lets the VM's user open the node of its IOMMU group, or of the USB device.",
		apply: func(r *reader, value string, from From) error {
			expanded, err := r.Identity.Expand(value)
			if err != nil {
				return err
			}
			d, err := parseDevice(expanded)
			if err != nil {
				return err
			}
			for _, other := range r.vm.Devices {
				if other.Bus == d.Bus && other.Address == d.Address {
					return &valueError{"the same device as at " + other.From.Origin.String(), "remove one of the two"}
				}
			}
			d.From = from
			r.vm.Devices = append(r.vm.Devices, d)
			return nil
		},
	}}
}

func parseDevice(s string) (Device, error) {
	bus, address, ok := strings.Cut(s, ":")
	address, external := strings.CutSuffix(address, externalDevice)
	switch {
	case ok && bus == PCI:
		a, err := ParsePCI(address)
		return Device{Bus: PCI, Address: a, External: external}, err
	case ok && bus == USB:
		a, err := parseUSB(address)
		return Device{Bus: USB, Address: a, External: external}, err
	}
	return Device{}, fmt.Errorf("neither pci:ADDRESS nor usb:ADDRESS")
}

// ParsePCI reads DOMAIN:BUS:DEVICE.FUNCTION, as Linux writes it.
func ParsePCI(s string) (string, error) {
	s = strings.ToLower(s)
	dot := strings.Split(s, ".")
	parts := strings.Split(dot[0], ":")
	if len(dot) != 2 || len(parts) != 3 || len(parts[0]) != 4 || len(parts[1]) != 2 || len(parts[2]) != 2 || len(dot[1]) != 1 || !isHex(parts[0]+parts[1]+parts[2]+dot[1]) {
		return "", fmt.Errorf("no address of a PCI device with its domain, such as 0000:01:00.0")
	}
	if device, _ := strconv.ParseUint(parts[2], 16, 8); device > 31 || dot[1] > "7" {
		return "", fmt.Errorf("a PCI bus has devices 00 to 1f with functions 0 to 7")
	}
	return s, nil
}

// parseUSB reads VENDOR:PRODUCT, or BUS-PORT[.PORT…] (at most 7 tiers of hubs, by
// the standard).
func parseUSB(s string) (string, error) {
	if vendor, product, ok := strings.Cut(strings.ToLower(s), ":"); ok {
		if len(vendor) != 4 || len(product) != 4 || !isHex(vendor+product) {
			return "", fmt.Errorf("no vendor and product of four hexadecimal digits each")
		}
		return vendor + ":" + product, nil
	}
	bus, ports, ok := strings.Cut(s, "-")
	numbers := append([]string{bus}, strings.Split(ports, ".")...)
	if !ok || len(numbers) > 8 {
		return "", fmt.Errorf("neither vendor and product nor a bus and its ports")
	}
	for _, n := range numbers {
		if _, err := ParseInt(n, 1, 255); err != nil || n[0] == '0' {
			return "", fmt.Errorf("a bus and ports are numbers from 1 to 255")
		}
	}
	return s, nil
}

func isHex(s string) bool { return strings.Trim(s, "0123456789abcdef") == "" }

// CheckDevice says what is wrong with a bus and an address, or nil.
func CheckDevice(bus, address string) error {
	d, err := parseDevice(bus + ":" + address)
	if err == nil && d.Address != address {
		return fmt.Errorf("the address is not in lower case")
	}
	return err
}
