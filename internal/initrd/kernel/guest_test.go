package kernel_test

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/ampoule-vm/ampoule/internal/initrd/kernel"
)

// TestGuests: Debian's cloud kernels have all of them (CONFIG_RD_* in their
// packages' configuration), one is packed by lz4 and the other by zstd.
func TestGuests(t *testing.T) {
	found, err := filepath.Glob("../../../.cache/guest/*/vmlinuz")
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		t.Skip("no guest was built yet")
	}
	for _, path := range found {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		start := time.Now()
		got, err := kernel.Compressions(f, info.Size())
		if err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		allocated := (after.TotalAlloc - before.TotalAlloc) >> 20
		t.Logf("%s: %v, %d MiB allocated: %+v", path, time.Since(start), allocated, got)
		if got.Source != "table" || !slices.Equal(got.Compressions, []string{"bzip2", "gzip", "lz4", "lzma", "lzo", "xz", "zstd"}) {
			t.Errorf("%s: %+v", path, got)
		}
		if allocated > 150 {
			t.Errorf("%s: it took %d MiB", path, allocated)
		}
	}
}
