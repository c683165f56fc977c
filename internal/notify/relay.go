// Package notify is the host's side of a guest's sd_notify: it hears what the
// guest's service manager says of its start and its end, and nothing else.
//
// A message is a connection of its own. Its sender, which is the guest's PID 1,
// closes its half and then does nothing until the host has closed the other
// (systemd 256 and newer), so each moment that a message takes here is one that
// the guest's boot takes longer. Some hypervisors do not hand on the half-close:
// there the end of a message is a silence. Nothing is ever written back.
//
// The guest is not trusted. What it may cost in memory, time and threads is
// bounded, what it says is filtered to what a guest has a say in, and nobody who
// waits for its readiness waits for anything else of it. Who speaks in the guest
// is only known where the listener tells (vsock.ListenKernel lets root alone in);
// through a hypervisor's multiplexer, every process of the guest can say that
// the guest is ready.
package notify

import (
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxOpen bounds the connections that are open at one time. One more ends
	// the oldest rather than wait for it: then a message that is sent at once,
	// as a service manager's is, is read however many connections idle.
	maxOpen = 64
	// pause is the mean time between two connections, burst how many may come
	// without it. A boot has about three hundred.
	pause = time.Millisecond
	burst = 1000
	// retry is the time after which an accept that failed is tried again: for
	// want of descriptors, mostly.
	retry = 20 * time.Millisecond
	// last is how long Drain waits for connections that were made before the
	// sender's end, and drainLimit how long for all of them to be read.
	last       = 10 * time.Millisecond
	drainLimit = time.Second
)

// Counts tell what became of connections.
type Counts struct {
	// Heard are those that said something, Ignored those that said nothing that
	// is heard, Refused those that broke a limit or gave way to others.
	Heard, Ignored, Refused uint64
}

// Relay hears the messages that arrive at one listener. Its methods may be
// called by several goroutines.
type Relay struct {
	listener net.Listener
	limits   limits
	pace     pace
	changed  chan struct{} // room for one
	slots    chan struct{} // one for each connection that is being read
	stop     chan struct{}
	stopOnce sync.Once
	done     chan struct{} // closed when nothing of the relay runs any more

	heard, ignored, refused atomic.Uint64

	mu      sync.Mutex
	pending Message
	boot    uint64     // counts calls of Forget
	open    []net.Conn // the oldest first
}

// Serve begins to hear what arrives at a listener, which it owns from now on.
// Its connections must be sockets. Call Close in the end.
func Serve(l net.Listener) *Relay { return serve(l, defaultLimits()) }

func serve(l net.Listener, limits limits) *Relay {
	r := newRelay(l, limits)
	go r.run()
	return r
}

func newRelay(l net.Listener, limits limits) *Relay {
	return &Relay{
		listener: l,
		limits:   limits,
		pace:     pace{pause: pause, burst: burst},
		changed:  make(chan struct{}, 1),
		slots:    make(chan struct{}, maxOpen),
		stop:     make(chan struct{}),
		done:     make(chan struct{}),
	}
}

// Changed receives when there is something new to Take. One who has taken it
// before that gets nothing new then.
func (r *Relay) Changed() <-chan struct{} { return r.changed }

// Take returns what was said since it was last called, as one message: of a
// status the latest, of everything else all. It never waits. A sender is let go
// only after its message can be taken, so what a guest said before its end is
// here when the end is noticed, if the guest waits at all; see Drain.
func (r *Relay) Take() Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.pending
	r.pending = Message{}
	return m
}

// Forget is to be called when the guest boots again: what was said and not taken
// is dropped, and connections that were made before are not heard.
func (r *Relay) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pending = Message{}
	r.boot++
}

// Counts returns what became of connections so far.
func (r *Relay) Counts() Counts {
	return Counts{Heard: r.heard.Load(), Ignored: r.ignored.Load(), Refused: r.refused.Load()}
}

