package run

import (
	"slices"
	"strings"
	"testing"

	"github.com/ampoule-vm/ampoule/internal/console"
)

// TestTroubles: what kernel and shim complain about is repeated once, and what
// they merely say is not.
func TestTroubles(t *testing.T) {
	var heard []string
	var tr troubles
	watch := console.NewWatch(nil, tr.patterns(func(what string) { heard = append(heard, what) })...)
	for _, line := range []string{
		"[    0.5] Trying to unpack rootfs image as initramfs...",
		"[    0.6] ampoule-init: 2 credentials",
		"[    0.7] ampoule-init: mounted root=/dev/vda as ext4",
		"cat: Initramfs unpacking failed: said by no kernel",
	} {
		if _, err := watch.Write([]byte(line + "\r\n")); err != nil {
			t.Fatal(err)
		}
	}
	if len(heard) != 0 || tr.text() != "" {
		t.Errorf("heard %q, text %q", heard, tr.text())
	}
	for _, line := range []string{
		"[    0.5] Initramfs unpacking failed: compression method zstd not configured",
		// A kernel that puts no time before its lines, and a second error.
		"ampoule-init: error: no credentials: mounting /run: no such device",
		"[    0.6] ampoule-init: error: not all is removed",
	} {
		if _, err := watch.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
		watch.Idle() // an unfinished line does not count twice
		if _, err := watch.Write([]byte("\r\n")); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		"the guest's kernel could not unpack all of the initial RAM disk: compression method zstd not configured",
		"ampoule-init in the guest: no credentials: mounting /run: no such device",
		"ampoule-init in the guest: not all is removed",
	}
	if !slices.Equal(heard, want) || tr.text() != "; before that, "+strings.Join(want, "; ") {
		t.Errorf("heard %q, text %q", heard, tr.text())
	}
	tr.reset()
	if tr.text() != "" {
		t.Error("what the last boot said is not forgotten")
	}
}
