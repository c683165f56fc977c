package host

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Hypervisors lock their disks by open file description (fcntl(2), F_OFD_SETLK), and
// a lock of one is seen by the others.
//
// QEMU holds read locks on single bytes: 100 plus the number of each permission that
// it has, 200 plus that of each that it leaves to nobody else (block/file-posix.c,
// RAW_LOCK_PERM_BASE, RAW_LOCK_SHARED_BASE; include/block/block-common.h: reading is
// number 0, writing 1, resizing 3). Whoever has a disk, for reading too, leaves
// writing to nobody. cloud-hypervisor holds one lock, for reading or writing, from
// byte 0 to the end of the disk (block/src/fcntl.rs, virtio-devices/src/block.rs).
const (
	lockReads     = 100
	lockWrites    = 101
	lockPermsEnd  = 104
	lockNoWriter  = 201
	lockShared    = 200
	lockSharedEnd = 204
)

// ErrInUse is the end of an error that says by whom a disk is used.
var ErrInUse = errors.New("the disk is in use")

// DiskFree says who has a disk, where it could not be opened as it is to be: for
// writing nobody may have it, and for reading nobody who writes. A file that cannot
// be locked, or is not there, is in nobody's use.
func DiskFree(d Disk) error {
	f, _, err := open(d.Path, d.flags(), true)
	if err != nil {
		return nil
	}
	defer f.Close()
	return d.conflict(f)
}

// LockDisk locks a disk for a hypervisor that does not do it itself, until the file
// is closed. A file system without locks is no error.
func LockDisk(d Disk) (*os.File, error) {
	f, _, err := open(d.Path, d.flags(), true)
	if err != nil {
		return nil, err
	}
	locks := []unix.Flock_t{{Type: unix.F_WRLCK, Start: lockReads, Len: lockSharedEnd - lockReads}}
	if d.ReadOnly {
		// Not all of them, which QEMU would take for somebody's who leaves reading
		// to nobody.
		locks = []unix.Flock_t{{Type: unix.F_RDLCK, Start: lockReads, Len: 1}, {Type: unix.F_RDLCK, Start: lockNoWriter, Len: 1}}
	}
	for _, lock := range locks {
		err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
			err := d.used(f)
			f.Close()
			return nil, err
		}
	}
	// A writer that holds read locks is in nobody's way but this one's.
	if err := d.conflict(f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// conflict reports whoever has the disk in a way that it cannot be shared.
func (d Disk) conflict(f *os.File) error {
	held := func(start, length int64) *unix.Flock_t {
		lock := unix.Flock_t{Type: unix.F_WRLCK, Start: start, Len: length}
		if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock); err != nil || lock.Type == unix.F_UNLCK {
			return nil
		}
		return &lock
	}
	if d.ReadOnly {
		// Of a read lock from byte 0 on the owner only reads.
		if lock := held(lockWrites, 1); lock != nil && (lock.Type == unix.F_WRLCK || lock.Start != 0) {
			return d.used(f)
		}
		return nil
	}
	if held(lockReads, lockPermsEnd-lockReads) != nil || held(lockShared, lockSharedEnd-lockShared) != nil {
		return d.used(f)
	}
	return nil
}

// used is the error, with the process that holds a lock if it may be seen.
func (d Disk) used(f *os.File) error {
	by := "another VM or program"
	if pid, name := lockHolder(f); pid != 0 {
		by = fmt.Sprintf("process %d (%s)", pid, name)
	}
	if d.ReadOnly {
		return fmt.Errorf("%w by %s, which writes it", ErrInUse, by)
	}
	return fmt.Errorf("%w by %s", ErrInUse, by)
}

// lockHolder looks for a process that holds a lock of the file: among those whose
// descriptors this user may see.
func lockHolder(f *os.File) (pid int, name string) {
	own, err := f.Stat()
	if err != nil {
		return 0, ""
	}
	fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return 0, ""
	}
	for _, fd := range fds {
		if info, err := os.Stat(fd); err != nil || !os.SameFile(info, own) {
			continue
		}
		process := filepath.Dir(filepath.Dir(fd))
		about, err := os.ReadFile(filepath.Join(process, "fdinfo", filepath.Base(fd)))
		if err != nil || !bytes.Contains(about, []byte("\nlock:")) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(process))
		if err != nil || pid == os.Getpid() {
			continue
		}
		comm, err := os.ReadFile(filepath.Join(process, "comm"))
		if err != nil {
			continue
		}
		return pid, printable(strings.TrimSpace(string(comm)))
	}
	return 0, ""
}

// printable keeps of a process's name, which it gives itself, what can be shown.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}
