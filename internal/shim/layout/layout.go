// Package layout is what the host and the guest's shim agree on: where the
// entries of the initrd overlay lie, and where the guest finds its credentials.
//
// It holds constants alone and imports nothing, since the shim is linked with
// it. What reads or writes these paths lives elsewhere.
package layout

// Marker stands in the shim's binary. A host that does not find it in a binary
// must not use that binary: its layout is another one. The number is raised
// with every change of the constants below and of what they mean.
const Marker = "ampoule-init layout 1"

// Entries of the overlay, as absolute paths in the guest; in the archive they
// stand without the leading slash, a directory before what is in it.
//
// Init has to be the last entry. The kernel stops at the first entry that it
// cannot write, so that where the shim is whole, all that it delivers is whole.
const (
	// Dir holds all of the overlay: a directory, mode 0700.
	Dir = "/.ampoule"
	// Credentials is a directory, mode 0700, with one regular file for each
	// credential, mode 0400, named as the credential.
	Credentials = Dir + "/credentials"
	// Next is there if the user named an rdinit= of his own: its value, without
	// a newline, in a file of mode 0400.
	Next = Dir + "/next"
	// Init is the shim, mode 0755.
	Init = Dir + "/init"
)

// What the guest's init finds.
const (
	// Run is the directory that lives until the guest ends, through a change of
	// the root file system too.
	Run = "/run"
	// Store is the ramfs with one file for each credential.
	Store = Run + "/credentials/@system"
	// Variable of init's environment names Store. It is set where the
	// credentials are there, all of them, and nowhere else.
	Variable = "CREDENTIALS_DIRECTORY"
)

// KernelParameter makes the kernel execute the shim first.
const KernelParameter = "rdinit=" + Init
