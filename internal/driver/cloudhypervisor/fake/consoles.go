package fake

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// consoles are what the guest's serial port is tied to. The virtio console says
// nothing here.
type consoles struct {
	serial io.Writer
	input  *os.File // nil: what is typed goes nowhere
}

// openConsoles opens what the configuration names. It happens at vm.create, and
// again at each boot after the first.
func openConsoles(s *settings, stdin, stdout *os.File) (*consoles, *failure) {
	c := &consoles{serial: io.Discard}
	if s.Console.Mode == "Socket" || s.DebugConsole.Mode == "Socket" {
		return nil, fail("No socket option support for console device")
	}
	for _, one := range []consoleSettings{s.Console, s.Serial, s.DebugConsole} {
		if one.Mode != "File" {
			continue
		}
		if one.File == nil { // the real one panics, and with its only thread that matters
			misused("a console in a file needs a file")
		}
		f, err := os.Create(*one.File)
		if err != nil {
			return nil, fail("Error creating console device", osError(err))
		}
		if one.File == s.Serial.File {
			c.serial = f
		} else {
			f.Close()
		}
	}
	if s.Serial.Mode == "Tty" {
		c.serial = stdout
		if isTerminal(stdin) {
			c.input = stdin
		}
	}
	return c, nil
}

// isTerminal decides about the guest's input: what comes from a pipe or a socket
// on the standard input is not read at all.
func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
