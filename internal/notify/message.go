package notify

import (
	"bytes"
	"maps"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxTargets bounds the targets that are remembered between two calls of Take.
// A guest reaches about forty.
const MaxTargets = 128

// Message is what a guest said, as far as a guest is heard. The zero value says
// nothing, and so does each field's.
//
// What is missing here is missing on purpose: a guest must not speak for the
// unit that runs it. MAINPID=, FDSTORE=, WATCHDOG=, RELOADING=, NOTIFYACCESS=,
// EXTEND_TIMEOUT_USEC=, BARRIER= and their like would change what the service
// manager does, and ERRNO= and BUSERROR= what it shows as the unit's own
// failure; a guest's PID 1 sends none of them.
type Message struct {
	// Ready: the guest's start-up is complete (READY=1).
	Ready bool
	// Stopping: the guest has begun to shut down (STOPPING=1).
	Stopping bool
	// Status is one line of printable text for people (STATUS=); empty text
	// takes back what was said before.
	Status *string
	// ExitStatus is what the guest wants its end to be taken for, 0 to 255
	// (EXIT_STATUS=).
	ExitStatus *int
	// Shutdown is the manner of the guest's end, just before it, one of
	// shutdowns (X_SYSTEMD_SHUTDOWN=).
	Shutdown string
	// Hostname and MachineID are the guest's own.
	Hostname, MachineID string
	// SignalsLevel is 2 once the guest's PID 1 takes signals
	// (X_SYSTEMD_SIGNALS_LEVEL=): the first sign of life of a systemd.
	SignalsLevel int
	// Targets says of each that changed whether it is active now
	// (X_SYSTEMD_UNIT_ACTIVE=, X_SYSTEMD_UNIT_INACTIVE=).
	Targets map[string]bool
}

// IsZero reports whether the message says nothing.
func (m Message) IsZero() bool {
	return !m.Ready && !m.Stopping && m.Status == nil && m.ExitStatus == nil && m.Shutdown == "" &&
		m.Hostname == "" && m.MachineID == "" && m.SignalsLevel == 0 && len(m.Targets) == 0
}

// merge adds what was said later. What is not repeated stays: a status does not
// take back that the guest is ready.
func (m *Message) merge(later Message) {
	m.Ready = m.Ready || later.Ready
	m.Stopping = m.Stopping || later.Stopping
	if later.Status != nil {
		m.Status = later.Status
	}
	if later.ExitStatus != nil {
		m.ExitStatus = later.ExitStatus
	}
	if later.Shutdown != "" {
		m.Shutdown = later.Shutdown
	}
	if later.Hostname != "" {
		m.Hostname = later.Hostname
	}
	if later.MachineID != "" {
		m.MachineID = later.MachineID
	}
	if later.SignalsLevel != 0 {
		m.SignalsLevel = later.SignalsLevel
	}
	for name, active := range later.Targets {
		m.setTarget(name, active)
	}
}

func (m *Message) setTarget(name string, active bool) {
	if _, known := m.Targets[name]; !known && len(m.Targets) >= MaxTargets {
		return
	}
	// A copy of its own for each Message: what Take returned is the caller's.
	targets := make(map[string]bool, len(m.Targets)+1)
	maps.Copy(targets, m.Targets)
	targets[name] = active
	m.Targets = targets
}

// field takes one value into a message and reports whether it is one.
type field func(m *Message, value string) bool

// fieldOf returns what takes the value of a field, and nil for a name that is not
// heard.
func fieldOf(name string) field {
	switch name {
	case "READY":
		return func(m *Message, v string) bool { m.Ready = m.Ready || v == "1"; return v == "1" }
	case "STOPPING":
		return func(m *Message, v string) bool { m.Stopping = m.Stopping || v == "1"; return v == "1" }
	case "STATUS":
		return takeStatus
	case "EXIT_STATUS":
		return takeExitStatus
	case "X_SYSTEMD_SHUTDOWN":
		return takeShutdown
	case "X_SYSTEMD_HOSTNAME":
		return takeHostname
	case "X_SYSTEMD_MACHINE_ID":
		return takeMachineID
	case "X_SYSTEMD_SIGNALS_LEVEL":
		return takeSignalsLevel
	case "X_SYSTEMD_UNIT_ACTIVE":
		return func(m *Message, v string) bool { return takeTarget(m, v, true) }
	case "X_SYSTEMD_UNIT_INACTIVE":
		return func(m *Message, v string) bool { return takeTarget(m, v, false) }
	}
	return nil
}

// parse takes out of a text what is heard. It never fails: what is no field, or
// has a value that makes no sense, is left out, as a service manager does.
func parse(text []byte) Message {
	var m Message
	for line := range bytes.SplitSeq(text, []byte{'\n'}) {
		name, value, found := strings.Cut(string(line), "=")
		if !found {
			continue
		}
		if take := fieldOf(name); take != nil {
			take(&m, value)
		}
	}
	return m
}

// unfinished reports whether a text cannot be all of a message: its last line is
// no field yet, or one of ours whose value makes no sense yet. The opposite is no
// proof, EXIT_STATUS=1 may become EXIT_STATUS=12; so it only ever makes a reader
// wait longer.
func unfinished(text []byte) bool {
	last := text[bytes.LastIndexByte(text, '\n')+1:]
	if len(last) == 0 {
		return len(text) == 0 // a newline may well be the end
	}
	name, value, found := strings.Cut(string(last), "=")
	if !found || cutRune(last) {
		return true
	}
	take := fieldOf(name)
	return take != nil && !take(&Message{}, value)
}

// cutRune reports whether a text ends within a character.
func cutRune(text []byte) bool {
	for i := len(text) - 1; i >= max(0, len(text)-utf8.UTFMax); i-- {
		if utf8.RuneStart(text[i]) {
			return !utf8.FullRune(text[i:])
		}
	}
	return false
}

func takeStatus(m *Message, value string) bool {
	text := printable(value)
	m.Status = &text
	return true
}

func takeExitStatus(m *Message, value string) bool {
	n, err := strconv.ParseUint(value, 10, 8)
	if err != nil {
		return false
	}
	status := int(n)
	m.ExitStatus = &status
	return true
}

func takeShutdown(m *Message, value string) bool {
	switch value {
	case "poweroff", "reboot", "halt", "kexec", "exit":
		m.Shutdown = value
		return true
	}
	return false
}

func takeSignalsLevel(m *Message, value string) bool {
	n, err := strconv.ParseUint(value, 10, 8)
	if err != nil || n == 0 {
		return false
	}
	m.SignalsLevel = int(n)
	return true
}

// takeHostname takes what Linux takes for one: 64 characters at most, of those
// that a hostname is made of.
func takeHostname(m *Message, value string) bool {
	if value == "" || len(value) > 64 || !madeOf(value, "-._") {
		return false
	}
	m.Hostname = value
	return true
}

func takeMachineID(m *Message, value string) bool {
	const hexDigits = "0123456789abcdef"
	if len(value) != 32 || strings.Trim(value, hexDigits) != "" {
		return false
	}
	m.MachineID = value
	return true
}

func takeTarget(m *Message, value string, active bool) bool {
	const suffix, longest = ".target", 255
	if len(value) <= len(suffix) || len(value) > longest || !strings.HasSuffix(value, suffix) || !madeOf(value, `:-_.\@`) {
		return false
	}
	m.setTarget(value, active)
	return true
}

// madeOf reports whether a text is ASCII letters, digits and the given others.
func madeOf(text, others string) bool {
	return strings.IndexFunc(text, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune(others, r)
	}) < 0
}
