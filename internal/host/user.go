package host

import (
	"os"

	"golang.org/x/sys/unix"
)

// User is who does something on this host.
type User struct {
	ID     int
	Groups []int
	// AnyTap: it may open any tap, whoever owns that (CAP_NET_ADMIN).
	AnyTap bool
}

// Self is the user of this process.
func Self() *User {
	u := User{ID: os.Geteuid(), Groups: []int{os.Getegid()}}
	if groups, err := os.Getgroups(); err == nil {
		u.Groups = append(u.Groups, groups...)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	u.AnyTap = unix.Capget(&header, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_NET_ADMIN) != 0
	return &u
}

// MayOpen returns why this process may not open a path for reading and writing, or
// connect to it where it is a socket; nil: it may. The path is not opened.
func MayOpen(path string) error {
	mode := uint32(unix.R_OK | unix.W_OK)
	if info, err := os.Stat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
		mode = unix.W_OK
	}
	return unix.Access(path, mode)
}
