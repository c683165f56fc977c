package console

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// outputLimit is how many bytes wait for an operator who does not keep up.
const outputLimit = 1 << 20

// chunkCost is what a queued chunk costs beside its bytes, so that a million
// empty lines count for what they take.
const chunkCost = 64

// output is the queue towards the operator. Putting into it never blocks: when
// it is full, the oldest is dropped, because the latest (the panic, the prompt)
// is what the operator needs. A marker stands in the place of what is missing.
type output struct {
	w      io.Writer
	marker string // format, with the number of bytes
	done   chan struct{}
	wake   chan struct{} // room for one

	mu      sync.Mutex
	chunks  [][]byte
	size    int // with chunkCost
	dropped int // bytes that were dropped before chunks[0]
	closed  bool
	err     error // of w; nothing is written after it
}

// newOutput returns a running queue. W may be nil.
func newOutput(w io.Writer, raw bool) *output {
	o := &output{w: w, done: make(chan struct{}), wake: make(chan struct{}, 1)}
	o.marker = "[… %d bytes dropped …]\n"
	if raw {
		o.marker = "\r\n[… %d bytes dropped …]\r\n"
	}
	go o.run()
	return o
}

// push queues a copy of b, which is written with one call.
func (o *output) push(b []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.w == nil || o.err != nil || o.closed {
		return
	}
	o.chunks = append(o.chunks, append([]byte(nil), b...))
	o.size += len(b) + chunkCost
	for o.size > outputLimit && len(o.chunks) > 1 {
		o.dropped += len(o.dropFirst())
	}
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

func (o *output) dropFirst() []byte {
	first := o.chunks[0]
	o.chunks[0] = nil
	o.chunks = o.chunks[1:]
	o.size -= len(first) + chunkCost
	return first
}

// next returns what to write now, nil when there is nothing.
func (o *output) next() (chunk []byte, closed bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.dropped > 0 {
		chunk = fmt.Appendf(nil, o.marker, o.dropped)
		o.dropped = 0
		return chunk, false
	}
	if len(o.chunks) == 0 {
		return nil, o.closed
	}
	return o.dropFirst(), false
}

func (o *output) run() {
	defer close(o.done)
	for {
		chunk, closed := o.next()
		if closed {
			return
		}
		if chunk == nil {
			<-o.wake
			continue
		}
		if _, err := o.w.Write(chunk); err != nil {
			o.mu.Lock()
			o.err, o.chunks, o.size, o.dropped = err, nil, 0, 0
			o.mu.Unlock()
		}
	}
}

// close waits until everything is written, up to patience; what a stuck
// operator's side has not taken by then is dropped. It returns the error of an
// earlier write.
func (o *output) close(patience time.Duration) error {
	o.mu.Lock()
	o.closed = true
	select {
	case o.wake <- struct{}{}:
	default:
	}
	o.mu.Unlock()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-o.done:
	case <-timer.C:
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	// Should the write that hangs return some day: nothing after it.
	o.chunks, o.size, o.dropped = nil, 0, 0
	return o.err
}
