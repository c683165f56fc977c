package shim

import "syscall"

// The levels of the kernel's log that are used.
const (
	levelError   = '3'
	levelWarning = '4'
	levelInfo    = '6'
)

// kernelLog is the kernel's log, which goes to the console by its level and to
// the journal. The kernel takes ten lines in five seconds from one writer.
type kernelLog struct {
	fd int // below zero: there is none
}

// openLog opens the log by a node of its own, since /dev is empty, and removes
// the node. A kernel without that device leaves nobody to complain to.
func openLog() kernelLog {
	const node = scratch + "/kmsg"
	_ = syscall.Mkdir(scratch, 0o700)
	_ = syscall.Unlink(node)
	if err := syscall.Mknod(node, syscall.S_IFCHR|0o600, deviceNumber(1, 11)); err != nil {
		return kernelLog{fd: -1}
	}
	fd, err := syscall.Open(node, syscall.O_WRONLY|syscall.O_CLOEXEC, 0)
	_ = syscall.Unlink(node)
	if err != nil {
		return kernelLog{fd: -1}
	}
	return kernelLog{fd: fd}
}

// say writes one line. An error says so: a console does not show the level, and
// whoever watches it is to tell what was lost from what was done.
func (l kernelLog) say(level byte, words ...string) {
	const most = 900 // the kernel refuses a line of more than 1 KiB
	line := append(make([]byte, 0, 256), '<', level, '>')
	line = append(line, "ampoule-init: "...)
	if level == levelError {
		line = append(line, "error: "...)
	}
	for _, w := range words {
		line = append(line, w...)
	}
	if len(line) > most {
		line = append(line[:most], "..."...)
	}
	if l.fd >= 0 {
		_, _ = syscall.Write(l.fd, append(line, '\n'))
	}
}

// failure is an error with what was being done.
type failure struct {
	what string
	err  error
}

func (f failure) Error() string { return f.what + ": " + f.err.Error() }
func (f failure) Unwrap() error { return f.err }

// plain is an error that says all itself.
type plain string

func (p plain) Error() string { return string(p) }

// doing wraps an error with what was being done; nil stays nil.
func doing(what string, err error) error {
	if err == nil {
		return nil
	}
	return failure{what, err}
}

// decimal writes a number.
func decimal(n uint64) string {
	var b [20]byte
	i := len(b)
	for {
		i--
		b[i] = byte('0' + n%10)
		if n /= 10; n == 0 {
			return string(b[i:])
		}
	}
}
