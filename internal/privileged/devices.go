package privileged

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/devices"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// hostDevices takes devices from the host for a VM, and gives them back.
type hostDevices struct {
	devices.Tree
	// write writes to a file of sysfs.
	write func(path, value string) error
}

func newHostDevices() hostDevices { return hostDevices{devices.Host(), writeSys} }

func (h hostDevices) step() step { return step{prepare: h.prepare, release: h.release} }

// taken is what was done for a device, written down before it is done.
type taken struct {
	Bus string `json:"bus"`
	// Name is the PCI device's address, or the USB device's name in sysfs.
	Name string `json:"name"`
	// Driver and Override are those that the PCI device had.
	Driver   string `json:"driver,omitempty"`
	Override string `json:"override,omitempty"`
	// Node is what was given to the VM's user, and the others how it was before;
	// a node that was not there before is the kernel's.
	Node  string `json:"node"`
	Mode  uint32 `json:"mode,omitempty"`
	User  int    `json:"user,omitempty"`
	Group int    `json:"group,omitempty"`
}

const devicesFile = "devices.json"

func (h hostDevices) prepare(_ context.Context, vm *VM) diag.List {
	var problems diag.List
	own := slices.DeleteFunc(slices.Clone(vm.Plan.VM.Devices), func(d plan.Device) bool { return d.External })
	if len(own) == 0 {
		return nil
	}
	refuse := func(d plan.Device, accepted, what string) {
		problems.Errorf(vm.Plan.Origin(d.From), plan.KeyOf(d.From), d.String(), accepted, "%s", what)
	}
	var list []taken
	for _, d := range own {
		if p := h.Judge(d, vm.Plan.VM.Devices); p != nil {
			refuse(d, p.Cure, p.What)
			continue
		}
		t, err := h.look(d)
		if err != nil {
			refuse(d, "", err.Error())
			continue
		}
		if other := whoHas(vm, t); other != "" {
			refuse(d, "stop "+other+", or give one of the two another device", "the VM "+other+" has this device, or another of its IOMMU group")
			continue
		}
		list = append(list, t)
	}
	if problems.HasErrors() {
		return problems
	}
	if err := writeWhole(vm.Dir, devicesFile, list); err != nil {
		problems.Errorf(vm.Plan.Origin(own[0].From), "", "", "", "writing down which devices are taken from the host: %v", err)
		return problems
	}
	for i, t := range list {
		if t.Bus == spec.PCI {
			if err := h.bind(t); err != nil {
				refuse(own[i], "see journalctl -k; modprobe vfio-pci, if the driver is missing", err.Error())
				continue
			}
		}
		// Its mode first: in between it is still its owner's alone.
		if err := errors.Join(os.Chmod(t.Node, 0o600), os.Chown(t.Node, vm.User, vm.Group)); err != nil {
			refuse(own[i], "", "giving "+t.Node+" to the VM's user: "+err.Error())
		}
	}
	return problems
}

// look says how a device is before it is taken.
func (h hostDevices) look(d plan.Device) (taken, error) {
	t := taken{Bus: d.Bus, Name: d.Address}
	if d.Bus == spec.USB {
		found, err := h.FindUSB(d.Address)
		if err != nil || len(found) != 1 {
			return t, errors.Join(errors.New("the device was unplugged just now"), err)
		}
		t.Name, t.Node = found[0].Name, found[0].Node
	} else {
		p, err := h.FindPCI(d.Address)
		if err != nil {
			return t, err
		}
		t.Driver, t.Node = p.Driver, h.GroupNode(p.Group)
		text, err := os.ReadFile(filepath.Join(h.PCIDir(d.Address), "driver_override"))
		if err != nil {
			return t, err
		}
		if t.Override = strings.TrimSpace(string(text)); t.Override == "(null)" {
			t.Override = ""
		}
	}
	var s unix.Stat_t
	if err := unix.Stat(t.Node, &s); err == nil {
		t.Mode, t.User, t.Group = s.Mode&0o777, int(s.Uid), int(s.Gid)
	}
	return t, nil
}

// whoHas names another VM that has a device, or one of the same IOMMU group.
func whoHas(vm *VM, t taken) string {
	others, err := filepath.Glob(filepath.Join(filepath.Dir(vm.Dir), "*", devicesFile))
	if err != nil {
		return ""
	}
	for _, path := range others {
		list, err := readTaken(filepath.Dir(path))
		if err != nil || filepath.Dir(path) == vm.Dir {
			continue
		}
		for _, o := range list {
			if o.Bus == t.Bus && (o.Name == t.Name || o.Node == t.Node) {
				return filepath.Base(filepath.Dir(path))
			}
		}
	}
	return ""
}

