package process

import (
	"bytes"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	tailLimit = 8 << 10
	lineLimit = 4 << 10
)

// stderrPipe returns a pipe whose reading end knows deadlines. The writing end
// blocks, as programs expect of their standard error.
func stderrPipe() (r, w *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fds[0]), "stderr"), os.NewFile(uintptr(fds[1]), "stderr"), nil
}

// stderrReader drains a child's standard error: the last part is kept, all of
// it is handed on line by line.
type stderrReader struct {
	r    *os.File
	line func(string) // may be nil
	done chan struct{}

	mu   sync.Mutex
	tail []byte // at most 2*tailLimit, the last tailLimit count
	cut  bool   // tail begins in the middle of a line
}

func newStderrReader(r *os.File, line func(string)) *stderrReader {
	return &stderrReader{r: r, line: line, done: make(chan struct{})}
}

// run reads until the end of the pipe or its deadline.
func (s *stderrReader) run() {
	defer close(s.done)
	defer s.r.Close()
	buf := make([]byte, 4<<10)
	var pending []byte
	for {
		n, err := s.r.Read(buf)
		s.keep(buf[:n])
		if s.line != nil {
			pending = s.splitLines(append(pending, buf[:n]...))
		}
		if err != nil {
			// End of file, or finish has lost patience.
			break
		}
	}
	if len(pending) > 0 {
		s.line(string(pending))
	}
}

// splitLines hands on what is complete and returns the rest.
func (s *stderrReader) splitLines(b []byte) []byte {
	for {
		i := bytes.IndexByte(b, '\n')
		switch {
		case i >= 0 && i <= lineLimit:
			s.line(string(b[:i]))
			b = b[i+1:]
		case len(b) > lineLimit:
			s.line(string(b[:lineLimit]))
			b = b[lineLimit:]
		default:
			return b
		}
	}
}

func (s *stderrReader) keep(b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tail = append(s.tail, b...)
	if over := len(s.tail) - tailLimit; over > tailLimit {
		s.cut = s.tail[over-1] != '\n'
		s.tail = append(s.tail[:0], s.tail[over:]...)
	}
}

func (s *stderrReader) tailText() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	tail, cut := s.tail, s.cut
	if over := len(tail) - tailLimit; over > 0 {
		cut = tail[over-1] != '\n'
		tail = tail[over:]
	}
	if i := bytes.IndexByte(tail, '\n'); cut && i >= 0 {
		tail = tail[i+1:]
	}
	return string(tail)
}

// finish waits for the reader after the child has ended. Whoever else holds
// the pipe, or a callback that hangs, can delay that by patience and no longer.
func (s *stderrReader) finish(patience time.Duration) {
	_ = s.r.SetReadDeadline(time.Now().Add(patience))
	timer := time.NewTimer(patience + patience/2)
	defer timer.Stop()
	select {
	case <-s.done:
	case <-timer.C:
	}
}
