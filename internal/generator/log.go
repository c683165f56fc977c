package generator

import (
	"fmt"
	"io"
	"strings"
	"syscall"

	"github.com/ampoule-vm/ampoule/internal/diag"
)

// Log says what a generator has to say. It has no output of its own: what it
// writes goes to the journal, where that listens, as a message about the unit,
// so that systemctl status shows it; while the machine boots to the kernel's log;
// and to standard error, which systemd throws away unless somebody tries the
// generator by hand. Nothing here ever waits.
type Log struct {
	// Errors is standard error.
	Errors io.Writer
	// Journal and Kernel are the paths of the journal's socket and the kernel's
	// log; "" leaves them out.
	Journal, Kernel string

	socket int // of the journal, once there is one; -1 without
	kernel int
	opened bool
	said   int
}

// The paths of a host.
const (
	journalSocket = "/run/systemd/journal/socket"
	kernelLog     = "/dev/kmsg"
)

// maxSaid is how much is said at most: a directory of ten thousand broken files
// must not fill the journal at every reload. Each unit has its own words anyway.
const maxSaid = 500

// priorities are those of syslog.
func priority(s diag.Severity) int {
	switch s {
	case diag.Error:
		return 3
	case diag.Warning:
		return 4
	}
	return 5
}

// Problems says what is wrong with a unit, or, for "", with none.
func (l *Log) Problems(unit string, problems diag.List) {
	for _, p := range problems {
		l.say(unit, priority(p.Severity), p.Error())
	}
}

// Failure says what went wrong with a unit that could not be written.
func (l *Log) Failure(unit string, err error) {
	l.say(unit, priority(diag.Error), unit+": "+err.Error())
}

func (l *Log) say(unit string, priority int, text string) {
	if l.said++; l.said > maxSaid {
		if l.said == maxSaid+1 {
			text, unit = "there is more; ampoule generate --dry-run shows all of it", ""
		} else {
			return
		}
	}
	fmt.Fprintln(l.Errors, text)
	l.open()
	if l.socket >= 0 && l.tellJournal(unit, priority, text) == nil {
		return
	}
	if l.kernel >= 0 {
		const most = 900 // the kernel cuts at about 1000 bytes
		if len(text) > most {
			text = text[:most] + diag.Elided
		}
		_, _ = syscall.Write(l.kernel, fmt.Appendf(nil, "<%d>ampoule-generator[%d]: %s", 8+priority, syscall.Getpid(), text))
	}
}

// open connects to whoever listens.
func (l *Log) open() {
	if l.opened {
		return
	}
	l.opened, l.socket, l.kernel = true, -1, -1
	if l.Journal != "" {
		fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
		if err == nil {
			if syscall.Connect(fd, &syscall.SockaddrUnix{Name: l.Journal}) == nil {
				l.socket = fd
			} else {
				_ = syscall.Close(fd)
			}
		}
	}
	if l.Kernel != "" {
		if fd, err := syscall.Open(l.Kernel, syscall.O_WRONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC|syscall.O_NOCTTY, 0); err == nil {
			l.kernel = fd
		}
	}
}

// tellJournal sends one message in the journal's own protocol. journalctl -u
// and systemctl status show what root says about a unit in this field
// (systemd.journal-fields(7), OBJECT_SYSTEMD_UNIT).
func (l *Log) tellJournal(unit string, priority int, text string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "PRIORITY=%d\nSYSLOG_IDENTIFIER=ampoule-generator\nMESSAGE=%s\n", priority, strings.ReplaceAll(text, "\n", " "))
	if unit != "" {
		fmt.Fprintf(&b, "OBJECT_SYSTEMD_UNIT=%s\n", unit)
	}
	_, err := syscall.Write(l.socket, []byte(b.String()))
	return err
}

// Close lets go of them.
func (l *Log) Close() {
	if !l.opened {
		return
	}
	for _, fd := range []int{l.socket, l.kernel} {
		if fd >= 0 {
			_ = syscall.Close(fd)
		}
	}
}
