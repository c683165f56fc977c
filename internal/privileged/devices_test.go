package privileged

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/devices"
	"github.com/ampoule-vm/ampoule/internal/testkit/sysfs"
)

// deviceHost is a made-up one, and the step that takes devices from it.
func deviceHost(t *testing.T) (*sysfs.Tree, hostDevices) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it changes owners")
	}
	h := sysfs.New(t, "e1000e", "ixgbe")
	h.PCI("0000:01:00.0", "0x020000", "e1000e", "7")
	h.PCI("0000:01:00.1", "0x020000", "ixgbe", "7")
	h.PCI("0000:02:00.0", "0x020000", "vfio-pci", "8")
	h.PCI("0000:03:00.0", "0x020000", "", "9")
	h.USB("1-2", "046d", "c077", "00", "1", "5")
	return h, hostDevices{devices.Tree{Sys: h.Sys, Dev: h.Dev}, h.Write}
}

func deviceRequest(t *testing.T, h hostDevices, dir, owner string, lines ...string) Request {
	t.Helper()
	return Request{
		Plan: planOf(t, append([]string{"Kernel=/k"}, lines...)...), User: 4711, Group: 4712, Owner: owner, Dir: dir, steps: []step{h.step()},
	}
}

func wantOwner(t *testing.T, path string, user uint32) {
	t.Helper()
	var s syscall.Stat_t
	if err := syscall.Stat(path, &s); err != nil || s.Uid != user || s.Mode&0o777 != 0o600 {
		t.Errorf("%s is uid %d's with mode %o, %v; want uid %d", path, s.Uid, s.Mode&0o777, err, user)
	}
}

// TestDevices: they are taken, given to the VM's user, and given back to the drivers
// that they had.
func TestDevices(t *testing.T) {
	h, step := deviceHost(t)
	dir := filepath.Join(t.TempDir(), "privileged")
	r := deviceRequest(t, step, dir, "a", "Device=pci:0000:01:00.0", "Device=pci:0000:01:00.1", "Device=pci:0000:02:00.0", "Device=pci:0000:03:00.0", "Device=usb:046d:c077")
	if _, problems := Prepare(t.Context(), r); len(problems) > 0 {
		t.Fatal(problems)
	}
	usb := filepath.Join(h.Dev, "bus/usb/001/005")
	for _, address := range []string{"0000:01:00.0", "0000:01:00.1", "0000:02:00.0", "0000:03:00.0"} {
		if d := h.Driver(address); d != devices.VFIO {
			t.Errorf("%s has the driver %q", address, d)
		}
	}
	for _, node := range []string{"vfio/7", "vfio/8", "vfio/9"} {
		wantOwner(t, filepath.Join(h.Dev, node), 4711)
	}
	wantOwner(t, usb, 4711)
	if _, err := Release(r); err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]string{"0000:01:00.0": "e1000e", "0000:01:00.1": "ixgbe", "0000:02:00.0": devices.VFIO, "0000:03:00.0": ""} {
		if d := h.Driver(address); d != want {
			t.Errorf("afterwards %s has the driver %q, want %q", address, d, want)
		}
		if text, _ := os.ReadFile(filepath.Join(h.Sys, "bus/pci/devices", address, "driver_override")); strings.TrimSpace(string(text)) != "(null)" {
			t.Errorf("%s keeps the override %s", address, text)
		}
	}
	wantOwner(t, filepath.Join(h.Dev, "vfio/8"), 0)
	wantOwner(t, usb, 0)
	if !slices.Contains(h.Writes, "bus/usb/drivers_probe 1-2:1.0") {
		t.Errorf("nobody looks at the interfaces of the USB device again: %q", h.Writes)
	}
	if entries, _ := os.ReadDir(dir); len(entries) > 0 {
		t.Errorf("%v is left", entries)
	}
}

