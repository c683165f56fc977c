// Package inspect looks into kernels and initial RAM disks, and remembers what
// it saw, so that a start has to do it once for each file. What is looked for
// is the business of package initrd; here are files and the memory of them.
package inspect

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/ampoule-vm/ampoule/internal/host"
	"github.com/ampoule-vm/ampoule/internal/version"
)

// Identity is that of a file's contents, as far as the file system tells: who
// writes to it or puts another in its place changes it.
type Identity struct {
	Device    uint64 `json:"device"`
	Inode     uint64 `json:"inode"`
	Size      int64  `json:"size"`
	ChangedAt int64  `json:"changed_ns"` // ctime, in nanoseconds since 1970
}

// IdentityOf returns the identity of a file that was opened or looked up.
func IdentityOf(info os.FileInfo) Identity {
	id := Identity{Size: info.Size()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		id.Device, id.Inode, id.ChangedAt = st.Dev, st.Ino, st.Ctim.Nano()
	}
	return id
}

// Memory is a directory in which what was seen is kept. It holds nothing that
// cannot be found again.
type Memory struct {
	// Dir is absolute; empty: nothing is remembered.
	Dir string
	// ReadOnly: what is remembered is used, and nothing is added.
	ReadOnly bool
}

// findings is raised when something else is looked for, or found: what an older
// one remembered is looked at again.
const findings = 2

// maxEntry is far above what one file's findings take.
const maxEntry = 1 << 20

// entry is a file of the memory.
type entry[T any] struct {
	// Findings and Version are those of who looked.
	Findings int    `json:"findings"`
	Version  string `json:"version"`
	// What and Path are for people who look into the directory.
	What     string   `json:"what"`
	Path     string   `json:"path"`
	Identity Identity `json:"identity"`
	Seen     T        `json:"seen"`
}

// question is what a file is asked.
type question[T any] struct {
	// what tells the questions apart that one file is asked.
	what string
	see  func(r io.ReaderAt, size int64) (T, error)
	// answers says whether what was remembered is an answer at all.
	answers func(T) bool
}

// look returns what is seen in a file, or was seen when the file was the same.
// It gives up when ctx ends.
func look[T any](ctx context.Context, m Memory, path string, q question[T]) (Identity, T, error) {
	var none T
	what := q.what
	f, info, err := host.OpenImage(path)
	if err != nil {
		return Identity{}, none, err
	}
	defer f.Close()
	id := IdentityOf(info)
	name := m.name(what, path)
	if e, ok := recall[T](name); ok && e.Findings == findings && e.Version == version.Version && e.What == what && e.Identity == id && q.answers(e.Seen) {
		return id, e.Seen, nil
	}
	seen, err := q.see(reader{ctx, f}, info.Size())
	if err != nil {
		return id, none, err
	}
	if name != "" && !m.ReadOnly {
		// A memory that cannot be kept costs time and nothing else.
		_ = keep(name, entry[T]{Findings: findings, Version: version.Version, What: what, Path: path, Identity: id, Seen: seen})
	}
	return id, seen, nil
}

// reader reads a file until ctx ends.
type reader struct {
	ctx  context.Context
	file io.ReaderAt
}

func (r reader) ReadAt(p []byte, off int64) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.file.ReadAt(p, off)
}

// name is where the findings about a file are kept: one place for each path, so
// that a file that is replaced over and over does not fill the directory.
func (m Memory) name(what, path string) string {
	if m.Dir == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(what + "\x00" + path))
	return filepath.Join(m.Dir, hex.EncodeToString(sum[:16])+".json")
}

func recall[T any](name string) (e entry[T], ok bool) {
	if name == "" {
		return e, false
	}
	info, err := os.Lstat(name)
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxEntry {
		return e, false
	}
	data, err := os.ReadFile(name)
	return e, err == nil && json.Unmarshal(data, &e) == nil
}

// keep writes whole or not at all.
func keep(name string, e any) error {
	data, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("remembering %s: %w", name, err)
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return fmt.Errorf("remembering: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return fmt.Errorf("remembering: %w", err)
	}
	_, err = f.Write(data)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("remembering: %w", err)
	}
	return nil
}
