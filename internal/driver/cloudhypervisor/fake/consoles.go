package fake

import (
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// consoles are what the guest's serial port is tied to. The virtio console says
// nothing here.
type consoles struct {
	serial io.Writer
	socket *socketConsole // or nil
}

// openConsoles opens what the configuration names. It happens at vm.create, and
// again at each boot after the first.
func (v *vmm) openConsoles() *failure {
	s := &v.config.set
	c := &consoles{serial: io.Discard}
	v.console = nil
	for i, one := range []consoleSettings{s.Serial, s.Console, s.DebugConsole} {
		var err error
		switch one.Mode {
		case "File":
			if one.File == nil {
				return v.panics()
			}
			var f *os.File
			if f, err = createFile(*one.File); err == nil && i == 0 {
				c.serial = f
			}
		case "Socket":
			if i > 0 {
				return fail("Error creating console devices", "No socket option support for console device")
			}
			if one.Socket == nil {
				return v.panics()
			}
			c.socket, err = listenConsole(*one.Socket, v.typed)
			c.serial = c.socket
		}
		if err != nil {
			return fail("Error creating console devices", "Error creating console device", osError(err))
		}
	}
	if s.Serial.Mode == "Tty" {
		c.serial = v.stdout
		if isTerminal(v.stdin) {
			v.readTerminal.Do(func() { makeRaw(v.stdout); go readInput(v.stdin, v.typed) })
		}
	}
	v.console = c
	return nil
}

// createFile empties a file, or makes one: also what is no file but has a path.
func createFile(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
}

// close removes a socket, as the end of a machine does.
func (c *consoles) close() {
	if c != nil && c.socket != nil {
		c.socket.close()
	}
}

// isTerminal decides about the guest's input: what comes from a pipe or a socket
// on the standard input is not read at all.
func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// makeRaw lets bytes through as they are, if it is a terminal.
func makeRaw(f *os.File) {
	t, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return
	}
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	_ = unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, t)
}

// readInput hands what is typed to the guest's port, which forgets what does not
// fit. A line feed alone becomes a carriage return.
func readInput(r io.Reader, typed chan<- []byte) {
	for {
		buf := make([]byte, 64)
		n, err := r.Read(buf)
		if err != nil {
			return
		}
		if n == 1 && buf[0] == '\n' {
			buf[0] = '\r'
		}
		select {
		case typed <- buf[:n]:
		default:
		}
	}
}

// socketConsole is a serial port behind a socket: one client at a time, a new one
// replaces the old one, and what is said while nobody listens is kept.
type socketConsole struct {
	listener *net.UnixListener
	typed    chan<- []byte

	mu     sync.Mutex
	client net.Conn
	kept   []byte
}

func listenConsole(path string, typed chan<- []byte) (*socketConsole, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	s := &socketConsole{listener: l, typed: typed}
	go s.accept()
	return s, nil
}

func (s *socketConsole) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.client != nil {
			s.client.Close()
		}
		s.client = conn
		_, _ = conn.Write(s.kept)
		s.kept = nil
		s.mu.Unlock()
		go func() {
			readInput(conn, s.typed)
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.client == conn {
				s.client = nil
			}
			conn.Close()
		}()
	}
}

func (s *socketConsole) Write(data []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client == nil {
		s.kept = append(s.kept, data...)
		return len(data), nil
	}
	return s.client.Write(data)
}

// close removes the socket and ends the connection.
func (s *socketConsole) close() {
	_ = s.listener.Close() // and its path
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil {
		s.client.Close()
	}
}
