package leak

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is one of the machine.
type process struct {
	pid  int
	name string
}

// dir returns a path of the process below /proc.
func (p process) path(file string) string { return fmt.Sprintf("/proc/%d/%s", p.pid, file) }

func (p process) String() string { return fmt.Sprintf("%d (%s)", p.pid, p.name) }

// processes lists all that are there now.
func processes() []process {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	var all []process
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		comm, _ := os.ReadFile("/proc/" + name + "/comm")
		all = append(all, process{pid, string(bytes.TrimSpace(comm))})
	}
	return all
}

// gone reports whether an error only says that a process has ended.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH)
}

// scanProcesses looks at arguments, environments and open files.
func (s *Scanner) scanProcesses(seen inodes) {
	buf := s.matcher.newBuffer()
	for _, p := range processes() {
		s.scanStart(p, buf, true)
		s.scanOpen(p, buf, seen)
	}
}

// scanStart looks at what a process was started with. Only where this happens
// once does it count.
func (s *Scanner) scanStart(p process, buf []byte, once bool) {
	for _, part := range []struct {
		class Class
		file  string
	}{{Arguments, "cmdline"}, {Environment, "environ"}} {
		f, err := os.Open(p.path(part.file))
		if err == nil {
			found := s.find(part.class, p.String(), "")
			found.uncounted = !once
			err = found.stream(f, buf)
			_ = f.Close()
		}
		if err != nil && !gone(err) && once {
			s.skip(part.class, p.String(), err)
		}
	}
}

// Watch looks at the arguments and environments of all processes again and
// again, for those that are gone when [Scanner.Scan] comes. The returned
// function ends it and waits for its end.
func (s *Scanner) Watch(interval time.Duration) (stop func()) {
	ended, end := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(interval)
		defer tick.Stop()
		buf := s.matcher.newBuffer()
		for {
			for _, p := range processes() {
				s.scanStart(p, buf, false)
			}
			select {
			case <-end:
				return
			case <-tick.C:
			}
		}
	}()
	return sync.OnceFunc(func() { close(end); <-ended })
}

// scanOpen looks at the open files of a process that have no name any more or
// never had one, and at those with a name that no walk has found.
func (s *Scanner) scanOpen(p process, buf []byte, seen inodes) {
	links, err := os.ReadDir(p.path("fd"))
	if err != nil && !gone(err) {
		s.skip(Open, p.String(), err)
	}
	for _, l := range links {
		s.scanLink(p, p.path("fd/"+l.Name()), "descriptor "+l.Name(), buf, seen)
	}
	// A mapping keeps a file alive after its last descriptor is closed.
	maps, err := os.ReadDir(p.path("map_files"))
	if err != nil && !gone(err) {
		s.skip(Open, "mappings of "+p.String(), err)
	}
	for _, m := range maps {
		s.scanLink(p, p.path("map_files/"+m.Name()), "mapping "+m.Name(), buf, seen)
	}
}

