package verify

import (
	"bytes"
	"slices"
	"strings"

	"github.com/ampoule-vm/ampoule/internal/compare"
	"github.com/ampoule-vm/ampoule/internal/credential/rule"
	"github.com/ampoule-vm/ampoule/internal/driver"
	"github.com/ampoule-vm/ampoule/internal/emit"
	"github.com/ampoule-vm/ampoule/internal/pipeline"
	"github.com/ampoule-vm/ampoule/internal/plan"
	"github.com/ampoule-vm/ampoule/internal/systemdkeys"
	"github.com/ampoule-vm/ampoule/internal/unitfile"
	"github.com/ampoule-vm/ampoule/internal/version"
)

// changeOf compares the unit that was loaded with the one that the files come to
// now. Comments, the words that describe a unit, and where in a file a line
// stands have no effect, and are no difference.
func changeOf(loaded, now []byte, systemd int, drivers []driver.Driver) Change {
	if bytes.Equal(loaded, now) {
		return Change{}
	}
	before, after := readUnit(loaded), readUnit(now)
	if waits(before.plan) != waits(after.plan) {
		before.settle(drivers)
		after.settle(drivers)
	}
	was, is := before.digest(), after.digest()
	c := Change{VM: was.VM != is.VM, Restart: was.Unit != is.Unit}
	for _, side := range [][2]map[string][]string{{before.lines, after.lines}, {after.lines, before.lines}} {
		for key, values := range side[0] {
			if !slices.Equal(values, side[1][key]) && !slices.Contains(c.Lines, key) {
				c.Lines = append(c.Lines, key)
			}
		}
	}
	slices.Sort(c.Lines)
	if before.plan != nil && after.plan != nil {
		if keys := keysThatDiffer(before.plan, after.plan); len(keys) > 0 {
			// What Ampoule writes into the unit for them follows.
			lines := slices.DeleteFunc(c.Lines, func(line string) bool { return slices.Contains(keys, line) || c.VM && made(line) })
			c.Lines = append(keys, lines...)
		}
	}
	if p := before.plan; p != nil && p.Ampoule != "" && p.Ampoule != version.Version && !c.VM && !c.Restart {
		return Change{Version: p.Ampoule}
	}
	for _, key := range c.Lines {
		section, name, _ := strings.Cut(key, ".")
		if k, ok := systemdkeys.Lookup(section, name); ok && section == "Service" && k.NeedsRestart(systemd) {
			c.Restart = true
		}
	}
	c.Touched = !c.Any()
	return c
}

// unit is what of a unit's text has an effect.
type unit struct {
	lines map[string][]string // by SECTION.KEY
	plan  *plan.Plan          // nil: it carries none
}

func (u *unit) digest() plan.Digest {
	if u.plan == nil {
		return plan.Digest{}
	}
	return u.plan.Digest
}

// wordsOnly are the keys that describe.
func wordsOnly() []string {
	return []string{"Unit.Description", "Unit.Documentation", "Unit.SourcePath"}
}

// made: Ampoule writes lines of that key into a unit, each for what the plan needs.
func made(line string) bool {
	return slices.Contains([]string{
		"Unit.RequiresMountsFor", "Unit.After", "Service.BindPaths", "Service.BindReadOnlyPaths", "Service.DeviceAllow", "Service.MemoryDenyWriteExecute",
		"Service.SupplementaryGroups", "Service.TimeoutStartSec", "Service.TimeoutStopSec", "Service.LoadCredential", "Service.LoadCredentialEncrypted",
		"Service.SetCredential", "Service.SetCredentialEncrypted", "Service.ImportCredential",
	}, line)
}

// readUnit leaves out the plan, which is compared as such, and what its digest
// covers.
func readUnit(text []byte) unit {
	u := unit{lines: map[string][]string{}, plan: emit.PlanOf(text)}
	for _, a := range unitfile.Parse("", "", text).Assignments {
		key := a.Section + "." + a.Key
		if a.Key == "SetCredential" {
			if name, _, _ := strings.Cut(a.Value, ":"); name == rule.ProblemsName || name == rule.PlanName {
				continue
			}
		}
		if slices.Contains(wordsOnly(), key) || emit.Undoes(a.Key, a.Value) {
			continue
		}
		value := a.Value
		if before, _, ok := strings.Cut(value, " --digest="); ok {
			value = before
		}
		u.lines[key] = append(u.lines[key], value)
	}
	return u
}

// settle makes of a unit whose plan waits for an image, and of the one that does
// not, what can be compared.
func (u *unit) settle(drivers []driver.Driver) {
	for _, key := range []string{"Unit.RequiresMountsFor", "Service.BindReadOnlyPaths", "Service.TimeoutStartSec"} {
		delete(u.lines, key)
	}
	if p, _ := pipeline.AtStart(u.plan, drivers); p != nil {
		u.plan = p
	}
}

// keysThatDiffer names the keys whose assignments make two plans differ.
func keysThatDiffer(before, after *plan.Plan) []string {
	return compare.Keys(compare.Plans(before, after, 0), compare.Reload, compare.Restart)
}
