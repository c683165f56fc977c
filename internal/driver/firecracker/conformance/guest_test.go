package conformance

import (
	"strings"
	"testing"
)

// The tests here are of the guest, which only the stand-in can play: the real
// program would need one that boots.

func TestDefaultGuest(t *testing.T) {
	t.Parallel()
	v := start(t, fakePath(t))
	v.boot("console=ttyS0 reboot=k panic=-1")
	v.sees("Run /sbin/init as init process")
	if a := v.must("GET", "/", ""); !strings.Contains(a.body, `"state":"Running"`) {
		t.Error(a.body)
	}
	v.must("PUT", "/actions", `{"action_type":"SendCtrlAltDel"}`)
	if code := v.ends(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	v.sees("reboot: Restarting system")
	if v.errors.Len() > 0 {
		t.Error(v.errors)
	}
}

func fakePath(t *testing.T) string { return standIn().path(t) }