// bind has vfio-pci take a PCI device.
func (h hostDevices) bind(t taken) error {
	if t.Driver == devices.VFIO {
		return nil
	}
	dir := h.PCIDir(t.Name)
	if err := h.write(filepath.Join(dir, "driver_override"), devices.VFIO); err != nil {
		return err
	}
	return h.rebind(t.Name, devices.VFIO)
}

// rebind takes a PCI device from its driver and has the kernel look for one.
func (h hostDevices) rebind(address, want string) error {
	p, err := h.FindPCI(address)
	if err != nil {
		return err
	}
	if p.Driver == want {
		return nil
	}
	if p.Driver != "" {
		if err := h.write(filepath.Join(h.PCIDir(address), "driver/unbind"), address); err != nil {
			return err
		}
	}
	if err := h.write(filepath.Join(h.Sys, "bus/pci/drivers_probe"), address); err != nil {
		return err
	}
	if p, err = h.FindPCI(address); err == nil && want != "" && p.Driver != want {
		return fmt.Errorf("the driver %s did not take it", want)
	}
	return err
}

func (h hostDevices) release(vm *VM) error {
	list, err := readTaken(vm.Dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil // nothing was taken before this was written
	}
	if err != nil {
		return err
	}
	var wrong []error
	for _, t := range list {
		if err := h.giveBack(vm, t); err != nil {
			wrong = append(wrong, fmt.Errorf("giving %s %s back to the host: %w", t.Bus, t.Name, err))
		}
	}
	return errors.Join(wrong...)
}

// giveBack undoes what was done for a device; one that was unplugged is no error.
func (h hostDevices) giveBack(vm *VM, t taken) error {
	if err := t.restoreNode(vm.User); err != nil {
		return err
	}
	if t.Bus == spec.USB {
		return h.probeInterfaces(t.Name)
	}
	if t.Driver == devices.VFIO {
		return nil // it was so before
	}
	if _, err := os.Lstat(h.PCIDir(t.Name)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	override := t.Override
	if override == "" {
		override = "\n" // which clears it
	}
	if err := h.write(filepath.Join(h.PCIDir(t.Name), "driver_override"), override); err != nil {
		return err
	}
	p, err := h.FindPCI(t.Name)
	if err != nil || p.Driver != devices.VFIO {
		return err
	}
	if err := h.write(filepath.Join(h.PCIDir(t.Name), "driver/unbind"), t.Name); err != nil || t.Driver == "" {
		return err
	}
	if err := h.write(filepath.Join(h.Sys, "bus/pci/drivers", t.Driver, "bind"), t.Name); err == nil {
		return nil
	}
	// Its module is gone, say: whichever takes it.
	return h.write(filepath.Join(h.Sys, "bus/pci/drivers_probe"), t.Name)
}

// restoreNode gives a node back that is still the VM's user's: another may have its
// name by now.
func (t taken) restoreNode(user int) error {
	var s unix.Stat_t
	if err := unix.Lstat(t.Node, &s); err != nil || int(s.Uid) != user {
		return nil
	}
	mode := os.FileMode(t.Mode)
	if t.Mode == 0 {
		mode = 0o600 // as the kernel makes it
	}
	return errors.Join(os.Chown(t.Node, t.User, t.Group), os.Chmod(t.Node, mode))
}

// probeInterfaces has the kernel's drivers look at the interfaces of a USB device
// again, which the hypervisor had taken from them.
func (h hostDevices) probeInterfaces(name string) error {
	interfaces, err := filepath.Glob(filepath.Join(h.USBDir(), name+":*"))
	if err != nil {
		return err
	}
	for _, dir := range interfaces {
		if _, err := os.Lstat(filepath.Join(dir, "driver")); errors.Is(err, os.ErrNotExist) {
			// None of them may want it.
			_ = h.write(filepath.Join(h.Sys, "bus/usb/drivers_probe"), filepath.Base(dir))
		}
	}
	return nil
}

func readTaken(dir string) ([]taken, error) {
	text, err := os.ReadFile(filepath.Join(dir, devicesFile))
	if err != nil {
		return nil, err
	}
	var list []taken
	return list, json.Unmarshal(text, &list)
}

// writeSys writes to a file of sysfs, which is there or not at all.
func writeSys(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
