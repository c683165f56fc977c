package qemu

import "github.com/ampoule-vm/ampoule/internal/driver"

// Features answers for every feature of the contract: QEMU has them all.
func (Driver) Features() []driver.Feature { return driver.Answer(nil) }
