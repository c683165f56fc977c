package process

import (
	"syscall"
	"testing"
	"time"
)

// TestBlocked: a blocked signal does nothing, others do, and without the wish it
// would have ended the child.
func TestBlocked(t *testing.T) {
	for _, blocked := range []bool{true, false} {
		spec := Spec{Path: "/bin/sleep", Args: []string{"sleep", "1000"}}
		if blocked {
			spec.Blocked = []syscall.Signal{syscall.SIGTERM}
		}
		p := start(t, spec)
		if err := p.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		select {
		case <-p.Done():
			if blocked {
				t.Error("the signal has ended it")
			}
		case <-time.After(300 * time.Millisecond):
			if !blocked {
				t.Error("the signal did nothing")
			}
		}
		_ = p.Signal(syscall.SIGINT)
		select {
		case <-p.Done():
		case <-time.After(5 * time.Second):
			t.Error("SIGINT did nothing")
		}
	}
}
