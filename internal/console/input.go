package console

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

const (
	inputChunk = 1 << 10
	// inputQueue chunks wait for a guest that does not read.
	inputQueue = 64
)

// input passes the operator's bytes to the guest.
type input struct {
	file     *os.File
	guest    io.Writer
	onEscape func() // nil: no escape
	bell     func() // nil: not a terminal, wait for a slow guest

	wakeRead, wakeWrite int // a pipe that interrupts poll
	queue               chan []byte
	stopped             chan struct{}
	readDone            chan struct{}
}

func newInput(file *os.File, guest io.Writer) (*input, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("preparing the console's input: %w", os.NewSyscallError("pipe2", err))
	}
	return &input{
		file: file, guest: guest, wakeRead: fds[0], wakeWrite: fds[1],
		queue:   make(chan []byte, inputQueue),
		stopped: make(chan struct{}), readDone: make(chan struct{}),
	}, nil
}

// stop makes read return, and write too unless the guest holds it up.
func (in *input) stop() {
	close(in.stopped)
	_, _ = unix.Write(in.wakeWrite, []byte{0})
}

// close frees the descriptors. Read must have returned.
func (in *input) close() {
	unix.Close(in.wakeRead)
	unix.Close(in.wakeWrite)
}

// write passes queued bytes on. A guest that is gone does not stop it: its
// end is noticed elsewhere, and escapes must be seen until then.
func (in *input) write() {
	var failed bool
	for {
		select {
		case b := <-in.queue:
			if failed {
				continue
			}
			_, err := in.guest.Write(b)
			failed = err != nil
		case <-in.stopped:
			return
		}
	}
}

// read waits with poll, so that it can be stopped without having taken a byte
// that belongs to whoever reads the terminal next.
func (in *input) read() {
	defer close(in.readDone)
	defer runtime.KeepAlive(in.file)
	fd := int(in.file.Fd())
	var esc escape
	buf := make([]byte, inputChunk)
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(in.wakeRead), Events: unix.POLLIN}}
		_, err := unix.Poll(fds, esc.timeout(time.Now()))
		if err != nil && !errors.Is(err, unix.EINTR) || fds[0].Revents&unix.POLLNVAL != 0 {
			return
		}
		select {
		case <-in.stopped:
			return
		default:
		}
		in.send(esc.expire(time.Now()))
		if err != nil || fds[0].Revents == 0 {
			continue
		}
		n, err := unix.Read(fd, buf)
		switch {
		case n > 0:
			in.feed(&esc, buf[:n])
		case errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN):
		default:
			in.send(esc.flush())
			return // end of file, or the terminal is gone
		}
	}
}

func (in *input) feed(esc *escape, p []byte) {
	if in.onEscape == nil {
		in.send(p)
		return
	}
	for len(p) > 0 {
		pass, rest, fired := esc.feed(time.Now(), p)
		in.send(pass)
		if fired {
			in.onEscape()
		}
		p = rest
	}
}

// send queues a copy of b. A person at a terminal hears the bell when the
// guest takes no more, so that the escape stays in reach; a pipe waits.
func (in *input) send(b []byte) {
	if len(b) == 0 {
		return
	}
	b = append([]byte(nil), b...)
	if in.bell != nil {
		select {
		case in.queue <- b:
		default:
			in.bell()
		}
		return
	}
	select {
	case in.queue <- b:
	case <-in.stopped:
	}
}

const (
	chEscapeKey   = 0x1d // Ctrl-]
	escapePresses = 3
	escapeTime    = time.Second
)

// escape finds Ctrl-] three times in a row within a second. Presses are held
// back until it is clear that they are not part of one.
type escape struct {
	presses  int
	deadline time.Time
}

// feed takes input up to an escape, or all of it. Pass is what to send on.
func (e *escape) feed(now time.Time, p []byte) (pass, rest []byte, fired bool) {
	pass = e.expire(now)
	for i, b := range p {
		if b != chEscapeKey {
			pass = append(append(pass, e.flush()...), b)
			continue
		}
		if e.presses == 0 {
			e.deadline = now.Add(escapeTime)
		}
		if e.presses++; e.presses == escapePresses {
			e.presses = 0
			return pass, p[i+1:], true
		}
	}
	return pass, nil, false
}

// expire returns the presses that have been held back for too long.
func (e *escape) expire(now time.Time) []byte {
	if e.presses == 0 || now.Before(e.deadline) {
		return nil
	}
	return e.flush()
}

// flush returns the presses that are held back.
func (e *escape) flush() []byte {
	held := make([]byte, e.presses)
	for i := range held {
		held[i] = chEscapeKey
	}
	e.presses = 0
	return held
}

// timeout is how long poll may wait, in milliseconds; -1 is for ever.
func (e *escape) timeout(now time.Time) int {
	if e.presses == 0 {
		return -1
	}
	// Rounded up: waking early would only mean to wait again.
	return int(max(0, (e.deadline.Sub(now)+time.Millisecond-1)/time.Millisecond))
}
