package shim

import (
	"syscall"

	"github.com/ampoule-vm/ampoule/internal/shim/layout"
)

// The mounts are as systemd makes them: /run by 252 and 257 alike, the store
// as 257 leaves it after its own import. systemd takes what is mounted already.
const (
	runFlags = syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_STRICTATIME
	runData  = "mode=0755,size=20%,nr_inodes=800k"

	storeFlags  = syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC
	storeData   = "mode=0700"
	noSymFollow = 256 // MS_NOSYMFOLLOW of Linux 5.10, which package syscall lacks

	storeParent = layout.Run + "/credentials"
)

// deliver moves the credentials of the overlay into a file system that is never
// swapped out, and returns their number. After an error nothing of them is
// there, and /run is as it was.
func deliver() (int, error) {
	if err := makeDirectory(layout.Run, 0o755); err != nil {
		return 0, err
	}
	if err := syscall.Mount("tmpfs", layout.Run, "tmpfs", runFlags, runData); err != nil {
		return 0, doing("mounting "+layout.Run, err)
	}
	count, err := fill()
	if err != nil {
		withdraw()
		return 0, err
	}
	return count, nil
}

func fill() (int, error) {
	if err := makeDirectory(storeParent, 0o755); err != nil {
		return 0, err
	}
	if err := makeDirectory(layout.Store, 0o700); err != nil {
		return 0, err
	}
	flags, err := mountStore()
	if err != nil {
		return 0, doing("mounting "+layout.Store, err)
	}
	names, err := list(layout.Credentials)
	if err != nil {
		return 0, doing("reading "+layout.Credentials, err)
	}
	m, err := newMover()
	if err != nil {
		return 0, doing("making a buffer", err)
	}
	defer m.close()
	for _, name := range names {
		if err := m.move(layout.Credentials+"/"+name, layout.Store+"/"+name); err != nil {
			return 0, doing(name, err)
		}
	}
	// The mount is made read-only, not the file system: systemd 257 undoes it,
	// by the same call, where an initrd has credentials of its own to add.
	err = syscall.Mount("", layout.Store, "", flags|syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, "")
	return len(names), doing("making "+layout.Store+" read-only", err)
}

// mountStore returns the flags that the kernel took.
func mountStore() (uintptr, error) {
	for _, flags := range []uintptr{storeFlags | noSymFollow, storeFlags} {
		err := syscall.Mount("ramfs", layout.Store, "ramfs", flags, storeData)
		if err == nil || err != syscall.EINVAL {
			return flags, err
		}
	}
	return 0, syscall.EINVAL
}

// withdraw undoes what deliver did, as far as it came.
func withdraw() {
	_ = syscall.Mount("", layout.Store, "", storeFlags|syscall.MS_BIND|syscall.MS_REMOUNT, "")
	_ = empty(layout.Store, 1)
	_ = syscall.Unmount(layout.Store, syscall.MNT_DETACH)
	_ = syscall.Unmount(layout.Run, syscall.MNT_DETACH)
}

// mover copies files and overwrites their sources.
type mover struct {
	buffer []byte // outside the heap; what is in it is wiped by close
	zeros  []byte
}

const moverBytes = 128 << 10

func newMover() (*mover, error) {
	const flags = syscall.MAP_PRIVATE | syscall.MAP_ANON
	both, err := syscall.Mmap(-1, 0, 2*moverBytes, syscall.PROT_READ|syscall.PROT_WRITE, flags)
	if err != nil {
		return nil, err
	}
	return &mover{buffer: both[:moverBytes], zeros: both[moverBytes:]}, nil
}

// close leaves the memory to exec, which unmaps all of it.
func (m *mover) close() { clear(m.buffer) }

// move copies a file, and then overwrites and removes its source, so that there
// is never memory taken for more than one credential twice.
func (m *mover) move(from, to string) error {
	src, err := syscall.Open(from, syscall.O_RDWR|syscall.O_NOFOLLOW|syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer closeFile(src)
	var st syscall.Stat_t
	if err := syscall.Fstat(src, &st); err != nil {
		return err
	}
	if st.Mode&syscall.S_IFMT != syscall.S_IFREG || st.Nlink != 1 {
		return plain("not a file of its own")
	}
	if st.Size > moverBytes && !hasMemory(uint64(st.Size)) {
		return syscall.ENOMEM
	}
	dst, err := syscall.Open(to, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_EXCL|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0o400)
	if err != nil {
		return err
	}
	defer closeFile(dst)
	for at := int64(0); at < st.Size; {
		n, err := syscall.Pread(src, m.buffer[:min(moverBytes, st.Size-at)], at)
		if err != nil {
			return err
		}
		if n == 0 {
			return plain("it is shorter than it was")
		}
		if err := writeAll(dst, m.buffer[:n], at); err != nil {
			return err
		}
		at += int64(n)
	}
	if err := overwrite(src, st.Size, m.zeros); err != nil {
		return err
	}
	return syscall.Unlink(from)
}

// hasMemory reports whether a file of size bytes can be written into memory. The
// kernel panics rather than refuse its last page to a guest of one process.
func hasMemory(size uint64) bool {
	const spare = 1 << 20
	var info syscall.Sysinfo_t
	err := syscall.Sysinfo(&info)
	return err != nil || size+spare <= info.Freeram*uint64(info.Unit)
}

func writeAll(fd int, b []byte, at int64) error {
	for len(b) > 0 {
		n, err := syscall.Pwrite(fd, b, at)
		if err != nil {
			return err
		}
		b, at = b[n:], at+int64(n)
	}
	return nil
}

// overwrite fills an open file with zeros. In a file system in memory they go
// to the very pages that held the content.
func overwrite(fd int, size int64, zeros []byte) error {
	for at := int64(0); at < size; {
		part := zeros[:min(int64(len(zeros)), size-at)]
		if err := writeAll(fd, part, at); err != nil {
			return err
		}
		at += int64(len(part))
	}
	return nil
}
