package run

import (
	"errors"
	"fmt"
	"os"

	"github.com/ampoule-vm/ampoule/internal/credential"
	"github.com/ampoule-vm/ampoule/internal/host"
	"github.com/ampoule-vm/ampoule/internal/inspect"
	"github.com/ampoule-vm/ampoule/internal/preflight"
	"github.com/ampoule-vm/ampoule/internal/secret"
)

// overlay is what the credentials travel with in an initial RAM disk.
type overlay struct {
	// shim is the program that delivers them.
	shim     *os.File
	shimSize int64
	// base is the VM's own initial RAM disk; nil where it has none.
	base *os.File
	size int64
}

// overlayAlign keeps the secrets and the VM's own initial RAM disk in different
// pages. The kernel skips zeros of any number between two archives.
const overlayAlign = 4096

// openOverlay opens the VM's own initial RAM disk, which has to be the one that
// was looked into, and the shim.
func openOverlay(h host.Host, path string, seen preflight.Images) (*overlay, error) {
	shim, size, err := h.Shim()
	if err != nil {
		return nil, err
	}
	o := &overlay{shim: shim, shimSize: size}
	if path == "" {
		return o, nil
	}
	f, info, err := host.OpenImage(path)
	if err != nil {
		o.close()
		return nil, fmt.Errorf("opening the initial RAM disk %s: %w", path, err)
	}
	o.base, o.size = f, info.Size()
	if inspect.IdentityOf(info) != seen.Initrd.Identity {
		o.close()
		return nil, fmt.Errorf("%s was changed while the VM was about to start", path)
	}
	return o, nil
}

func (o *overlay) close() {
	o.shim.Close()
	if o.base != nil {
		o.base.Close()
	}
}

// seal makes the initial RAM disk: credentials, shim, the VM's own. They come
// first since the kernel unpacks what is first whatever follows: a compressed
// archive before them would have to end where its decompressor thinks it does.
func (o *overlay) seal(creds []credential.Credential, next string) (*secret.Memfd, error) {
	if o == nil {
		return nil, errors.New("the channel needs the program that delivers the credentials, and nobody looked for it")
	}
	packed, err := credential.PackOverlay(creds)
	if err != nil {
		return nil, fmt.Errorf("putting the credentials into an archive: %w", err)
	}
	defer packed.Wipe()
	before, after := credential.OverlayTail(o.shimSize, next)
	return secret.NewMemfdBefore("ampoule-initrd", packed, []secret.Piece{
		{Plain: before}, {File: o.shim, Size: o.shimSize}, {Plain: after}, {File: o.base, Size: o.size, Align: overlayAlign},
	})
}
