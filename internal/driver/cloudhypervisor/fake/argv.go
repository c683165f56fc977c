package fake

import (
	"fmt"
	"strconv"
	"strings"
)

// The version that is imitated. One that is built from a checkout says v53.0.
const (
	version      = "53.0.0"
	buildVersion = "v" + version
)

func features() []string { return []string{"io_uring", "kvm"} }

// options are what the command line says, as far as it matters here.
type options struct {
	version   bool
	verbose   int
	socket    *string
	monitor   *string
	logFile   *string
	logFormat string
	shutdown  bool // false: --no-shutdown
}

// group is clap's: what defines the VM needs a payload.
type group int

const (
	vmmGroup group = iota
	vmGroup
	payloadGroup
)

type flag struct {
	name   string
	group  group
	values valueRule
}

type valueRule int

const (
	one       valueRule = iota
	none                // a switch
	many                // at least one, as far as there is no next flag
	zeroOrOne           // may have one
)

func flags() []flag {
	return []flag{
		{"api-socket", vmmGroup, one}, {"balloon", vmGroup, one}, {"cmdline", vmGroup, one}, {"console", vmGroup, one}, {"cpus", vmGroup, one},
		{"debug-console", vmGroup, one}, {"device", vmGroup, many}, {"disk", vmGroup, many}, {"event-monitor", vmmGroup, one},
		{"firmware", payloadGroup, one}, {"fs", vmGroup, many}, {"generic-vhost-user", vmGroup, many}, {"initramfs", vmGroup, one},
		{"kernel", payloadGroup, one}, {"landlock", vmGroup, none}, {"landlock-rules", vmGroup, many}, {"log-file", vmmGroup, one},
		{"log-format", vmmGroup, one}, {"memory", vmGroup, one}, {"memory-zone", vmGroup, many}, {"net", vmGroup, many},
		{"no-shutdown", vmmGroup, none}, {"numa", vmGroup, many}, {"pci-segment", vmGroup, many}, {"platform", vmGroup, one}, {"pmem", vmGroup, many},
		{"pvpanic", vmGroup, none}, {"rate-limit-group", vmGroup, many}, {"restore", vmmGroup, one}, {"rng", vmGroup, one}, {"rtc", vmGroup, zeroOrOne},
		{"seccomp", vmmGroup, one}, {"serial", vmGroup, one}, {"tpm", vmGroup, one}, {"user-device", vmGroup, many}, {"vdpa", vmGroup, many},
		{"version", vmmGroup, none}, {"vsock", vmGroup, one}, {"watchdog", vmGroup, none},
	}
}

// refusedOption ends the process with 2, in the words of clap.
type refusedOption string

func (r refusedOption) Error() string { return string(r) }

const help = "\nFor more information, try '--help'.\n"

const usage = "\nUsage: cloud-hypervisor [OPTIONS]\n" + help

// parseOptions reads the command line.
func parseOptions(args []string) (options, error) {
	o := options{shutdown: true}
	seen := map[string]bool{}
	var used []flag
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if len(arg) > 1 && arg[0] == '-' && strings.Trim(arg[1:], "vV") == "" {
			o.verbose += strings.Count(arg, "v")
			o.version = o.version || strings.Contains(arg, "V")
			continue
		}
		name, value, attached := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
		f := findFlag(name)
		if f == nil || !strings.HasPrefix(arg, "--") {
			return o, unexpected(arg)
		}
		if seen[name] && f.values != many {
			return o, refusedOption("error: the argument '" + f.usage() + "' cannot be used multiple times\n" + usage)
		}
		seen[name] = true
		used = append(used, *f)
		switch {
		case f.values == none && attached:
			return o, refusedOption("error: unexpected value '" + value + "' for '--" + name + "' found; no more were expected\n\nUsage: cloud-hypervisor " + f.usage() + "\n" + help)
		case f.values == none || attached:
		case i+1 < len(args) && !strings.HasPrefix(args[i+1], "-"):
			i++
			value = args[i]
		case f.values != zeroOrOne:
			return o, refusedOption("error: a value is required for '" + f.usage() + "' but none was supplied\n" + help)
		}
		for f.values == many && i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") {
			i++
		}
		if err := o.take(name, value); err != nil {
			return o, err
		}
	}
	return o, checkGroups(used)
}

func (o *options) take(name, value string) error {
	switch name {
	case "api-socket":
		o.socket = &value
	case "event-monitor":
		o.monitor = &value
	case "log-file":
		o.logFile = &value
	case "log-format":
		o.logFormat = value
	case "no-shutdown":
		o.shutdown = false
	case "version":
		o.version = true
	case "seccomp":
		if !oneOf(value, "true", "false", "log", "errno") {
			return refusedOption("error: invalid value '" + value + "' for '--seccomp <seccomp>'\n  [possible values: true, false, log, errno]\n" + help)
		}
	}
	return nil
}

// checkGroups refuses what defines a VM without what it boots.
func checkGroups(used []flag) error {
	payload, vm, line := false, false, ""
	for _, f := range used {
		payload = payload || f.group == payloadGroup
		vm = vm || f.group == vmGroup
		line += " " + f.usage()
	}
	if !vm || payload {
		return nil
	}
	const missing = "<--firmware <firmware>|--kernel <kernel>>"
	return refusedOption("error: the following required arguments were not provided:\n  " + missing + "\n\nUsage: cloud-hypervisor" + line + " " + missing + "\n" + help)
}

func findFlag(name string) *flag {
	for _, f := range flags() {
		if f.name == name {
			return &f
		}
	}
	return nil
}

func (f flag) usage() string {
	if f.values == none {
		return "--" + f.name
	}
	return "--" + f.name + " <" + f.name + ">"
}

func unexpected(arg string) error {
	if arg, _, _ = strings.Cut(arg, "="); strings.HasPrefix(arg, "-") && !strings.HasPrefix(arg, "--") && len(arg) > 1 {
		arg = arg[:2]
	}
	return refusedOption("error: unexpected argument '" + arg + "' found\n" + usage)
}

// pairs reads an option of the form KEY=VALUE,KEY=VALUE.
func pairs(text string, keys ...string) (map[string]string, error) {
	out := map[string]string{}
	if strings.TrimSpace(text) == "" {
		return out, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		key, value, ok := strings.Cut(part, "=")
		switch {
		case !oneOf(key, keys...):
			return out, mistake("unknown option: " + key)
		case !ok:
			return out, mistake("invalid syntax: " + part)
		}
		out[key] = strings.TrimSpace(value)
	}
	return out, nil
}

// descriptor reads the number of one, in the words of Rust.
func descriptor(text string) (int, string) {
	n, err := strconv.ParseInt(text, 10, 32)
	switch {
	case err == nil:
		return int(n), ""
	case text == "":
		return 0, "cannot parse integer from empty string"
	case strings.Contains(fmt.Sprint(err), "range"):
		return 0, "number too large to fit in target type"
	}
	return 0, "invalid digit found in string"
}
