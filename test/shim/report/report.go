// Package report is what the guests of package shim's tests tell about
// themselves: the shape of it alone, since the program that fills it runs in
// the guest and what reads it runs on the host.
package report

// Report is what the first program after the shim found.
type Report struct {
	// Args and Env are those of that program.
	Args, Env []string
	// Environ is /proc/1/environ, Mounts are the lines of /proc/mounts.
	Environ string
	Mounts  []string
	// Cwd is the working directory, Umask the file mode mask.
	Cwd   string
	Umask int
	// Open are the numbers of the open descriptors.
	Open []int
	// Root is all that was on the root file system, Run all below /run that is
	// not in the store, before anything else was mounted.
	Root, Run []File
	// Store is what CREDENTIALS_DIRECTORY leads to.
	Store []File
	// Writable says that a file could be made in the store.
	Writable bool
	// Leaks name files outside the store that hold a part of a value, Scanned
	// is how many bytes were looked at.
	Leaks   []string
	Scanned int
	// Problems is what the program itself could not do.
	Problems []string
}

// File is one file. SHA256 and Size are of a regular one's content.
type File struct {
	Path   string
	Mode   uint32 // as in stat(2)
	Size   int64
	SHA256 string
	Link   string
}

// Stay is an environment variable, set by the kernel's command line, that keeps
// the guest running without having read a value. It reports nothing but that it
// is there.
const Stay = "PROBE_STAY"

// What encloses a report on the second serial port.
const (
	Begin = "<<<report"
	End   = "report>>>"
)
