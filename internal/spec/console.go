package spec

import (
	"fmt"
	"regexp"
	"strings"
)

const acceptedReadiness = "accepted: auto, started, console:REGEX"

func consoleRows() []Row {
	return []Row{
		{
			Name: "Console", Form: "auto|none", Default: "auto", Words: []string{"auto", "none"}, Accepted: "accepted: auto, none",
			Help: "auto gives the guest a serial console, which ampoule run connects to the terminal or writes out line by line. none gives it no console.",
			apply: setScalar(func(vm *VM) *Setting[string] { return &vm.Console },
				func(s string) (string, error) { return ParseWordOf(s, "auto", "none") }),
		},
		{
			Name: "Readiness", Image: true, Form: "auto|started|console:REGEX", Default: "auto", Words: []string{"auto", "started", "console:"},
			Accepted: acceptedReadiness,
			Help: "When the VM counts as started. started: as soon as the hypervisor runs the guest; nothing is then known of the guest itself. " +
				"console:REGEX: when a line on the console, the last unfinished one included, matches the regular expression (RE2 syntax). auto is started in this version.",
			apply: setScalar(func(vm *VM) *Setting[Readiness] { return &vm.Readiness }, ParseReadiness),
		},
	}
}

// ParseReadiness reads the value of Readiness=.
func ParseReadiness(s string) (Readiness, error) {
	if pattern, ok := strings.CutPrefix(s, "console:"); ok {
		if pattern == "" {
			return Readiness{}, fmt.Errorf("the regular expression is empty")
		}
		if len(pattern) > 1000 {
			return Readiness{}, fmt.Errorf("the regular expression is longer than 1000 bytes")
		}
		if _, err := regexp.Compile(pattern); err != nil {
			return Readiness{}, fmt.Errorf("%w", err)
		}
		return Readiness{Mode: "console", Pattern: pattern}, nil
	}
	switch s {
	case "auto", "started":
		return Readiness{Mode: s}, nil
	case "guest":
		return Readiness{}, fmt.Errorf("the guest's own word needs vsock, which this version of Ampoule does not carry out yet")
	}
	return Readiness{}, fmt.Errorf("not a condition of readiness")
}
