// Package systemd asks the host's service manager about units, over D-Bus
// (Client, which changes nothing), and has it reload, start and stop them
// (Manager).
//
// What lives here: the connection with its deadline, many calls under way at
// once, the properties of a unit as plain data, and jobs with their results. What
// must not: which units are VMs, what their states mean, what is to be started,
// and words for people.
package systemd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"
)

// Patience is how long a manager may be silent. One that is busy (it answers
// nobody during a daemon-reload) is waited for so long, and no longer; one that
// goes on answering has time for the questions about ten thousand units.
const Patience = 5 * time.Second

// ErrAbsent means that no systemd manages this system: a container, or another
// init.
var ErrAbsent = errors.New("systemd does not manage this system")

// endpoint is where a manager can be asked.
type endpoint struct {
	address string // of a stream socket
	bus     bool   // a message bus, which has to be greeted, and not the manager itself
}

// places are all paths of a system that matter here.
type places struct {
	booted    string // a directory where systemd is the init
	endpoints []endpoint
}

// system are those of this host. The manager's own socket is for root alone, and
// answers without a message bus, which a small host may not have.
func system(euid int) places {
	p := places{booted: "/run/systemd/system", endpoints: []endpoint{{"/run/dbus/system_bus_socket", true}}}
	if euid == 0 {
		p.endpoints = append([]endpoint{{"/run/systemd/private", false}}, p.endpoints...)
	}
	return p
}

// Client is a connection to the manager. It is for one command, which does not
// leave it alone for longer than Patience.
type Client struct {
	conn *dbus.Conn
	bus  bool // through a message bus
	// limit is how long the other side may be silent.
	limit *patient
}

// Connect finds the manager of this system; the error is ErrAbsent where there
// is none. Close ends the connection.
func Connect(ctx context.Context) (*Client, error) {
	return connect(ctx, system(os.Geteuid()), Patience)
}

func connect(ctx context.Context, p places, patience time.Duration) (*Client, error) {
	if info, err := os.Stat(p.booted); err != nil || !info.IsDir() {
		return nil, ErrAbsent
	}
	var problems []error
	for _, e := range p.endpoints {
		limit := &patient{patience: patience}
		conn, err := dial(ctx, e, limit)
		if err == nil {
			c := &Client{conn, e.bus, limit}
			if !e.bus {
				c.nudge(ctx, patience)
			}
			return c, nil
		}
		problems = append(problems, fmt.Errorf("%s: %w", e.address, explain(err)))
	}
	return nil, fmt.Errorf("asking systemd: %w", errors.Join(problems...))
}

// nudge makes sure that the manager listens. What reaches its own socket together
// with the end of the greeting lies there until something else comes (seen with
// systemd 252, where now and then the first question was never answered). What is asked here, and
// whether it is refused, does not matter.
func (c *Client) nudge(ctx context.Context, patience time.Duration) {
	const pause = 50 * time.Millisecond
	most := int(patience/pause) + 1
	answered := make(chan *dbus.Call, most)
	again := time.NewTicker(pause)
	defer again.Stop()
	for range most {
		c.manager().Go("org.freedesktop.DBus.Peer.Ping", 0, answered)
		select {
		case <-answered:
			return
		case <-ctx.Done():
			return
		case <-again.C:
		}
	}
}

// buffered saves the many small reads of which a message is made.
type buffered struct {
	net.Conn
	in *bufio.Reader
}

func (b buffered) Read(p []byte) (int, error) { return b.in.Read(p) }

// patient gives up on one read or write, and not on all of them together.
type patient struct {
	net.Conn
	patience time.Duration
	// listens: there is nothing to be read for as long as nothing happens.
	listens atomic.Bool
}

func (p *patient) Read(b []byte) (int, error) {
	for {
		if err := p.SetReadDeadline(time.Now().Add(p.patience)); err != nil {
			return 0, err
		}
		n, err := p.Conn.Read(b)
		if n == 0 && p.listens.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		return n, err
	}
}

func (p *patient) Write(b []byte) (int, error) {
	if err := p.SetWriteDeadline(time.Now().Add(p.patience)); err != nil {
		return 0, err
	}
	return p.Conn.Write(b)
}

// dial connects and proves who we are.
func dial(ctx context.Context, e endpoint, limit *patient) (*dbus.Conn, error) {
	dialer := net.Dialer{Timeout: limit.patience}
	raw, err := dialer.DialContext(ctx, "unix", e.address)
	if err != nil {
		return nil, err
	}
	limit.Conn = raw
	conn, err := dbus.NewConn(buffered{limit, bufio.NewReaderSize(limit, 64<<10)}, dbus.WithContext(ctx))
	if err != nil {
		raw.Close()
		return nil, err
	}
	err = conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Geteuid()))})
	if err == nil && e.bus {
		err = conn.Hello()
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// Close ends the connection; calls that are under way fail.
func (c *Client) Close() { _ = c.conn.Close() }

// explain says what the errors of a connection mean.
func explain(err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no answer within %v", Patience)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return errors.New("nobody listens")
	case errors.Is(err, dbus.ErrClosed):
		return errors.New("the connection was closed")
	}
	return err
}
