// Package tsc measures how fast the host's time-stamp counter runs. An
// emulated guest sees that very counter, and a machine without any other timer
// to calibrate against must be told its rate.
//
// What does not belong here: deciding which machine needs the number, and the
// kernel command line that carries it.
package tsc

import (
	"errors"
	"fmt"
	"math"
	"time"

	"golang.org/x/sys/unix"
)

// Errors of KHz.
var (
	// ErrUnsupported: this architecture or processor has no such counter.
	ErrUnsupported = errors.New("no time-stamp counter on this processor")
	// ErrUnstable: repeated measurements do not agree.
	ErrUnstable = errors.New("the rate of the time-stamp counter cannot be measured: no two measurements agree")
)

const (
	// interval is the length of one measurement. The two edges are known to
	// about 0.2 µs, so that 5 ms yield 0.01 % or better.
	interval = 5 * time.Millisecond
	// edgeTries is how often an edge is sampled; the tightest sample counts.
	edgeTries = 10
	// maxMeasurements bounds the work on a machine where nothing agrees.
	maxMeasurements = 8
	// agreement is how far two measurements may differ to confirm each other,
	// and a nominal rate from the measured one to be believed.
	agreement = 0.0005
)

// KHz returns the counter's rate in kHz, with an error below 0.05 %. It takes
// about 10 ms, more on a machine so busy that measurements have to be repeated.
func KHz() (int, error) {
	if !supported() {
		return 0, ErrUnsupported
	}
	measured, err := settle(measure)
	if err != nil {
		return 0, err
	}
	// A nominal rate is exact, but the processor's own words may be those of
	// another clock, above all inside a virtual machine.
	for _, nominal := range nominalKHz() {
		if agrees(nominal, measured) {
			measured = nominal
			break
		}
	}
	return int(math.Round(measured)), nil
}

// settle measures until a measurement confirms an earlier one, and returns the
// mean of the two.
func settle(measure func() (float64, error)) (float64, error) {
	var earlier []float64
	for range maxMeasurements {
		rate, err := measure()
		if err != nil {
			return 0, err
		}
		// Also keeps out what no processor does: 10 MHz to 100 GHz.
		if rate < 1e4 || rate > 1e8 || math.IsNaN(rate) {
			continue
		}
		for _, other := range earlier {
			if agrees(rate, other) {
				return (rate + other) / 2, nil
			}
		}
		earlier = append(earlier, rate)
	}
	return 0, ErrUnstable
}

func agrees(a, b float64) bool { return math.Abs(a-b) <= agreement*b }

// edge is one moment on both clocks.
type edge struct {
	ticks float64 // middle of the readings around the clock's
	width float64 // their distance
	nanos int64
}

// measure compares the counter with the clock over one interval, in kHz.
func measure() (float64, error) {
	begin, err := sampleEdge()
	if err != nil {
		return 0, err
	}
	time.Sleep(interval)
	end, err := sampleEdge()
	if err != nil {
		return 0, err
	}
	elapsed := end.nanos - begin.nanos
	if elapsed <= 0 {
		return 0, fmt.Errorf("measuring the time-stamp counter: the clock went from %d to %d ns", begin.nanos, end.nanos)
	}
	return (end.ticks - begin.ticks) * 1e6 / float64(elapsed), nil
}

// sampleEdge reads the clock between two readings of the counter. A preemption
// or an interrupt in between shows as a wide sample, and the tightest is taken.
func sampleEdge() (edge, error) {
	best := edge{width: math.Inf(1)}
	for range edgeTries {
		before := counter()
		nanos, err := clock()
		if err != nil {
			return edge{}, fmt.Errorf("reading the clock: %w", err)
		}
		after := counter()
		// Unsigned, then signed: right even where the counter wraps.
		width := float64(int64(after - before))
		if width >= 0 && width < best.width {
			best = edge{ticks: float64(before) + width/2, width: width, nanos: nanos}
		}
	}
	return best, nil
}

// clock returns nanoseconds of the clock that nobody adjusts.
func clock() (int64, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_RAW, &ts); err != nil {
		return 0, err
	}
	return ts.Nano(), nil
}
