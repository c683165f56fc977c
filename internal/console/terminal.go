package console

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// terminal is the operator's, in raw mode. All methods may be called on nil,
// which stands for line mode.
type terminal struct {
	in    *os.File
	saved *term.State
	ch    chan os.Signal

	mu       sync.Mutex
	restored bool
}

// openTerminal makes the terminal raw, or returns nil where there is none.
func openTerminal(in *os.File, out io.Writer, own []os.Signal) (*terminal, error) {
	if !Interactive(in, out) {
		return nil, nil
	}
	t := &terminal{in: in}
	// First, so that there is no moment at which a signal leaves it raw.
	t.catchSignals(own)
	saved, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		signal.Stop(t.ch)
		return nil, fmt.Errorf("making the terminal raw: %w", err)
	}
	t.saved = saved
	return t, nil
}

// close restores the terminal and gives signals back.
func (t *terminal) close() {
	if t != nil {
		t.restore()
		signal.Stop(t.ch)
	}
}

// Interactive reports whether Attach would make the terminal raw: both are one,
// and we are in its foreground.
func Interactive(in *os.File, out io.Writer) bool {
	outFile, ok := out.(*os.File)
	return in != nil && ok && outFile != nil && isTerminal(in) && isTerminal(outFile) && !inBackground(in)
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// inBackground reports whether f is our controlling terminal and another job
// has it. Reading it or changing its mode would stop us.
func inBackground(f *os.File) bool {
	foreground, err := unix.IoctlGetUint32(int(f.Fd()), unix.TIOCGPGRP)
	return err == nil && int(foreground) != unix.Getpgrp()
}

// restore may be called any number of times, by any goroutine.
func (t *terminal) restore() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.restored {
		t.restored = true
		// Nothing is left to do where this fails: the terminal is gone.
		_ = term.Restore(int(t.in.Fd()), t.saved)
	}
}

// guard runs f and restores the terminal if it panics. The panic goes on.
func (t *terminal) guard(f func()) {
	panicking := true
	defer func() {
		if panicking {
			t.restore()
		}
	}()
	f()
	panicking = false
}

func (t *terminal) catchSignals(own []os.Signal) {
	// SIGCONT: a shell has given the terminal back, in its own mode.
	wanted := []os.Signal{unix.SIGCONT}
	for _, sig := range []os.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM} {
		if !slices.Contains(own, sig) && !signal.Ignored(sig) {
			wanted = append(wanted, sig)
		}
	}
	t.ch = make(chan os.Signal, len(wanted))
	signal.Notify(t.ch, wanted...)
}

// signals returns the channel of signals for handle, nil in line mode.
func (t *terminal) signals() <-chan os.Signal {
	if t == nil {
		return nil
	}
	return t.ch
}

// handle returns nil when Attach is to go on.
func (t *terminal) handle(sig os.Signal) error {
	if sig == unix.SIGCONT {
		t.mu.Lock()
		defer t.mu.Unlock()
		if !t.restored && !inBackground(t.in) {
			_, _ = term.MakeRaw(int(t.in.Fd()))
		}
		return nil
	}
	t.restore()
	// Again, and this time without us in its way. Another thread may be the one
	// that it ends the process on, so this one waits for its end rather than race
	// it to an exit status of its own. Should somebody else handle the signal
	// after all, the console is over all the same.
	signal.Stop(t.ch)
	if s, ok := sig.(unix.Signal); ok {
		_ = unix.Kill(unix.Getpid(), s)
		time.Sleep(time.Second)
	}
	return fmt.Errorf("the console ends: %s", sig)
}

// Messages is where the program's own lines go while a console may be attached:
// on a raw terminal a bare newline does not return to the first column.
type Messages struct {
	mu  sync.Mutex
	w   *os.File
	tty bool
	raw bool
}

// NewMessages returns a writer to w, which is usually standard error.
func NewMessages(w *os.File) *Messages { return &Messages{w: w, tty: isTerminal(w)} }

// Write writes whole lines, set apart from the guest's on a raw terminal.
func (m *Messages) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.raw || !m.tty {
		return m.w.Write(p)
	}
	text := append([]byte("\r\n"), bytes.ReplaceAll(p, []byte("\n"), []byte("\r\n"))...)
	if _, err := m.w.Write(text); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (m *Messages) setRaw(raw bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.raw = raw
}
