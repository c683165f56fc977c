// Package eventstream reads what a hypervisor tells of itself as JSON objects,
// one behind the other: Cloud Hypervisor's event monitor.
//
// The hypervisor does not wait for a reader. What finds no room in the pipe is
// dropped, and what finds room for a part is cut, with nothing to mark the
// place. A [Stream] therefore takes each object for itself: one that is not
// whole is counted as lost, and the next whole one is found again. It reads all
// the time, and a consumer who does not loses the oldest objects, because the
// last ones say what is.
//
// What does not belong here: what an event means.
package eventstream

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync/atomic"
)

// MaxObject is the longest object, in bytes. Real ones have a few hundred.
const MaxObject = 64 << 10

// MaxQueued is how many objects wait for the consumer.
const MaxQueued = 256

// Stream is a stream that is being read.
type Stream struct {
	src     io.ReadCloser
	objects chan json.RawMessage
	done    chan struct{} // closed when the reader has ended, after objects
	err     error         // valid after done
	lost    atomic.Uint64
}

// New begins to read. It owns src from now on. A read of src has to end when it
// is closed, as that of a pipe does.
func New(src io.ReadCloser) *Stream {
	s := &Stream{src: src, objects: make(chan json.RawMessage, MaxQueued), done: make(chan struct{})}
	go s.read()
	return s
}

// Objects returns the channel of all objects in the order of their arrival,
// each valid JSON as it was received. It is closed behind the last one.
func (s *Stream) Objects() <-chan json.RawMessage { return s.objects }

// Lost returns how often something was lost: an object that was cut, bytes that
// belong to none, an object that nobody took in time. What the hypervisor has
// dropped whole cannot be seen.
func (s *Stream) Lost() uint64 { return s.lost.Load() }

// Err waits until all was read, and returns why that was, nil at the end of the
// stream and after Close.
func (s *Stream) Err() error {
	<-s.done
	return s.err
}

// Close ends the reading and waits until nothing of the stream runs any more.
// Objects that were read before can still be taken.
func (s *Stream) Close() error {
	err := s.src.Close()
	<-s.done
	if errors.Is(err, fs.ErrClosed) {
		return nil // a second time
	}
	return err
}

func (s *Stream) read() {
	defer close(s.done)
	defer close(s.objects)
	split := splitter{found: s.put, lost: func() { s.lost.Add(1) }}
	buf := make([]byte, 16<<10)
	for {
		n, err := s.src.Read(buf)
		for _, c := range buf[:n] {
			split.take(c)
		}
		if err == nil {
			continue
		}
		split.end()
		if !errors.Is(err, io.EOF) && !errors.Is(err, fs.ErrClosed) && !errors.Is(err, io.ErrClosedPipe) {
			s.err = fmt.Errorf("reading the hypervisor's events: %w", err)
		}
		return
	}
}

// put never blocks: nobody else puts, so that taking one out makes room.
func (s *Stream) put(object json.RawMessage) {
	for {
		select {
		case s.objects <- object:
			return
		default:
		}
		select {
		case <-s.objects:
			s.lost.Add(1)
		default:
		}
	}
}

// splitter finds the objects in a stream, byte by byte.
type splitter struct {
	found func(json.RawMessage)
	lost  func()

	state  state
	buf    []byte // the object so far
	depth  int    // of braces and brackets in it
	recent [len(opening)]byte
}

type state int

const (
	between  state = iota // after an object, or at the beginning
	astray                // after what is not part of an object
	inObject              // and in none of its strings
	inString
	inEscape
)

// opening is how the hypervisor begins an object, and never one inside of
// another, which is indented further. A brace at the beginning of a line is one
// too. Both are looked for at every place: nothing in an object can look like
// that, because a string has no raw newline.
const opening = "{\n  \""

// take goes one byte further.
func (s *splitter) take(c byte) {
	before := s.recent[len(opening)-1]
	copy(s.recent[:], s.recent[1:])
	s.recent[len(opening)-1] = c
	switch {
	case c == '"' && string(s.recent[:]) == opening && len(s.buf) != len(opening)-1:
		s.leave()
		s.buf, s.depth, s.state = append(s.buf[:0], opening...), 1, inString
		return
	case c == '{' && before == '\n' && s.state != between:
		s.leave()
	}
	switch s.state {
	case between, astray:
		s.outside(c)
	default:
		s.inside(c)
	}
}

// leave gives up an object that another has begun in the middle of, or what was
// between objects; then nothing more is lost.
func (s *splitter) leave() {
	if s.state >= inObject {
		s.lost()
	}
	s.reset(between)
}

func (s *splitter) reset(next state) { s.buf, s.depth, s.state = s.buf[:0], 0, next }

// outside takes a byte that is in no object.
func (s *splitter) outside(c byte) {
	switch {
	case s.state == astray:
	case c == '{':
		s.buf, s.depth, s.state = append(s.buf[:0], c), 1, inObject
	case strings.IndexByte(" \t\r\n", c) < 0:
		s.stray()
	}
}

// stray: from here to the next opening nothing can be told.
func (s *splitter) stray() {
	s.lost()
	s.reset(astray)
}

// inside takes a byte that belongs to an object, or shows that it was cut.
func (s *splitter) inside(c byte) {
	if len(s.buf) == MaxObject || c < ' ' && s.state != inObject {
		s.stray()
		return
	}
	s.buf = append(s.buf, c)
	switch s.state {
	case inEscape:
		s.state = inString
	case inString:
		switch c {
		case '\\':
			s.state = inEscape
		case '"':
			s.state = inObject
		}
	default:
		s.structure(c)
	}
}

// structure takes a byte outside of strings.
func (s *splitter) structure(c byte) {
	switch c {
	case '"':
		s.state = inString
	case '{', '[':
		s.depth++
	case '}', ']':
		if s.depth--; s.depth > 0 {
			return
		}
		if json.Valid(s.buf) {
			s.found(bytes.Clone(s.buf))
		} else {
			s.lost()
		}
		s.reset(between)
	}
}

// end: no further byte will come.
func (s *splitter) end() {
	s.leave()
}
