package share

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/spec"
)

// place is where something is, whatever the path by which it is seen: on a file
// system, by its number, and there at a path. What is mounted at several paths is
// in one place.
type place struct{ device, path string }

// holds reports whether what is at one place is seen at the other.
func (p place) holds(other place) bool {
	return p.device == other.device && (p.path == other.path || spec.Within(other.path, p.path))
}

// mounted is one line of proc_pid_mountinfo(5).
type mounted struct {
	place
	id, point string
}

func mounts() ([]mounted, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var out []mounted
	for line := range strings.SplitSeq(string(text), "\n") {
		if f := strings.Fields(line); len(f) > 4 {
			out = append(out, mounted{place{f[2], unescape(f[3])}, f[0], unescape(f[4])})
		}
	}
	return out, nil
}

// unescape undoes what the kernel writes of space, tab, newline and backslash.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// placesOf are where a directory or a file is, which is open and was found at real,
// and everything that is mounted in it.
func placesOf(f *os.File, real string, all []mounted) []mounted {
	var out []mounted
	id := mountOf(f)
	for _, m := range all {
		if m.id == id && (real == m.point || spec.Within(real, m.point)) {
			out = append(out, mounted{place{m.device, path.Join(m.path, strings.TrimPrefix(real, m.point))}, m.id, real})
		}
		if spec.Within(m.point, real) {
			out = append(out, m)
		}
	}
	return out
}

// mountOf is the number of the mount by which a file was opened; empty: unknown.
func mountOf(f *os.File) string {
	text, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(int(f.Fd())))
	if err != nil {
		return ""
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		if id, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			return strings.TrimSpace(id)
		}
	}
	return ""
}

// exposes says what is wrong with a share of a directory that is open, and was found
// at real, for what is mounted there; empty: nothing. All that lies in it is served,
// other file systems too.
func exposes(dir *os.File, real string, secrets []spec.SharedSecret) (what, accepted string, err error) {
	all, err := mounts()
	if err != nil {
		return "", "", fmt.Errorf("what is mounted in it cannot be seen: %w", err)
	}
	const cure = "share a directory of its own"
	seen := placesOf(dir, real, all)
	for _, kept := range spec.KeptFrom() {
		places := placesAt(kept, all)
		if slices.Contains(shallow, kept) && len(places) > 0 {
			places = places[:1]
		}
		if m, ok := meet(seen, places); ok {
			return fmt.Sprintf("%s, or a part of it, is to be seen at %s too, and is not for a guest", kept, m.point), cure, nil
		}
	}
	for _, s := range secrets {
		if m, ok := meet(seen, placesAt(s.Path, all)); ok {
			return fmt.Sprintf("the guest would see the source of a credential, %s (%s), at %s", s.Path, s.Line, m.point), cure + ", or keep the credential elsewhere", nil
		}
	}
	return "", "", nil
}

// shallow are places where things are mounted that are no secrets: parts of other
// file systems, in containers, and what a share's own unit serves.
var shallow = []string{"/proc", "/sys", "/dev", "/run/ampoule"}

// placesAt are those of what a path leads to, its own first; none: there is nothing.
func placesAt(name string, all []mounted) []mounted {
	fd, err := unix.Open(name, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	real, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return nil
	}
	out := placesOf(f, real, all)
	// Its own place has the shortest path.
	slices.SortStableFunc(out, func(a, b mounted) int { return len(a.point) - len(b.point) })
	return out
}

// meet finds a place that is seen, and in which a kept one is, or the other way round.
func meet(seen, kept []mounted) (mounted, bool) {
	for _, s := range seen {
		for _, k := range kept {
			if s.holds(k.place) || k.holds(s.place) {
				return s, true
			}
		}
	}
	return mounted{}, false
}
