package run

import (
	"context"
	"strconv"
	"time"
)

// bitten is the reason of an end by the service manager's watchdog.
const bitten = "the hypervisor did not answer, the service manager's watchdog has had enough of it (SIGABRT)"

// watchdogInterval is how often the service manager is to hear of us: half of
// the time after which it takes us for dead. 0: it has no watchdog on us.
func watchdogInterval(getenv func(string) string, pid int) time.Duration {
	usec, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || usec < 2 || usec > maxWatchdog.Microseconds() {
		return 0
	}
	if whose := getenv("WATCHDOG_PID"); whose != "" && whose != strconv.Itoa(pid) {
		return 0 // it was handed on to us by whoever it is for
	}
	return time.Duration(usec) * time.Microsecond / 2
}

// maxWatchdog is "infinity", to which nobody needs to be held.
const maxWatchdog = 100 * 365 * 24 * time.Hour

// prove asks the hypervisor for an answer and hands it on. It does not wait,
// and one that owes an answer is not asked again.
func (g *guest) prove(within time.Duration) {
	if !g.asking.CompareAndSwap(false, true) {
		return
	}
	control, report := g.control(), g.report
	go func() {
		defer g.asking.Store(false)
		ctx, cancel := context.WithTimeout(context.Background(), min(within, commandTimeout))
		defer cancel()
		if control.order(ctx, beAlive) == nil {
			report.alive()
		}
	}()
}
