package inspect

import (
	"context"

	"github.com/ampoule-vm/ampoule/internal/initrd/kernel"
)

// Kernel looks into a kernel for the compressions that it unpacks. Errors do not
// name the path.
func (m Memory) Kernel(ctx context.Context, path string) (kernel.Support, error) {
	_, support, err := look(ctx, m, path, question[kernel.Support]{
		what: "kernel", see: kernel.Compressions,
		answers: func(s kernel.Support) bool { return s.Source != "" || s.Why != "" },
	})
	return support, err
}
