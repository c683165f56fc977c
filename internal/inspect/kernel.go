package inspect

import (
	"os"

	"github.com/ampoule-vm/ampoule/internal/initrd/kernel"
)

// Kernel looks into a kernel for the compressions that it unpacks. Errors do not
// name the path.
func (m Memory) Kernel(path string) (kernel.Support, error) {
	_, support, err := look(m, "kernel", path, func(f *os.File, size int64) (kernel.Support, error) {
		return kernel.Compressions(f, size)
	})
	return support, err
}
