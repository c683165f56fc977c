package spec

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
)

const acceptedReadiness = "accepted: auto, started, guest, console:REGEX"

func consoleRows() []Row {
	return []Row{
		{
			Name: "Console", Form: "auto|none", Default: "auto", Words: []string{"auto", "none"}, Accepted: "accepted: auto, none",
			Help: "auto gives the guest a serial console, which ampoule run connects to the terminal or writes out line by line. none gives it no console.",
			apply: setScalar(func(vm *VM) *Setting[string] { return &vm.Console },
				func(s string) (string, error) { return ParseWordOf(s, "auto", "none") }),
		},
		{
			Name: "Readiness", Image: true, Form: "auto|started|guest|console:REGEX", Default: "auto", Words: []string{"auto", "started", "guest", "console:"},
			Accepted: acceptedReadiness,
			Help: "When the VM counts as started. started: as soon as the hypervisor runs the guest; nothing is then known of the guest itself. " +
				"guest: when its systemd, 254 or later, says over vsock that it is ready (VSockCID=). " +
				"console:REGEX: when a line on the console, the last unfinished one included, matches the regular expression (RE2 syntax). " +
				"auto is guest where VSockCID= and GuestSystemd=254 or more are set and Runner= is not, and else started.",
			apply: setScalar(func(vm *VM) *Setting[Readiness] { return &vm.Readiness }, ParseReadiness),
		},
	}
}

// describeRegexp leaves out the part of the pattern that the error repeats: the
// message shows the whole, with what a terminal would obey taken out.
func describeRegexp(err error) string {
	if bad, ok := errors.AsType[*syntax.Error](err); ok {
		return bad.Code.String()
	}
	return "it does not compile"
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
			return Readiness{}, fmt.Errorf("not a regular expression: %s", describeRegexp(err))
		}
		return Readiness{Mode: "console", Pattern: pattern}, nil
	}
	switch s {
	case "auto", "started", "guest":
		return Readiness{Mode: s}, nil
	}
	return Readiness{}, fmt.Errorf("not a condition of readiness")
}
