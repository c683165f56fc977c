package run

import (
	"context"
	"encoding/json"
	"net"
	"sync"

	"github.com/ampoule-vm/ampoule/internal/control/qmp"
	"github.com/ampoule-vm/ampoule/internal/plan"
)

// qmpControl holds a hypervisor that speaks QMP. Every end of its guest stops it
// until it is told what comes next.
type qmpControl struct {
	conn   net.Conn
	client *qmp.Client
	out    chan event
	// waiting: the guest has rebooted and was not reset yet. It belongs to pump.
	waiting bool
	// trouble gets the reason why a guest that was reset does not go on.
	trouble chan<- error
	over    chan struct{}
	once    sync.Once
}

func newQMPControl(conn net.Conn, trouble chan<- error) *qmpControl {
	return &qmpControl{conn: conn, out: make(chan event), trouble: trouble, over: make(chan struct{})}
}

func (c *qmpControl) launch(ctx context.Context) (version string, err error) {
	if c.client, err = qmp.New(ctx, c.conn); err != nil {
		return "", err
	}
	if err := c.client.Execute(ctx, "cont", nil, nil); err != nil {
		return "", err
	}
	go c.pump()
	return c.client.Version().String(), nil
}

func (c *qmpControl) events() <-chan event { return c.out }

func (c *qmpControl) err() error { return c.client.Err() }

func (c *qmpControl) order(ctx context.Context, what order) error {
	command := map[order]string{pressButton: "system_powerdown", goOn: "system_reset", beAlive: "query-status", end: "quit"}[what]
	if what == goOn {
		// Ours is a reset like any other: for once it must not become a stop. The
		// rest is for pump, when the reset has come.
		if err := c.onReset(ctx, "reset"); err != nil {
			return err
		}
	}
	return c.client.Execute(ctx, command, nil, nil)
}

func (c *qmpControl) request(ctx context.Context, r plan.Request, read func([]byte) error) error {
	chunks, err := r.Render(noQuestion)
	if err != nil {
		return err
	}
	var arguments any
	if len(chunks) > 0 {
		arguments = json.RawMessage(chunks[0].JSON)
	}
	var answer json.RawMessage
	if err := c.client.Execute(ctx, r.Path, arguments, &answer); err != nil {
		return err
	}
	return read(answer)
}

// onReset says what a reset does from now on: "reset" or "shutdown".
func (c *qmpControl) onReset(ctx context.Context, action string) error {
	return c.client.Execute(ctx, "set-action", map[string]string{"reboot": action}, nil)
}

func (c *qmpControl) close() {
	c.once.Do(func() { close(c.over) })
	if c.client != nil {
		c.client.Close()
	}
}

// pump translates events until there are no more.
func (c *qmpControl) pump() {
	defer close(c.out)
	for e := range c.client.Events() {
		data, err := e.Decode()
		if err != nil {
			continue // it is not of the form that counts
		}
		if ev, ok := c.translate(data); ok {
			select {
			case c.out <- ev:
			case <-c.over:
				return
			}
		}
	}
}

func (c *qmpControl) translate(data any) (event, bool) {
	switch d := data.(type) {
	case qmp.Resume:
		return event{what: resumed}, true
	case qmp.Reset:
		if !c.waiting {
			return event{}, false
		}
		c.waiting = false
		go c.afterReset()
	case qmp.Watchdog:
		return event{what: unfed}, true
	case qmp.GuestPanicked:
		// With shutdown=pause QEMU stops here and sends no SHUTDOWN.
		return event{what: panicked}, true
	case qmp.Shutdown:
		return c.shutdown(d)
	}
	return event{}, false
}

func (c *qmpControl) shutdown(d qmp.Shutdown) (event, bool) {
	switch d.Reason {
	case qmp.ReasonGuestReset:
		if c.waiting {
			return event{}, false // a guest that asked twice before it was stopped
		}
		c.waiting = true
		return event{what: waits}, true
	case qmp.ReasonGuestPanic:
		return event{what: panicked}, true
	case qmp.ReasonGuestShutdown:
		return event{what: poweredOff}, true
	}
	return event{what: ended, reason: string(d.Reason)}, true
}

// afterReset lets a guest run that was reset. Without these orders it never would.
func (c *qmpControl) afterReset() {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	err := c.onReset(ctx, "shutdown")
	if err == nil {
		err = c.client.Execute(ctx, "cont", nil, nil)
	}
	if err != nil {
		select {
		case c.trouble <- err:
		default:
		}
	}
}
