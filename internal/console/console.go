// Package console joins a guest's serial console with its operator: a
// terminal, where every byte passes unchanged, or a log, which gets lines of
// plain text.
//
// The guest comes first. Its output is read all the time and watched for
// patterns and kernel panics, whatever the operator's side does; an operator
// who does not keep up loses output, and is told how much.
//
// What does not belong here: QEMU, what an escape or a panic leads to, where
// the lines are logged.
package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// Options of Attach.
type Options struct {
	// In is the operator's input, nil for none. It is read when it and Out are
	// terminals, otherwise only with ForwardInput. No byte more is taken from
	// it than is used, and none after Attach has returned.
	In *os.File
	// Out is the operator's output, nil for none.
	Out io.Writer
	// ForwardInput: pass In on, byte by byte, although it is no terminal.
	ForwardInput bool
	// OnEscape is called when Ctrl-] is pressed three times within a second on
	// a terminal. Input waits for it to return, the output does not. It must
	// not wait for Attach. With nil, Ctrl-] has no special meaning.
	OnEscape func()
	// Raw: pass the guest's bytes to Out unchanged, although it is no terminal.
	Raw bool
	// Share, if not nil, is where others may connect to take part: root and our
	// own user. Attach closes it.
	Share *net.UnixListener
	// Watch, if not nil, sees all output first.
	Watch *Watch
	// Messages, if not nil, is told when the terminal is raw.
	Messages *Messages
	// OwnSignals are those that the program handles itself. Of SIGHUP, SIGINT,
	// SIGQUIT and SIGTERM, any other that arrives while the terminal is raw
	// restores it and then has its usual effect, the end of the program.
	OwnSignals []os.Signal
}

const (
	// watchAfter: how long the guest is silent before its unfinished line is
	// watched as it stands.
	watchAfter = 50 * time.Millisecond
	// flushAfter: how long, before the unfinished line is written to a log.
	flushAfter = time.Second
	// drainTime is how long the operator's output may delay the end.
	drainTime = time.Second
	// gatherTime is how long the next bytes may collect after fewer than
	// gatherBelow. A serial port speaks byte by byte, and to be woken for each
	// takes processor time from the guest.
	gatherTime  = 2 * time.Millisecond
	gatherBelow = 1 << 10
)

// guestDeadlines is what a guest's connection should offer, as net.Conn does,
// so that Attach can stop using it at any moment.
type guestDeadlines interface {
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// Attach passes bytes between guest and operator until the guest's side ends,
// which is no error, or ctx does, whose error it then returns. All that the
// guest has said before its side ended is watched and, unless the operator's
// side is stuck, written. An operator's side that fails does not end Attach: the
// guest is still watched, and the error is returned at the end.
//
// On a terminal (In and Out both are one, and we are in its foreground) the
// terminal is raw meanwhile. It is restored on return, on a panic in Attach and
// the functions it calls, and on signals, see Options.OwnSignals; a panic in an
// unrelated goroutine is beyond its reach.
//
// The caller keeps ownership of guest. Where that has no deadlines, a Read or
// Write may linger after ctx has ended, until it returns by itself.
func Attach(ctx context.Context, guest io.ReadWriter, opts Options) (err error) {
	// An operator's closed pipe must not kill us, and the guest with us.
	pipe := make(chan os.Signal, 1)
	signal.Notify(pipe, syscall.SIGPIPE)
	defer signal.Stop(pipe)

	s := &session{
		guest:  guest,
		opts:   opts,
		stop:   make(chan struct{}),
		chunks: make(chan []byte),
	}
	if s.terminal, err = openTerminal(opts.In, opts.Out, opts.OwnSignals); err != nil {
		if opts.Share != nil {
			_ = opts.Share.Close()
		}
		return err
	}
	defer s.terminal.close()
	if opts.Share != nil {
		s.share = newShare(opts.Share, guest)
	}
	if s.terminal != nil && opts.Messages != nil {
		opts.Messages.setRaw(true)
		defer opts.Messages.setRaw(false)
	}
	s.out = newOutput(opts.Out, s.terminal != nil)
	if s.terminal == nil && !opts.Raw {
		s.cleaner = NewCleaner(LineLimit, func(line []byte) { s.out.push(append(line, '\n')) })
	}
	defer s.finish(&err)

	s.background.Go(func() { s.terminal.guard(s.readGuest) })
	if err := s.startInput(); err != nil {
		return err
	}
	return s.pump(ctx)
}

// session is one Attach.
type session struct {
	guest    io.ReadWriter
	opts     Options
	terminal *terminal // nil without
	out      *output
	share    *share   // nil without
	cleaner  *Cleaner // nil where bytes pass unchanged
	input    *input   // nil without

	chunks     chan []byte // from readGuest; closed at its end
	readErr    error       // set before chunks is closed
	ended      bool        // chunks is closed
	stop       chan struct{}
	background sync.WaitGroup // readGuest and the input's goroutines
}

// readGuest hands on what the guest writes. Two buffers take turns: while one
// is worked on, the next is read. Chunks is not buffered, so that a buffer
// which is sent frees the other.
func (s *session) readGuest() {
	defer close(s.chunks)
	var buffers [2][32 << 10]byte
	for i := 0; ; i++ {
		buf := buffers[i%2][:]
		n, err := s.guest.Read(buf)
		if n > 0 {
			select {
			case s.chunks <- buf[:n]:
			case <-s.stop:
				return
			}
		}
		if err == nil && n < gatherBelow {
			time.Sleep(gatherTime)
		}
		if err != nil {
			if !guestGone(err) {
				s.readErr = fmt.Errorf("reading the guest's console: %w", err)
			}
			return
		}
	}
}

// guestGone reports whether an error of the guest's side is its ordinary end.
// EIO is that of a pseudo-terminal.
func guestGone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, os.ErrClosed) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		errors.Is(err, syscall.EIO)
}

