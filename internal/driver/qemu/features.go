package qemu

import "github.com/ampoule-vm/ampoule/internal/driver"

// Features answers for every feature of the contract: QEMU has them all.
func (Driver) Features() []driver.Feature { return driver.Answer(refusals()) }

// refusals are what QEMU does not do, with the reason.
func refusals() map[string]string {
	return map[string]string{
		"port ipv6": "QEMU passes on ports of IPv4 addresses only",
	}
}
