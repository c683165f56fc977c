package share

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is as many as the kernel follows.
const maxLinks = 40

// step is a link on the way to a directory.
type step struct {
	path string
	user int
}

// strangersLink is the error for a link that its owner may have made to have
// somebody else's directory served: shares are served by root.
type strangersLink struct {
	step
	to    string
	owner int
}

func (e *strangersLink) Error() string {
	return fmt.Sprintf("the link %s is uid %d's, who can have it lead anywhere, and it leads to %s, which is uid %d's", e.path, e.user, e.to, e.owner)
}

// follow opens a directory, by which it can only be found again, and says where it
// is. Every link is looked at as it is followed. One of a user other than root and
// our own leads to a directory of the same user alone (compare chase(), CHASE_SAFE,
// of systemd's systemd-tmpfiles).
func follow(name string) (dir *os.File, real string, err error) {
	fd, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, "", err
	}
	defer func() {
		if dir == nil {
			unix.Close(fd)
		}
	}()
	enter := func(next int) {
		unix.Close(fd)
		fd = next
	}
	var links []step
	at, rest := "/", split(name)
	for len(rest) > 0 {
		next, target, user, err := look(fd, rest[0])
		switch {
		case err != nil:
			return nil, "", err
		case target == "":
			enter(next)
			at, rest = path.Join(at, rest[0]), rest[1:]
			continue
		case len(links) == maxLinks:
			return nil, "", unix.ELOOP
		}
		links = append(links, step{path.Join(at, rest[0]), user})
		rest = append(split(target), rest[1:]...)
		if path.IsAbs(target) {
			if next, err = unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
				return nil, "", err
			}
			enter(next)
			at = "/"
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, "", err
	}
	for _, l := range links {
		if l.user != 0 && l.user != os.Geteuid() && l.user != int(st.Uid) {
			return nil, "", &strangersLink{l, at, int(st.Uid)}
		}
	}
	if real, err = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); err != nil {
		return nil, "", err
	}
	return os.NewFile(uintptr(fd), name), real, nil
}

// look opens what has that name in a directory, or, where it is a link, says where
// that leads, and whose it is.
func look(dir int, name string) (fd int, target string, user int, err error) {
	// Of a directory the kernel mounts what belongs there.
	fd, err = unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if !errors.Is(err, unix.ENOTDIR) {
		return fd, "", 0, err
	}
	link, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, "", 0, err
	}
	defer unix.Close(link)
	var st unix.Stat_t
	if err := unix.Fstat(link, &st); err != nil {
		return -1, "", 0, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return -1, "", 0, unix.ENOTDIR
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(link, "", buf)
	if err != nil {
		return -1, "", 0, err
	}
	return -1, string(buf[:n]), int(st.Uid), nil
}

// split is a path's names; ".." is one of them.
func split(name string) []string {
	var out []string
	for part := range strings.SplitSeq(name, "/") {
		if part != "" && part != "." {
			out = append(out, part)
		}
	}
	return out
}
