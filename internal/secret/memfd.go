package secret

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Memfd is a secret on a descriptor that a child process can inherit: a sealed
// file without a name in any directory, whose pages are memory.
//
// After sealing nobody can change, grow or shrink it, so that nobody can wipe
// it either: the kernel frees its pages when the last descriptor and mapping of
// any process is closed, and zeroes them before it gives them to anyone else.
// [Memfd.Close] after the hand-over is therefore not optional.
//
// The pages are locked against swapping as long as this Memfd is open. The lock
// is this process's: it ends with it.
type Memfd struct {
	redacted
	file *os.File
	lock mapping // the secret's own pages, mapped for reading
	size int64
}

// memfdSeals forbids every change of the content, and of the seals.
const memfdSeals = unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL

// NewMemfd copies v into a sealed memory file, close-on-exec, which only its
// owner may open again (through /proc/PID/fd), and only for reading. The name
// shows up in /proc and must tell nothing. v stays what it is.
func NewMemfd(name string, v *Value) (*Memfd, error) {
	m, err := newMemfd(name, v, nil)
	if err != nil {
		return nil, fmt.Errorf("making a memory file for a secret: %w", err)
	}
	return m, nil
}

// Piece is something public that goes behind a secret in the same memory file:
// bytes, or a file.
type Piece struct {
	Plain []byte
	// Size bytes of File from its beginning on. A file that has become shorter
	// is an error.
	File *os.File
	Size int64
	// Align above zero is a power of two: the piece goes to a multiple of it,
	// with zeros in between.
	Align int64
}

// at is where a piece goes that nothing else follows before offset.
func (p Piece) at(offset int64) int64 {
	if p.Align == 0 {
		return offset
	}
	return (offset + p.Align - 1) &^ (p.Align - 1)
}

func (p Piece) len() int64 { return int64(len(p.Plain)) + p.Size }

// NewMemfdBefore is [NewMemfd] with something public behind the secret. Only
// the pages of the secret are locked.
func NewMemfdBefore(name string, v *Value, pieces []Piece) (*Memfd, error) {
	m, err := newMemfd(name, v, pieces)
	if err != nil {
		return nil, fmt.Errorf("making a memory file for a secret and what follows it: %w", err)
	}
	return m, nil
}

func newMemfd(name string, v *Value, pieces []Piece) (m *Memfd, err error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate(name, flags)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	m = &Memfd{file: os.NewFile(uintptr(fd), "memfd:"+name)}
	defer func() {
		if err != nil {
			_ = m.Close()
			m = nil
		}
	}()
	err = v.Use(func(b []byte) error {
		m.size = int64(len(b))
		for _, p := range pieces {
			m.size = p.at(m.size) + p.len()
		}
		if err := unix.Ftruncate(fd, m.size); err != nil {
			return os.NewSyscallError("ftruncate", err)
		}
		// The lock comes before the content, so that no page holds a part of
		// it unlocked even for a moment.
		if err := m.mlock(fd, len(b)); err != nil {
			return err
		}
		if _, err := m.file.WriteAt(b, 0); err != nil {
			return err
		}
		offset := int64(len(b))
		for _, p := range pieces {
			if err := p.writeAt(m.file, p.at(offset)); err != nil {
				return err
			}
			offset = p.at(offset) + p.len()
		}
		// Who uses the descriptor itself instead of opening it again starts at
		// its beginning.
		_, err := unix.Seek(fd, 0, unix.SEEK_SET)
		return os.NewSyscallError("lseek", err)
	})
	if err != nil {
		return m, err
	}
	if err := unix.Fchmod(fd, 0o400); err != nil {
		return m, os.NewSyscallError("fchmod", err)
	}
	return m, Seal(fd)
}

// sealPatience is how long pages of a memory file may be in somebody's hands.
const sealPatience = 10 * time.Second

// Seal makes a memory file unchangeable.
//
// The kernel refuses with EBUSY as long as anybody holds one of its pages, and
// waits for that itself for some 150 milliseconds (memfd_wait_for_pins in
// mm/memfd.c). So long the kernel can hold them too, where it moves memory about
// on a host that is short of it: that passes, and no start fails of it.
func Seal(fd int) error {
	for until := time.Now().Add(sealPatience); ; time.Sleep(10 * time.Millisecond) {
		_, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, memfdSeals)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(until) {
			return os.NewSyscallError("fcntl(F_ADD_SEALS)", err)
		}
	}
}

// writeAt puts the piece at an offset of a memory file. A file is copied by the
// kernel: no page of it goes through this process.
func (p Piece) writeAt(to *os.File, offset int64) error {
	if _, err := to.WriteAt(p.Plain, offset); err != nil || p.File == nil {
		return err
	}
	fd := int(to.Fd())
	if _, err := unix.Seek(fd, offset+int64(len(p.Plain)), unix.SEEK_SET); err != nil {
		return os.NewSyscallError("lseek", err)
	}
	for from := int64(0); from < p.Size; {
		n, err := unix.Sendfile(fd, int(p.File.Fd()), &from, int(min(p.Size-from, 1<<30)))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return os.NewSyscallError("sendfile", err)
		case n == 0:
			return fmt.Errorf("%s has become shorter: %w", p.File.Name(), io.ErrUnexpectedEOF)
		}
	}
	return nil
}

// mlock maps the first pages of the file and locks them. The mapping is private and
// for reading only: it shows the pages of the file themselves, and does not
// stand in the way of the write seal.
func (m *Memfd) mlock(fd, size int) error {
	if size == 0 {
		m.lock.locked = true
		return nil
	}
	addr, err := unix.MmapPtr(fd, 0, nil, uintptr(size), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return os.NewSyscallError("mmap", err)
	}
	m.lock.addr, m.lock.size = addr, size
	if err := unix.Madvise(m.lock.bytes(), unix.MADV_DONTDUMP); err != nil {
		return os.NewSyscallError("madvise(MADV_DONTDUMP)", err)
	}
	m.lock.locked = unix.Mlock(m.lock.bytes()) == nil
	return nil
}

// File returns the descriptor, for a child process to inherit. It stays the
// Memfd's: [Memfd.Close] closes it.
func (m *Memfd) File() *os.File { return m.file }

// Len returns the size of the file in bytes.
func (m *Memfd) Len() int64 { return m.size }

// Locked reports whether the pages are locked and thus never swapped. It is
// false where RLIMIT_MEMLOCK or the sandbox refused.
func (m *Memfd) Locked() bool { return m.lock.locked }

// Close gives up this process's hold on the secret. It is safe to call twice.
func (m *Memfd) Close() error {
	if m.file == nil {
		return nil
	}
	if m.lock.addr != nil {
		_ = unix.MunmapPtr(m.lock.addr, uintptr(m.lock.size))
	}
	err := m.file.Close()
	m.file, m.lock = nil, mapping{}
	return err
}
