// Package shim is the first program of a guest whose credentials came with its
// initial RAM disk. It puts them where systemd looks for them, removes every
// other copy from the guest, and executes what the kernel would have executed.
//
// It is process 1 from the kernel's first user process on, with nothing but a
// root directory in memory: no /proc, no /dev, nobody to report to but the
// kernel's log, nobody to clean up after it, and the guest does not boot if it
// ends. So whatever of its own work fails is said in that log and the guest
// boots without credentials; half of them are never there. A value passes
// through one buffer outside Go's heap and is in no message.
//
// The package is linked without os, fmt and their like, which would add a sixth
// to a program that is copied at every start. What can be decided by looking at
// text or bytes is in its subpackages; what host and guest agree on is in
// layout.
package shim

import (
	"syscall"
	_ "unsafe" // for go:linkname

	_ "github.com/ampoule-vm/ampoule/internal/shim/entry" // before Go's runtime
	"github.com/ampoule-vm/ampoule/internal/shim/layout"
)

// arguments is what package os has for itself; the import of os would be most
// of this program's own code.
//
//go:linkname arguments os.runtime_args
func arguments() []string

// Main is the program. It does not return: another program takes its place, or
// the process ends, which as process 1 makes the kernel panic.
func Main() {
	args := arguments()
	if syscall.Getpid() != 1 || len(args) == 0 || args[0] != layout.Init {
		_, _ = syscall.Write(2, []byte(layout.Marker+": only the kernel of a guest starts this program, as its first\n"))
		syscall.Exit(2)
	}
	klog := openLog()
	next, named := readNext()
	count, lost := deliver()
	if lost != nil {
		klog.say(levelError, "no credentials: ", lost.Error())
	}
	removeImage()
	if err := removeOverlay(); err != nil {
		klog.say(levelError, "not all is removed that came with the credentials: ", err.Error())
	}
	if lost == nil {
		klog.say(levelInfo, decimal(uint64(count)), " credentials")
	}
	b := boot{log: klog, args: args[1:], delivered: lost == nil}
	b.start(next, named)
	klog.say(levelError, "nothing could be executed")
	syscall.Exit(1)
}

// readNext returns the user's own rdinit=, if there was one.
func readNext() (path string, named bool) {
	text, err := readFile(layout.Next)
	return text, err == nil
}
