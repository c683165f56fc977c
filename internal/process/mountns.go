package process

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// enterMountNamespace moves the calling thread, and it alone, into a new mount
// namespace and calls prepare there. The thread must end afterwards; there is
// no way back.
func enterMountNamespace(prepare func() error) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("making a private mount namespace: %w", err)
	}
	// Slave, not private: our mounts stay here, while what the host mounts and
	// above all unmounts still takes effect, so that a long-lived child does
	// not keep a file system busy.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	return prepare()
}