// TestDevicesRefused: what cannot be taken is an error at its line, and then nothing is.
func TestDevicesRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		lines []string
		want  string
	}{
		"another of the group": {[]string{"Device=pci:0000:01:00.0"}, "web.microvm:3: Device=pci:0000:01:00.0: 0000:01:00.1 is in the same IOMMU group (7), and the host uses it by its driver ixgbe; add Device=pci:0000:01:00.1"},
		"not there":            {[]string{"Device=pci:0000:03:00.0", "Device=usb:1-9"}, "web.microvm:4: Device=usb:1-9: this host has no such USB device now"},
	} {
		h, step := deviceHost(t)
		_, problems := Prepare(t.Context(), deviceRequest(t, step, filepath.Join(t.TempDir(), "privileged"), "a", tt.lines...))
		if len(problems) != 1 || !strings.Contains(problems.Error(), tt.want) {
			t.Errorf("%s: %v", name, problems)
		}
		if len(h.Writes) > 0 {
			t.Errorf("%s: %q was written", name, h.Writes)
		}
	}
}

// TestDevicesOfAnother: what one VM has, and what is in the same group, no other gets.
func TestDevicesOfAnother(t *testing.T) {
	_, step := deviceHost(t)
	dir := filepath.Join(t.TempDir(), "privileged")
	first := deviceRequest(t, step, dir, "a", "Device=pci:0000:01:00.0", "Device=pci:0000:01:00.1", "Device=usb:1-2")
	first.Plan.VM.Name = "first"
	first.Plan.Seal()
	if _, problems := Prepare(t.Context(), first); len(problems) > 0 {
		t.Fatal(problems)
	}
	second := deviceRequest(t, step, dir, "b", "Device=pci:0000:01:00.1", "Device=usb:046d:c077")
	_, problems := Prepare(t.Context(), second)
	if len(problems) != 2 || !strings.Contains(problems.Error(), "Device=pci:0000:01:00.1: the VM first has this device") ||
		!strings.Contains(problems.Error(), "Device=usb:046d:c077: the VM first has this device") {
		t.Errorf("%v", problems)
	}
	if _, err := Release(first); err != nil {
		t.Fatal(err)
	}
	if _, problems := Prepare(t.Context(), deviceRequest(t, step, dir, "b", "Device=usb:046d:c077")); len(problems) > 0 {
		t.Error(problems)
	}
}

// TestDevicesFail: half of it is undone, and a driver that is gone is no reason to
// keep a device.
func TestDevicesFail(t *testing.T) {
	h, step := deviceHost(t)
	step.write = func(path, value string) error {
		if strings.HasSuffix(path, "drivers_probe") && value == "0000:01:00.1" {
			return errors.New("it does not want to")
		}
		return h.Write(path, value)
	}
	dir := filepath.Join(t.TempDir(), "privileged")
	r := deviceRequest(t, step, dir, "a", "Device=pci:0000:01:00.0", "Device=pci:0000:01:00.1")
	_, problems := Prepare(t.Context(), r)
	if len(problems) != 1 || !strings.Contains(problems.Error(), "Device=pci:0000:01:00.1: it does not want to; see journalctl -k") {
		t.Fatal(problems)
	}
	if d := h.Driver("0000:01:00.0"); d != "e1000e" {
		t.Errorf("it has the driver %q", d)
	}
	if _, err := os.Lstat(filepath.Join(dir, "web")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something is remembered: %v", err)
	}

	h, step = deviceHost(t)
	r = deviceRequest(t, step, dir, "b", "Device=pci:0000:01:00.0", "Device=pci:0000:01:00.1")
	if _, problems := Prepare(t.Context(), r); len(problems) > 0 {
		t.Fatal(problems)
	}
	h.Unload("e1000e")
	if _, err := Release(r); err != nil {
		t.Error(err)
	}
	if d := h.Driver("0000:01:00.1"); d != "ixgbe" {
		t.Errorf("the other has the driver %q", d)
	}
}
