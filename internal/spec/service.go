package spec

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/layer"
	"github.com/ampoule-vm/ampoule/internal/systemdkeys"
)

// checkPassThrough checks one line of [Unit], [Service] or [Install] against
// systemd's own keys. Whether the host's systemd is new enough is a question
// for the host, not for the files.
func (r *reader) checkPassThrough(e *layer.Entry) {
	key, ok := systemdkeys.Lookup(e.Section, e.Key)
	switch {
	case !ok:
		unknownKey(r.problems, e.Assignment, systemdkeys.Keys(e.Section))
	case key.Kind == systemdkeys.Dependencies && e.Value == "":
		r.problems.Errorf(e.Origin, e.Key, "", "remove the line, or the dependency itself", "systemd ignores an empty list of dependencies, nothing would be cleared")
	case e.Section == "Service" && neededDirectory(e.Key) && e.Value == "":
		r.problems.Errorf(e.Origin, e.Key, "", "remove the line; further directories may be added", "the VM has its own directory in this list, and would lose it")
	case e.Section == "Service" && e.Key == "RuntimeDirectoryPreserve" && e.Value != "restart":
		r.problems.Errorf(e.Origin, e.Key, e.Value, "remove the line", "the runtime directory has to stay between a crash and the next start, and no longer: that is how a running VM is known")
	case key.KeepsOnEmpty && e.Value == "":
		r.problems.Errorf(e.Origin, e.Key, "", "write the value that it is to have", "systemd ignores an empty assignment of this key, nothing would be reset")
	}
}

// neededDirectory reports whether a list of directories has one that Ampoule
// cannot do without.
func neededDirectory(key string) bool { return key == "RuntimeDirectory" || key == "StateDirectory" }

// readService keeps the live lines of [Service] and reads those that matter
// to a VM that is run by hand.
//
// They keep the order of the files, across keys: TimeoutSec= sets what
// TimeoutStopSec= sets, and of the two the later counts.
func (r *reader) readService(resolved *layer.Resolved) {
	for _, g := range resolved.Groups {
		if g.Section != "Service" {
			continue
		}
		if g.Name == "ExecStart" {
			r.checkExecStart(g)
		}
		for i := range g.Entries {
			if e := &g.Entries[i]; e.Fate == layer.Effective || e.Fate == layer.Clears {
				r.vm.Service = append(r.vm.Service, *e)
			}
		}
	}
	slices.SortFunc(r.vm.Service, func(a, b layer.Entry) int { return cmp.Compare(a.Order, b.Order) })
	for i := range r.vm.Service {
		r.readServiceLine(&r.vm.Service[i])
	}
}

// checkExecStart demands the empty assignment that systemd demands for a
// second ExecStart=: the generated unit has one already.
func (r *reader) checkExecStart(g *layer.Group) {
	cleared := false
	for _, e := range g.Entries {
		if e.Fate == layer.Clears {
			cleared = true
		} else if !cleared {
			r.problems.Errorf(e.Origin, e.Key, showCommand(e.Value), "put an empty ExecStart= before it to replace ampoule run, or use Runner=",
				"the unit already has an ExecStart=")
		}
	}
	if last := g.Entries[len(g.Entries)-1]; last.Fate == layer.Clears {
		r.problems.Errorf(last.Origin, last.Key, "", "write ExecStart=PROGRAM below it, or remove the line", "nothing would be started")
	}
}

// showCommand keeps the program of a command line; what follows may hold a
// secret, though every user of the host will be able to read it.
func showCommand(value string) string {
	program, _, more := strings.Cut(value, " ")
	if more {
		program += " " + diag.Elided
	}
	return program
}

func (r *reader) readServiceLine(e *layer.Entry) {
	counted := "Service." + e.Key
	from := From{Origin: e.Origin, Key: e.Key, Shown: Show(e.Assignment), ID: counted + "[" + strconv.Itoa(r.counts[counted]) + "]"}
	r.counts[counted]++
	if e.Fate == layer.Clears {
		return
	}
	var c Credential
	var err error
	accepted := acceptedLoad
	switch e.Key {
	case "TimeoutStopSec", "TimeoutSec":
		d, parseErr := ParseTimeSpan(e.Value)
		if parseErr != nil {
			from.Errorf(r.problems, "accepted: a time span such as 90s or 2min, or infinity", "%v", parseErr)
			return
		}
		r.vm.StopTimeout = Setting[time.Duration]{Value: d, Set: true, From: from}
		return
	case "LoadCredential":
		c, err = r.parseLoad(Load, e.Value)
	case "LoadCredentialEncrypted":
		c, err = r.parseLoad(LoadEncrypted, e.Value)
	case "SetCredential":
		accepted = acceptedSet
		c, err = r.parseSet(Set, e.Value)
	case "SetCredentialEncrypted":
		accepted = acceptedSetEncrypted
		c, err = r.parseSet(SetEncrypted, e.Value)
	case "ImportCredential":
		accepted = acceptedImport
		c, err = r.parseImport(e.Value)
	default:
		return
	}
	if err != nil {
		r.refuse(from, err, accepted)
		return
	}
	c.From = from
	r.vm.ServiceCredentials = append(r.vm.ServiceCredentials, c)
}

// ParseTimeSpan reads systemd's time spans ("90", "1min 30s", "500ms");
// "infinity" is 0, which means no limit, as "0" does for time-outs.
func ParseTimeSpan(s string) (time.Duration, error) {
	if s == "infinity" {
		return 0, nil
	}
	units := []struct {
		names string
		unit  time.Duration
	}{
		{" usec us µs μs ", time.Microsecond},
		{" msec ms ", time.Millisecond},
		{" seconds second sec s ", time.Second},
		{" minutes minute min m ", time.Minute},
		{" hours hour hr h ", time.Hour},
		{" days day d ", 24 * time.Hour},
		{" weeks week w ", 7 * 24 * time.Hour},
		{" months month M ", 2629800 * time.Second},
		{" years year y ", 31557600 * time.Second},
	}
	rest := strings.TrimSpace(s)
	if rest == "" {
		return 0, fmt.Errorf("the time span is empty")
	}
	var total time.Duration
	for rest != "" {
		n := 0
		for n < len(rest) && (rest[n] >= '0' && rest[n] <= '9' || rest[n] == '.') {
			n++
		}
		number := rest[:n]
		rest = strings.TrimLeft(rest[n:], " \t")
		n = 0
		for n < len(rest) && rest[n] != ' ' && rest[n] != '\t' && (rest[n] < '0' || rest[n] > '9') {
			n++
		}
		name := rest[:n]
		rest = strings.TrimLeft(rest[n:], " \t")
		unit := time.Second
		if name != "" {
			unit = 0
			for _, u := range units {
				if strings.Contains(u.names, " "+name+" ") {
					unit = u.unit
				}
			}
		}
		value, err := strconv.ParseFloat(number, 64)
		if err != nil || unit == 0 || value*float64(unit) > float64(1<<62) {
			return 0, fmt.Errorf("not a time span")
		}
		total += time.Duration(value * float64(unit))
		if total < 0 {
			return 0, fmt.Errorf("too long for a time span")
		}
	}
	return total, nil
}
