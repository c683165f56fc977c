package host

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/shim/layout"
)

// shimName is the program that delivers credentials inside a guest.
const shimName = "ampoule-init"

// maxShim is far above its size.
const maxShim = 16 << 20

// ownPrograms lists where Ampoule's programs lie that nobody calls by hand:
// beside this one, as they are built, and where they are installed.
func ownPrograms() []string {
	var dirs []string
	if self, err := os.Executable(); err == nil {
		dir := filepath.Dir(self)
		dirs = append(dirs, dir, filepath.Join(filepath.Dir(dir), "lib", "ampoule"))
	}
	return append(dirs, "/usr/local/lib/ampoule", "/usr/lib/ampoule")
}

// FindShim returns the path of ampoule-init.
func (h Host) FindShim() (string, error) {
	for _, dir := range h.Programs {
		path := filepath.Join(dir, shimName)
		if CheckExecutable(path) == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("the program %s, which delivers the credentials in the guest, is in none of %s", shimName, strings.Join(h.Programs, ", "))
}

// Shim opens ampoule-init and returns its size in bytes. One of another version
// than this program, or for another architecture than the guest's, is an error.
func (h Host) Shim() (*os.File, int64, error) {
	path, err := h.FindShim()
	if err != nil {
		return nil, 0, err
	}
	f, info, err := open(path, os.O_RDONLY, false)
	if err == nil {
		if err = checkShim(f, info.Size()); err == nil {
			return f, info.Size(), nil
		}
		f.Close()
	}
	return nil, 0, fmt.Errorf("%s: %w", path, err)
}

// checkShim looks at the file where it is: it is read at every start.
func checkShim(f *os.File, size int64) error {
	foreign := errors.New("not a program for the guest's processor")
	switch {
	case size > maxShim:
		return fmt.Errorf("%d bytes are too many", size)
	case size == 0:
		return foreign
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_POPULATE)
	if err != nil {
		return os.NewSyscallError("mmap", err)
	}
	defer unix.Munmap(data) //nolint:errcheck // of what was just mapped
	program, err := elf.NewFile(bytes.NewReader(data))
	switch {
	case err != nil || program.Machine != elf.EM_X86_64:
		return foreign
	case !bytes.Contains(data, []byte(layout.Marker)):
		return errors.New("it belongs to another version of Ampoule; install both together")
	}
	return nil
}
