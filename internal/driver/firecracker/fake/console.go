package fake

import (
	"errors"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// console is standard output and input: the guest's serial port from
// InstanceStart on, and the log all the time.
//
// InstanceStart makes standard output non-blocking, and with it standard input
// where both are one end of a pair. From then on, what a reader leaves lying is
// not waited for: a few bytes are kept and the rest is lost, as from the real
// program.
type console struct {
	in, out int

	mu      sync.Mutex
	pending []byte
}

// kept is the size of the buffer before standard output (Rust's LineWriter).
const kept = 1024

func newConsole(stdin, stdout *os.File) *console {
	return &console{in: int(stdin.Fd()), out: int(stdout.Fd())}
}

func (c *console) nonblocking() error { return unix.SetNonblock(c.out, true) }

// Write never fails; what is lost is lost.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range p {
		if len(c.pending) < kept {
			c.pending = append(c.pending, b)
		}
		if b == '\n' || len(c.pending) == kept {
			c.flush()
		}
	}
	c.flush()
	return len(p), nil
}

func (c *console) flush() {
	for len(c.pending) > 0 {
		n, err := unix.Write(c.out, c.pending)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n <= 0 {
			return
		}
		c.pending = c.pending[n:]
	}
}

// readLine returns the next line that is typed, without its end. Closing stop
// ends the wait.
func (c *console) readLine(stop <-chan struct{}) (string, error) {
	var line []byte
	for {
		select {
		case <-stop:
			return "", errors.New("the guest stopped listening")
		default:
		}
		fds := []unix.PollFd{{Fd: int32(c.in), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, 20); n <= 0 {
			if err != nil && !errors.Is(err, unix.EINTR) {
				return "", err
			}
			continue
		}
		var b [1]byte
		n, err := unix.Read(c.in, b[:])
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		case err != nil:
			return "", err
		case n == 0:
			return "", io.EOF
		case b[0] == '\n' || b[0] == '\r':
			return string(line), nil
		default:
			line = append(line, b[0])
		}
	}
}