// Drain is to be called when the guest is gone: it hears what was sent before
// that, and closes the relay. Before systemd 256 a guest did not wait until its
// last words had arrived, and the exit status is among them.
func (r *Relay) Drain() error {
	if r.setDeadline(last) {
		limit := time.NewTimer(drainLimit)
		defer limit.Stop()
		select {
		case <-r.done: // at once: the connections of one that is gone have ended
		case <-limit.C:
		}
	}
	return r.Close()
}

// setDeadline is false for a listener that cannot have one.
func (r *Relay) setDeadline(d time.Duration) bool {
	l, ok := r.listener.(interface{ SetDeadline(time.Time) error })
	return ok && l.SetDeadline(time.Now().Add(d)) == nil
}

// more reports whether a connection waits although the deadline has passed: on
// a busy host nobody has tried to accept it.
func (r *Relay) more() bool {
	waiting, err := readable(r.listener, 0)
	return err == nil && waiting && r.setDeadline(last)
}

// Close stops hearing. It waits until nothing of the relay runs any more, and may
// be called more than once.
func (r *Relay) Close() error {
	var err error
	r.stopOnce.Do(func() {
		close(r.stop)
		err = r.listener.Close()
		r.mu.Lock()
		open := slices.Clone(r.open)
		r.mu.Unlock()
		for _, c := range open {
			c.Close()
		}
	})
	<-r.done
	return err
}

// run accepts until the listener is closed, or its deadline has come.
func (r *Relay) run() {
	var readers sync.WaitGroup
	defer close(r.done)
	defer readers.Wait()
	for {
		c, err := r.listener.Accept()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && r.more():
			continue
		case errors.Is(err, net.ErrClosed), errors.Is(err, os.ErrDeadlineExceeded):
			return
		case err != nil:
			if !r.sleep(retry) {
				return
			}
			continue
		}
		boot, ok := r.admit(c)
		if !ok {
			c.Close()
			return
		}
		readers.Go(func() { r.hear(c, boot) })
		if !r.sleep(r.pace.next(time.Now())) {
			return
		}
	}
}

// admit makes room for a connection, and is false when the relay is closed.
func (r *Relay) admit(c net.Conn) (boot uint64, ok bool) {
	r.mu.Lock()
	r.open = append(r.open, c)
	boot = r.boot
	var oldest net.Conn
	if len(r.open) > maxOpen {
		oldest = r.open[0]
		r.open = slices.Delete(r.open, 0, 1)
	}
	r.mu.Unlock()
	if oldest != nil {
		oldest.Close()
	}
	select {
	case r.slots <- struct{}{}:
	case <-r.stop:
		return 0, false
	}
	select {
	case <-r.stop: // Close may have looked at the open ones before
		return 0, false
	default:
		return boot, true
	}
}

// hear takes the one message of a connection. The sender is let go last.
func (r *Relay) hear(c net.Conn, boot uint64) {
	defer func() { <-r.slots }()
	text, err := r.limits.read(c)
	switch m := parse(text); {
	case err != nil:
		r.refused.Add(1)
	case m.IsZero():
		r.ignored.Add(1)
	default:
		r.heard.Add(1)
		r.put(m, boot)
	}
	c.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open = slices.DeleteFunc(r.open, func(o net.Conn) bool { return o == c })
}

func (r *Relay) put(m Message, boot uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if boot != r.boot {
		return
	}
	r.pending.merge(m)
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// sleep is false when the relay was closed meanwhile.
func (r *Relay) sleep(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.stop:
		return false
	}
}

// pace says how long to wait so that a mean rate is kept, bursts aside.
type pace struct {
	pause time.Duration
	burst int
	due   time.Time // when the last one would have come at the mean rate
}

// next counts one more, and returns how long to wait before another.
func (p *pace) next(now time.Time) time.Duration {
	if p.due.Before(now) {
		p.due = now
	}
	p.due = p.due.Add(p.pause)
	return p.due.Sub(now) - time.Duration(p.burst)*p.pause
}
