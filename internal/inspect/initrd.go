package inspect

import (
	"context"
	"io"

	"github.com/ampoule-vm/ampoule/internal/initrd"
)

// Initrd is what was seen in an initial RAM disk.
type Initrd struct {
	Identity Identity
	// Report is nil where it could not be looked into.
	Report *initrd.Report
}

// Initrd looks into an initial RAM disk for the program init, by default /init.
// What unpacks to more than most bytes is an error, as is all else that speaks
// against starting a guest with it: an [initrd.Error], or why the file cannot
// be read. Errors do not name the path.
func (m Memory) Initrd(ctx context.Context, path, init string, most int64) (Initrd, error) {
	options := initrd.Options{Init: init, MaxUnpacked: most}
	id, report, err := look(ctx, m, path, question[*initrd.Report]{
		what:    "initrd " + init,
		see:     func(r io.ReaderAt, size int64) (*initrd.Report, error) { return initrd.Inspect(r, size, options) },
		answers: func(r *initrd.Report) bool { return r != nil },
	})
	return Initrd{id, report}, err
}
