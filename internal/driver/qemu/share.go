package qemu

import (
	"fmt"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/spec"
)

// share attaches share number i: by the socket of whoever serves it, or with
// QEMU's own server of 9p. In options QEMU has a comma written twice.
func (m machine) share(vm *spec.VM, i int, s spec.Share) []string {
	id := fmt.Sprintf("fs%d", i)
	if s.Protocol == spec.VirtioFS {
		return []string{
			"-chardev", "socket,id=" + id + ",path=" + driver.ShareSocket(vm, s),
			"-device", "vhost-user-fs-" + m.bus + ",chardev=" + id + ",tag=" + s.Tag,
		}
	}
	security := s.Security
	if security == "mapped" {
		security = "mapped-xattr"
	}
	local := "local,id=" + id + ",path=" + strings.ReplaceAll(s.Source, ",", ",,") + ",security_model=" + security +
		// Of two files on different file systems of the host one could have the
		// other's number.
		",multidevs=remap"
	if s.ReadOnly {
		local += ",readonly=on"
	}
	return []string{"-fsdev", local, "-device", "virtio-9p-" + m.bus + ",fsdev=" + id + ",mount_tag=" + s.Tag}
}
