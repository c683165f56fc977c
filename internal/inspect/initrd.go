package inspect

import "os"

// Initrd is what was seen in an initial RAM disk.
type Initrd struct {
	Identity Identity
}

func (m Memory) Initrd(path string) (Initrd, error) {
	id, _, err := look(m, "initrd", path, func(*os.File, int64) (int, error) { return 0, nil })
	return Initrd{id}, err
}
