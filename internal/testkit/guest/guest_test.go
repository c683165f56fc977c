package guest

import "testing"

func TestGet(t *testing.T) {
	for suite := range suites {
		g := Get(t, suite)
		t.Log(g.Kernel, g.Initrd)
	}
}
