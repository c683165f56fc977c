package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
)

// ReloadPatience is how long a daemon-reload may take: all generators of the
// host, of which the manager gives each 90 seconds.
const ReloadPatience = 5 * time.Minute

// Manager is a connection over which units are started and stopped. Its methods
// may be called by several goroutines at once. What it has asked for is the
// service manager's, and goes on when the connection ends.
type Manager struct {
	client *Client

	mu sync.Mutex
	// ended are the results of jobs whose end was seen, by their objects, and
	// waiting who wants to know of one.
	ended   map[dbus.ObjectPath]string
	waiting map[dbus.ObjectPath]chan string
}

// Manage finds the manager of this system; the error is ErrAbsent where there is
// none. One that is reloading is waited for: somebody's apply may have been killed. Close ends the connection.
func Manage(ctx context.Context) (*Manager, error) {
	return manageAt(ctx, system(os.Geteuid()), ReloadPatience)
}

func manageAt(ctx context.Context, p places, patience time.Duration) (*Manager, error) {
	client, err := connect(ctx, p, patience)
	if err != nil {
		return nil, err
	}
	m := &Manager{client: client, ended: map[dbus.ObjectPath]string{}, waiting: map[dbus.ObjectPath]chan string{}}
	signals := make(chan *dbus.Signal, 64)
	client.conn.Signal(signals)
	go m.listen(signals)
	if err := client.subscribe(ctx); err != nil {
		client.Close()
		return nil, fmt.Errorf("asking systemd to report the end of jobs: %w", explain(err))
	}
	// A job takes as long as it takes: a guest has 90 seconds to power off, or
	// what its file says.
	client.limit.listens.Store(true)
	return m, nil
}

// subscribe has the manager tell of jobs. Over its own socket it does so anyway.
func (c *Client) subscribe(ctx context.Context) error {
	if c.bus {
		err := c.conn.AddMatchSignalContext(ctx, dbus.WithMatchSender(destination), dbus.WithMatchObjectPath(managerPath), dbus.WithMatchMember("JobRemoved"))
		if err != nil {
			return err
		}
	}
	return c.manager().CallWithContext(ctx, manager+"Subscribe", 0).Err
}

// Close ends the connection. Jobs go on.
func (m *Manager) Close() { m.client.Close() }

// Reload is systemctl daemon-reload.
func (m *Manager) Reload(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, ReloadPatience)
	defer cancel()
	if err := m.client.manager().CallWithContext(ctx, manager+"Reload", 0).Err; err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("systemctl daemon-reload has not ended within %v", ReloadPatience)
		}
		return fmt.Errorf("systemctl daemon-reload: %w", explain(err))
	}
	return nil
}

// Start starts a unit and waits until it has. The result is systemd's: done,
// skipped, failed, timeout, dependency, canceled and so on. An error means that
// it is not known.
func (m *Manager) Start(ctx context.Context, unit string) (result string, err error) {
	return m.job(ctx, "StartUnit", unit)
}

// Restart stops and starts a unit that runs, as Start. Starts that were asked for
// before do not count against it: the limit (StartLimitBurst=) is there for what
// ends by itself, and would leave the unit stopped. A unit that has failed would
// lose that state, and whoever is killed in between the reason to start it.
func (m *Manager) Restart(ctx context.Context, unit string) (result string, err error) {
	// What keeps the manager from this, it says of the restart too.
	_ = m.client.manager().CallWithContext(ctx, manager+"ResetFailedUnit", 0, unit).Err
	return m.job(ctx, "RestartUnit", unit)
}

// Stop stops a unit, as Start.
func (m *Manager) Stop(ctx context.Context, unit string) (result string, err error) {
	return m.job(ctx, "StopUnit", unit)
}

// job asks for one in the place of whatever else is queued, and waits for it.
func (m *Manager) job(ctx context.Context, method, unit string) (string, error) {
	var path dbus.ObjectPath
	if err := m.client.manager().CallWithContext(ctx, manager+method, 0, unit, "replace").Store(&path); err != nil {
		return "", fmt.Errorf("asking systemd for %s of %s: %w", method, unit, explain(err))
	}
	end := m.wait(path)
	select {
	case result := <-end:
		return result, nil
	case <-ctx.Done():
		return "", ctx.Err()
	case <-m.client.conn.Context().Done():
		return "", fmt.Errorf("waiting for %s: the connection to systemd was closed", unit)
	}
}

// wait returns what will have the result of a job. Its end may have been told
// before its beginning.
func (m *Manager) wait(path dbus.ObjectPath) <-chan string {
	m.mu.Lock()
	defer m.mu.Unlock()
	end := make(chan string, 1)
	if result, ok := m.ended[path]; ok {
		delete(m.ended, path)
		end <- result
		return end
	}
	m.waiting[path] = end
	return end
}

// listen hands out the results of jobs, until the connection ends.
func (m *Manager) listen(signals <-chan *dbus.Signal) {
	for s := range signals {
		// JobRemoved: number, object, unit, result.
		if s.Name != manager+"JobRemoved" || len(s.Body) < 4 {
			continue
		}
		path, ok := s.Body[1].(dbus.ObjectPath)
		result, ok2 := s.Body[3].(string)
		if !ok || !ok2 {
			continue
		}
		m.mu.Lock()
		if end, ok := m.waiting[path]; ok {
			delete(m.waiting, path)
			end <- result
		} else {
			m.ended[path] = result
		}
		m.mu.Unlock()
	}
}
