package spec

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

// ImageLayer is the layer of an image's own file, below all of the host's.
const ImageLayer = "image"

// ImageFile is the name of the file in which an image brings its defaults.
const ImageFile = "microvm.conf"

// Store is where an image's paths may lead beside itself: what is there nobody
// can change.
const Store = "/nix/store"

func imageRows() []Row {
	return []Row{{
		Name: "Image", Form: "DIRECTORY", Default: "none", Accepted: "accepted: the absolute path of a directory with a file " + ImageFile,
		Help: "The directory of a guest that brings its own defaults: its file " + ImageFile + " has a section [MicroVM] with " + list(imageKeys()) + ", " +
			"over which all files of the host go. Relative paths there are relative to the directory. It may set nothing else, its disks must be read-only, and its paths and links " +
			"may lead into the directory and " + Store + " only. Where the directory is not there yet when the unit is made, it is read at the start.",
		apply: setScalar(func(vm *VM) *Setting[string] { return &vm.Image }, ParseAbsolutePath),
	}}
}

// imageKeys are those that an image may set.
func imageKeys() []string {
	var out []string
	for _, rows := range [][]Row{cpuMemoryRows(), bootRows(), hypervisorRows(), diskRows(), consoleRows(), watchdogRows(), runnerRows()} {
		for i := range rows {
			if rows[i].Image {
				out = append(out, rows[i].Name+"=")
			}
		}
	}
	return out
}

// InImage reports whether an image may set a key.
func InImage(key string) bool {
	row := rowOf(key)
	return row != nil && row.Image
}

// CheckImage reports what an image's own file may not set, and removes it: it
// counts for nothing.
func CheckImage(f *unitfile.File) diag.List {
	var problems diag.List
	f.Assignments = slices.DeleteFunc(f.Assignments, func(a unitfile.Assignment) bool {
		if strings.HasPrefix(a.Section, "X-") || strings.HasPrefix(a.Key, "X-") {
			return false
		}
		row := rowOf(a.Key)
		if a.Section == Section && (row == nil || row.Image) {
			return false
		}
		problems.Errorf(a.Origin, a.Key, Show(a), "write it into the VM's own file or a drop-in; an image may set "+list(imageKeys()),
			"only the host may set this key of [%s]", clip(a.Section))
		return true
	})
	return problems
}

// inImage completes a relative path of an image's line. It is done before the
// value is parsed, so that every form of value is written as its key wants it.
func (r *reader) inImage(row *Row, e string) string {
	if row.inImage == nil || e == "" || strings.HasPrefix(e, "/") {
		return e
	}
	return row.inImage(strings.ReplaceAll(r.Image, "%", "%%")) + "/" + e
}

// plainPath is for keys whose value is a path.
func plainPath(dir string) string { return dir }

// diskPath is for Disk=, where a colon ends the path.
func diskPath(dir string) string {
	return strings.ReplaceAll(strings.ReplaceAll(dir, `\`, `\\`), ":", `\:`)
}

// ImagePath is a path that an image names.
type ImagePath struct {
	Path string
	From From
}

// ImagePaths are those of the VM's that its image names.
func (vm *VM) ImagePaths() []ImagePath {
	var out []ImagePath
	for _, s := range []Setting[string]{vm.Kernel, vm.Initrd, vm.Runner} {
		if s.From.Origin.Layer == ImageLayer {
			out = append(out, ImagePath{s.Value, s.From})
		}
	}
	for _, d := range vm.Disks {
		if d.From.Origin.Layer == ImageLayer {
			out = append(out, ImagePath{d.Path, d.From})
		}
	}
	return out
}

// checkImage keeps an image to itself.
func (r *reader) checkImage() {
	for _, p := range r.vm.ImagePaths() {
		if !Within(p.Path, r.Image) && !Within(p.Path, Store) {
			p.From.Errorf(r.problems, "accepted: a path in the image, or in "+Store, "it leads out of the image %s", r.Image)
		}
	}
	for _, d := range r.vm.Disks {
		if d.From.Origin.Layer == ImageLayer && !d.ReadOnly {
			d.From.Errorf(r.problems, "add the option ro, or write the line into the VM's own file", "a disk of an image is read-only")
		}
	}
}

// Within reports whether a path is in a directory, by the text alone.
func Within(p, dir string) bool {
	p, dir = path.Clean(p), path.Clean(dir)
	return dir == "/" || strings.HasPrefix(p, dir+"/")
}

// ImageError is what is wrong with an image as a whole, at the line that names it.
func (vm *VM) ImageError(accepted, format string, args ...any) diag.Problem {
	from := vm.Image.From
	return diag.Problem{Origin: from.Origin, Key: from.Key, Value: from.Shown, What: fmt.Sprintf(format, args...), Accepted: accepted}
}
