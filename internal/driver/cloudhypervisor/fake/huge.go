package fake

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// pageSize is what the memory has to be a multiple of.
func (s *settings) pageSize() (uint64, *failure) {
	switch m := s.Memory; {
	case !m.Hugepages:
		return pageSize, nil
	case m.HugepageSize != nil:
		return max(*m.HugepageSize, 1), nil
	}
	var fs unix.Statfs_t
	if err := unix.Statfs("/dev/hugepages", &fs); err != nil {
		return 0, fail("Memory manager error", "Failed to stat filesystem", osError(err))
	}
	return uint64(fs.Bsize), nil
}

// takePages: a size that the host does not have is refused. Where it has the size
// and no page is free, the process dies by the first access, for nothing is
// reserved before.
func (s *settings) takePages() *failure {
	m := s.Memory
	if !m.Hugepages || m.HugepageSize == nil {
		return nil
	}
	pool := fmt.Sprintf("/sys/kernel/mm/hugepages/hugepages-%dkB/free_hugepages", *m.HugepageSize>>10)
	text, err := os.ReadFile(pool)
	if err != nil {
		return fail("Memory manager error", "Failed to create shared file", osError(unix.ENODEV))
	}
	if free, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && free == 0 {
		dieBy(int(unix.SIGBUS))
	}
	return nil
}
