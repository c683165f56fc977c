package host

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

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

// Shim returns the contents of ampoule-init. One of another version than this
// program, or for another architecture than the guest's, is an error.
func (h Host) Shim() ([]byte, error) {
	path, err := h.FindShim()
	if err != nil {
		return nil, err
	}
	wrong := func(err error) ([]byte, error) { return nil, fmt.Errorf("%s: %w", path, err) }
	f, info, err := open(path, os.O_RDONLY, false)
	if err != nil {
		return wrong(err)
	}
	defer f.Close()
	if info.Size() > maxShim {
		return wrong(fmt.Errorf("%d bytes are too many", info.Size()))
	}
	data, err := head(f, int(info.Size()))
	if err != nil {
		return wrong(reason(err))
	}
	program, err := elf.NewFile(bytes.NewReader(data))
	switch {
	case err != nil || program.Machine != elf.EM_X86_64:
		return wrong(errors.New("not a program for the guest's processor"))
	case !bytes.Contains(data, []byte(layout.Marker)):
		return wrong(errors.New("it belongs to another version of Ampoule; install both together"))
	}
	return data, nil
}
