package qmp

import (
	"encoding/json"
	"fmt"
	"sync"
	"time"
)

// Event is something that happened in the hypervisor.
type Event struct {
	// Event is QEMU's name for it, such as "SHUTDOWN".
	Event string
	// Data depends on the event and is nil where there is none.
	Data json.RawMessage
	// Time is that of the hypervisor's host; zero where it did not know.
	Time time.Time
}

// Shutdown is the data of SHUTDOWN: the machine is about to end, or has stopped
// where QEMU was told not to.
type Shutdown struct {
	// Guest is true when the guest itself asked for it.
	Guest bool `json:"guest"`
	// Reason is one of the Reason constants.
	Reason Reason `json:"reason"`
}

// Reset is the data of RESET: the machine begins anew, its disks stay.
type Reset struct {
	Guest  bool   `json:"guest"`
	Reason Reason `json:"reason"`
}

// GuestPanicked is the data of GUEST_PANICKED, which needs a panic device.
type GuestPanicked struct {
	// Action is what QEMU does next: "pause", "poweroff" or "run".
	Action string `json:"action"`
}

// Powerdown stands for POWERDOWN: the power button was pressed. Whether the
// guest cares, it does not say.
type Powerdown struct{}

// Watchdog stands for WATCHDOG: the guest's has run out.
type Watchdog struct{}

// Stop stands for STOP: the virtual processors are halted.
type Stop struct{}

// Resume stands for RESUME: they run again.
type Resume struct{}

// Reason is why a machine was reset or shut down. QEMU may know more of them.
type Reason string

// The reasons that matter here.
const (
	ReasonGuestShutdown Reason = "guest-shutdown" // power-off by the guest
	ReasonGuestReset    Reason = "guest-reset"    // reboot by the guest
	ReasonGuestPanic    Reason = "guest-panic"    // reported by a panic device
	ReasonHostSignal    Reason = "host-signal"    // SIGTERM or SIGINT to QEMU
	ReasonHostQuit      Reason = "host-qmp-quit"  // the command quit
	ReasonHostReset     Reason = "host-qmp-system-reset"
	ReasonHostError     Reason = "host-error"
)

// Decode returns the event's data as one of the types above, by value, or nil
// for an event that has none. It is an error when the data does not fit.
func (e Event) Decode() (any, error) {
	switch e.Event {
	case "SHUTDOWN":
		return decodeData[Shutdown](e)
	case "RESET":
		return decodeData[Reset](e)
	case "GUEST_PANICKED":
		return decodeData[GuestPanicked](e)
	case "WATCHDOG":
		return Watchdog{}, nil
	case "POWERDOWN":
		return Powerdown{}, nil
	case "STOP":
		return Stop{}, nil
	case "RESUME":
		return Resume{}, nil
	}
	return nil, nil
}

func decodeData[T any](e Event) (any, error) {
	var data T
	if err := json.Unmarshal(e.Data, &data); err != nil {
		return nil, fmt.Errorf("%w: data of %s: %w", ErrProtocol, e.Event, describeJSON(err))
	}
	return data, nil
}

// eventQueue hands events from the reader, which never waits, to a consumer,
// who may.
type eventQueue struct {
	out       chan Event
	wake      chan struct{} // room for one
	abandoned chan struct{}
	once      sync.Once
	stopped   chan struct{}

	mu    sync.Mutex
	queue []queuedEvent
	bytes int // sum of the sizes in queue
	ended bool
}

type queuedEvent struct {
	Event
	size int // bytes of its message
}

func newEventQueue() *eventQueue {
	q := &eventQueue{
		out:       make(chan Event),
		wake:      make(chan struct{}, 1),
		abandoned: make(chan struct{}),
		stopped:   make(chan struct{}),
	}
	go q.pump()
	return q
}

// put never blocks. Size is what the event cost on the wire.
func (q *eventQueue) put(e Event, size int) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.queue) >= MaxQueuedEvents || q.bytes+size > MaxQueuedBytes {
		return ErrTooManyEvents
	}
	q.queue = append(q.queue, queuedEvent{e, size})
	q.bytes += size
	q.signal()
	return nil
}

// end: no further put will come.
func (q *eventQueue) end() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended = true
	q.signal()
}

// abandon: nobody will read any more. It returns when the pump has stopped.
func (q *eventQueue) abandon() {
	q.once.Do(func() { close(q.abandoned) })
	<-q.stopped
}

func (q *eventQueue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take removes the first event. Without one, ended says whether to wait.
func (q *eventQueue) take() (e Event, ok, ended bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.queue) == 0 {
		q.queue = nil // append has left the room behind the taken ones unused
		return Event{}, false, q.ended
	}
	first := q.queue[0]
	q.queue[0] = queuedEvent{}
	q.queue, q.bytes = q.queue[1:], q.bytes-first.size
	return first.Event, true, false
}

func (q *eventQueue) pump() {
	defer close(q.stopped)
	defer close(q.out)
	for {
		e, ok, ended := q.take()
		if ended {
			return
		}
		if !ok {
			select {
			case <-q.wake:
			case <-q.abandoned:
				return
			}
			continue
		}
		select {
		case q.out <- e:
		case <-q.abandoned:
			return
		}
	}
}
