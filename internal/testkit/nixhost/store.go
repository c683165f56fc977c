package nixhost

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// storeDir is where all store paths lie.
const storeDir = "/nix/store/"

// Entry is a file or a link in a store path.
type Entry struct {
	Text, Link string
	Exec       bool
}

// Text is a file.
func Text(s string) Entry { return Entry{Text: s} }

// Program is a file that can be executed.
func Program(s string) Entry { return Entry{Text: s, Exec: true} }

// LinkTo is a link.
func LinkTo(s string) Entry { return Entry{Link: s} }

// Files are a store path by the names below it; "" is the path itself.
type Files map[string]Entry

// storePath is what the database has of a path.
type storePath struct {
	path       string
	hash       [32]byte // of its NAR
	size       int
	references []string
	registered time.Time
	// absent is one that the database has never heard of.
	absent bool
}

type store struct {
	h     *Host
	paths map[string]*storePath
	order []string
	known map[[32]byte]string // by name and content
	fixed map[string][]string // hashes that are given, by name
	// packages are the stand-ins, by their names.
	packages map[string]string
}

func newStore(h *Host) *store {
	return &store{h: h, paths: map[string]*storePath{}, known: map[[32]byte]string{}, packages: map[string]string{}, fixed: map[string][]string{}}
}

// Fix has the next new path of a name take a given hash, of 32 characters: one that a
// document tells of.
func (h *Host) Fix(name, hash string) { h.store.fixed[name] = append(h.store.fixed[name], hash) }

// Store adds a path, unless there is the same already, and gives it. Its hash follows
// from name and content; what it refers to is found in its content, as Nix does.
func (h *Host) Store(name string, files Files) string {
	h.t.Helper()
	s := h.store
	nar := archive(files)
	sum := sha256.Sum256(append([]byte(name+"\x00"), nar...))
	if path, ok := s.known[sum]; ok {
		return path
	}
	hash := base32(sum[:20])
	if given := s.fixed[name]; len(given) > 0 {
		hash, s.fixed[name] = given[0], given[1:]
	}
	path := storeDir + hash + "-" + name
	p := &storePath{path: path, hash: sha256.Sum256(nar), size: len(nar), registered: h.now}
	for _, m := range referenced.FindAllSubmatch(nar, -1) {
		for _, known := range s.order {
			if strings.HasPrefix(known, storeDir+string(m[1])+"-") && !slices.Contains(p.references, known) {
				p.references = append(p.references, known)
			}
		}
	}
	s.paths[path], s.known[sum] = p, path
	s.order = append(s.order, path)
	h.writeStore(path, files)
	return path
}

var referenced = regexp.MustCompile(`/nix/store/([0-9a-df-np-sv-z]{32})-`)

// writeStore writes a path as Nix does: read only, of the second after the epoch.
func (h *Host) writeStore(path string, files Files) {
	h.t.Helper()
	for name, e := range files {
		at := h.At(filepath.Join(path, name))
		h.ok(os.MkdirAll(filepath.Dir(at), 0o755))
		if e.Link != "" {
			h.ok(os.Symlink(e.Link, at))
			continue
		}
		mode := os.FileMode(0o444)
		if e.Exec {
			mode = 0o555
		}
		h.ok(os.WriteFile(at, []byte(e.Text), mode))
		h.ok(os.Chmod(at, mode))
	}
	one := unix.NsecToTimespec(int64(time.Second))
	h.ok(filepath.Walk(h.At(path), func(at string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		if info.IsDir() {
			if err := os.Chmod(at, 0o555); err != nil {
				return err
			}
		}
		return unix.UtimesNanoAt(unix.AT_FDCWD, at, []unix.Timespec{one, one}, unix.AT_SYMLINK_NOFOLLOW)
	}))
}

// Unregister takes a path out of the database; its files stay.
func (h *Host) Unregister(path string) { h.store.paths[path].absent = true }

