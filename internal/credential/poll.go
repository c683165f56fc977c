package credential

import (
	"context"
	"io"

	"golang.org/x/sys/unix"

	"github.com/ampoule-vm/ampoule/internal/secret"
)

// readPolled reads a non-blocking FIFO or socket to its end, straight into the
// secret's memory, until the context ends.
func readPolled(ctx context.Context, fd, limit int) (*secret.Value, error) {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	defer unix.Close(wake)
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		_, _ = unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	})
	// The descriptor must outlive a wake-up under way.
	defer func() {
		if !stop() {
			<-woken
		}
	}()
	return secret.ReadFrom(&polledReader{ctx, fd, wake}, limit)
}

// polledReader waits before each read. For a FIFO that is what makes the
// difference between "no writer yet" and "the last writer has gone".
type polledReader struct {
	ctx      context.Context
	fd, wake int
}

func (p *polledReader) Read(b []byte) (int, error) {
	for {
		if err := p.ctx.Err(); err != nil {
			return 0, err
		}
		fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}, {Fd: int32(p.wake), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err == unix.EINTR {
			continue
		} else if err != nil {
			return 0, err
		}
		if fds[0].Revents == 0 {
			continue
		}
		n, err := unix.Read(p.fd, b)
		switch {
		case err == unix.EAGAIN || err == unix.EINTR:
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}
