package firecracker

import "github.com/ampoule-vm/ampoule/internal/driver"

// Features answers for every feature of the contract.
func (Driver) Features() []driver.Feature { return driver.Answer(refusals()) }

// refusals are the features that Firecracker does not have, with the reason.
func refusals() map[string]string {
	return map[string]string{
		"device pci":      "firecracker passes no devices of the host on; Hypervisor=qemu and Hypervisor=cloud-hypervisor do",
		"device usb":      "firecracker passes no devices of the host on; Hypervisor=qemu does",
		"channel smbios":  "firecracker has no SMBIOS; use initrd",
		"channel fw_cfg":  "firecracker has no fw_cfg; use initrd",
		"disk qcow2":      "firecracker reads raw disks only",
		"disk vhd":        "firecracker reads raw disks only",
		"disk vhdx":       "firecracker reads raw disks only",
		"disk direct":     "firecracker reads and writes its disks through the host's page cache alone",
		"disk serial":     "firecracker gives its disks no serial numbers",
		"network user":    "firecracker has no network of its own; use tap or bridge, or Hypervisor=qemu",
		"network macvtap": "firecracker opens an interface by its name, and a macvtap has none that it could open",
		"network queues":  "firecracker has one pair of queues for an interface",
		"network vhost":   "firecracker moves the packets itself",
		"huge pages 1G":   "firecracker takes huge pages of 2M only",
		"cpu topology":    "firecracker has one socket, with one thread on each core or, on x86-64, two",
		"watchdog":        "firecracker has no watchdog; WatchdogSec= in [Service] watches over firecracker itself",
		"share virtiofs":  "firecracker connects no file systems with its guest; Hypervisor=qemu and cloud-hypervisor do, or use Disk=",
		"share 9p":        "firecracker has no 9p; Hypervisor=qemu has, or use Disk=",
		"machine type":    "firecracker has one machine and no types of it",
		"emulation":       "firecracker needs KVM and emulates no processor; Hypervisor=qemu does",
		"reboot":          "firecracker ends when its guest reboots, and Ampoule counts that as a power-off; Restart=always in [Service] starts it again, with its credentials read anew",
	}
}
