package console

import (
	"regexp"
	"sync"
)

// Pattern is something to look for in a guest's output.
type Pattern struct {
	// Regexp is matched against cleaned lines, the unfinished last one
	// included: a login prompt has no newline.
	Regexp *regexp.Regexp
	// Found is called with the line, once until Reset, or as often as Times says.
	// The output waits for it to return.
	Found func(line string)
	// Times above zero: whole lines alone are matched, each once.
	Times int
}

// Watch is a tap on a guest's output that looks for patterns and for a kernel
// panic. Its methods may be called by several goroutines.
type Watch struct {
	patterns []Pattern
	onPanic  func(reason string)

	mu      sync.Mutex
	cleaner *Cleaner
	found   []int // how often, by index in patterns
	panics  panicTracker
	calls   []func() // callbacks to run once mu is released
}

// NewWatch returns a Watch. OnPanic may be nil; it is called, once until Reset,
// with the kernel's own words, and the output waits for it to return.
func NewWatch(onPanic func(reason string), patterns ...Pattern) *Watch {
	w := &Watch{patterns: patterns, onPanic: onPanic, found: make([]int, len(patterns))}
	w.cleaner = NewCleaner(LineLimit, w.line)
	return w
}

// Write takes the next bytes of the guest's output. It never fails.
func (w *Watch) Write(p []byte) (int, error) {
	w.locked(func() { _, _ = w.cleaner.Write(p) })
	return len(p), nil
}

// Idle is to be called when the guest has been silent for a moment: the
// unfinished line is then looked at as it stands. Doing that with every Write
// would cost the square of a line's length.
func (w *Watch) Idle() {
	w.locked(func() { w.match(w.cleaner.Unfinished(), false) })
}

// Close takes the unfinished line for a whole one: no more will come.
func (w *Watch) Close() { w.locked(w.cleaner.Close) }

// Reset is to be called when the guest boots again: patterns may be found
// anew, and a panic of the boot before is forgotten.
func (w *Watch) Reset() {
	w.locked(func() {
		w.cleaner.Discard()
		clear(w.found)
		w.panics = panicTracker{}
	})
}

// LastPanic returns the reason of the latest kernel panic since Reset, or "".
// Last is true when nothing came after it but what the kernel itself says
// while it dies: then it was real, and the end of this boot.
func (w *Watch) LastPanic() (reason string, last bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.panics.reason, w.panics.isLast(w.cleaner.Unfinished())
}

// locked runs f and then, without the lock, the callbacks that it called for.
func (w *Watch) locked(f func()) {
	w.mu.Lock()
	f()
	calls := w.calls
	w.calls = nil
	w.mu.Unlock()
	for _, call := range calls {
		call()
	}
}

func (w *Watch) line(line []byte) {
	w.match(line, true)
	if first := w.panics.line(line); first && w.onPanic != nil {
		reason := w.panics.reason
		w.calls = append(w.calls, func() { w.onPanic(reason) })
	}
}

func (w *Watch) match(line []byte, whole bool) {
	for i, p := range w.patterns {
		if w.found[i] >= max(p.Times, 1) || p.Times > 0 && !whole || !p.Regexp.Match(line) {
			continue
		}
		w.found[i]++
		if text := string(line); p.Found != nil {
			w.calls = append(w.calls, func() { p.Found(text) })
		}
	}
}
