package host

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// HugePages returns how many huge pages of a size in bytes the machine has set
// aside that nobody has taken or been promised, and whether it knows such pages
// at all.
func (h Host) HugePages(size int64) (free int64, known bool) {
	dir := filepath.Join(h.HugePageDir, fmt.Sprintf("hugepages-%dkB", size>>10))
	read := func(name string) (int64, error) {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return 0, err
		}
		return strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	}
	free, err := read("free_hugepages")
	if err != nil {
		return 0, false
	}
	// Those that were promised are still counted as free.
	promised, _ := read("resv_hugepages")
	return max(0, free-promised), true
}
