// Package scan looks for the values of credentials where a guest must not have
// them: in files that lie in memory, processes, the kernel's words, the journal
// and what the firmware left. It runs inside the guest, as part of its agent,
// where a processor may be emulated; so it reads everything once and looks for
// few pieces of each value, in plain, hexadecimal and Base64 form.
//
// What lies in files is here; what a guest consists of is in machine.go. It
// imports the standard library alone and judges nothing but where a value is.
//
// It does not see what a program holds in its own memory, what is compressed,
// and the initramfs once a root disk covers it.
package scan

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"runtime/debug"
	"syscall"
)

// Class is a kind of place.
type Class string

// The kinds of places. Firmware is what the credentials came by; all others
// should be empty.
const (
	Memory   Class = "memory"   // files of the initramfs, tmpfs and ramfs
	Memfd    Class = "memfd"    // open files in memory without a name
	Disk     Class = "disk"     // files of a root file system on a disk
	Journal  Class = "journal"  // the journal's files, wherever they lie
	Process  Class = "process"  // environments and arguments
	Kernel   Class = "kernel"   // command line, keys and log
	Firmware Class = "firmware" // tables and files that the machine came with
	Store    Class = "store"    // a credential store that everybody may read
)

// Leak is one value in one place.
type Leak struct {
	Class Class
	// Mode holds the permissions of the file, four octal digits; "-" where the
	// place is none.
	Mode string
	// Path is the file, as the agent sees it.
	Path string
	// Credential is the name of the value.
	Credential string
}

// Result is what a scan found and how much it saw.
type Result struct {
	Leaks []Leak
	// Files and Bytes count what was read.
	Files int
	Bytes int64
	// Needles counts the sequences of bytes that were looked for.
	Needles int
	// Unsearched names the values that were not looked for, since they are too
	// short, or of too few different bytes, to be told from chance.
	Unsearched []string
	// Unread names what exists and could not be read, with the reason.
	Unread []string
}

// scanner collects the result.
type scanner struct {
	Result
	matcher *matcher
	buf     []byte
}

// chunk is what is read at a time.
const chunk = 128 << 10

func newScanner(values map[string][]byte) *scanner {
	m, unsearched := newMatcher(values)
	s := &scanner{matcher: m, buf: make([]byte, chunk+m.longest)}
	s.Needles, s.Unsearched = len(m.needles), unsearched
	return s
}

// tree scans all regular files of one file system below dir. What lies on
// another file system is left out, and so is what skip says, which is asked for
// directories and gets the path that shown returns.
type tree struct {
	dir string
	// shown turns a path below dir into the one that rules and people know.
	shown func(path string) string
	class func(shown string) Class
	skip  func(shown string) bool
}

func (s *scanner) tree(t tree) {
	var device uint64
	err := filepath.WalkDir(t.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			s.unread(path, err)
			return nil
		}
		if entry.IsDir() {
			var stat syscall.Stat_t
			if err := syscall.Lstat(path, &stat); err != nil {
				s.unread(path, err)
				return fs.SkipDir
			}
			if path == t.dir {
				device = stat.Dev
			}
			if stat.Dev != device || t.skip(t.shown(path)) {
				return fs.SkipDir
			}
			return nil
		}
		if entry.Type().IsRegular() {
			s.file(t.class(t.shown(path)), path, device)
		}
		return nil
	})
	if err != nil {
		s.unread(t.dir, err)
	}
}

// anyDevice is for files that may lie on any file system.
const anyDevice = 0

// file scans one file, unless it lies on another file system than device.
func (s *scanner) file(class Class, path string, device uint64) {
	s.beginning(class, path, device, whole)
}

// whole is larger than any file.
const whole = 1 << 62

// beginning scans the first bytes of a file.
func (s *scanner) beginning(class Class, path string, device uint64, limit int64) {
	f, err := open(path)
	if err != nil {
		s.unread(path, err)
		return
	}
	defer f.close()
	var stat syscall.Stat_t
	if err := syscall.Fstat(int(f), &stat); err != nil {
		s.unread(path, err)
		return
	}
	if device != anyDevice && stat.Dev != device {
		return
	}
	mode := fmt.Sprintf("%04o", stat.Mode&0o7777)
	if class == allowedStore {
		if stat.Mode&0o007 == 0 {
			return
		}
		class = Store
	}
	where := Leak{Class: class, Mode: mode, Path: path}
	if class == Memory && stat.Size >= worthMapping {
		err = s.mapped(where, f, int(stat.Size))
	} else {
		err = s.read(where, io.LimitReader(f, limit))
	}
	if err != nil {
		s.unread(path, err)
	}
}

// descriptor reads a file without what os.File does for files that may block.
type descriptor int

func open(path string) (descriptor, error) {
	// A file may have become a FIFO, which would block.
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY|syscall.O_CLOEXEC, 0)
	return descriptor(fd), err
}

func (d descriptor) close() { _ = syscall.Close(int(d)) }

// Read reads like an io.Reader.
func (d descriptor) Read(b []byte) (int, error) {
	n, err := syscall.Read(int(d), b)
	if n == 0 && err == nil {
		return 0, io.EOF
	}
	return max(n, 0), err
}

// worthMapping is the size from which a file in memory is mapped rather than
// read: where a processor is emulated, the kernel's copy of it is what takes
// the time.
const worthMapping = 32 << 10

// mapped scans a file where it lies.
func (s *scanner) mapped(where Leak, f descriptor, size int) (err error) {
	data, err := syscall.Mmap(int(f), 0, size, syscall.PROT_READ, syscall.MAP_PRIVATE|syscall.MAP_POPULATE)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, syscall.Munmap(data)) }()
	// A file that has become shorter meanwhile has no bytes at its former end.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if recover() != nil {
			err = errors.New("it became shorter while it was read")
		}
	}()
	s.Files++
	s.Bytes += int64(size)
	s.matcher.scan(data, s.collect(where))
	return nil
}

// collect returns a function that notes each name once for a place.
func (s *scanner) collect(where Leak) func(name string) {
	seen := map[string]bool{}
	return func(name string) {
		if !seen[name] {
			seen[name] = true
			where.Credential = name
			s.Leaks = append(s.Leaks, where)
		}
	}
}

// unread notes what could not be read; what is gone by now, as processes and
// their files are, is not worth a word.
func (s *scanner) unread(path string, err error) {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return
	}
	s.Unread = append(s.Unread, fmt.Sprintf("%s: %v", path, err))
}

// read scans all that a reader gives.
func (s *scanner) read(where Leak, r io.Reader) error {
	s.Files++
	found := s.collect(where)
	kept := 0
	for {
		n, err := r.Read(s.buf[kept : kept+chunk])
		s.Bytes += int64(n)
		s.matcher.scan(s.buf[:kept+n], found)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		// What a needle may have begun in is looked at again.
		tail := min(max(s.matcher.longest-1, 0), kept+n)
		copy(s.buf, s.buf[kept+n-tail:kept+n])
		kept = tail
	}
}
