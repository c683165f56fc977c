package systemd

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// jobs is a manager whose jobs end as a test has them end.
type jobs struct {
	fake
	mu     sync.Mutex
	calls  []string
	remove func(job dbus.ObjectPath, result string)
	ready  chan struct{}
}

func newJobs(t *testing.T, patience time.Duration, early bool) (*Manager, *jobs) {
	t.Helper()
	j := &jobs{ready: make(chan struct{})}
	j.tell = func(send func(string, ...any)) {
		j.remove = func(job dbus.ObjectPath, result string) {
			send("JobRemoved", uint32(1), job, "some.service", result)
		}
		close(j.ready)
	}
	j.answer = func(_ dbus.ObjectPath, member string, body []any) ([]any, string) {
		j.mu.Lock()
		defer j.mu.Unlock()
		call := member
		for _, text := range body {
			call += " " + text.(string)
		}
		j.calls = append(j.calls, call)
		switch member {
		case "Subscribe", "Reload", "ResetFailedUnit":
			return nil, ""
		case "StartUnit", "RestartUnit", "StopUnit":
			if body[0] == "refused.service" {
				return nil, "org.freedesktop.systemd1.NoSuchUnit"
			}
			job := dbus.ObjectPath("/job/" + member)
			if early { // its end is told before the answer
				j.remove(job, "done")
			}
			return []any{job}, ""
		}
		return nil, "org.freedesktop.DBus.Error.UnknownMethod"
	}
	m, err := manageAt(t.Context(), j.serve(t), patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	<-j.ready
	return m, j
}

// TestJobs: each caller gets the result of its own job, whenever it comes.
func TestJobs(t *testing.T) {
	m, j := newJobs(t, 100*time.Millisecond, false)
	type result struct {
		method, result string
		err            error
	}
	results := make(chan result)
	for method, do := range map[string]func(context.Context, string) (string, error){"StartUnit": m.Start, "RestartUnit": m.Restart, "StopUnit": m.Stop} {
		go func() {
			r, err := do(t.Context(), "web.service")
			results <- result{method, r, err}
		}()
	}
	// Longer than a manager may be silent that was asked something.
	time.Sleep(350 * time.Millisecond)
	for _, method := range []string{"StopUnit", "StartUnit", "RestartUnit"} {
		j.remove("/job/unknown", "done")
		j.remove(dbus.ObjectPath("/job/"+method), "result of "+method)
		if r := <-results; r.method != method || r.result != "result of "+method || r.err != nil {
			t.Errorf("%s: %+v", method, r)
		}
	}
	if err := m.Reload(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := m.Start(t.Context(), "refused.service"); err == nil || !strings.Contains(err.Error(), "refused.service") {
		t.Errorf("refused: %v", err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	reset := slices.Index(j.calls, "ResetFailedUnit web.service")
	if restart := slices.Index(j.calls, "RestartUnit web.service replace"); reset < 0 || reset > restart {
		t.Errorf("the starts before count: %q", j.calls)
	}
	for i, call := range j.calls {
		if i != reset && strings.Contains(call, "Unit") && !strings.HasSuffix(call, ".service replace") {
			t.Errorf("it calls %s", call)
		}
	}
}

// TestJobEarly: the end of a job that is told before its beginning is not lost.
func TestJobEarly(t *testing.T) {
	m, _ := newJobs(t, 5*time.Second, true)
	for range 20 {
		if r, err := m.Start(t.Context(), "web.service"); r != "done" || err != nil {
			t.Fatalf("%q, %v", r, err)
		}
	}
}

// TestJobLeft: who does not want to wait any longer does not, and neither does
// anybody whose connection ends.
func TestJobLeft(t *testing.T) {
	m, _ := newJobs(t, 5*time.Second, false)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := m.Start(ctx, "web.service"); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	time.AfterFunc(50*time.Millisecond, m.Close)
	if _, err := m.Stop(t.Context(), "web.service"); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Error(err)
	}
}