// Collect removes a path, from the store and the database, as the collector does with
// what nothing refers to.
func (h *Host) Collect(path string) {
	h.t.Helper()
	h.Remove(path)
	delete(h.store.paths, path)
	maps.DeleteFunc(h.store.known, func(_ [32]byte, p string) bool { return p == path })
	h.store.order = slices.DeleteFunc(h.store.order, func(p string) bool { return p == path })
	for _, p := range h.store.paths {
		p.references = slices.DeleteFunc(p.references, func(r string) bool { return r == path })
	}
}

// Edit changes a file in the store behind Nix's back, as one does who mounts it writable.
func (h *Host) Edit(path, old, replacement string) {
	h.t.Helper()
	at := h.At(path)
	text, err := os.ReadFile(at)
	h.ok(err)
	if !bytes.Contains(text, []byte(old)) {
		h.t.Fatalf("%s has no %q", path, old)
	}
	h.ok(os.WriteFile(at, bytes.Replace(text, []byte(old), []byte(replacement), 1), 0o600))
}

// Package is a store path that stands for a package, with a program if one is named.
func (h *Host) Package(name string, programs ...string) string {
	h.t.Helper()
	id := strings.Join(append([]string{name}, programs...), " ")
	if path := h.store.packages[id]; path != "" {
		return path
	}
	files := Files{"nix-support/propagated-build-inputs": Text(name + "\n")}
	for _, p := range programs {
		files[p] = Program("\x7fELF\x02\x01\x01 a stand-in for " + filepath.Base(p) + " of " + name + "\n")
	}
	path := h.Store(name, files)
	h.store.packages[id] = path
	return path
}

func (h *Host) bash() string { return h.Package("bash-interactive-5.3p3", "bin/bash") + "/bin/bash" }

// Script is a store path as writeShellScript makes it.
func (h *Host) Script(name, text string) string {
	h.t.Helper()
	return h.Store(name, Files{"": Program("#!" + h.bash() + "\n" + text + "\n")})
}

// base32 is Nix's: its alphabet lacks e, o, t and u, and the digits go backwards.
func base32(data []byte) string {
	const alphabet = "0123456789abcdfghijklmnpqrsvwxyz"
	n := (len(data)*8 + 4) / 5
	out := make([]byte, 0, n)
	for i := n - 1; i >= 0; i-- {
		bit := i * 5
		c := uint(data[bit/8]) >> (bit % 8)
		if bit/8+1 < len(data) {
			c |= uint(data[bit/8+1]) << (8 - bit%8)
		}
		out = append(out, alphabet[c&31])
	}
	return string(out)
}

// archive is a path as a NAR, from which Nix makes the hash in its database.
func archive(files Files) []byte {
	var out bytes.Buffer
	narString(&out, "nix-archive-1")
	narNode(&out, files)
	return out.Bytes()
}

func narString(out *bytes.Buffer, s string) {
	var size [8]byte
	binary.LittleEndian.PutUint64(size[:], uint64(len(s)))
	out.Write(size[:])
	out.WriteString(s)
	out.Write(make([]byte, (8-len(s)%8)%8))
}

func narNode(out *bytes.Buffer, files Files) {
	words := func(list ...string) {
		for _, w := range list {
			narString(out, w)
		}
	}
	words("(", "type")
	if e, leaf := files[""]; leaf {
		switch {
		case e.Link != "":
			words("symlink", "target", e.Link)
		case e.Exec:
			words("regular", "executable", "", "contents", e.Text)
		default:
			words("regular", "contents", e.Text)
		}
		words(")")
		return
	}
	words("directory")
	below := map[string]Files{}
	var names []string
	for name, e := range files {
		first, rest, _ := strings.Cut(name, "/")
		if below[first] == nil {
			below[first] = Files{}
			names = append(names, first)
		}
		below[first][rest] = e
	}
	slices.Sort(names)
	for _, name := range names {
		words("entry", "(", "name", name, "node")
		narNode(out, below[name])
		words(")")
	}
	words(")")
}
