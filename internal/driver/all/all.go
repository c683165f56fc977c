// Package all is the ordered list of drivers; the first is the default. It is
// the only place outside a driver's folder that knows its name.
package all

import (
	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/driver/cloudhypervisor"
	"github.com/ampoule-vm/ampoule/internal/driver/firecracker"
	"github.com/ampoule-vm/ampoule/internal/driver/qemu"
)

// Drivers returns every driver.
func Drivers() []driver.Driver {
	return []driver.Driver{qemu.Driver{}, cloudhypervisor.Driver{}, firecracker.Driver{}}
}
