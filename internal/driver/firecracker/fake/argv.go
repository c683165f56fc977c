package fake

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// options are the arguments by name; a flag has the value "".
type options map[string]string

// option is an argument of the command line.
type option struct {
	name  string
	value bool
	// unplayed: the real program has it, the stand-in refuses it.
	unplayed bool
}

// table holds the arguments in the order in which their rules are looked at,
// which is that of their names (main.rs, arg_parser.rs).
func table() []option {
	return []option{
		{name: "api-sock", value: true},
		{name: "boot-timer"},
		{name: "config-file", value: true, unplayed: true},
		{name: "describe-snapshot", value: true, unplayed: true},
		{name: "enable-pci"},
		{name: "http-api-max-payload-size", value: true},
		{name: "id", value: true},
		{name: "level", value: true},
		{name: "log-path", value: true},
		{name: "metadata", value: true, unplayed: true},
		{name: "metrics-path", value: true},
		{name: "mmds-size-limit", value: true},
		{name: "module", value: true},
		{name: "no-api", unplayed: true},
		{name: "no-seccomp"},
		{name: "parent-cpu-time-us", value: true},
		{name: "seccomp-filter", value: true, unplayed: true},
		{name: "show-level"},
		{name: "show-log-origin", unplayed: true},
		{name: "snapshot-version", unplayed: true},
		{name: "start-time-cpu-us", value: true},
		{name: "start-time-us", value: true},
	}
}

// argumentError is a mistake on the command line: its sentence, and the name
// that the program gives it on standard error.
type argumentError struct{ sentence, debug string }

func (e *argumentError) Error() string { return e.sentence }

func unexpected(name string) error {
	return &argumentError{fmt.Sprintf("Found argument '%s' which wasn't expected, or isn't valid in this context.", name), "UnexpectedArgument(" + strconv.Quote(name) + ")"}
}

func missingArgument(name string) error {
	return &argumentError{fmt.Sprintf("Argument '%s' required, but not found.", name), "MissingArgument(" + strconv.Quote(name) + ")"}
}

// parseArguments reads what follows the program's name.
func parseArguments(args []string) (options, error) {
	if i := slices.Index(args, "--"); i >= 0 {
		args = args[:i]
	}
	for _, alone := range [][]string{{"--help", "-h"}, {"--version"}} {
		for _, spelling := range alone {
			if slices.Contains(args, spelling) {
				return options{strings.TrimPrefix(alone[0], "--"): ""}, nil
			}
		}
	}
	opts := options{}
	for i := 0; i < len(args); i++ {
		name, dashed := strings.CutPrefix(args[i], "--")
		at := slices.IndexFunc(table(), func(o option) bool { return o.name == name })
		if !dashed || at < 0 {
			return nil, unexpected(name)
		}
		if _, twice := opts[name]; twice {
			return nil, &argumentError{fmt.Sprintf("The argument '%s' was provided more than once.", name), "DuplicateArgument(" + strconv.Quote(name) + ")"}
		}
		opts[name] = ""
		if table()[at].value {
			if i++; i == len(args) || strings.HasPrefix(args[i], "--") {
				return nil, &argumentError{fmt.Sprintf("The argument '%s' requires a value, but none was supplied.", name), "MissingValue(" + strconv.Quote(name) + ")"}
			}
			opts[name] = args[i]
		}
	}
	return opts, opts.agree()
}

// agree looks at what goes together.
func (o options) agree() error {
	if o.has("no-api") && !o.has("config-file") {
		return missingArgument("config-file")
	}
	if o.has("no-seccomp") && o.has("seccomp-filter") {
		return &argumentError{"Argument 'seccomp-filter' cannot be used together with argument 'no-seccomp'.", `ForbiddenArgument("no-seccomp", "seccomp-filter")`}
	}
	return nil
}

func (o options) has(name string) bool { _, ok := o[name]; return ok }

// get returns the value or what stands for it.
func (o options) get(name, fallback string) string {
	if v, ok := o[name]; ok {
		return v
	}
	return fallback
}

// optional returns nil for an argument that is not there.
func (o options) optional(name string) *string {
	if v, ok := o[name]; ok {
		return &v
	}
	return nil
}

// unplayed returns the first argument that only the real program knows.
func (o options) unplayed() string {
	for _, t := range table() {
		if t.unplayed && o.has(t.name) {
			return t.name
		}
	}
	if o.has("help") {
		return "help"
	}
	return ""
}

// validInstance: letters, digits and hyphens, 1 to 64 of them (validators.rs).
func validInstance(id string) bool {
	return len(id) >= 1 && len(id) <= 64 && strings.IndexFunc(id, func(r rune) bool { return r != '-' && !alphanumeric(r) }) < 0
}
