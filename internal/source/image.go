package source

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
)

// Image is a directory with a file of its own.
type Image struct {
	// Dir is as the VM's files name it, File what is in it.
	Dir  string
	File File
	// Absent: the directory is not there, or is as empty as one on which nothing
	// is mounted, and may come later.
	Absent bool
	// What is wrong with it, and what would be accepted; empty: nothing.
	What, Accepted string
}

// ReadImage reads a file of an image below root. allowed are the directories
// beside the image to which links may lead.
func ReadImage(root, dir, name string, allowed ...string) Image {
	image := Image{Dir: dir, File: File{Path: path.Join(dir, name), Layer: "image"}}
	f := finder{root: root}
	info, err := os.Stat(f.host(dir))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		image.Absent = true
		return image
	case err != nil:
		image.What, image.Accepted = reason(err), "accepted: a readable directory"
		return image
	case !info.IsDir():
		image.What, image.Accepted = "this is not a directory", "accepted: a directory with a file "+name
		return image
	}
	if target, ok := Leads(root, image.File.Path, append(allowed, dir)...); !ok {
		image.What, image.Accepted = name+" there leads out of the image, to "+target, "accepted: a file in the image"
		return image
	}
	data, what, err := readRegular(f.host(image.File.Path))
	if errors.Is(err, fs.ErrNotExist) {
		if entries, err := os.ReadDir(f.host(dir)); err == nil && len(entries) == 0 {
			image.Absent = true
			return image
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		image.What, image.Accepted = "no file "+name+" is there", "accepted: a directory with a file "+name+", which has a section [MicroVM]"
	case err != nil:
		image.What, image.Accepted = name+" there "+reason(err), "accepted: a readable file"
	case what != "":
		image.What, image.Accepted = name+" there: "+what, "accepted: a regular file"
	case len(data) > MaxFile:
		image.What, image.Accepted = name+" there is too large", "accepted: at most 4 MiB"
	}
	image.File.Data = data
	return image
}

// maxLinks is how many the kernel follows (MAXSYMLINKS).
const maxLinks = 40

// Leads says where the links of a path lead below root: to a place in one of the
// directories, or in what these lead to themselves. What is not there leads
// nowhere else.
func Leads(root, p string, allowed ...string) (target string, ok bool) {
	f := finder{root: root}
	target, err := f.resolve(p)
	if err != nil {
		return p + " (" + reason(err) + ")", false
	}
	for _, dir := range allowed {
		real, err := f.resolve(dir)
		if err == nil && (target == real || strings.HasPrefix(target, strings.TrimSuffix(real, "/")+"/")) {
			return target, true
		}
	}
	return target, false
}

// resolve follows the links of a path, all of which stay below the root.
func (f *finder) resolve(p string) (string, error) {
	done, rest := "/", strings.Split(path.Clean(p), "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			done = path.Dir(done)
			continue
		}
		next := path.Join(done, name)
		target, err := os.Readlink(f.host(next))
		if err != nil { // no link: a file, or nothing
			if !errors.Is(err, syscall.EINVAL) && !errors.Is(err, fs.ErrNotExist) {
				return "", err
			}
			done = next
			continue
		}
		if links++; links > maxLinks {
			return "", syscall.ELOOP
		}
		if path.IsAbs(target) {
			done = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return done, nil
}
