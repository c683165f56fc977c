package host

import (
	"os"
	"path/filepath"
	"testing"
)

func TestHugePages(t *testing.T) {
	dir := t.TempDir()
	pages := filepath.Join(dir, "hugepages-2048kB")
	if err := os.Mkdir(pages, 0o755); err != nil {
		t.Fatal(err)
	}
	h := Host{HugePageDir: dir}
	if _, known := h.HugePages(2 << 20); known {
		t.Error("pages that nobody counts are known")
	}
	for name, text := range map[string]string{"free_hugepages": "12\n", "resv_hugepages": "5\n"} {
		write(t, filepath.Join(pages, name), text)
	}
	if free, known := h.HugePages(2 << 20); !known || free != 7 {
		t.Errorf("%d %v", free, known)
	}
	if _, known := h.HugePages(1 << 30); known {
		t.Error("a size that the kernel has not is known")
	}
}
