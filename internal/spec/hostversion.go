package spec

import (
	"fmt"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/layer"
	"github.com/ampoule-vm/ampoule/internal/systemdkeys"
)

// CheckHostVersion refuses lines of [Unit], [Service] and [Install] that the
// host's systemd does not carry out: it would skip them with a warning in its
// log, and go on.
func CheckHostVersion(resolved *layer.Resolved, version int) diag.List {
	var problems diag.List
	for _, g := range resolved.Groups {
		for _, e := range g.Entries {
			if e.Section == Section || strings.HasPrefix(e.Key, "X-") || strings.HasPrefix(e.Section, "X-") {
				continue
			}
			key, ok := systemdkeys.Lookup(e.Section, e.Key)
			if !ok {
				continue // unknown: reported by Read
			}
			what, accepted := "", "remove the line"
			switch key.In(version) {
			case systemdkeys.NotYet:
				what = fmt.Sprintf("systemd has this key from version %d on, and this host has %d", key.Since, version)
			case systemdkeys.Ignores:
				what = fmt.Sprintf("systemd ignores this key from version %d on, and this host has %d", key.Ignored, version)
			case systemdkeys.Dropped:
				what = fmt.Sprintf("systemd has dropped this key in version %d, and this host has %d", key.Removed, version)
			}
			if key.Replaced != "" {
				accepted = "use " + key.Replaced + "="
			}
			if what != "" {
				problems.Errorf(e.Origin, e.Key, diag.Elided, accepted, "%s", what)
			}
		}
	}
	return problems
}

// importSince is the version of systemd that has ImportCredential= (NEWS, 254).
const importSince = 254

// CheckUnitVersion refuses what the VM's unit needs of systemd beyond the user's
// own lines: in a unit it is systemd that loads the credentials of [MicroVM].
// Run by hand, a VM does not depend on it.
func CheckUnitVersion(vm *VM, version int) diag.List {
	var problems diag.List
	for _, c := range vm.Credentials {
		if c.Kind == Import && version < importSince {
			c.From.Errorf(&problems, "use LoadCredential=", "systemd has this key from version %d on, and this host has %d", importSince, version)
		}
	}
	return problems
}
