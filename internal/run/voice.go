package run

import (
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

const (
	// voiceQueue is how many lines wait for a reader of standard error who
	// does not keep up.
	voiceQueue = 256
	// voicePatience is how long that reader may delay the end.
	voicePatience = time.Second
)

// voice writes Ampoule's own lines. Saying something never waits: a log that
// is stuck must not keep us from pressing the power button, nor from the
// time-out that kills.
type voice struct {
	w     io.Writer
	lines chan string
	quit  chan struct{}
	done  chan struct{}
	// lost counts lines for which there was no room.
	lost atomic.Int64
}

func newVoice(w io.Writer) *voice {
	v := &voice{w: w, lines: make(chan string, voiceQueue), quit: make(chan struct{}), done: make(chan struct{})}
	go v.run()
	return v
}

// say queues a line, without its newline.
func (v *voice) say(line string) {
	select {
	case v.lines <- line:
	default:
		v.lost.Add(1)
	}
}

func (v *voice) run() {
	defer close(v.done)
	for {
		select {
		case line := <-v.lines:
			v.write(line)
		case <-v.quit:
			for {
				select {
				case line := <-v.lines:
					v.write(line)
				default:
					return
				}
			}
		}
	}
}

func (v *voice) write(line string) {
	fmt.Fprintln(v.w, line)
	if n := v.lost.Swap(0); n > 0 {
		fmt.Fprintf(v.w, "ampoule: %d lines were lost, because standard error did not take them\n", n)
	}
}

// close waits until all is written, or for as long as a stuck reader may
// delay the end. Nobody may say anything afterwards.
func (v *voice) close() {
	close(v.quit)
	select {
	case <-v.done:
	case <-time.After(voicePatience):
	}
}
