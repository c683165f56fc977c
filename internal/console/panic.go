package console

import (
	"bytes"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// panicTracker recognises a Linux kernel's panic in its console output:
//
//	[   12.345678] Kernel panic - not syncing: REASON
//	[   12.345901] CPU: 0 PID: 1 Comm: init …       (registers, call trace)
//	[   12.346123] ---[ end Kernel panic - not syncing: REASON ]---
//
// or, where the kernel is told to reboot, "Rebooting in N seconds.." at the
// end. Text that merely looks like it, a log file that is shown on the
// console for instance, is told apart by what follows: after a real panic only
// the kernel speaks.
type panicTracker struct {
	reason  string
	stamped bool    // the panic's line had a time stamp
	seconds float64 // that stamp
	over    bool    // somebody else has spoken since
}

// The stamp, and the caller's mark that some kernels add: "[    1.000000][    T1] ".
const stampPattern = `\[ *(\d+\.\d{6})\](?:\[ *[TC]\d+\])? `

// panicPatterns are compiled when there is first something to look at: most
// guests never panic.
type panicPatterns struct {
	panicLine, stampedLine, stampBegun, userLine, dyingLine *regexp.Regexp
}

var compiled = sync.OnceValue(func() panicPatterns {
	return panicPatterns{
		// A stamped one counts anywhere, because the kernel does not begin a new
		// line when a prompt stands there; without a stamp only a whole line does.
		panicLine: regexp.MustCompile(`(?:^|` + stampPattern + `)Kernel panic - not syncing(?:: |$)(.*)$`),

		stampedLine: regexp.MustCompile(`^` + stampPattern + `(.*)$`),
		// A stamped line that was cut off by the end.
		stampBegun: regexp.MustCompile(`^\[ *\d*\.?\d*\]?(?:\[ *[TC]?\d*\]?)? ?$`),
		// What user space writes through the kernel's log: "systemd[1]: …".
		userLine: regexp.MustCompile(`^[A-Za-z][\w.@()-]*\[\d+\]: `),
		// What a dying kernel without time stamps says.
		dyingLine: regexp.MustCompile(`^(?:\s|CPU: |CPU features: |Comm: |Hardware name: |Workqueue: |Tainted: |Modules linked in: ?|` +
			`Call [Tt]race:|Code: |[RCDEFGS][A-Z0-9]{1,5}: |[a-z][a-z0-9]{1,3} ?: |Kernel Offset: |Memory Limit: |PHYS_OFFSET: |` +
			`SMP: stopping|Shutting down cpus|Dumping |Rebooting in |ACPI MEMORY or I/O RESET|------------\[|---\[ end )`),
	}
})

// stampSlack is how far, in seconds, stamps of different processors may be out
// of order.
const stampSlack = 1

// line takes the next whole line and reports whether it is the first panic.
func (t *panicTracker) line(line []byte) (first bool) {
	// Cheap test first: nearly every line ends here.
	if t.reason == "" && !bytes.Contains(line, []byte("Kernel panic - not")) {
		return false
	}
	if m := compiled().panicLine.FindSubmatch(line); m != nil {
		first = t.reason == ""
		seconds, err := strconv.ParseFloat(string(m[1]), 64)
		*t = panicTracker{reason: strings.TrimSpace(string(m[2])), stamped: err == nil, seconds: seconds}
		if t.reason == "" {
			t.reason = "no reason given"
		}
		return first
	}
	if t.reason != "" && !t.kernelSays(line) {
		t.over = true
	}
	return false
}

// isLast reports whether the panic was the end, given the unfinished line.
func (t *panicTracker) isLast(unfinished []byte) bool {
	return t.reason != "" && !t.over && t.kernelSays(unfinished)
}

// kernelSays reports whether a line after the panic is the dying kernel's.
func (t *panicTracker) kernelSays(line []byte) bool {
	if strings.TrimSpace(string(line)) == "" {
		return true
	}
	if !t.stamped {
		return compiled().dyingLine.Match(line)
	}
	m := compiled().stampedLine.FindSubmatch(line)
	if m == nil {
		return compiled().stampBegun.Match(line)
	}
	seconds, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil || seconds < t.seconds-stampSlack {
		return false // another boot
	}
	text := string(m[2])
	if strings.HasPrefix(text, "Linux version ") {
		return false
	}
	return !compiled().userLine.MatchString(text) || strings.Contains(text, "segfault at ")
}