func (s *session) startInput() error {
	if s.opts.In == nil || s.terminal == nil && (!s.opts.ForwardInput || inBackground(s.opts.In)) {
		return nil
	}
	in, err := newInput(s.opts.In, s.guest)
	if err != nil {
		return err
	}
	if s.terminal != nil {
		in.onEscape = s.opts.OnEscape
		in.bell = func() { s.out.push([]byte{chBell}) }
	}
	s.input = in
	s.background.Go(func() { s.terminal.guard(in.read) })
	s.background.Go(func() { s.terminal.guard(in.write) })
	return nil
}

// pump runs on Attach's own goroutine, so that a panic in a callback unwinds
// through it and restores the terminal.
func (s *session) pump(ctx context.Context) error {
	watchTimer, flushTimer := time.NewTimer(watchAfter), time.NewTimer(flushAfter)
	defer watchTimer.Stop()
	defer flushTimer.Stop()
	for {
		select {
		case chunk, ok := <-s.chunks:
			if !ok {
				s.ended = true
				return s.readErr
			}
			s.take(chunk)
			watchTimer.Reset(watchAfter)
			flushTimer.Reset(flushAfter)
		case <-watchTimer.C:
			if s.opts.Watch != nil {
				s.opts.Watch.Idle()
			}
		case <-flushTimer.C:
			if s.cleaner != nil {
				s.cleaner.FlushPartial()
			}
		case sig := <-s.terminal.signals():
			if err := s.terminal.handle(sig); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *session) take(chunk []byte) {
	if s.opts.Watch != nil {
		_, _ = s.opts.Watch.Write(chunk)
	}
	s.share.take(chunk)
	if s.cleaner != nil {
		_, _ = s.cleaner.Write(chunk)
	} else {
		s.out.push(chunk)
	}
}

// finish stops every goroutine and flushes what is left. It runs when Attach
// returns and when it panics.
func (s *session) finish(err *error) {
	close(s.stop)
	interrupted := s.setDeadlines(time.Unix(1, 0))
	if s.input != nil {
		s.input.stop()
		<-s.input.readDone
		s.input.close()
	}
	s.share.close(interrupted)
	if interrupted {
		s.background.Wait()
		s.setDeadlines(time.Time{})
	}
	if s.opts.Watch != nil && s.ended {
		s.opts.Watch.Close()
	}
	if s.cleaner != nil {
		s.cleaner.Close()
	}
	if outErr := s.out.close(drainTime); outErr != nil && *err == nil {
		*err = fmt.Errorf("writing the console: %w", outErr)
	}
}

// setDeadlines reports whether the guest's side knows deadlines.
func (s *session) setDeadlines(t time.Time) bool {
	d, ok := s.guest.(guestDeadlines)
	return ok && d.SetReadDeadline(t) == nil && d.SetWriteDeadline(t) == nil
}
