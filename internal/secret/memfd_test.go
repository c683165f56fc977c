package secret

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func memfd(t testing.TB, b string) *Memfd {
	t.Helper()
	m, err := NewMemfd("test", value(t, b))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

func TestMemfdIsSealed(t *testing.T) {
	m := memfd(t, plain)
	fd := int(m.File().Fd())
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil || seals&memfdSeals != memfdSeals {
		t.Errorf("seals %#x, %v", seals, err)
	}
	if _, err := unix.Pwrite(fd, []byte("X"), 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("writing: %v", err)
	}
	for _, size := range []int64{0, 1000} {
		if err := unix.Ftruncate(fd, size); !errors.Is(err, unix.EPERM) {
			t.Errorf("truncating to %d: %v", size, err)
		}
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_FUTURE_WRITE); !errors.Is(err, unix.EPERM) {
		t.Errorf("adding a seal: %v", err)
	}
	if _, err := unix.Mmap(fd, 0, len(plain), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); !errors.Is(err, unix.EPERM) {
		t.Errorf("mapping for writing: %v", err)
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("descriptor flags %#x, %v", flags, err)
	}
	st, err := m.File().Stat()
	if err != nil || st.Mode() != 0o400 || st.Size() != int64(len(plain)) || m.Len() != int64(len(plain)) {
		t.Errorf("%v, %v", st, err)
	}
	got, err := io.ReadAll(io.NewSectionReader(m.File(), 0, 1000))
	if err != nil || string(got) != plain {
		t.Errorf("content %q, %v", got, err)
	}
}

func TestMemfdIsLocked(t *testing.T) {
	m := memfd(t, strings.Repeat(plain, 1000))
	flags := vmFlags(t, uintptr(m.lock.addr))
	if locked := strings.Contains(flags, " lo "); locked != m.Locked() {
		t.Errorf("Locked says %v, the kernel %s", m.Locked(), flags)
	}
	if os.Geteuid() == 0 && !m.Locked() {
		t.Error("root's memory file is not locked")
	}
	if !strings.Contains(flags, " dd ") {
		t.Errorf("the lock's mapping is in core dumps: %s", flags)
	}
	// What is locked are the pages of the file, not copies of them.
	if !bytes.Equal(m.lock.bytes(), []byte(strings.Repeat(plain, 1000))) {
		t.Error("the locked pages have another content")
	}
	if !samePages(t, m) {
		t.Error("the locked pages are not those of the file")
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
}

// samePages compares the frames of the locking mapping with those of another
// mapping of the same file.
func samePages(t *testing.T, m *Memfd) bool {
	t.Helper()
	if os.Geteuid() != 0 {
		return true // frame numbers are for root
	}
	other, err := unix.Mmap(int(m.File().Fd()), 0, int(m.size), unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(other) }()
	frame := func(b []byte) string {
		f, err := os.Open("/proc/self/pagemap")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var entry [8]byte
		at := addressOf(b)
		if _, err := f.ReadAt(entry[:], int64(at/uintptr(os.Getpagesize())*8)); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%x", entry[:7])
	}
	a, b := frame(m.lock.bytes()), frame(other)
	return a == b && strings.Trim(a, "0") != ""
}

// A child opens what it inherited through /proc, as hypervisors do.
func TestMemfdIsInherited(t *testing.T) {
	for _, content := range []string{"", plain, strings.Repeat("\x00\xff", 100_000)} {
		m := memfd(t, content)
		cmd := exec.Command("sh", "-c", "cat /proc/self/fd/3")
		cmd.ExtraFiles = []*os.File{m.File()}
		out, err := cmd.CombinedOutput()
		if err != nil || string(out) != content {
			t.Errorf("%d bytes: %d arrived, %v", len(content), len(out), err)
		}
		cmd = exec.Command("sh", "-c", "echo overwritten >/proc/self/fd/3")
		cmd.ExtraFiles = []*os.File{m.File()}
		if out, err := cmd.CombinedOutput(); err == nil {
			t.Errorf("a child may write: %s", out)
		}
	}
}

func TestMemfdNameTooLong(t *testing.T) {
	if m, err := NewMemfd(strings.Repeat("x", 300), value(t, plain)); err == nil || m != nil {
		t.Error("a name of 300 bytes was taken")
	}
}

// TestMemfdBefore: the secret, what follows it, zeros, the file; sealed like
// any other.
func TestMemfdBefore(t *testing.T) {
	tail := bytes.Repeat([]byte("base"), 5000)
	path := filepath.Join(t.TempDir(), "base")
	if err := os.WriteFile(path, tail, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	v, err := FromBytes([]byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	defer v.Wipe()
	m, err := NewMemfdBefore("x", v, []Piece{{Plain: []byte("pla")}, {Plain: []byte("in")}, {File: f, Size: int64(len(tail)), Align: 4096}})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	want := append(append([]byte("secretplain"), make([]byte, 4096-11)...), tail...)
	got := make([]byte, m.Len())
	if _, err := m.File().ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, want %d, or others: %v", len(got), len(want), err)
	}
	if seals, err := unix.FcntlInt(m.File().Fd(), unix.F_GET_SEALS, 0); err != nil || seals&memfdSeals != memfdSeals {
		t.Errorf("seals %x: %v", seals, err)
	}
	if _, err := NewMemfdBefore("x", v, []Piece{{File: f, Size: int64(len(tail)) + 1}}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a file that became shorter: %v", err)
	}
	only, err := NewMemfdBefore("x", v, []Piece{{Plain: []byte("plain")}})
	if err != nil || only.Len() != 11 {
		t.Fatalf("without a file: %v", err)
	}
	only.Close()
}

// A page of the file that the kernel has in its hands, here in a pipe, delays the
// seal and does not make it fail.
func TestSealWaitsForPages(t *testing.T) {
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	page := bytes.Repeat([]byte("x"), os.Getpagesize())
	if _, err := unix.Pwrite(fd, page, 0); err != nil {
		t.Fatal(err)
	}
	from, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	defer to.Close()
	offset := int64(0)
	if _, err := unix.Splice(fd, &offset, int(to.Fd()), nil, len(page), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, memfdSeals); !errors.Is(err, unix.EBUSY) {
		t.Skipf("this kernel does not mind a page in a pipe: %v", err)
	}
	read := make(chan error, 1)
	time.AfterFunc(500*time.Millisecond, func() {
		_, err := io.ReadFull(from, page)
		read <- err
	})
	if err := Seal(fd); err != nil {
		t.Errorf("sealing: %v", err)
	}
	if err := <-read; err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Pwrite(fd, page, 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("writing behind the seal: %v", err)
	}
}
