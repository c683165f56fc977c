package cloudhypervisor

import "github.com/ampoule-vm/ampoule/internal/driver"

// Features answers for every feature of the contract.
func (Driver) Features() []driver.Feature { return driver.Answer(refusals()) }

// refusals are the features that Cloud Hypervisor does not have, with the reason.
func refusals() map[string]string {
	return map[string]string{
		"device usb":     "cloud-hypervisor has no USB; give the PCI device of the whole controller, or use Hypervisor=qemu",
		"channel fw_cfg": "cloud-hypervisor has no fw_cfg unless it was built with it, which no distribution does; use smbios or initrd",
		"network user":   "cloud-hypervisor has no network of its own; use tap, bridge or macvtap, or Hypervisor=qemu",
		"share 9p":       "cloud-hypervisor has no 9p; use virtiofs",
		"network vhost":  "cloud-hypervisor moves the packets itself",
		"network mtu":    "cloud-hypervisor sets an MTU on the host's interface by its name, which it has no right to",
		"machine type":   "cloud-hypervisor has one machine and no types of it",
		"emulation":      "cloud-hypervisor needs KVM and emulates no processor; Hypervisor=qemu does",
	}
}
