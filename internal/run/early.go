package run

import (
	"context"
	"sync"
)

// early is the time before there is a hypervisor. A wish to stop ends its
// context, so that no source that keeps us waiting holds up the end.
type early struct {
	context.Context
	cancel context.CancelFunc
	over   chan struct{}
	ended  chan struct{}
	once   sync.Once
	why    string
}

func (r *runner) beginEarly(ctx context.Context) *early {
	e := &early{over: make(chan struct{}), ended: make(chan struct{})}
	e.Context, e.cancel = context.WithCancel(ctx)
	go func() {
		defer close(e.ended)
		select {
		case s := <-r.signals:
			e.why = signalName(s)
		case e.why = <-r.report.stops():
		case <-ctx.Done():
			e.why = cancelled
		case <-e.over:
			return
		}
		e.cancel()
	}()
	return e
}

// end returns who wanted to stop meanwhile, or "". From then on stops are to be
// waited for elsewhere.
func (e *early) end() string {
	e.once.Do(func() { close(e.over) })
	<-e.ended
	e.cancel()
	return e.why
}

// cancelled is the reason of a stop that the caller wants.
const cancelled = "its caller"

// stoppedEarly is the outcome of a stop before the guest ran.
func stoppedEarly(why string) Outcome {
	if why == orphaned {
		return failed("%s, before the guest ran", why)
	}
	return failed("stopped by %s before the guest ran", why)
}
