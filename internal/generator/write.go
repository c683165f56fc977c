package generator

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Writer puts units into a generator's directory. Every file and link appears
// whole or not at all, also where two generators write at once.
type Writer struct {
	// Out is the directory that systemd gave. Store, if not "", keeps the last
	// good units of all VMs beyond the next call, which starts with an empty Out.
	Out, Store string

	// id tells its temporary files from those of another.
	id int

	mu   sync.Mutex
	made map[string]error // directories of links
}

// StoreDirectory is where last good units are kept: on the file system of the
// generators' directories, so that a link will do, and root's alone. The
// directory of a running VM will not do: its user may write there.
const StoreDirectory = "/run/ampoule/generator"

// Open makes the store. Without one, a VM whose file breaks while it runs loses
// its unit.
func (w *Writer) Open() error {
	w.made = map[string]error{}
	if w.id == 0 {
		w.id = os.Getpid()
	}
	if w.Store == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(w.Store), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(w.Store, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// Write writes one unit with its links.
func (w *Writer) Write(u Unit) error {
	path := filepath.Join(w.Out, u.Name)
	switch {
	case u.State == Hidden:
		return nil
	case u.State == Masked:
		// Nothing but its link.
	case u.State == Made && w.Store != "":
		if err := w.keep(u, path); err != nil {
			return err
		}
	case len(u.Text) == 0:
		// An empty unit would be a masked one.
		return &fs.PathError{Op: "write", Path: path, Err: errors.New("there is nothing to write")}
	default:
		if err := w.replace(path, u.Text, nil); err != nil {
			return err
		}
	}
	for _, s := range u.Shares {
		if err := w.replace(filepath.Join(w.Out, s.Name), s.Text, nil); err != nil {
			return err
		}
	}
	for _, l := range u.Symlinks() {
		if err := w.hang(l); err != nil {
			return err
		}
	}
	return nil
}

// keep writes a good unit into the store and links it from there, or, where one
// file system does not reach both, writes it twice.
func (w *Writer) keep(u Unit, path string) error {
	stored := filepath.Join(w.Store, u.VM)
	// At boot there is none yet, and the first needs no other name.
	err := w.create(stored, u.Text)
	if err == nil {
		err = w.hardLink(stored, path)
	} else {
		err = w.replace(stored, u.Text, func(temporary string) error { return w.hardLink(temporary, path) })
	}
	if errors.Is(err, syscall.EXDEV) || errors.Is(err, syscall.EPERM) {
		if err = w.replace(stored, u.Text, nil); err == nil {
			err = w.replace(path, u.Text, nil)
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		return err
	}
	// There is no room for a new file. One that says the same will do.
	if last := Last(w.Store, u.VM); string(last) == string(u.Text) {
		return w.hardLink(stored, path)
	}
	return err
}

// Last reads a unit from a store, or returns nil.
func Last(store, vm string) []byte {
	if store == "" {
		return nil
	}
	f, err := os.Open(filepath.Join(store, vm))
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err != nil || info.Mode().Perm() != whole {
		return nil
	}
	data, err := io.ReadAll(f)
	if err != nil || len(data) == 0 {
		return nil
	}
	return data
}

// Forget removes from the store what belongs to no VM of those.
func (w *Writer) Forget(belongs func(vm string) bool) error {
	if w.Store == "" {
		return nil
	}
	entries, err := os.ReadDir(w.Store)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), temporaryPrefix) || belongs(e.Name()) {
			continue
		}
		if err := os.Remove(filepath.Join(w.Store, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// hang makes a link, and the directory beside the unit where it wants one.
func (w *Writer) hang(l Link) error {
	path := filepath.Join(w.Out, l.Path)
	dir := filepath.Dir(path)
	if dir == filepath.Clean(w.Out) {
		return w.link(l.Target, path)
	}
	w.mu.Lock()
	err, done := w.made[dir]
	if !done {
		if err = os.Mkdir(dir, 0o755); errors.Is(err, fs.ErrExist) {
			err = nil
		}
		w.made[dir] = err
	}
	w.mu.Unlock()
	if err != nil {
		return err
	}
	return w.link(l.Target, path)
}

// link makes a symbolic link, or leaves the one that says the same.
func (w *Writer) link(target, path string) error {
	err := syscall.Symlink(target, path)
	if !errors.Is(err, syscall.EEXIST) {
		return wrap("symlink", path, err)
	}
	if old, err := os.Readlink(path); err == nil && old == target {
		return nil
	}
	temporary := w.temporaryName(path)
	if err := syscall.Symlink(target, temporary); err != nil {
		return wrap("symlink", temporary, err)
	}
	return w.rename(temporary, path)
}

// hardLink gives a file a second name, in the place of whatever has it.
func (w *Writer) hardLink(old, path string) error {
	err := syscall.Link(old, path)
	if !errors.Is(err, syscall.EEXIST) {
		return wrap("link", path, err)
	}
	temporary := w.temporaryName(path)
	if err := syscall.Link(old, temporary); err != nil {
		return wrap("link", temporary, err)
	}
	return w.rename(temporary, path)
}

const temporaryPrefix = ".ampoule-"

// temporaryName is one of this writer's alone, in the same directory, and one
// that systemd does not take for a unit.
func (w *Writer) temporaryName(path string) string {
	dir, name := filepath.Split(path)
	return dir + temporaryPrefix + strconv.Itoa(w.id) + "-" + name + "~"
}

// whole are the rights of a file that is written to its end.
const whole, unfinished = 0o644, 0o600

// create writes a file that is not there yet. Who finds it before its end, or
// when there was no end, knows it by its rights.
func (w *Writer) create(path string, text []byte) error {
	fd, err := syscall.Open(path, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_EXCL|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, unfinished)
	if err != nil {
		return err
	}
	if err = fill(fd, text); err != nil {
		_ = syscall.Unlink(path)
	}
	return err
}

// replace writes a file under another name, shows it to written if that is not
// nil, and gives it its own. Few system calls: there may be thousands of units.
func (w *Writer) replace(path string, text []byte, written func(temporary string) error) error {
	temporary := w.temporaryName(path)
	fd, err := syscall.Open(temporary, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_TRUNC|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, unfinished)
	if err != nil {
		return wrap("open", temporary, err)
	}
	err = fill(fd, text)
	if err == nil && written != nil {
		err = written(temporary)
	}
	if err == nil {
		err = syscall.Rename(temporary, path)
	}
	if err != nil {
		_ = syscall.Unlink(temporary)
		return wrap("write", path, err)
	}
	return nil
}

// fill writes a new file to its end, gives it its rights, whatever the umask, and
// closes it.
func fill(fd int, text []byte) error {
	err := write(fd, text)
	if err == nil {
		err = syscall.Fchmod(fd, whole)
	}
	if closeErr := syscall.Close(fd); err == nil {
		err = closeErr
	}
	return err
}

func write(fd int, text []byte) error {
	for len(text) > 0 {
		n, err := syscall.Write(fd, text)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return err
		}
		text = text[max(n, 0):]
	}
	return nil
}

func (w *Writer) rename(old, path string) error {
	if err := syscall.Rename(old, path); err != nil {
		_ = syscall.Unlink(old)
		return wrap("rename", path, err)
	}
	return nil
}

func wrap(op, path string, err error) error {
	if err == nil {
		return nil
	}
	var already *fs.PathError
	if errors.As(err, &already) {
		return err
	}
	return &fs.PathError{Op: op, Path: path, Err: err}
}
