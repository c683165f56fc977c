package shim

import (
	"strings"
	"syscall"

	"github.com/ampoule-vm/ampoule/internal/shim/cmdline"
	"github.com/ampoule-vm/ampoule/internal/shim/layout"
)

// boot is what remains to be done as the kernel would have done it.
type boot struct {
	log kernelLog
	// args are what the kernel gave behind the name of the program.
	args []string
	// delivered says that the store is there.
	delivered bool
}

// start executes what the kernel would have executed without the shim: next,
// where the user named one, else /init. Where that is not there it mounts a
// root file system. It returns only if nothing could be executed.
func (b *boot) start(next string, named bool) {
	if !named {
		next = "/init"
	}
	var parameters cmdline.Boot
	if exists(next) {
		b.execute(next)
		parameters = cmdline.Parse(b.kernelText("cmdline"))
	} else {
		if named {
			b.log.say(levelWarning, "rdinit=", next, " is not there")
		}
		parameters = cmdline.Parse(b.kernelText("cmdline"))
		if err := b.enterRoot(parameters); err != nil {
			b.log.say(levelError, err.Error())
			return
		}
	}
	if parameters.HasInit {
		b.execute(parameters.Init) // nothing else, as the kernel has it
		return
	}
	for _, path := range []string{"/sbin/init", "/etc/init", "/bin/init", "/bin/sh"} {
		if exists(path) {
			b.execute(path)
		}
	}
}

// execute does not return if it succeeds.
func (b *boot) execute(path string) {
	err := syscall.Exec(path, append([]string{path}, b.args...), b.environment())
	b.log.say(levelError, "executing ", path, ": ", err.Error())
}

// environment is the kernel's, and the variable if there is something to find
// where it points.
func (b *boot) environment() []string {
	const variable = layout.Variable + "="
	var out []string
	for _, e := range syscall.Environ() {
		if !strings.HasPrefix(e, variable) {
			out = append(out, e)
		}
	}
	if b.delivered {
		out = append(out, variable+layout.Store)
	}
	return out
}

// kernelText reads a file of /proc, which nobody has mounted yet. What cannot
// be read is empty.
func (b *boot) kernelText(name string) string {
	const proc = scratch + "/proc"
	_ = syscall.Mkdir(scratch, 0o700)
	err := first(makeDirectory(proc, 0o700), syscall.Mount("proc", proc, "proc", storeFlags, ""))
	text := ""
	if err == nil {
		text, err = readFile(proc + "/" + name)
		_ = syscall.Unmount(proc, syscall.MNT_DETACH)
	}
	_ = syscall.Rmdir(proc)
	_ = syscall.Rmdir(scratch)
	if err != nil {
		b.log.say(levelError, "reading /proc/", name, ": ", err.Error())
	}
	return text
}
