// Package initrd tells what an initial RAM disk holds before a guest is started
// with it: whether Linux can unpack all of it, how much memory that takes, and
// what program would run first.
//
// It follows Linux's own steps (init/initramfs.c): archives one behind the
// other, packed or not, unpacked into one tree in which what comes later
// replaces what came before. Where Linux stops with a line in its log and goes
// on booting with what it has, that is a [Flaw]; where so little is left that
// the guest could not have been meant to boot with it, an [Error].
//
// Files are not opened here, and nothing is kept of the contents of an archive
// but what the report says.
package initrd

import "fmt"

// Options limit an inspection. The zero value is right for most.
type Options struct {
	// Init is the path of the program that the kernel is to run first: "/init",
	// which is the default, or what rdinit= says.
	Init string
	// MaxUnpacked is the number of bytes that an initial RAM disk may unpack to
	// before it is an error; 64 GiB by default. What is not packed counts too.
	MaxUnpacked int64
	// MaxEntries is the number of entries before it is an error; 1048576 by
	// default. An entry takes a few hundred bytes of memory.
	MaxEntries int64
}

func (o Options) withDefaults() Options {
	if o.Init == "" {
		o.Init = "/init"
	}
	if o.MaxUnpacked == 0 {
		o.MaxUnpacked = 64 << 30
	}
	if o.MaxEntries == 0 {
		o.MaxEntries = 1 << 20
	}
	return o
}

// Report is what an initial RAM disk holds. Its JSON form is stable.
type Report struct {
	// Segments are the archives, in their order.
	Segments []Segment `json:"segments"`
	// Entries counts the entries of all archives.
	Entries int64 `json:"entries"`
	// Pages is the memory, in bytes, that the contents of the files take in the
	// guest once all is unpacked: a multiple of 4096. Directories and the like
	// come on top.
	Pages int64 `json:"pages"`
	// NotInspected names the compression of the part that this program cannot
	// unpack, though Linux may: nothing is known from there on.
	NotInspected string `json:"notInspected,omitempty"`
	// Init is the program that runs first.
	Init Init `json:"init"`
	// Release says that there is an /etc/initrd-release, by which systemd knows
	// that it is to switch to another root.
	Release bool `json:"release,omitempty"`
	// Maker is the program that made it, as far as that can be seen: "dracut",
	// "initramfs-tools", "mkinitcpio", "mkosi", "nixos" or "".
	Maker string `json:"maker,omitempty"`
	// Ampoule says that there is an entry at or below /.ampoule.
	Ampoule bool `json:"ampoule,omitempty"`
	// Run is what /run is where it is no directory: "symlink", "file" or "other".
	Run string `json:"run,omitempty"`
	// Bootconfig says that there is a bootconfig behind the archives. Linux cuts
	// it off, and where it was built or told to (bootconfig), uses it.
	Bootconfig bool `json:"bootconfig,omitempty"`
	// BootconfigParameters are those of "kernel.keepinitrd", "kernel.rdinit" and
	// "kernel.retain_initrd" (also for retain-initrd) that it sets.
	BootconfigParameters []string `json:"bootconfigParameters,omitempty"`
	// Flaws are what Linux passes over, or stops at and goes on booting.
	Flaws []Flaw `json:"flaws,omitempty"`
	// Ignored is the number of bytes at the end that Linux does not look at.
	Ignored int64 `json:"ignored,omitempty"`
}

// Segment is one archive, or several in one compressed stream.
type Segment struct {
	Offset int64 `json:"offset"`
	Bytes  int64 `json:"bytes"`
	// Compression is as Linux calls it; "" where there is none.
	Compression string `json:"compression,omitempty"`
	// Unpacked is the size of the archive itself in bytes.
	Unpacked int64 `json:"unpacked"`
	Entries  int64 `json:"entries"`
}

// Flaw is something odd that does not keep a guest from booting.
type Flaw struct {
	Offset int64 `json:"offset"`
	// What is a sentence with the place in it.
	What string `json:"what"`
}

// Kind is what a first program is.
type Kind string

// The kinds.
const (
	Systemd Kind = "systemd" // named so, or linked with systemd's own libraries
	Script  Kind = "script"  // begins with #!
	ELF     Kind = "elf"     // another program
	Missing Kind = "missing" // there is nothing: Linux looks for a root disk
	Other   Kind = "other"   // something that cannot be run: a directory, text
	Unknown Kind = "unknown" // in a part that was not inspected
)

// Init is the first program.
type Init struct {
	// Path is where it was looked for, Resolved where it is, all symbolic links
	// followed; "" where nothing is.
	Path     string `json:"path"`
	Resolved string `json:"resolved,omitempty"`
	Kind     Kind   `json:"kind"`
	// Executable is whether it has an execute bit, without which Linux cannot
	// run it.
	Executable bool `json:"executable"`
	// Interpreter is the first word behind the #! of a script.
	Interpreter string `json:"interpreter,omitempty"`
	// Why says why it is missing, where there is more to say than that.
	Why string `json:"why,omitempty"`
}

// Reason is the kind of an [Error].
type Reason string

// The reasons.
const (
	Empty       Reason = "empty"       // no bytes, or zeros only
	NotArchive  Reason = "not-archive" // something else
	Compression Reason = "compression" // packed by something that Linux does not know
	Truncated   Reason = "truncated"   // it ends too early
	Damaged     Reason = "damaged"     // or made so that Linux does not take it
	TooLarge    Reason = "too-large"   // unpacks to more than MaxUnpacked
	TooMany     Reason = "too-many"    // entries, names, archives or steps along links
	// RAMDiskImage is what initial RAM disks were before archives: the image of a
	// file system, packed or not. Linux takes it only where it was built for that
	// (CONFIG_BLK_DEV_RAM), which cannot be seen from here.
	RAMDiskImage Reason = "ram-disk-image"
)

// Error is why a guest could not be started with an initial RAM disk.
type Error struct {
	Reason Reason
	// Offset is the byte of the file that it is about, as exactly as is known.
	Offset int64
	// What is a sentence with the place in it, without the name of the file.
	What string
}

func (e *Error) Error() string { return e.What }

func fatal(reason Reason, offset int64, format string, args ...any) error {
	return &Error{Reason: reason, Offset: offset, What: fmt.Sprintf(format, args...)}
}
