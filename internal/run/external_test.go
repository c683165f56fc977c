package run

import (
	"strings"
	"testing"
)

// TestExternalMissing: what somebody else should have prepared and has not is said at
// its line, all of it, and no hypervisor is started.
func TestExternalMissing(t *testing.T) {
	tr := newTrial(t, makePlan(t, "HypervisorPath="+tapProgram(t), "Network=tap:name=absent0,external", "Network=macvtap:absent1,name=lo,external,mac=02:00:00:00:00:01",
		"Share=/srv:a:socket="+t.TempDir()+"/absent"))
	out := tr.start().want(ExitBadInput, "")
	for _, want := range []string{
		"test.microvm:4: Network=tap:name=absent0: there is no interface absent0", "test.microvm:5: Network=macvtap:absent1,name=lo: the interface lo is no macvtap but a device of the host",
		"test.microvm:6: Share=/srv:a: there is no socket ",
	} {
		if !strings.Contains(out.Problems.Error(), want) {
			t.Errorf("it does not say %q:\n%s", want, out.Problems.Error())
		}
	}
	if strings.Contains(tr.stderr.String(), "words") || len(out.Problems) != 3 {
		t.Errorf("%v\n%s", out.Problems, tr.stderr.String())
	}
}
