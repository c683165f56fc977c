package leak

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/testkit/guest/scan"
)

// inode identifies a file on the machine.
type inode struct{ dev, ino uint64 }

// inodes is the set of files looked at.
type inodes map[inode]bool

// add returns false for a file that was there.
func (s inodes) add(st *syscall.Stat_t) bool {
	id := inode{st.Dev, st.Ino}
	if s[id] {
		return false
	}
	s[id] = true
	return true
}

// fresh reports whether a file was made, written or changed since the start.
func (s *Scanner) fresh(st *syscall.Stat_t) bool {
	return !time.Unix(st.Mtim.Unix()).Before(s.start) || !time.Unix(st.Ctim.Unix()).Before(s.start)
}

// onMemory reports whether a file lies in memory only. Writing to it through a
// mapping does not change its times there.
func onMemory(f *os.File) bool {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return false
	}
	return st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC || st.Type == unix.HUGETLBFS_MAGIC
}

// notFiles are the file systems that show the kernel's own state.
func notFiles() []string {
	return []string{
		"autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "efivarfs",
		"fusectl", "mqueue", "nsfs", "proc", "pstore", "rpc_pipefs", "securityfs", "selinuxfs", "sysfs", "tracefs",
	}
}

// mount is a line of mountinfo.
type mount struct {
	device, root, point, kind string
	readOnly                  bool
}

func (m mount) inMemory() bool {
	return m.kind == "tmpfs" || m.kind == "ramfs" || m.kind == "devtmpfs" || m.kind == "hugetlbfs"
}

// mountsOf reads the mounts that a process sees.
func mountsOf(p process) ([]mount, error) {
	text, err := os.ReadFile(p.path("mountinfo"))
	if err != nil {
		return nil, err
	}
	var all []mount
	for line := range strings.Lines(string(text)) {
		before, after, _ := strings.Cut(line, " - ")
		a, b := strings.Fields(before), strings.Fields(after)
		if len(a) < 6 || len(b) < 3 {
			continue
		}
		all = append(all, mount{
			device: a[2], root: scan.Unescape(a[3]), point: scan.Unescape(a[4]), kind: b[0],
			readOnly: slices.Contains(strings.Split(b[2], ","), "ro"),
		})
	}
	return all, nil
}

// walked remembers which parts of which file systems were walked.
type walked map[string][]string

// cover returns false where a mount shows what was walked before.
func (w walked) cover(m mount) bool {
	for _, root := range w[m.device] {
		if root == m.root || root == "/" || strings.HasPrefix(m.root, root+"/") {
			return false
		}
	}
	w[m.device] = append(w[m.device], m.root)
	return true
}

// scanFiles walks every file system of every mount namespace.
func (s *Scanner) scanFiles(seen inodes) {
	done, namespaces := walked{}, map[string]bool{}
	self := process{pid: os.Getpid()}
	buf := s.matcher.newBuffer()
	for _, p := range append([]process{self}, processes()...) {
		ns, err := os.Readlink(p.path("ns/mnt"))
		if err != nil || namespaces[ns] {
			continue
		}
		mounts, err := mountsOf(p)
		if err != nil {
			if !gone(err) {
				s.skip(File, "mounts of "+p.String(), err)
			}
			continue
		}
		namespaces[ns] = true
		points := map[string]bool{}
		for _, m := range mounts {
			points[m.point] = true
		}
		for _, m := range mounts {
			if slices.Contains(notFiles(), m.kind) || m.readOnly && !m.inMemory() || !done.cover(m) {
				continue
			}
			w := &walk{s: s, seen: seen, buf: buf, mount: m, points: points}
			if p != self {
				w.in = p
			}
			w.run()
		}
	}
}

// walk goes through one mount.
type walk struct {
	s      *Scanner
	seen   inodes
	buf    []byte
	mount  mount
	points map[string]bool
	// in is a process of another mount namespace that sees the mount.
	in process
}

// place returns the path for people.
func (w *walk) place(path string) string {
	if len(path) >= w.s.matcher.short {
		// A name that is a secret must not be repeated.
		hit := false
		w.s.matcher.scan([]byte(path), func(int) { hit = true })
		if hit {
			path = filepath.Dir(filepath.Dir(path)) + "/…"
		}
	}
	if w.in.pid == 0 {
		return path
	}
	return fmt.Sprintf("%s in the mount namespace of %s", path, w.in)
}

func (w *walk) run() {
	class := File
	if w.mount.inMemory() {
		class = MemoryFile
	}
	prefix := ""
	if w.in.pid != 0 {
		prefix = w.in.path("root")
	}
	// The dot makes the link that a process's root is a directory.
	_ = filepath.WalkDir(prefix+w.mount.point+"/.", func(full string, d fs.DirEntry, err error) error {
		path := filepath.Clean("/" + strings.TrimPrefix(full, prefix))
		if err != nil {
			if !gone(err) {
				w.s.skip(class, w.place(path), cause(err))
			}
			return nil
		}
		if d.IsDir() && path != w.mount.point && w.points[path] {
			return fs.SkipDir // a mount of its own
		}
		w.visit(class, full, path, d)
		return nil
	})
}

// visit looks at one entry.
func (w *walk) visit(class Class, full, path string, d fs.DirEntry) {
	info, err := d.Info()
	if err != nil {
		return // gone
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !w.mount.inMemory() && !w.s.fresh(st) {
		return
	}
	w.name(path, filepath.Base(path))
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		if target, err := os.Readlink(full); err == nil {
			w.name(path, target)
		}
	case info.Mode().IsRegular() && w.seen.add(st):
		if err := w.content(class, full, path, st); err != nil && !gone(err) {
			w.s.skip(class, w.place(path), cause(err))
		}
	}
}

// name looks for a secret in the name of a file, or in the target of a link.
func (w *walk) name(path, name string) {
	f := w.s.find(Name, w.place(path), w.s.allowance(path))
	w.s.matcher.scan([]byte(name), f.hit)
	f.done(int64(len(name)))
}

func (w *walk) content(class Class, full, path string, st *syscall.Stat_t) error {
	f, err := os.OpenFile(full, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	// A log that grows while it is read must not keep the scan from ending.
	r := io.LimitReader(newSparseReader(f), st.Size+chunk)
	return w.s.stream(class, w.place(path), w.s.allowance(path), r, w.buf)
}

// cause returns an error without the path, which can be a secret.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// sparseReader leaves out the holes of a file, so that a disk image of many
// gigabytes costs what it holds.
type sparseReader struct {
	f         *os.File
	at, until int64
	plain     bool
}

func newSparseReader(f *os.File) io.Reader { return &sparseReader{f: f} }

func (r *sparseReader) Read(b []byte) (int, error) {
	if r.plain {
		return r.f.Read(b)
	}
	if r.at >= r.until {
		from, err := unix.Seek(int(r.f.Fd()), r.at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return 0, io.EOF
		}
		if err == nil {
			r.until, err = unix.Seek(int(r.f.Fd()), from, unix.SEEK_HOLE)
		}
		if err != nil { // not every file system knows about holes
			if _, err := r.f.Seek(r.at, io.SeekStart); err != nil {
				return 0, err
			}
			r.plain = true
			return r.f.Read(b)
		}
		r.at = from
	}
	n, err := r.f.ReadAt(b[:min(int64(len(b)), r.until-r.at)], r.at)
	r.at += int64(n)
	if n == 0 && err == io.EOF && r.at < r.until {
		return 0, io.EOF // shorter than it was
	}
	if err == io.EOF {
		err = nil
	}
	return n, err
}
