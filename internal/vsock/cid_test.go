package vsock

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// fakeDevice refuses as the kernel does: vhost_vsock_set_cid of
// drivers/vhost/vsock.c.
type fakeDevice struct {
	taken func(cid uint64) bool
	asked []uint64
	fails error
}

func (d *fakeDevice) setGuestCID(cid uint64) error {
	d.asked = append(d.asked, cid)
	switch {
	case d.fails != nil:
		return d.fails
	case cid <= HostCID || cid >= anyID:
		return unix.EINVAL
	case d.taken != nil && d.taken(cid):
		return os.NewSyscallError("ioctl", unix.EADDRINUSE)
	}
	return nil
}

func counting() func() (uint32, error) {
	n := uint32(100)
	return func() (uint32, error) { n++; return n, nil }
}

func TestClaim(t *testing.T) {
	taken := func(cids ...uint64) func(uint64) bool {
		return func(cid uint64) bool { return slices.Contains(cids, cid) }
	}
	for name, c := range map[string]struct {
		device fakeDevice
		first  uint32
		want   uint32
	}{
		"first":        {fakeDevice{}, 7, 7},
		"taken":        {fakeDevice{taken: taken(7, 101)}, 7, 102},
		"of the host":  {fakeDevice{}, 2, 5},
		"zero":         {fakeDevice{}, 0, 3},
		"any":          {fakeDevice{}, anyID, 8},
		"the last one": {fakeDevice{}, lastCID, lastCID},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := claim(&c.device, c.first, counting())
			if err != nil || got != c.want {
				t.Errorf("got %d, %v; asked for %v", got, err, c.device.asked)
			}
		})
	}
}

func TestClaimGivesUp(t *testing.T) {
	full := &fakeDevice{taken: func(uint64) bool { return true }}
	if _, err := claim(full, 3, randomCID); !errors.Is(err, ErrNoFreeCID) || len(full.asked) != tries {
		t.Errorf("got %v after %d", err, len(full.asked))
	}
	for _, cid := range full.asked {
		if cid < firstCID || cid > lastCID {
			t.Errorf("asked for %d", cid)
		}
	}
	broken := &fakeDevice{fails: unix.EPERM}
	if _, err := claim(broken, 3, randomCID); !errors.Is(err, unix.EPERM) || len(broken.asked) != 1 {
		t.Errorf("got %v after %d", err, len(broken.asked))
	}
}

func TestCIDFor(t *testing.T) {
	seen := map[uint32]bool{}
	for _, name := range []string{"", "a", "test-vm", "app-vm-01", "app-vm-02"} {
		cid := CIDFor(name)
		if cid < firstCID || cid > lastCID || seen[cid] || cid != CIDFor(name) {
			t.Errorf("%q: %d", name, cid)
		}
		seen[cid] = true
	}
}

// TestSetGuestCID: the request is one that a device of another kind does not
// know, and reaches it.
func TestSetGuestCID(t *testing.T) {
	if setGuestCIDRequest != 0x4008af60 {
		t.Errorf("the request is %#x", setGuestCIDRequest)
	}
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := (vhostDevice{file}).setGuestCID(3); !errors.Is(err, unix.ENOTTY) {
		t.Errorf("got %v", err)
	}
}

// TestClaimCID asks the kernel where it has vhost-vsock.
func TestClaimCID(t *testing.T) {
	one, cid, err := ClaimCID(CIDFor(t.Name()))
	if errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrNoDevice) {
		t.Errorf("got %v", err)
	}
	if errors.Is(err, ErrNoDevice) || errors.Is(err, fs.ErrPermission) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	two, other, err := ClaimCID(cid)
	if err != nil {
		t.Fatal(err)
	}
	defer two.Close()
	if other == cid {
		t.Errorf("both have %d", cid)
	}
}
