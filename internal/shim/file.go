package shim

import (
	"syscall"

	"github.com/ampoule-vm/ampoule/internal/shim/layout"
)

// scratch is where the shim has its own nodes and mounts. It is the overlay's
// directory, which does not outlive the shim.
const scratch = layout.Dir

// maxText bounds the files that are read whole; none is near it.
const maxText = 1 << 20

// readFile returns a short file of text.
func readFile(path string) (string, error) {
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return "", err
	}
	defer closeFile(fd)
	var out []byte
	part := make([]byte, 4096)
	for len(out) < maxText {
		n, err := syscall.Read(fd, part)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return "", err
		}
		if n == 0 {
			break
		}
		out = append(out, part[:n]...)
	}
	return string(out), nil
}

// line returns a file without its newline, or "" where there is none.
func line(path string) string {
	text, err := readFile(path)
	if err != nil {
		return ""
	}
	for text != "" && text[len(text)-1] == '\n' {
		text = text[:len(text)-1]
	}
	return text
}

// list returns the names in a directory, sorted.
func list(path string) ([]string, error) {
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_CLOEXEC|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer closeFile(fd)
	var names []string
	buffer := make([]byte, 8192)
	for {
		n, err := syscall.ReadDirent(fd, buffer)
		if err != nil {
			return nil, err
		}
		if n <= 0 {
			sortNames(names)
			return names, nil
		}
		_, _, names = syscall.ParseDirent(buffer[:n], -1, names)
	}
}

// sortNames sorts by insertion: there are few.
func sortNames(names []string) {
	for i := range names {
		for j := i; j > 0 && names[j] < names[j-1]; j-- {
			names[j], names[j-1] = names[j-1], names[j]
		}
	}
}

func closeFile(fd int) { _ = syscall.Close(fd) }

// isDirectory says what path is, without following a link at its end. One that
// does not exist is the error ENOENT.
func isDirectory(path string) (bool, error) {
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		return false, err
	}
	return st.Mode&syscall.S_IFMT == syscall.S_IFDIR, nil
}

// exists reports whether there is something, at the end of links too.
func exists(path string) bool { return syscall.Access(path, 0) == nil }

// makeDirectory makes one, or takes the one that is there.
func makeDirectory(path string, mode uint32) error {
	is, err := isDirectory(path)
	switch {
	case err == syscall.ENOENT: //nolint:errorlint // an errno is never wrapped here
		return doing("making "+path, syscall.Mkdir(path, mode))
	case err != nil:
		return doing("looking at "+path, err)
	case !is:
		return plain(path + " is not a directory")
	}
	return nil
}

// deviceNumber is a device as mknod takes it.
func deviceNumber(major, minor uint32) int {
	return int(minor&0xff | major<<8 | minor&^0xff<<12)
}
