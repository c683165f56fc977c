package systemd

import (
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"time"
)

// Unit is a service as the manager has it in memory now. A time that never was
// is zero. Texts are as the manager holds them, which is as somebody wrote them:
// whoever prints one has to make it fit for a terminal.
type Unit struct {
	Name        string
	Description string
	// LoadState is loaded, not-found, masked, bad-setting, error or merged.
	LoadState string
	// ActiveState and SubState are as in systemctl status.
	ActiveState, SubState string
	// Job is the type of the job that is queued or under way: start, stop, restart
	// and so on; empty: none, or the unit was not listed.
	Job string
	// SourcePath is the file from which a generator made the unit.
	SourcePath       string
	NeedDaemonReload bool
	// Changed is when ActiveState or SubState last changed.
	Changed time.Time
	// StatusText is the service's own last word.
	StatusText string
	// Memory is in bytes; negative: not known.
	Memory int64
	// ExecStart is the first command's line as it is loaded now, which need not
	// be the one that runs.
	ExecStart []string
	// MainPID is 0 where no main process runs.
	MainPID int

	Detail
	// Err says why something of the above is missing; nil: nothing is.
	Err error
}

// Detail is what only [Client.Unit] asks for.
type Detail struct {
	// LoadError is the manager's reason for a LoadState other than loaded.
	LoadError string
	// Invocation is the ID of the activation that runs or ran last, 32
	// hexadecimal digits; empty: none did.
	Invocation    string
	FragmentPath  string
	DropInPaths   []string
	UnitFileState string
	// Result is success, exit-code, signal, timeout, watchdog, oom-kill and so
	// on, of the last end of the service.
	Result string
	// ExitCode is how the last main process ended: 0 not yet, else CLD_EXITED
	// (1), CLD_KILLED (2) or CLD_DUMPED (3); ExitStatus its exit code or signal.
	ExitCode, ExitStatus int
	Started, Exited      time.Time // of the main process
	// Restarts counts those of Restart=.
	Restarts int
	// SetCredential are the plain credentials that stand in the unit, by name.
	// Anybody may ask for them.
	SetCredential map[string][]byte
}

// depth says who asks for a property.
type depth int

const (
	always  depth = iota
	running       // of units that are more than inactive
	detail        // of one unit alone: some read files, or processes' accounts
)

// property is one of a unit, with what becomes of its value. Asking for each by
// name is three times as fast as for all at once: there are more than 200.
type property struct {
	of, name string
	depth    depth
	set      func(*Unit, any) bool // false: the type is another
}

const (
	ofUnit    = "org.freedesktop.systemd1.Unit"
	ofService = "org.freedesktop.systemd1.Service"
)

func properties() []property {
	return []property{
		{ofUnit, "LoadState", always, to(func(u *Unit, v string) { u.LoadState = v })},
		{ofUnit, "ActiveState", always, to(func(u *Unit, v string) { u.ActiveState = v })},
		{ofUnit, "SubState", always, to(func(u *Unit, v string) { u.SubState = v })},
		{ofUnit, "Description", always, to(func(u *Unit, v string) { u.Description = v })},
		{ofUnit, "SourcePath", always, to(func(u *Unit, v string) { u.SourcePath = v })},
		{ofUnit, "NeedDaemonReload", always, to(func(u *Unit, v bool) { u.NeedDaemonReload = v })},
		{ofUnit, "StateChangeTimestamp", always, to(func(u *Unit, v uint64) { u.Changed = moment(v) })},
		{ofService, "ExecStart", always, setExecStart},
		{ofService, "StatusText", running, to(func(u *Unit, v string) { u.StatusText = v })},
		{ofService, "MemoryCurrent", running, to(func(u *Unit, v uint64) { u.Memory = size(v) })},
		{ofService, "MainPID", running, to(func(u *Unit, v uint32) { u.MainPID = int(v) })},

		{ofUnit, "InvocationID", detail, to(func(u *Unit, v []byte) { u.Invocation = hex.EncodeToString(v) })},
		{ofUnit, "LoadError", detail, setLoadError},
		{ofUnit, "FragmentPath", detail, to(func(u *Unit, v string) { u.FragmentPath = v })},
		{ofUnit, "DropInPaths", detail, to(func(u *Unit, v []string) { u.DropInPaths = v })},
		{ofUnit, "UnitFileState", detail, to(func(u *Unit, v string) { u.UnitFileState = v })},
		{ofService, "Result", detail, to(func(u *Unit, v string) { u.Result = v })},
		{ofService, "ExecMainCode", detail, to(func(u *Unit, v int32) { u.ExitCode = int(v) })},
		{ofService, "ExecMainStatus", detail, to(func(u *Unit, v int32) { u.ExitStatus = int(v) })},
		{ofService, "ExecMainStartTimestamp", detail, to(func(u *Unit, v uint64) { u.Started = moment(v) })},
		{ofService, "ExecMainExitTimestamp", detail, to(func(u *Unit, v uint64) { u.Exited = moment(v) })},
		{ofService, "NRestarts", detail, to(func(u *Unit, v uint32) { u.Restarts = int(v) })},
		{ofService, "SetCredential", detail, setCredentials},
	}
}

// wanted are the properties up to a depth, except those that are known.
func wanted(most depth, known ...string) []property {
	return slices.DeleteFunc(properties(), func(p property) bool { return p.depth > most || slices.Contains(known, p.name) })
}

// only is the property of that name.
func only(name string) []property {
	return slices.DeleteFunc(properties(), func(p property) bool { return p.name != name })
}

func to[T any](set func(*Unit, T)) func(*Unit, any) bool {
	return func(u *Unit, v any) bool {
		typed, ok := v.(T)
		if ok {
			set(u, typed)
		}
		return ok
	}
}

// moment is microseconds since 1970; 0 and what no clock shows is never.
func moment(usec uint64) time.Time {
	if usec == 0 || usec > math.MaxInt64 {
		return time.Time{}
	}
	return time.UnixMicro(int64(usec))
}

// size is a number of bytes; the largest of all means that there is none.
func size(v uint64) int64 {
	if v > math.MaxInt64 {
		return -1
	}
	return int64(v)
}

// setExecStart takes path, argv, … of the first command.
func setExecStart(u *Unit, v any) bool {
	commands, ok := v.([][]any)
	if !ok || len(commands) > 0 && len(commands[0]) < 2 {
		return false
	}
	if len(commands) == 0 {
		return true
	}
	u.ExecStart, ok = commands[0][1].([]string)
	return ok
}

// setCredentials takes pairs of a name and a value.
func setCredentials(u *Unit, v any) bool {
	pairs, ok := v.([][]any)
	if !ok {
		return false
	}
	u.SetCredential = make(map[string][]byte, len(pairs))
	for _, pair := range pairs {
		if len(pair) != 2 {
			return false
		}
		name, ok := pair[0].(string)
		value, ok2 := pair[1].([]byte)
		if !ok || !ok2 {
			return false
		}
		u.SetCredential[name] = value
	}
	return true
}

// setLoadError takes the name of the error and its text.
func setLoadError(u *Unit, v any) bool {
	pair, ok := v.([]any)
	if !ok || len(pair) != 2 {
		return false
	}
	u.LoadError, ok = pair[1].(string)
	return ok
}

// wrongType is the error for a value that is not what the manager documents.
func wrongType(p property, v any) error {
	return fmt.Errorf("systemd gives %s as %T", p.name, v)
}