// scanLink looks at the file behind a link of /proc.
func (s *Scanner) scanLink(p process, link, what string, buf []byte, seen inodes) {
	target, err := os.Readlink(link)
	if err != nil || anonymous(target) {
		return
	}
	info, err := os.Stat(link)
	if err != nil || !info.Mode().IsRegular() {
		return
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !seen.add(st) {
		return
	}
	f, err := os.Open(link)
	if err != nil {
		if !gone(err) {
			s.skip(Open, target, err)
		}
		return
	}
	defer f.Close()
	inMemory := onMemory(f)
	if !inMemory && !s.fresh(st) {
		return
	}
	class, place, allowed := File, target, s.allowance(target)
	switch {
	case strings.HasPrefix(target, "/memfd:"):
		class, allowed = Memfd, "not on any disk"
		place = fmt.Sprintf("%s of %s, %s", what, p, strings.TrimSuffix(target, " (deleted)"))
	case st.Nlink == 0:
		class, place = Open, fmt.Sprintf("%s of %s, %s", what, p, target)
		allowed = s.allowance(strings.TrimSuffix(target, " (deleted)"))
	case inMemory:
		class = MemoryFile
	}
	err = s.stream(class, place, allowed, io.LimitReader(newSparseReader(f), st.Size+chunk), buf)
	if err != nil && !gone(err) {
		s.skip(class, place, err)
	}
}

// anonymous tells memory that two processes share, which is no file, from
// files.
func anonymous(target string) bool {
	return strings.HasPrefix(target, "/dev/zero") || strings.HasPrefix(target, "/SYSV") || !strings.HasPrefix(target, "/")
}

// scanSockets looks at the names of AF_UNIX sockets, abstract ones included, in
// every network namespace.
func (s *Scanner) scanSockets() {
	namespaces := map[string]bool{}
	buf := s.matcher.newBuffer()
	for _, p := range processes() {
		ns, err := os.Readlink(p.path("ns/net"))
		if err != nil || namespaces[ns] {
			continue
		}
		f, err := os.Open(p.path("net/unix"))
		if err == nil {
			err = s.stream(Socket, ns, "", f, buf)
			_ = f.Close()
		}
		if err == nil {
			namespaces[ns] = true
		} else if !gone(err) {
			s.skip(Socket, ns, err)
		}
	}
}

// ScanMemory looks at all memory of another process that is present and
// readable. It must be allowed to trace the process.
func (s *Scanner) ScanMemory(pid int) error {
	if pid == os.Getpid() {
		return errors.New("the scanner's own memory holds the secrets that it looks for")
	}
	p := process{pid: pid}
	comm, _ := os.ReadFile(p.path("comm"))
	p.name = string(bytes.TrimSpace(comm))
	maps, err := os.Open(p.path("maps"))
	if err != nil {
		return err
	}
	defer maps.Close()
	mem, err := os.Open(p.path("mem"))
	if err != nil {
		return err
	}
	defer mem.Close()
	pages, err := os.Open(p.path("pagemap"))
	if err != nil {
		return err
	}
	defer pages.Close()
	buf := s.matcher.newBuffer()
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		m, ok := parseMapping(lines.Text())
		if !ok {
			continue
		}
		r := &memoryReader{mem: mem, pages: pages, at: m.from, end: m.to, page: uint64(os.Getpagesize())}
		err := s.stream(Memory, fmt.Sprintf("%s, %x-%x %s", p, m.from, m.to, m.what), "", r, buf)
		if err != nil {
			return fmt.Errorf("reading the memory of process %d: %w", pid, err)
		}
	}
	return lines.Err()
}

// mappedRange is one line of /proc/PID/maps.
type mappedRange struct {
	from, to uint64
	what     string
}

// parseMapping returns false for what cannot be read.
func parseMapping(line string) (mappedRange, bool) {
	fields := strings.Fields(line)
	if len(fields) < 5 || !strings.HasPrefix(fields[1], "r") {
		return mappedRange{}, false
	}
	m := mappedRange{what: strings.Join(fields[5:], " ")}
	if strings.HasPrefix(m.what, "[v") && m.what != "[vdso]" { // the kernel's own
		return mappedRange{}, false
	}
	from, to, _ := strings.Cut(fields[0], "-")
	var err1, err2 error
	m.from, err1 = strconv.ParseUint(from, 16, 64)
	m.to, err2 = strconv.ParseUint(to, 16, 64)
	return m, err1 == nil && err2 == nil
}

// memoryReader reads the pages of a range that are in memory or swapped out;
// the others hold nothing.
type memoryReader struct {
	mem, pages *os.File
	at, end    uint64
	// until is the end of the present pages that at lies in.
	until uint64
	page  uint64 // the size of one
}

func (r *memoryReader) Read(b []byte) (int, error) {
	for r.at < r.end {
		if r.at >= r.until {
			if err := r.nextPresent(); err != nil {
				return 0, err
			}
			continue
		}
		n, err := r.mem.ReadAt(b[:min(uint64(len(b)), r.until-r.at)], int64(r.at))
		r.at += uint64(n)
		if n > 0 {
			return n, nil
		}
		// Unmapped meanwhile, or memory of a device.
		if !errors.Is(err, unix.EIO) && !errors.Is(err, unix.EFAULT) && err != io.EOF {
			return 0, err
		}
		r.at += r.page - r.at%r.page
	}
	return 0, io.EOF
}

// present has a bit for a page in memory and one for a page in swap.
const present = 1<<63 | 1<<62

// nextPresent moves on to the next run of pages that hold something.
func (r *memoryReader) nextPresent() error {
	var entries [512 * 8]byte
	n, err := r.pages.ReadAt(entries[:min(uint64(len(entries)), (r.end-r.at)/r.page*8)], int64(r.at/r.page*8))
	if n < 8 {
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		r.at, r.until = r.end, r.end
		return nil
	}
	is := func(i int) bool { return binary.NativeEndian.Uint64(entries[i*8:])&present != 0 }
	first, total := 0, n/8
	for first < total && !is(first) {
		first++
	}
	last := first
	for last < total && is(last) {
		last++
	}
	base := r.at
	r.at, r.until = base+uint64(first)*r.page, base+uint64(last)*r.page
	return nil
}
