package host

import (
	"golang.org/x/sys/unix"
)

// LandlockFiles is the first version of Landlock's interface that covers
// truncation too, without which a hypervisor does not lock itself in.
const LandlockFiles = 3

// Landlock is the version of the interface by which a process of this kernel can
// lock itself in (landlock(7)), as far as this process may use it: 0 where it may
// not, or there is none.
func (Host) Landlock() int {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(version)
}
